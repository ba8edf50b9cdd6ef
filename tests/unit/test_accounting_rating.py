"""Rating: tiers, rounding, minimums, discounts and taxes, in cases that can be checked by eye."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.accounting import exact, periods
from manager.accounting.events import Event, Kind, Pin
from manager.accounting.metering import meter
from manager.accounting.periods import MICROS
from manager.accounting.price_sheet import (
    GIB,
    HOUR,
    Component,
    Discount,
    Measure,
    PriceBook,
    PriceSheet,
    Tax,
    Tier,
)
from manager.accounting.rating import Line, Rated, rate
from watari import errors

MARCH = periods.month(2026, 3)
UNIT = 10**9


def event(number: int, kind: Kind, at: int, vm: str = "vm", **more: object) -> Event:
    more.setdefault("resources", {"vcpus": 1, "disk_bytes": GIB})
    return Event(
        f"{vm}{number}",
        number,
        "tokyo",
        kind,
        MARCH.start + at,
        vm,
        "tenant:t",
        "t",
        **more,  # type: ignore[arg-type]
    )


def vcpu(*tiers: Tier, **more: int) -> Component:
    return Component("vcpu", Measure.RUNNING, "vCPU-hour", tiers, "vcpus", **more)


def bill(events: list[Event], *components: Component, **more: object) -> Rated:
    sheet = PriceSheet(1, "EUR", 0, components, **more)  # type: ignore[arg-type]
    return rate(meter(events, MARCH.end), PriceBook([sheet]), MARCH, "tokyo")


def amounts(rated: Rated) -> list[tuple[str, int, int]]:
    return [(line.vm_id, line.tier, line.net_nanos) for line in rated.lines]


def ran(hours: int, vm: str = "vm") -> list[Event]:
    return [event(1, Kind.STARTED, 0, vm), event(2, Kind.STOPPED, hours * HOUR, vm)]


def test_tiers_fill_up_over_a_payers_machines_in_the_month() -> None:
    tiers = (Tier(5 * UNIT, 10), Tier(3 * UNIT, 15), Tier(UNIT))
    rated = bill([*ran(8, "a"), *ran(12, "b")], vcpu(*tiers))
    assert amounts(rated) == [
        ("a", 0, 40 * UNIT),
        ("b", 0, 10 * UNIT),
        ("b", 1, 15 * UNIT),
        ("b", 2, 5 * UNIT),
    ]


def test_a_stopped_machine_pays_for_its_disk_and_not_for_its_cpus() -> None:
    disk = Component("disk", Measure.HELD, "GiB-month", (Tier(730 * UNIT),), "disk_bytes")
    rated = bill([*ran(5), event(3, Kind.DELETED, 9 * HOUR)], vcpu(Tier(UNIT)), disk)
    assert {line.component.name: line.net_nanos for line in rated.lines} == {
        "vcpu": 5 * UNIT,
        "disk": 9 * UNIT,
    }


def test_a_line_is_rounded_once_half_to_even() -> None:
    half_an_hour = [event(1, Kind.STARTED, 0), event(2, Kind.STOPPED, HOUR // 2)]
    assert [bill(half_an_hour, vcpu(Tier(price))).lines[0].net_nanos for price in (1, 3, 5)] == [
        0,
        2,
        2,
    ]
    thirds = [
        each
        for number in range(3)
        for each in (
            event(2 * number, Kind.STARTED, number * HOUR),
            event(2 * number + 1, Kind.STOPPED, number * HOUR + HOUR // 3),
        )
    ]
    assert amounts(bill(thirds, vcpu(Tier(1)))) == [("vm", 0, 1)]


def test_instants_are_rounded_down_to_the_grid_so_that_parts_add_up() -> None:
    grid = vcpu(Tier(3600 * UNIT), granularity_seconds=1)
    told = [
        event(1, Kind.STARTED, 999_999),
        event(2, Kind.STOPPED, 1_999_999),
        event(3, Kind.STARTED, 1_999_999),
        event(4, Kind.STOPPED, 3_000_000),
    ]
    assert amounts(bill(told, grid)) == [("vm", 0, 3 * UNIT)]


def test_a_short_run_is_charged_the_minimum_on_a_line_of_its_own() -> None:
    told = [event(1, Kind.STARTED, 0), event(2, Kind.STOPPED, 20 * MICROS)]
    rated = bill(told, vcpu(Tier(3600 * UNIT), minimum_seconds=60))
    assert [(line.minimum, line.net_nanos) for line in rated.lines] == [
        (False, 20 * UNIT),
        (True, 40 * UNIT),
    ]


def test_a_run_that_leaves_is_charged_no_minimum() -> None:
    told = [event(1, Kind.STARTED, 0), event(2, Kind.DEPARTED, 20 * MICROS)]
    rated = bill(told, vcpu(Tier(3600 * UNIT), minimum_seconds=60))
    assert [line.minimum for line in rated.lines] == [False]


def test_a_run_that_ends_with_the_month_is_charged_its_minimum_in_the_next_month_only() -> None:
    length = MARCH.end - MARCH.start
    told = [event(1, Kind.STARTED, length - MICROS), event(2, Kind.STOPPED, length)]
    book = PriceBook([PriceSheet(1, "EUR", 0, (vcpu(Tier(3600 * UNIT), minimum_seconds=60),))])
    april = periods.month(2026, 4)
    both = [rate(meter(told, each.end), book, each, "tokyo") for each in (MARCH, april)]
    assert [[line.net_nanos for line in each.lines] for each in both] == [[UNIT], [59 * UNIT]]


def test_a_discount_is_taken_off_and_taxes_are_on_what_is_left() -> None:
    rated = bill(
        ran(10),
        vcpu(Tier(UNIT)),
        discounts=(Discount("tenant:t", 125_000),),
        taxes=(Tax("VAT", 190_000), Tax("levy", 5_000)),
    )
    line = rated.lines[0]
    assert (line.list_nanos, line.net_nanos) == (10 * UNIT, 8_750_000_000)
    assert [(tax.name, tax.base_nanos, tax.nanos) for tax in rated.taxes] == [
        ("VAT", 8_750_000_000, 1_662_500_000),
        ("levy", 8_750_000_000, 43_750_000),
    ]


def test_usage_is_priced_by_the_version_of_its_time_unless_a_quote_pins_one() -> None:
    change = MARCH.start + 10 * HOUR
    book = PriceBook(
        [
            PriceSheet(1, "EUR", 0, (vcpu(Tier(UNIT)),)),
            PriceSheet(2, "EUR", change, (vcpu(Tier(2 * UNIT)),)),
        ]
    )

    def versions(pin: Pin | None) -> list[tuple[int, int]]:
        told = [
            event(1, Kind.ARRIVED, 0, running=True, pin=pin),
            event(2, Kind.DELETED, 30 * HOUR),
        ]
        lines = rate(meter(told, MARCH.end), book, MARCH, "tokyo").lines
        return [(line.version, line.net_nanos // UNIT) for line in lines]

    assert versions(None) == [(1, 10), (2, 40)]
    assert versions(Pin(1, change + 5 * HOUR)) == [(1, 15), (2, 30)]
    assert versions(Pin(1, MARCH.end)) == [(1, 30)]


def test_a_later_version_prices_nothing_anew() -> None:
    first = PriceSheet(1, "EUR", 0, (vcpu(Tier(UNIT)),))
    later = PriceSheet(2, "EUR", MARCH.start + 10 * HOUR, (vcpu(Tier(5 * UNIT)),))
    metered = meter(ran(10), MARCH.end)
    before, after = (
        rate(metered, PriceBook(sheets), MARCH, "tokyo") for sheets in ([first], [first, later])
    )
    assert before == after


def test_migrations_and_months_are_charged_flat_and_bytes_by_the_gib() -> None:
    components = (
        Component("in", Measure.ARRIVALS, "migration", (Tier(2 * UNIT),)),
        Component("out", Measure.DEPARTURES, "migration", (Tier(3 * UNIT),)),
        Component("egress", Measure.SENT, "GiB", (Tier(0, 1), Tier(4 * UNIT))),
        Component("account", Measure.MONTHLY, "month", (Tier(7 * UNIT),)),
    )
    told = [
        event(1, Kind.ARRIVED, 0, received_bytes=5),
        event(2, Kind.DEPARTED, HOUR, sent_bytes=2 * GIB),
        event(3, Kind.ARRIVED, 2 * HOUR),
    ]
    found: dict[str, int] = {}
    for line in bill(told, *components).lines:
        found[line.component.name] = found.get(line.component.name, 0) + line.net_nanos // UNIT
    assert found == {"in": 4, "out": 3, "egress": 4, "account": 7}


def test_usage_before_the_first_sheet_is_refused() -> None:
    book = PriceBook([PriceSheet(1, "EUR", MARCH.start + HOUR, (vcpu(Tier(1)),))])
    with pytest.raises(errors.FailedPrecondition):
        rate(meter(ran(2), MARCH.end), book, MARCH, "tokyo")


@given(st.lists(st.integers(1, 600 * HOUR), unique=True, max_size=12), st.integers(0, UNIT))
def test_cutting_a_run_into_parts_changes_neither_a_line_nor_an_amount(
    cuts: list[int], price: int
) -> None:
    tiers = (Tier(price + 7, 40), Tier(price + 3, 333), Tier(price))
    length = 600 * HOUR
    whole = bill([event(0, Kind.STARTED, 0), event(1, Kind.STOPPED, length)], vcpu(*tiers))
    told = [event(0, Kind.STARTED, 0), event(99, Kind.STOPPED, length)]
    for number, cut in enumerate(sorted(cuts)):
        told += [event(2 * number + 1, Kind.STOPPED, cut), event(2 * number + 2, Kind.STARTED, cut)]
    assert bill(told, vcpu(*tiers)).lines == whole.lines


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**20))
def test_dividing_rounds_half_to_even(numerator: int, denominator: int) -> None:
    found = exact.divided(numerator, denominator)
    off = 2 * (numerator - found * denominator)
    assert abs(off) <= denominator
    assert abs(off) < denominator or found % 2 == 0


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(1, 48)), min_size=1, max_size=8))
def test_tiers_never_lose_or_invent_usage(stays: list[tuple[int, int]]) -> None:
    told: list[Event] = []
    for number, (start, hours) in enumerate(stays):
        vm = f"vm{number}"
        told += [event(1, Kind.STARTED, start * HOUR, vm)]
        told += [event(2, Kind.STOPPED, (start + hours) * HOUR, vm)]
    tiers = (Tier(3, 10), Tier(2, 50), Tier(1))
    lines: tuple[Line, ...] = bill(told, vcpu(*tiers)).lines
    hours_in_march = (MARCH.end - MARCH.start) // HOUR
    used = sum(
        min(start + hours, hours_in_march) - min(start, hours_in_march) for start, hours in stays
    )
    by_tier = [
        sum(line.base_quantity for line in lines if line.tier == n) // HOUR for n in range(3)
    ]
    assert by_tier == [min(used, 10), min(max(used - 10, 0), 40), max(used - 50, 0)]
