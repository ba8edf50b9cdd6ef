"""Invoices: a payer's month, once, as it is sent.

An invoice is made from what was rated and from the corrections booked since the one before; it is
never changed. Its total is rounded, half to even, to what the currency can pay; the difference is a
line of its own and an entry in the ledger, so that the receivable is what the invoice says.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from manager.accounting import booking, exact
from manager.accounting.ledger import Entry
from manager.accounting.periods import MICROS, Month
from manager.accounting.rating import Line, Rated, TaxLine

_DECIMALS = {"CLP": 0, "ISK": 0, "JPY": 0, "KRW": 0, "VND": 0, "XAF": 0, "XOF": 0, "XPF": 0} | {
    "BHD": 3,
    "JOD": 3,
    "KWD": 3,
    "OMR": 3,
    "TND": 3,
}
"""ISO 4217: currencies without two decimals."""

DUE_DAYS = 30
"""Between the issue of an invoice and the day by which it is to be paid."""


@dataclass(frozen=True)
class Party:
    """Who issues an invoice, or who gets it, as it is printed."""

    name: str
    address: tuple[str, ...] = ()
    tax_id: str = ""


@dataclass(frozen=True)
class Invoice:
    """A payer's month. All money in nanos of the currency."""

    invoice_id: str
    number: str
    cloud_id: str
    issuer: Party
    payer: str
    customer: Party
    month: Month
    currency: str
    lines: tuple[Line, ...]
    taxes: tuple[TaxLine, ...]
    corrections: tuple[Entry, ...]
    """Of earlier invoices: what they change of the receivable is due with this one."""
    rounding_nanos: int
    issued_at: int
    due_at: int

    @property
    def list_nanos(self) -> int:
        """Lines by the list price."""
        return sum(line.list_nanos for line in self.lines)

    @property
    def net_nanos(self) -> int:
        """Lines after discounts."""
        return sum(line.net_nanos for line in self.lines)

    @property
    def tax_nanos(self) -> int:
        """All taxes."""
        return sum(tax.nanos for tax in self.taxes)

    @property
    def correction_nanos(self) -> int:
        """All corrections, taxes included."""
        return sum(owed(entry, self.payer) for entry in self.corrections)

    @property
    def exact_nanos(self) -> int:
        """What is owed before it is rounded."""
        return self.net_nanos + self.tax_nanos + self.correction_nanos

    @property
    def total_nanos(self) -> int:
        """What is to be paid; negative is a credit."""
        return self.exact_nanos + self.rounding_nanos


def issue(
    rated: Rated,
    payer: str,
    *,
    issuer: Party,
    customer: Party,
    issued_at: int,
    corrections: Iterable[Entry] = (),
) -> Invoice:
    """The invoice of a payer for a month; its id and number follow from cloud, month and payer.

    `corrections` are entries of kind "correction" that no invoice has yet; other payers' are left
    out.
    """
    invoice_id = exact.identity("invoice", rated.cloud_id, rated.month.label, payer)
    lines = tuple(line for line in rated.lines if line.payer == payer)
    taxes = tuple(tax for tax in rated.taxes if tax.payer == payer)
    changes = tuple(
        entry
        for entry in corrections
        if entry.kind == booking.CORRECTION and _concerns(entry, payer)
    )
    due = sum(line.net_nanos for line in lines) + sum(tax.nanos for tax in taxes)
    due += sum(owed(entry, payer) for entry in changes)
    return Invoice(
        invoice_id=invoice_id,
        number=f"{rated.cloud_id}-{rated.month.label}-{invoice_id[:8]}",
        cloud_id=rated.cloud_id,
        issuer=issuer,
        payer=payer,
        customer=customer,
        month=rated.month,
        currency=rated.currency,
        lines=lines,
        taxes=taxes,
        corrections=changes,
        rounding_nanos=payable(due, rated.currency) - due,
        issued_at=issued_at,
        due_at=issued_at + DUE_DAYS * 24 * 3600 * MICROS,
    )


def payers(rated: Rated) -> list[str]:
    """Everybody who is charged something in the month."""
    return sorted({line.payer for line in rated.lines})


def decimals(currency: str) -> int:
    """Decimals of what can be paid in a currency."""
    return _DECIMALS.get(currency, 2)


def payable(nanos: int, currency: str) -> int:
    """An amount rounded half to even to what can be paid, in nanos."""
    smallest: int = 10 ** (9 - decimals(currency))
    return exact.divided(nanos, smallest) * smallest


def rounding_entry(invoice: Invoice) -> Entry | None:
    """What makes the receivable what the invoice says; None where it is."""
    if not invoice.rounding_nanos:
        return None
    return booking.between(
        booking.ROUNDING,
        f"{booking.RECEIVABLE}{invoice.payer}",
        "rounding",
        invoice.rounding_nanos,
        subject=invoice.invoice_id,
        words=f"invoice {invoice.number} rounded",
        currency=invoice.currency,
        booked_at=invoice.issued_at,
        period=invoice.month.label,
    )


def owed(entry: Entry, payer: str) -> int:
    """What an entry changes of what a payer owes."""
    account = f"{booking.RECEIVABLE}{payer}"
    return sum(each.nanos for each in entry.postings if each.account == account)


def _concerns(entry: Entry, payer: str) -> bool:
    account = f"{booking.RECEIVABLE}{payer}"
    return any(each.account == account for each in entry.postings)
