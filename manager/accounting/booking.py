"""Booking: which accounts a charge, a correction, a dispute and a payment touch.

    charge      receivable:<payer> +net     discounts:<component> +off    revenue:<component> -list
    tax         receivable:<payer> +         tax:<name> -
    rounding    receivable:<payer> +-        rounding -+
    correction  the difference between what is posted and what should be, on the same accounts
    dispute     disputed:<payer> +           receivable:<payer> -
    upheld      credits +                    disputed:<payer> -
    rejected    receivable:<payer> +         disputed:<payer> -
    bill        purchases:<peer> +           payable:<peer> -
    netting     payable:<peer> +             receivable:<peer> -
    payment     cash +                       receivable:<payer> -

`+` is debit. A payer is "tenant:<name>" or "peer:<domain>".
"""

from collections.abc import Iterable, Iterator

from manager.accounting import exact
from manager.accounting.ledger import Entry, Posting, by_subject, postings
from manager.accounting.rating import Line, Rated, TaxLine
from watari import validate

CHARGE, TAX, CORRECTION = "charge", "tax", "correction"
DISPUTE, UPHELD, REJECTED = "dispute", "upheld", "rejected"
ROUNDING, BILL, NETTING, PAYMENT = "rounding", "bill", "netting", "payment"

CHARGED = frozenset({CHARGE, TAX, CORRECTION})
"""What makes up a charge as it stands: what it was, and what corrected it."""

RECEIVABLE = "receivable:"
REVENUE = "revenue:"
DISCOUNTS = "discounts:"
TAXES = "tax:"


def describe(line: Line) -> str:
    """A line in words, as its invoice shows it."""
    words = line.component.name.replace("-", " ")
    machine = line.vm_name or line.vm_id
    tier = f", tier {line.tier + 1}" if len(line.component.tiers) > 1 else ""
    minimum = ", up to the minimum" if line.minimum else ""
    return f"{words}{f' of {machine}' if machine else ''}{tier}{minimum}"


def describe_tax(tax: TaxLine) -> str:
    """A tax in words."""
    return f"{tax.name} {exact.text(tax.percent, exact.PERCENT_SCALE)} %"


def charges(rated: Rated, booked_at: int) -> Iterator[Entry]:
    """An entry a line, and one a tax: the same ids each time that the month is rated."""
    for line in rated.lines:
        accounts = _accounts(line)
        if accounts:
            yield _entry(CHARGE, line.charge_id, describe(line), accounts, rated, booked_at, line)
    for tax in rated.taxes:
        accounts = _tax_accounts(tax)
        if accounts:
            yield _entry(TAX, tax.charge_id, describe_tax(tax), accounts, rated, booked_at)


def corrections(
    posted: Iterable[Entry], rated: Rated, *, correction_id: str, reason: str, booked_at: int
) -> Iterator[Entry]:
    """What makes a month that is posted into what it is now rated at.

    `posted` has all entries of the month at least; those of others are passed over. A charge that
    is as it should be is left alone, so after a crash in between the rest is corrected, and nothing
    twice. Raises InvalidArgument for a correction without an id.
    """
    if not correction_id:
        raise validate.invalid_field("correction_id", "must not be empty", "made by the caller")
    period = rated.month.label
    known = [entry for entry in posted if entry.kind in CHARGED and entry.period == period]
    first = {entry.subject: entry for entry in reversed(known) if entry.kind != CORRECTION}
    first = {entry.subject: entry for entry in known} | first
    wanted: dict[str, tuple[str, dict[str, int], Line | None]] = {
        line.charge_id: (describe(line), _accounts(line), line) for line in rated.lines
    }
    wanted |= {tax.charge_id: (describe_tax(tax), _tax_accounts(tax), None) for tax in rated.taxes}
    before = by_subject(known, CHARGED)
    for charge_id in sorted({*before, *wanted}):
        old = before.get(charge_id, {})
        words, new, line = wanted.get(charge_id, ("", {}, None))
        change = postings({name: new.get(name, 0) - old.get(name, 0) for name in {*old, *new}})
        if not change:
            continue
        original = first.get(charge_id)
        span = (original.start, original.end) if original and not line else _span(rated, line)
        yield Entry(
            entry_id=exact.identity(CORRECTION, charge_id, correction_id),
            kind=CORRECTION,
            subject=charge_id,
            description=_cut(f"{words or (original.description if original else '')}: {reason}"),
            currency=rated.currency,
            postings=change,
            booked_at=booked_at,
            period=period,
            start=span[0],
            end=span[1],
            refers_to=original.entry_id if original else "",
        )


