"""Metering: from a stream of usage events to half-open intervals of machines.

    STARTED, STOPPED, RESIZED, ARRIVED --> held, until DEPARTED or DELETED

A machine is here from its first event to the one that takes it away, and runs between STARTED (or
ARRIVED running) and STOPPED. Every interval is [start, end): the instant of a hand-over belongs to
the destination alone. Events are put in order of their instants first, then of their sequence, so
that the order in which they were told does not matter; an event that is told again changes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from manager.accounting import exact
from manager.accounting.events import Event, Kind, Pin
from watari import errors

_AWAY = frozenset({Kind.DEPARTED, Kind.DELETED})


@dataclass(frozen=True)
class Interval:
    """A machine as it was for a while: nothing changed in between."""

    vm_id: str
    vm_name: str
    payer: str
    tenant: str
    resources: Mapping[str, int]
    running: bool
    start: int
    end: int
    pin: Pin | None


@dataclass(frozen=True)
class Run:
    """From STARTED to STOPPED or DELETED, all of it here: what a minimum holds for.

    A run that a migration brought or took has none: the other cloud meters the rest of it.
    """

    at_end: Interval
    """The machine when the run ended."""
    start: int
    end: int


@dataclass(frozen=True)
class Holding:
    """A machine that is here: what metering has to know to go on later."""

    vm_id: str
    vm_name: str
    payer: str
    tenant: str
    resources: Mapping[str, int]
    running: bool
    since: int
    """Since when it is as it is."""
    pin: Pin | None = None
    run_start: int = 0
    """When it began to run."""
    started_here: bool = False
    """Whether it did so by STARTED."""


@dataclass(frozen=True)
class Crossing:
    """A migration to here or from here, with the pin that held for it."""

    event: Event
    vm_name: str
    pin: Pin | None


@dataclass(frozen=True)
class Metered:
    """What a stream came to. `held` continues it: the next call's `opening`."""

    intervals: Sequence[Interval]
    runs: Sequence[Run]
    crossings: Sequence[Crossing]
    held: Sequence[Holding]


def meter(events: Iterable[Event], until: int, opening: Iterable[Holding] = ()) -> Metered:
    """Intervals of all machines up to `until`, where those that are still here are cut.

    Raises Conflict ID_REUSED for two events of one id, and FailedPrecondition INVALID_FIELD for an
    event that cannot follow the one before: a machine that arrives where it is, or that leaves or
    changes hands where it is not.
    """
    stream = ordered(events, until)
    holdings = {each.vm_id: each for each in opening}
    intervals: list[Interval] = []
    runs: list[Run] = []
    crossings: list[Crossing] = []
    for event in stream:
        before = holdings.get(event.vm_id)
        _require_follows(before, event)
        if before is not None:
            _close(before, event, intervals, runs)
        if event.kind in (Kind.ARRIVED, Kind.DEPARTED):
            name, pin = (before.vm_name, before.pin) if before else ("", event.pin)
            crossings.append(Crossing(event, event.vm_name or name, pin))
        if event.kind in _AWAY:
            del holdings[event.vm_id]
        else:
            holdings[event.vm_id] = _after(before, event)
    held = []
    for holding in holdings.values():
        if holding.since < until:
            intervals.append(_interval(holding, until))
        held.append(replace(holding, since=max(holding.since, until)))
    return Metered(intervals, runs, crossings, held)


def ordered(events: Iterable[Event], until: int) -> list[Event]:
    """Every event before `until` once, in order. Raises Conflict ID_REUSED."""
    known: dict[str, Event] = {}
    for event in events:
        if known.setdefault(event.event_id, event) != event:
            raise exact.reused("usage event", event.event_id)
    return sorted(
        (event for event in known.values() if event.at < until),
        key=lambda event: (event.at, event.sequence, event.event_id),
    )


def _require_follows(before: Holding | None, event: Event) -> None:
    if before is None:
        if event.kind in _AWAY:
            raise _impossible(event, "is not here")
        return
    if event.at < before.since:
        raise _impossible(event, "was accounted for beyond that instant already")
    if event.kind is Kind.ARRIVED:
        raise _impossible(event, "is here already")
    if (event.payer, event.tenant) != (before.payer, before.tenant):
        raise _impossible(event, f"is {before.payer}'s and not {event.payer}'s")


def _impossible(event: Event, why: str) -> errors.FailedPrecondition:
    return errors.FailedPrecondition(
        "INVALID_FIELD",
        f"usage event {event.event_id}: machine {event.vm_id} cannot have {event.kind.value} at "
        f"{event.at} microseconds since 1970: it {why}",
        hint="an event before it is missing or wrong; look at the machine's usage events",
        event_id=event.event_id,
        vm_id=event.vm_id,
    )


def _close(before: Holding, event: Event, intervals: list[Interval], runs: list[Run]) -> None:
    """What ends with the event: the interval that it cuts, and a run."""
    last = _interval(before, event.at)
    if before.since < event.at:
        intervals.append(last)
    stops = event.kind in (Kind.STOPPED, Kind.DELETED)
    if before.running and before.started_here and stops:
        runs.append(Run(last, before.run_start, event.at))


def _after(before: Holding | None, event: Event) -> Holding:
    runs_before = before is not None and before.running
    runs = {Kind.STARTED: True, Kind.STOPPED: False, Kind.ARRIVED: event.running}.get(
        event.kind, runs_before
    )
    begins = runs and not runs_before
    return Holding(
        vm_id=event.vm_id,
        vm_name=event.vm_name or (before.vm_name if before else ""),
        payer=event.payer,
        tenant=event.tenant,
        resources=event.resources,
        running=runs,
        since=event.at,
        pin=before.pin if before else event.pin,
        run_start=event.at if begins else (before.run_start if before else 0),
        started_here=event.kind is Kind.STARTED
        if begins
        else (before is not None and before.started_here),
    )


def _interval(holding: Holding, end: int) -> Interval:
    return Interval(
        holding.vm_id,
        holding.vm_name,
        holding.payer,
        holding.tenant,
        holding.resources,
        holding.running,
        holding.since,
        end,
        holding.pin,
    )
