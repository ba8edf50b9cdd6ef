"""The same month worked out another way: fractions of seconds, state asked for instant by instant.

Shares nothing with manager/accounting but the values that it is given. Slow and plain on purpose.
"""

import itertools
from collections import defaultdict
from fractions import Fraction

from manager.accounting.events import Event, Kind
from manager.accounting.periods import Month
from manager.accounting.price_sheet import Measure, PriceSheet

SECOND = Fraction(10**6)
UNIT_SECONDS = {
    "vCPU-hour": Fraction(3600),
    "unit-hour": Fraction(3600),
    "GiB-hour": Fraction(3600 * 2**30),
    "GiB-month": Fraction(730 * 3600 * 2**30),
    "GiB": Fraction(2**30),
    "migration": Fraction(1),
    "month": Fraction(1),
}

Bill = dict[tuple[object, ...], tuple[Fraction, int, int]]
"""By payer, tenant, component, version, machine, minimum, tier: units, list and net nanos."""


def bill(
    events: list[Event], sheets: list[PriceSheet], month: Month
) -> tuple[Bill, dict[tuple[str, str, int], int]]:
    """Every line of the month, and the taxes by payer, name and rate."""
    used: dict[tuple[object, ...], Fraction] = defaultdict(Fraction)
    seen: dict[str, int] = {}
    for history in _histories(events):
        _time(history, sheets, month, used, seen)
        _minimums(history, sheets, month, used)
        _crossings(history, sheets, month, used)
    for payer, first in seen.items():
        sheet = _in_effect(sheets, first)
        for component in sheet.components:
            if component.measure is Measure.MONTHLY:
                used[payer, "", component.name, sheet.version, "", False] += 1
    return _priced(used, sheets)


def _histories(events: list[Event]) -> list[list[Event]]:
    by_machine: dict[str, dict[str, Event]] = defaultdict(dict)
    for event in events:
        by_machine[event.vm_id][event.event_id] = event
    return [
        sorted(each.values(), key=lambda event: (event.at, event.sequence))
        for each in by_machine.values()
    ]


def state(history: list[Event], instant: int) -> tuple[bool, bool, Event, tuple[int, int] | None]:
    """Whether it is here and runs right after an instant; its last event, and its pin."""
    here = runs = False
    last, pin = history[0], None
    for event in history:
        if event.at > instant:
            break
        last = event
        if not here:
            pin = (event.pin.version, event.pin.until) if event.pin else None
        here = event.kind not in (Kind.DEPARTED, Kind.DELETED)
        if event.kind is Kind.ARRIVED:
            runs = event.running
        elif event.kind is not Kind.RESIZED:
            runs = event.kind is Kind.STARTED
    return here, runs and here, last, pin


def _in_effect(sheets: list[PriceSheet], instant: int) -> PriceSheet:
    return max(
        (each for each in sheets if each.effective_from <= instant),
        key=lambda each: each.effective_from,
    )


def sheet_for(sheets: list[PriceSheet], instant: int, pin: tuple[int, int] | None) -> PriceSheet:
    """The version that prices an instant."""
    if pin and instant < pin[1]:
        return next(each for each in sheets if each.version == pin[0])
    return _in_effect(sheets, instant)


