"""Settlement: what two providers owe one another for a month, from both sides' records.

The creditor bills from its own ledger. The debtor works out what it expects (`mirroring`) from its
own records of what crossed and when, the quotes that it accepted, the creditor's starts, stops and
resizes in between, and the creditor's published price sheets. What both have alike is agreed and
netted, but for what the debtor disputed of it; every difference is shown with both amounts.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from manager.accounting import booking, exact, invoices
from manager.accounting.ledger import Entry
from manager.accounting.periods import Month
from manager.accounting.rating import Line

QUOTES_MAX = 8
"""Quotes that are named with a charge: the first by id."""


@dataclass(frozen=True)
class Terms:
    """By what a charge is priced."""

    version: int = 0
    """Of the price sheet; 0 for a tax, which is on charges of several."""
    quotes: tuple[str, ...] = ()
    """Those that pinned it, sorted."""


@dataclass(frozen=True)
class Due:
    """A charge as one side has it."""

    description: str
    nanos: int
    terms: Terms = Terms()


Owed = Mapping[str, Due]
"""By charge."""


@dataclass(frozen=True)
class Compared:
    """A charge as both sides have it; 0 where a side does not."""

    charge_id: str
    description: str
    billed_nanos: int
    expected_nanos: int
    terms: Terms = Terms()
    held_nanos: int = 0
    """What the debtor disputed of it, though both have it alike."""

    @property
    def alike(self) -> bool:
        """Whether both work it out alike."""
        return self.billed_nanos == self.expected_nanos

    @property
    def agreed_nanos(self) -> int:
        """What is owed without a dispute."""
        return self.billed_nanos - self.held_nanos if self.alike else 0


@dataclass(frozen=True)
class Claim:
    """What one provider says that the other owes it."""

    creditor: str
    debtor: str
    charges: tuple[Compared, ...]
    """By id."""

    @property
    def billed_nanos(self) -> int:
        """All that was billed."""
        return sum(each.billed_nanos for each in self.charges)

    @property
    def agreed_nanos(self) -> int:
        """All that is agreed."""
        return sum(each.agreed_nanos for each in self.charges)

    @property
    def disputes(self) -> tuple[Compared, ...]:
        """Charges that are not agreed, or not as a whole."""
        return tuple(each for each in self.charges if not each.alike or each.held_nanos)


@dataclass(frozen=True)
class Statement:
    """Both claims of a month, as one provider reads them."""

    statement_id: str
    """The same at both providers."""
    provider: str
    peer: str
    month: Month
    currency: str
    receivable: Claim
    payable: Claim

    @property
    def net_nanos(self) -> int:
        """What the peer pays of what is agreed; negative is paid to it."""
        return self.receivable.agreed_nanos - self.payable.agreed_nanos


@dataclass(frozen=True)
class Opened:
    """A dispute that the debtor opened of a charge. Instants are microseconds since 1970."""

    charge_id: str
    nanos: int
    opened_at: int
    credited_nanos: int = 0
    decided_at: int = 0
    """0 while it is open."""


def terms(lines: Iterable[Line]) -> dict[str, Terms]:
    """By charge: the terms of lines that were rated."""
    return {each.charge_id: Terms(each.version, each.quotes[:QUOTES_MAX]) for each in lines}


def owed(
    entries: Iterable[Entry], payer: str, period: str, by: Mapping[str, Terms] | None = None
) -> Owed:
    """What a payer owes for a month by charge, corrections included. `by` has the terms."""
    found: dict[str, Due] = {}
    for entry in entries:
        if entry.kind in booking.CHARGED and entry.period == period:
            nanos = invoices.owed(entry, payer)
            if nanos:
                known = found.get(entry.subject)
                found[entry.subject] = Due(
                    known.description if known else entry.description,
                    nanos + (known.nanos if known else 0),
                    (by or {}).get(entry.subject, Terms()),
                )
    return found


def held(opened: Iterable[Opened], as_of: int | None) -> dict[str, int]:
    """By charge: what is disputed, or was credited. With `as_of` (when one of the two netted the
    month) as it was before then, so that the other nets the same.
    """
    found: dict[str, int] = {}
    for each in opened:
        if as_of is not None and each.opened_at >= as_of:
            continue
        decided = each.decided_at and (as_of is None or each.decided_at < as_of)
        nanos = each.credited_nanos if decided else each.nanos
        if nanos:
            found[each.charge_id] = found.get(each.charge_id, 0) + nanos
    return found


def claim(
    creditor: str,
    debtor: str,
    billed: Owed,
    expected: Owed,
    disputed: Mapping[str, int] | None = None,
) -> Claim:
    """What was billed, held against what the debtor works out itself; `disputed` is what `held`
    finds of it.
    """
    charges = []
    for charge_id in sorted({*billed, *expected}):
        bill, want = billed.get(charge_id), expected.get(charge_id)
        known = [each for each in (bill, want) if each is not None]
        compared = Compared(
            charge_id,
            next((each.description for each in known if each.description), ""),
            bill.nanos if bill else 0,
            want.nanos if want else 0,
            _joined(each.terms for each in known),
            (disputed or {}).get(charge_id, 0),
        )
        if compared.billed_nanos or compared.expected_nanos:
            charges.append(compared)
    return Claim(creditor, debtor, tuple(charges))


def _joined(both: Iterable[Terms]) -> Terms:
    """The terms of a charge, whose version is the same at both sides where both have rated it. One
    may know of a quote of which the other does not.
    """
    known = list(both)
    quotes = sorted({quote for each in known for quote in each.quotes})
    return Terms(max(each.version for each in known), tuple(quotes[:QUOTES_MAX]))


def statement(month: Month, currency: str, receivable: Claim, payable: Claim) -> Statement:
    """The month as the creditor of `receivable` reads it."""
    provider, peer = receivable.creditor, receivable.debtor
    both = sorted([provider, peer])
    return Statement(
        exact.identity("statement", month.label, currency, *both),
        provider,
        peer,
        month,
        currency,
        receivable,
        payable,
    )


def entries(found: Statement, booked_at: int) -> Iterator[Entry]:
    """The peer's bill as far as it is agreed, and the netting of the two claims."""
    peer = f"peer:{found.peer}"
    sides = [
        (booking.BILL, f"purchases:{peer}", f"payable:{peer}", found.payable.agreed_nanos),
        (
            booking.NETTING,
            f"payable:{peer}",
            f"{booking.RECEIVABLE}{peer}",
            min(found.receivable.agreed_nanos, found.payable.agreed_nanos),
        ),
    ]
    for kind, debit, credit, nanos in sides:
        if nanos > 0:
            yield booking.between(
                kind,
                debit,
                credit,
                nanos,
                subject=found.statement_id,
                words=f"{kind} with {found.peer} for {found.month.label}",
                currency=found.currency,
                booked_at=booked_at,
                period=found.month.label,
            )