def dispute(
    charge: Entry, nanos: int, *, payer: str, dispute_id: str, reason: str, booked_at: int
) -> Entry:
    """Part of a charge that the payer does not accept: kept apart until it is decided."""
    accounts = {f"disputed:{payer}": nanos, f"{RECEIVABLE}{payer}": -nanos}
    return _about(DISPUTE, charge, accounts, dispute_id, reason, booked_at)


def decide(
    disputed: Entry, nanos: int, *, payer: str, upheld: bool, reason: str, booked_at: int
) -> Entry:
    """The end of a dispute: upheld is a credit to the payer, rejected is owed again."""
    taker = "credits" if upheld else f"{RECEIVABLE}{payer}"
    accounts = {taker: nanos, f"disputed:{payer}": -nanos}
    kind = UPHELD if upheld else REJECTED
    return _about(kind, disputed, accounts, disputed.entry_id, reason, booked_at)


def between(
    kind: str,
    debit: str,
    credit: str,
    nanos: int,
    *,
    subject: str,
    words: str,
    currency: str,
    booked_at: int,
    period: str = "",
) -> Entry:
    """A plain entry of two sides, once a kind and subject: bills, netting, payments, rounding."""
    return Entry(
        entry_id=exact.identity(kind, subject, debit, credit),
        kind=kind,
        subject=subject,
        description=_cut(words),
        currency=currency,
        postings=(Posting(debit, nanos), Posting(credit, -nanos)),
        booked_at=booked_at,
        period=period,
    )


def _accounts(line: Line) -> dict[str, int]:
    accounts = {
        f"{RECEIVABLE}{line.payer}": line.net_nanos,
        f"{DISCOUNTS}{line.component.name}": line.list_nanos - line.net_nanos,
        f"{REVENUE}{line.component.name}": -line.list_nanos,
    }
    return {name: nanos for name, nanos in accounts.items() if nanos}


def _tax_accounts(tax: TaxLine) -> dict[str, int]:
    accounts = {f"{RECEIVABLE}{tax.payer}": tax.nanos, f"{TAXES}{tax.name}": -tax.nanos}
    return accounts if tax.nanos else {}


def _entry(
    kind: str,
    charge_id: str,
    words: str,
    accounts: dict[str, int],
    rated: Rated,
    booked_at: int,
    line: Line | None = None,
) -> Entry:
    start, end = _span(rated, line)
    return Entry(
        entry_id=exact.identity(kind, charge_id),
        kind=kind,
        subject=charge_id,
        description=_cut(words),
        currency=rated.currency,
        postings=postings(accounts),
        booked_at=booked_at,
        period=rated.month.label,
        start=start,
        end=end,
    )


def _about(
    kind: str, of: Entry, accounts: dict[str, int], key: str, reason: str, booked_at: int
) -> Entry:
    return Entry(
        entry_id=exact.identity(kind, of.entry_id, key),
        kind=kind,
        subject=of.subject,
        description=_cut(f"{of.description}: {reason}"),
        currency=of.currency,
        postings=postings(accounts),
        booked_at=booked_at,
        period=of.period,
        start=of.start,
        end=of.end,
        refers_to=of.entry_id,
    )


def _span(rated: Rated, line: Line | None) -> tuple[int, int]:
    return (line.start, line.end) if line else (rated.month.start, rated.month.end)


def _cut(words: str) -> str:
    return words if len(words) <= 200 else f"{words[:197]}..."
