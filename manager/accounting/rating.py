"""Rating: what a month's usage costs, line by line, and the taxes on it.

A line is what one machine used of one component under one version of the price sheet within one
tier in a billing month. However many intervals it comes from, it is rounded once, half to even, to
nanos; so neither a restart of the metering nor a cut in an interval changes an amount.

Tiers count what one payer used of one component in the month. They fill up in a fixed order: by
version (the one in effect first comes first), then by machine, its time before its minimum.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from manager.accounting import exact
from manager.accounting.metering import Interval, Metered
from manager.accounting.periods import MICROS, Month
from manager.accounting.price_sheet import (
    TIMED,
    Component,
    Measure,
    PriceBook,
    PriceSheet,
)


@dataclass(frozen=True)
class Line:
    """One thing charged; money in nanos of the book's currency."""

    charge_id: str
    """The same whoever rates it, and however often."""
    payer: str
    tenant: str
    vm_id: str
    """Empty for what no machine caused."""
    vm_name: str
    component: Component
    version: int
    tier: int
    """Index in the component's tiers."""
    minimum: bool
    """Not used, but charged for because a run was shorter than the minimum."""
    start: int
    """First instant of what it charges for, microseconds since 1970."""
    end: int
    """The instant after the last."""
    base_quantity: int
    """In base units: amount times microseconds, bytes, or a count."""
    discount_percent: int
    list_nanos: int
    """By the list price."""
    net_nanos: int
    """After the payer's discount; before taxes."""
    quotes: tuple[str, ...] = ()
    """The quotes that pinned the version for all or a part of it, sorted."""

    @property
    def unit_price_nanos(self) -> int:
        """The list price of one unit."""
        return self.component.tiers[self.tier].price_nanos


@dataclass(frozen=True)
class TaxLine:
    """One tax on all that a payer is charged under one rate."""

    charge_id: str
    payer: str
    name: str
    percent: int
    base_nanos: int
    nanos: int


@dataclass(frozen=True)
class Rated:
    """A month of one cloud."""

    cloud_id: str
    month: Month
    currency: str
    lines: tuple[Line, ...]
    taxes: tuple[TaxLine, ...]


@dataclass(frozen=True, order=True)
class _Key:
    """What is summed up before it is rounded; its order is that in which tiers fill up."""

    payer: str
    component: str
    effective_from: int
    version: int
    vm_id: str
    minimum: bool
    tenant: str


@dataclass
class _Sum:
    component: Component
    sheet: PriceSheet
    vm_name: str
    start: int
    end: int
    base: int = 0
    quotes: set[str] = field(default_factory=set)


@dataclass
class _Sums:
    by_key: dict[_Key, _Sum] = field(default_factory=dict)
    first: dict[tuple[str, str], int] = field(default_factory=dict)
    """When each payer's tenants first had a machine here in the month."""

    def add(
        self,
        who: Interval,
        component: Component,
        sheet: PriceSheet,
        base: int,
        span: tuple[int, int],
        at: int,
        *,
        minimum: bool = False,
    ) -> None:
        """`at` is the instant by which the sheet was chosen."""
        key = _Key(
            who.payer,
            component.name,
            sheet.effective_from,
            sheet.version,
            who.vm_id,
            minimum,
            who.tenant,
        )
        found = self.by_key.get(key)
        if found is None:
            found = _Sum(component, sheet, who.vm_name, *span)
            self.by_key[key] = found
        found.base += base
        found.start, found.end = min(found.start, span[0]), max(found.end, span[1])
        found.vm_name = who.vm_name
        if who.pin is not None and who.pin.quote_id and who.pin.holds(at):
            found.quotes.add(who.pin.quote_id)


def rate(metered: Metered, book: PriceBook, month: Month, cloud_id: str) -> Rated:
    """All lines of a month. Raises as `PriceBook.price` does."""
    sums = _Sums()
    for interval in metered.intervals:
        _add_interval(sums, interval, book, month)
    for run in metered.runs:
        if month.start <= run.end < month.end:
            last = max(run.start, run.end - 1)
            _add_minimum(sums, run.at_end, last, (run.start, run.end), book)
    _add_crossings(sums, metered, book, month)
    _add_monthly(sums, book, month)
    lines = tuple(_lines(sums, month, cloud_id))
    return Rated(cloud_id, month, book.currency, lines, tuple(_taxes(lines, book, month, cloud_id)))


def floored(instant: int, component: Component) -> int:
    """The instant on the component's grid: both clouds of a hand-over round it alike."""
    grain = component.granularity_seconds * MICROS
    return instant - instant % grain


def _add_interval(sums: _Sums, interval: Interval, book: PriceBook, month: Month) -> None:
    start, end = max(interval.start, month.start), min(interval.end, month.end)
    if start >= end:
        return
    who = (interval.payer, interval.tenant)
    sums.first[who] = min(start, sums.first.get(who, start))
    for first, last, sheet in book.parts(start, end, interval.pin):
        for component in sheet.components:
            if component.measure not in TIMED:
                continue
            if component.measure is Measure.RUNNING and not interval.running:
                continue
            amount = interval.resources.get(component.resource, 0)
            span = floored(first, component), floored(last, component)
            if amount and span[0] < span[1]:
                sums.add(interval, component, sheet, amount * (span[1] - span[0]), span, first)


