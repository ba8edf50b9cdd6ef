"""A month of a thousand machines at two clouds, held against an independent recomputation."""

import itertools
import random
from collections import defaultdict
from collections.abc import Iterable
from fractions import Fraction

import pytest

from manager.accounting import booking, invoices, ledger, mirroring, periods, settlement
from manager.accounting.events import Event, Kind
from manager.accounting.invoices import Party
from manager.accounting.ledger import Ledger
from manager.accounting.metering import Metered, meter
from manager.accounting.periods import MICROS
from manager.accounting.price_sheet import HOUR, PriceBook
from manager.accounting.rating import Rated, rate
from tests.support import accounting_brute as brute
from tests.support.accounting_world import CLOUDS, World, world

MONTHS = {
    "clocks go forward": (2026, 3, "Europe/Berlin"),
    "clocks go back": (2026, 10, "Europe/Berlin"),
    "a leap second": (2016, 12, "UTC"),
}
NOBODY = Party("")


@pytest.fixture(scope="module", params=MONTHS.values(), ids=list(MONTHS))
def month(request: pytest.FixtureRequest) -> World:
    return world(7, *request.param)


@pytest.fixture(scope="module")
def bills(month: World) -> dict[str, Rated]:
    """The month of each cloud, from events as they come in."""
    return {cloud: rated(month, cloud, told(month.events[cloud], 1)) for cloud in CLOUDS}


def told(events: Iterable[Event], seed: int) -> list[Event]:
    """The events as they come in: in any order, some of them twice."""
    chance = random.Random(seed)
    found = [event for event in events for _ in range(1 + (chance.random() < 0.2))]
    chance.shuffle(found)
    return found


def rated(found: World, cloud: str, events: Iterable[Event]) -> Rated:
    metered = meter(events, found.month.end)
    return rate(metered, PriceBook(found.sheets[cloud]), found.month, cloud)


def closed(of: Rated) -> Ledger:
    """The ledger of a month whose invoices are issued."""
    booked = Ledger()
    booked.post(booking.charges(of, of.month.end))
    for invoice in issued(of):
        entry = invoices.rounding_entry(invoice)
        booked.post([entry] if entry else [])
    return booked


def issued(of: Rated) -> list[invoices.Invoice]:
    return [
        invoices.issue(of, payer, issuer=NOBODY, customer=NOBODY, issued_at=of.month.end)
        for payer in invoices.payers(of)
    ]


def test_every_line_and_tax_is_the_recomputed_one_to_the_last_nano(
    month: World, bills: dict[str, Rated]
) -> None:
    for cloud, of in bills.items():
        lines, taxes = brute.bill(month.events[cloud], month.sheets[cloud], month.month)
        found = {
            (
                line.payer,
                line.tenant,
                line.component.name,
                line.version,
                line.vm_id,
                line.minimum,
                line.tier,
            ): (
                Fraction(line.base_quantity, line.component.base),
                line.list_nanos,
                line.net_nanos,
            )
            for line in of.lines
        }
        assert found == lines
        assert {(tax.payer, tax.name, tax.percent): tax.nanos for tax in of.taxes} == taxes
        assert len(lines) > 3000
        assert {key[5] for key in lines} == {True, False}
        assert {key[3] for key in lines} == {1, 2}


def test_the_ledger_balances_and_holds_what_the_invoices_say(bills: dict[str, Rated]) -> None:
    for of in bills.values():
        booked = closed(of)
        balances = ledger.balances(booked)
        assert sum(balances.values()) == 0
        owed = {
            account.removeprefix(booking.RECEIVABLE): nanos
            for (_, account), nanos in balances.items()
            if account.startswith(booking.RECEIVABLE)
        }
        assert owed == {invoice.payer: invoice.total_nanos for invoice in issued(of)}
        assert all(nanos % 10**7 == 0 for nanos in owed.values())
        assert ledger.verify(booked.chained).sequence == len(booked.chained)


