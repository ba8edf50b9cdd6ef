"""Settlement: what two providers owe one another for a month, from both sides' records.

The creditor bills from its own ledger. The debtor works out what it expects: from its own records
of what crossed and when (`mirrored`), the creditor's starts, stops and resizes in between, and the
creditor's published price sheets. What both have alike is agreed and netted; every difference is a
dispute that the statement shows with both amounts.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from manager.accounting import booking, exact, invoices
from manager.accounting.events import Event, Kind, Pin
from manager.accounting.ledger import Entry
from manager.accounting.periods import Month

_SEQUENCE_LAST = 2**63 - 1

Owed = Mapping[str, tuple[str, int]]
"""By charge: what it is for, and nanos that are owed."""


@dataclass(frozen=True)
class Dispute:
    """One charge on which the two do not agree; 0 where a side does not have it."""

    charge_id: str
    description: str
    billed_nanos: int
    expected_nanos: int


@dataclass(frozen=True)
class Claim:
    """What one provider says that the other owes it."""

    creditor: str
    debtor: str
    billed_nanos: int
    agreed_nanos: int
    charges_agreed: int
    disputes: tuple[Dispute, ...]


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


def owed(entries: Iterable[Entry], payer: str, period: str) -> Owed:
    """What a payer owes for a month by charge, corrections included."""
    found: dict[str, tuple[str, int]] = {}
    for entry in entries:
        if entry.kind in booking.CHARGED and entry.period == period:
            nanos = invoices.owed(entry, payer)
            if nanos:
                words, before = found.get(entry.subject, (entry.description, 0))
                found[entry.subject] = (words, before + nanos)
    return found


def claim(creditor: str, debtor: str, billed: Owed, expected: Owed) -> Claim:
    """What was billed, held against what the debtor works out itself."""
    disputes = []
    agreed = count = 0
    for charge_id in sorted({*billed, *expected}):
        words, nanos = billed.get(charge_id, ("", 0))
        other, wanted = expected.get(charge_id, (words, 0))
        if nanos == wanted:
            agreed, count = agreed + nanos, count + 1
        else:
            disputes.append(Dispute(charge_id, words or other, nanos, wanted))
    total = sum(nanos for _, nanos in billed.values())
    return Claim(creditor, debtor, total, agreed, count, tuple(disputes))


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


def mirrored(
    events: Iterable[Event], peer: str, payer: str, quotes: Mapping[str, Pin]
) -> Iterator[Event]:
    """A provider's own records of what crossed to a peer and back, as the peer must have them.

    With the peer's starts, stops and resizes they make what it may bill; an instant, a size or a
    machine that it bills otherwise shows as a dispute. `payer` is how the peer calls this provider;
    `quotes` are the peer's that this provider accepted, by migration.
    """
    for event in events:
        if event.peer != peer or event.kind not in (Kind.DEPARTED, Kind.ARRIVED):
            continue
        left = event.kind is Kind.DEPARTED
        yield replace(
            event,
            event_id=exact.identity("mirrored", event.event_id),
            # Before whatever the peer tells of that instant, and after it.
            sequence=-1 if left else _SEQUENCE_LAST,
            cloud_id=peer,
            kind=Kind.ARRIVED if left else Kind.DEPARTED,
            payer=payer,
            pin=quotes.get(event.migration_id) if left else None,
            peer=event.cloud_id,
            sent_bytes=event.received_bytes,
            received_bytes=event.sent_bytes,
        )