def _add_minimum(
    sums: _Sums, at_end: Interval, instant: int, span: tuple[int, int], book: PriceBook
) -> None:
    """What a run that was both started and stopped here lacks to the minimum."""
    sheet = book.price(instant, at_end.pin)
    for component in sheet.components:
        if component.measure is not Measure.RUNNING:
            continue
        amount = at_end.resources.get(component.resource, 0)
        ran = floored(span[1], component) - floored(span[0], component)
        missing = component.minimum_seconds * MICROS - ran
        if amount and missing > 0:
            sums.add(at_end, component, sheet, amount * missing, span, instant, minimum=True)


def _add_crossings(sums: _Sums, metered: Metered, book: PriceBook, month: Month) -> None:
    for crossing in metered.crossings:
        event = crossing.event
        if not month.start <= event.at < month.end:
            continue
        sheet = book.price(event.at, crossing.pin)
        counts = {
            Measure.ARRIVALS: int(event.kind.value == "arrived"),
            Measure.DEPARTURES: int(event.kind.value == "departed"),
            Measure.SENT: event.sent_bytes,
            Measure.RECEIVED: event.received_bytes,
        }
        who = Interval(
            event.vm_id,
            crossing.vm_name,
            event.payer,
            event.tenant,
            event.resources,
            event.running,
            event.at,
            event.at,
            crossing.pin,
        )
        for component in sheet.components:
            count = counts.get(component.measure, 0)
            if count:
                sums.add(who, component, sheet, count, (event.at, event.at), event.at)


def _add_monthly(sums: _Sums, book: PriceBook, month: Month) -> None:
    """Once a payer and month, by the sheet in effect when its first machine was here."""
    earliest: dict[str, int] = {}
    for (payer, _), instant in sums.first.items():
        earliest[payer] = min(instant, earliest.get(payer, instant))
    for payer, instant in earliest.items():
        sheet = book.at(instant)
        who = Interval("", "", payer, "", {}, False, month.start, month.end, None)
        for component in sheet.components:
            if component.measure is Measure.MONTHLY:
                sums.add(who, component, sheet, 1, (month.start, month.end), instant)


def _lines(sums: _Sums, month: Month, cloud_id: str) -> Iterator[Line]:
    counted: tuple[str, str] = ("", "")
    position = 0
    for key in sorted(sums.by_key):
        if counted != (key.payer, key.component):
            counted, position = (key.payer, key.component), 0
        found = sums.by_key[key]
        percent = found.sheet.discount(key.payer, key.component)
        for tier, base in _tiers(found.component, position, found.base):
            yield _line(key, found, tier, base, percent, month, cloud_id)
        position += found.base


def _tiers(component: Component, position: int, base: int) -> Iterator[tuple[int, int]]:
    """The parts of [position, position + base) by the tier that they lie in."""
    end = position + base
    for number, tier in enumerate(component.tiers):
        limit = end if tier.up_to is None else min(end, tier.up_to * component.base)
        if position < limit:
            yield number, limit - position
            position = limit


def _line(
    key: _Key, found: _Sum, tier: int, base: int, percent: int, month: Month, cloud_id: str
) -> Line:
    component = found.component
    cost = base * component.tiers[tier].price_nanos
    left = exact.PERCENT_WHOLE - percent
    return Line(
        charge_id=exact.identity(
            "line",
            cloud_id,
            month.label,
            key.payer,
            key.tenant,
            key.component,
            key.version,
            key.vm_id,
            int(key.minimum),
            tier,
        ),
        payer=key.payer,
        tenant=key.tenant,
        vm_id=key.vm_id,
        vm_name=found.vm_name,
        component=component,
        version=key.version,
        tier=tier,
        minimum=key.minimum,
        start=found.start,
        end=found.end,
        base_quantity=base,
        discount_percent=percent,
        list_nanos=exact.divided(cost, component.base),
        net_nanos=exact.divided(cost * left, component.base * exact.PERCENT_WHOLE),
        quotes=tuple(sorted(found.quotes)),
    )


def _taxes(
    lines: Iterable[Line], book: PriceBook, month: Month, cloud_id: str
) -> Iterator[TaxLine]:
    """One line a payer, tax and rate, rounded once: rates of different versions stand apart."""
    bases: dict[tuple[str, str, int], int] = {}
    for line in lines:
        for tax in book.version(line.version).taxes:
            key = (line.payer, tax.name, tax.percent)
            bases[key] = bases.get(key, 0) + line.net_nanos
    for (payer, name, percent), base in sorted(bases.items()):
        charge_id = exact.identity("tax", cloud_id, month.label, payer, name, percent)
        nanos = exact.divided(base * percent, exact.PERCENT_WHOLE)
        yield TaxLine(charge_id, payer, name, percent, base, nanos)
