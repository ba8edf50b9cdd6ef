"""What a provider works out itself that its peer may bill: the debtor's side of a settlement.

what crossed between the two     the debtor's own records, mirrored
at which prices                  the quotes that the debtor's machines left with, and the
                                 creditor's published price sheets
what happened in between         the creditor's word: starts, stops, resizes, and moves to and
                                 from third clouds, with the quotes that held for those
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from manager.accounting import booking, exact, metering, rating, settlement
from manager.accounting.events import Event, Kind, Pin
from manager.accounting.periods import Month
from manager.accounting.price_sheet import PriceBook
from manager.accounting.rating import Rated
from manager.accounting.settlement import Owed

_SEQUENCE_LAST = 2**63 - 1
_CROSSINGS = frozenset({Kind.DEPARTED, Kind.ARRIVED})


@dataclass(frozen=True)
class Sides:
    """Who bills whom."""

    creditor: str
    """The cloud that bills."""
    debtor: str
    """The cloud that is billed for its machines there."""
    payer: str
    """How the creditor calls the debtor: "peer:<domain>"."""


def expected(
    sides: Sides,
    own: Iterable[Event],
    told: Iterable[Event],
    quotes: Mapping[str, Pin],
    book: PriceBook,
    month: Month,
) -> Owed:
    """What the debtor works out that it owes for a month.

    `own` is what it recorded of its own machines, `told` what the creditor says of them, `quotes`
    are the creditor's that it accepted, by migration, `book` is the creditor's. Raises as
    `metering.meter` and `rating.rate` do.
    """
    events = [
        *believed(told, sides.debtor),
        *mirrored(own, sides.creditor, sides.payer, quotes),
    ]
    rated = priced(events, book, month, sides.creditor)
    return settlement.owed(
        booking.charges(rated, 0), sides.payer, month.label, settlement.terms(rated.lines)
    )


def priced(events: Iterable[Event], book: PriceBook, month: Month, cloud_id: str) -> Rated:
    """A month of a cloud, from the first event on. A pin of a version that the cloud does not have
    pins nothing, as in its own books.
    """
    metered = metering.meter(known(events, book), month.end)
    return rating.rate(metered, book, month, cloud_id)


def known(events: Iterable[Event], book: PriceBook) -> Iterator[Event]:
    """The events without pins of versions that are not there."""
    for event in events:
        unknown = event.pin is not None and not book.knows(event.pin.version)
        yield replace(event, pin=None) if unknown else event


def believed(told: Iterable[Event], debtor: str) -> Iterator[Event]:
    """What the debtor takes from the creditor: all but what crossed between the two of them."""
    return (each for each in told if each.kind not in _CROSSINGS or each.peer != debtor)


def mirrored(
    events: Iterable[Event], peer: str, payer: str, quotes: Mapping[str, Pin]
) -> Iterator[Event]:
    """A provider's own records of what crossed to a peer and back, as the peer must have them.

    With the peer's starts, stops and resizes they make what it may bill; an instant, a size, a
    version or a machine that it bills otherwise shows as a dispute. `payer` is how the peer calls
    this provider; `quotes` are the peer's that this provider accepted, by migration.
    """
    for event in events:
        if event.peer != peer or event.kind not in _CROSSINGS:
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