def test_both_clouds_together_bill_a_moved_machine_without_gap_or_overlap(
    month: World, bills: dict[str, Rated]
) -> None:
    metered = {cloud: meter(month.events[cloud], month.month.end) for cloud in CLOUDS}
    spans: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    billed: dict[str, int] = defaultdict(int)
    for cloud, of in metered.items():
        for interval in of.intervals:
            spans[interval.vm_id].append((interval.start, interval.end, cloud))
        for line in bills[cloud].lines:
            if line.component.name == "disk":
                billed[line.vm_id] += line.base_quantity
    moved = [machine for machine in month.machines if machine.moves]
    assert len(moved) > 500
    for machine in moved:
        parts = sorted(spans[machine.vm_id])
        assert all(one[1] == two[0] for one, two in itertools.pairwise(parts))
        lived = [stay for stay in machine.stays if stay[1] < stay[2]]
        lived = [stay for stay in lived if stay[1] < month.month.end]
        assert parts[0][0] == lived[0][1]
        assert parts[-1][1] == min(lived[-1][2], month.month.end)
        grid = [
            (max(start, month.month.start) // MICROS, min(end, month.month.end) // MICROS, disk)
            for _, start, end, disk in lived
        ]
        seconds = sum((end - start) * disk for start, end, disk in grid if start < end)
        assert billed[machine.vm_id] == seconds * MICROS


def test_seconds_counted_one_by_one_are_the_billed_ones(month: World) -> None:
    """Of the machine that moves most: every second of the month belongs to one cloud or none."""
    machine = max(month.machines, key=lambda each: each.moves)
    lines: dict[tuple[str, int], int] = defaultdict(int)
    counted: dict[tuple[str, int], int] = defaultdict(int)
    for cloud in CLOUDS:
        mine = [event for event in month.events[cloud] if event.vm_id == machine.vm_id]
        of = rated(month, cloud, mine)
        for line in of.lines:
            if line.component.name == "vcpu" and not line.minimum:
                lines[cloud, line.version] += line.base_quantity
        mine.sort(key=lambda event: (event.at, event.sequence))
        changes = {event.at // MICROS for event in mine}
        changes |= {sheet.effective_from // MICROS for sheet in month.sheets[cloud]}
        changes |= {event.pin.until // MICROS for event in mine if event.pin}
        rate_now: tuple[int, int] | None = None
        first = month.month.start // MICROS
        for second in range(first, month.month.end // MICROS):
            if second == first or second in changes:
                last = (second + 1) * MICROS - 1
                _, runs, event, pin = brute.state(mine, last)
                version = brute.sheet_for(month.sheets[cloud], last, pin).version
                rate_now = (version, event.resources["vcpus"]) if runs else None
            if rate_now:
                counted[cloud, rate_now[0]] += rate_now[1]
    assert {key: seconds * MICROS for key, seconds in counted.items()} == lines
    assert sum(counted.values()) > 0


def test_a_run_that_crashed_and_is_repeated_posts_nothing_twice(
    month: World, bills: dict[str, Rated]
) -> None:
    of = bills["tokyo"]
    whole = closed(of)
    again = rated(month, "tokyo", told(month.events["tokyo"], 2))
    assert again == of
    crashed = Ledger()
    entries = list(booking.charges(again, of.month.end))
    for stop in (len(entries) // 3, len(entries) // 2, len(entries)):
        later = booking.charges(again, of.month.end + stop)
        crashed.post(entry for number, entry in enumerate(later) if number < stop)
    for invoice in issued(again):
        entry = invoices.rounding_entry(invoice)
        crashed.post([entry] if entry else [])
    assert ledger.balances(crashed) == ledger.balances(whole)
    assert crashed.post(booking.charges(again, 0)) == 0


def test_metering_that_stops_and_goes_on_meters_the_same(month: World) -> None:
    events = month.events["berlin"]
    whole = meter(events, month.month.end)
    steps = [month.month.start + days * 24 * HOUR + 1 for days in (-3, 2, 9, 17)]
    parts: list[Metered] = []
    for number, until in enumerate([*steps, month.month.end]):
        since = steps[number - 1] if number else 0
        opening = parts[-1].held if parts else ()
        parts.append(meter([e for e in events if e.at >= since], until, opening))
    joined = Metered(
        [each for part in parts for each in part.intervals],
        [each for part in parts for each in part.runs],
        [each for part in parts for each in part.crossings],
        parts[-1].held,
    )
    book = PriceBook(month.sheets["berlin"])
    one, other = (rate(each, book, month.month, "berlin") for each in (whole, joined))
    assert one == other


def test_what_was_told_too_late_is_corrected_to_what_it_would_have_been(
    month: World, bills: dict[str, Rated]
) -> None:
    events = month.events["tokyo"]
    late = {event.event_id for event in events if event.kind is Kind.RESIZED}
    first = rated(month, "tokyo", [event for event in events if event.event_id not in late])
    right = bills["tokyo"]
    booked = Ledger()
    booked.post(booking.charges(first, 1))

    def correct(name: str) -> list[ledger.Entry]:
        found = booking.corrections(
            booked, right, correction_id=name, reason="told late", booked_at=2
        )
        return list(found)

    entries = correct("one")
    assert len(entries) > 100
    booked.post(entries[: len(entries) // 2])
    booked.post(correct("one"))
    expected = Ledger()
    expected.post(booking.charges(right, 1))
    assert _known(booked) == _known(expected)
    assert correct("two") == []
    assert sum(ledger.balances(booked).values()) == 0
    referring = {entry.refers_to for entry in booked if entry.kind == booking.CORRECTION} - {""}
    assert referring <= {entry.entry_id for entry in booked if entry.kind != booking.CORRECTION}


def _known(booked: Ledger) -> dict[tuple[str, str], int]:
    return {key: nanos for key, nanos in ledger.balances(booked).items() if nanos}


def test_what_a_provider_expects_of_its_peer_is_what_the_peer_bills(
    month: World, bills: dict[str, Rated]
) -> None:
    claims = {}
    for cloud, other in (("tokyo", "berlin"), ("berlin", "tokyo")):
        payer = f"peer:{CLOUDS[other]}"
        billed = bills[cloud]
        foreign = [event for event in month.events[cloud] if event.payer == payer]
        mine = [e for e in month.events[other] if e.payer.startswith("tenant:")]
        fed = [e for e in foreign if e.kind not in (Kind.ARRIVED, Kind.DEPARTED)]
        quotes = {e.migration_id: e.pin for e in foreign if e.pin}
        sides = mirroring.Sides(cloud, other, payer)
        expected = mirroring.expected(
            sides, mine, fed, quotes, PriceBook(month.sheets[cloud]), month.month
        )
        by = settlement.terms(billed.lines)
        bill = settlement.owed(booking.charges(billed, 0), payer, month.month.label, by)
        claims[cloud] = settlement.claim(CLOUDS[cloud], CLOUDS[other], bill, expected)
        assert bill == expected, "to the last nano, and by the same versions and quotes"
        assert claims[cloud].disputes == ()
        assert claims[cloud].agreed_nanos == claims[cloud].billed_nanos > 0
        assert len(claims[cloud].charges) > 500
    ours, theirs = (
        settlement.statement(month.month, "EUR", claims[one], claims[two])
        for one, two in (("tokyo", "berlin"), ("berlin", "tokyo"))
    )
    assert ours.net_nanos == -theirs.net_nanos != 0
    assert ours.statement_id == theirs.statement_id


def test_months_are_as_long_as_their_zone_says() -> None:
    hours = {
        name: (month.end - month.start) // HOUR
        for name, month in {name: periods.month(*given) for name, given in MONTHS.items()}.items()
    }
    assert hours == {
        "clocks go forward": 31 * 24 - 1,
        "clocks go back": 31 * 24 + 1,
        "a leap second": 31 * 24,
    }