def _whole(instant: int, grain: int) -> Fraction:
    return Fraction(Fraction(instant) / SECOND // grain * grain)


def _time(history, sheets, month, used, seen) -> None:  # type: ignore[no-untyped-def]
    edges = {month.start, month.end}
    for event in history:
        edges.add(event.at)
        if event.pin:
            edges.add(event.pin.until)
    edges |= {sheet.effective_from for sheet in sheets}
    inside = sorted(edge for edge in edges if month.start <= edge <= month.end)
    for start, end in itertools.pairwise(inside):
        here, runs, last, pin = state(history, start)
        if not here or last.at > start:
            continue
        seen[last.payer] = min(start, seen.get(last.payer, start))
        sheet = sheet_for(sheets, start, pin)
        for component in sheet.components:
            counts = component.measure is Measure.HELD or (
                component.measure is Measure.RUNNING and runs
            )
            if counts:
                grain = component.granularity_seconds
                seconds = _whole(end, grain) - _whole(start, grain)
                amount = last.resources.get(component.resource, 0) * seconds
                if amount:
                    key = (last.payer, last.tenant, component.name, sheet.version, last.vm_id)
                    used[(*key, False)] += amount


def _minimums(history, sheets, month, used) -> None:  # type: ignore[no-untyped-def]
    started = None
    resources = None
    for index, event in enumerate(history):
        if started is not None and event.kind in (Kind.STOPPED, Kind.DELETED):
            if month.start <= event.at < month.end:
                instant = max(started, event.at - 1)
                pin = _pin_before(history, index)
                sheet = sheet_for(sheets, instant, pin)
                for component in sheet.components:
                    if component.measure is Measure.RUNNING:
                        grain = component.granularity_seconds
                        ran = _whole(event.at, grain) - _whole(started, grain)
                        lacks = max(component.minimum_seconds - ran, 0)
                        lacks *= resources.get(component.resource, 0)
                        if lacks:
                            key = (event.payer, event.tenant, component.name, sheet.version)
                            used[(*key, event.vm_id, True)] += lacks
            started = None
        elif event.kind is Kind.STARTED:
            started = event.at
        elif event.kind in (Kind.DEPARTED, Kind.ARRIVED):
            started = None
        resources = event.resources


def _pin_before(history: list[Event], index: int) -> tuple[int, int] | None:
    for at in range(index, -1, -1):
        fresh = at == 0 or history[at - 1].kind in (Kind.DEPARTED, Kind.DELETED)
        if fresh:
            pin = history[at].pin
            return (pin.version, pin.until) if pin else None
    return None


def _crossings(history, sheets, month, used) -> None:  # type: ignore[no-untyped-def]
    for index, event in enumerate(history):
        if not month.start <= event.at < month.end:
            continue
        if event.kind not in (Kind.DEPARTED, Kind.ARRIVED):
            continue
        arrived = event.kind is Kind.ARRIVED
        pin = _pin_before(history, index)
        sheet = sheet_for(sheets, event.at, pin)
        for component in sheet.components:
            count = {
                Measure.ARRIVALS: int(arrived),
                Measure.DEPARTURES: int(not arrived),
                Measure.SENT: event.sent_bytes,
                Measure.RECEIVED: event.received_bytes,
            }.get(component.measure, 0)
            if count:
                key = (event.payer, event.tenant, component.name, sheet.version, event.vm_id)
                used[(*key, False)] += count


def _priced(
    used: dict[tuple[object, ...], Fraction], sheets: list[PriceSheet]
) -> tuple[Bill, dict[tuple[str, str, int], int]]:
    by_version = {sheet.version: sheet for sheet in sheets}
    lines: Bill = {}
    taxed: dict[tuple[str, str, int], int] = defaultdict(int)
    filled: dict[tuple[object, object], Fraction] = defaultdict(Fraction)

    def turn(key: tuple[object, ...]) -> tuple[object, ...]:
        payer, tenant, component, version, machine, minimum = key
        since = by_version[version].effective_from  # type: ignore[index]
        return payer, component, since, version, machine, minimum, tenant

    for key in sorted(used, key=turn):
        payer, _, name, version, _, _ = key
        sheet = by_version[version]  # type: ignore[index]
        component = next(each for each in sheet.components if each.name == name)
        units = used[key] / UNIT_SECONDS[component.unit]
        begin = filled[payer, name]
        filled[payer, name] = end = begin + units
        own = [d for d in sheet.discounts if d.payer == payer and d.component == name]
        every = [d for d in sheet.discounts if d.payer == payer and not d.component]
        percent = Fraction((own or every)[0].percent if own or every else 0, 10**4)
        below = Fraction(0)
        for number, tier in enumerate(component.tiers):
            above = end if tier.up_to is None else Fraction(tier.up_to)
            part = min(end, above) - max(begin, below)
            below = above
            if part > 0:
                cost = part * tier.price_nanos
                net = round(cost * (100 - percent) / 100)
                lines[(*key, number)] = (part, round(cost), net)
                for tax in sheet.taxes:
                    taxed[str(payer), tax.name, tax.percent] += net
    taxes = {key: round(Fraction(base * key[2], 10**6)) for key, base in taxed.items()}
    return lines, taxes
