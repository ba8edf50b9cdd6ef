"""Room that is promised for later, as arithmetic: what is taken of it at most within a time.

Pure functions of values. Moments are microseconds since 1970; a booking holds room from its start
on and at its end no more. Whatever else takes room has no end, so that what is taken at some moment
to come is what is taken now and what is booked for that moment: within a time no more is taken than
now, and at the bookings' peak in that time, class by class.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from manager import inventory
from manager.inventory import Amounts
from manager.ownership import Tenant


@dataclass(frozen=True)
class Span:
    """A time: from `start` until `end`, which is not part of it; None is for ever."""

    start: int
    end: int | None = None

    def overlaps(self, other: "Span") -> bool:
        """Whether they have a moment in common."""
        return (other.end is None or self.start < other.end) and (
            self.end is None or other.start < self.end
        )


ALWAYS = Span(0)
"""Whatever is booked at all."""


@dataclass(frozen=True)
class Booking:
    """A reservation in advance that was not claimed yet."""

    reservation_id: str
    tenant: Tenant
    span: Span
    taken: dict[str, Amounts]
    """Of each host, and of the pool."""


def of_host(bookings: Iterable[Booking], host_id: str, within: Span) -> Amounts:
    """What is booked of a host, or of the pool, at most at one moment."""
    return _peak(
        ((each.span, each.taken[host_id]) for each in bookings if host_id in each.taken), within
    )


def of_tenant(bookings: Iterable[Booking], tenant: Tenant, within: Span, machines: str) -> Amounts:
    """What a tenant has booked at most at one moment; `machines` is the class that counts them."""
    return _peak(
        (
            (each.span, _counted(each.taken.values(), machines))
            for each in bookings
            if each.tenant == tenant
        ),
        within,
    )


def without(bookings: Iterable[Booking], reservation_id: str) -> list[Booking]:
    """All but one."""
    return [each for each in bookings if each.reservation_id != reservation_id]


def _counted(parts: Collection[Amounts], machines: str) -> Amounts:
    amounts = inventory.total(parts)
    amounts.pop(inventory.STORAGE, None)
    return amounts | {machines: 1}


def _peak(parts: Iterable[tuple[Span, Amounts]], within: Span) -> Amounts:
    """Class by class the most that is taken at one moment of `within`."""
    changes: list[tuple[int, int, Amounts]] = []
    for span, amounts in parts:
        if span.overlaps(within):
            changes.append((max(span.start, within.start), 1, amounts))
            if span.end is not None:
                changes.append((span.end, -1, amounts))
    now: Amounts = {}
    most: Amounts = {}
    for _, at_once in groupby(sorted(changes, key=itemgetter(0)), key=itemgetter(0)):
        # What ends at a moment makes room for what begins at it.
        for _, sign, amounts in at_once:
            for name, amount in amounts.items():
                now[name] = now.get(name, 0) + sign * amount
        for name, amount in now.items():
            most[name] = max(most.get(name, 0), amount)
    return {name: amount for name, amount in most.items() if amount}
