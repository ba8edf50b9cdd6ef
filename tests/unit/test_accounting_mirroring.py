"""Mirroring: the debtor works out, to the last nano, what a creditor that keeps its word bills."""

from dataclasses import replace

from manager.accounting import booking, mirroring, settlement
from manager.accounting.events import Event, Kind, Pin
from manager.accounting.metering import meter
from manager.accounting.price_sheet import PriceBook, PriceSheet, Tier
from manager.accounting.rating import rate
from manager.accounting.settlement import Owed, Terms
from tests.support.accounting_samples import BOOK, HOUR, MARCH

SIZE = {"vcpus": 2, "memory_bytes": 2**30, "disk_bytes": 2**34}
SIDES = mirroring.Sides("hamburg", "osaka", "peer:o.example")
CHANGE = MARCH.start + 12 * HOUR
QUOTE = Pin(4, MARCH.start + 20 * HOUR, "q1")
"""Holds for ten hours after the arrival, eight of them after the price has changed."""


def dearer(sheet: PriceSheet) -> PriceSheet:
    """The next version, of which every price is some nanos higher."""
    components = tuple(
        replace(each, tiers=tuple(Tier(t.price_nanos + 7, t.up_to) for t in each.tiers))
        for each in sheet.components
    )
    return replace(sheet, version=5, effective_from=CHANGE, components=components)


SHEETS = PriceBook([BOOK.version(4), dearer(BOOK.version(4))])


def event(kind: Kind, hours: float, cloud: str, peer: str, **more: object) -> Event:
    """Of the machine, at a cloud; by a migration where there is a peer."""
    return Event(
        f"{cloud}-{kind.value}-{hours}",
        1,
        cloud,
        kind,
        MARCH.start + round(hours * HOUR),
        "vm",
        SIDES.payer if cloud == "hamburg" else "tenant:t",
        "t",
        resources=SIZE,
        peer=peer,
        migration_id=f"m{hours}" if peer else "",
        **more,  # type: ignore[arg-type]
    )


OWN = [
    event(Kind.DEPARTED, 10, "osaka", "hamburg", sent_bytes=999),
    event(Kind.ARRIVED, 50, "osaka", "hamburg", received_bytes=5 * 2**30),
]


def creditors(pin: Pin | None) -> list[Event]:
    """What hamburg recorded of the same stay, which it charges by a pin."""
    return [
        event(Kind.ARRIVED, 10, "hamburg", "osaka", received_bytes=999, pin=pin),
        event(Kind.STARTED, 10.5, "hamburg", ""),
        event(Kind.DEPARTED, 50, "hamburg", "osaka", sent_bytes=5 * 2**30),
    ]


def billed(events: list[Event]) -> Owed:
    rated = rate(meter(events, MARCH.end), SHEETS, MARCH, "hamburg")
    by = settlement.terms(rated.lines)
    return settlement.owed(booking.charges(rated, 0), SIDES.payer, MARCH.label, by)


def expected(told: list[Event], quotes: dict[str, Pin]) -> Owed:
    return mirroring.expected(SIDES, OWN, told, quotes, SHEETS, MARCH)


def test_a_price_that_changed_after_the_quote_is_charged_and_expected_as_it_was_quoted() -> None:
    told = creditors(QUOTE)
    bill, want = billed(told), expected(told, {"m10": QUOTE})
    assert bill == want
    used = ("vcpu", "memory", "disk")
    terms = {each.terms for each in bill.values() if each.description.startswith(used)}
    assert terms == {Terms(4, ("q1",)), Terms(5)}, "until the quote ends, and from then on"
    vcpu = {d.terms.version: d.nanos for d in bill.values() if d.description.startswith("vcpu")}
    assert vcpu == {4: 19 * 32_500_000, 5: 60 * 32_500_007}


def test_a_creditor_that_does_not_keep_its_quote_is_disputed_by_version() -> None:
    bill, want = billed(creditors(None)), expected(creditors(None), {"m10": QUOTE})
    found = settlement.claim("h.example", "o.example", bill, want)
    vcpus = [each for each in found.disputes if each.description.startswith("vcpu")]
    assert {(each.terms.version, each.terms.quotes) for each in vcpus} == {(4, ("q1",)), (5, ())}
    for each in vcpus:
        more_is_expected = each.expected_nanos > each.billed_nanos
        assert more_is_expected == (each.terms.version == 4)


def test_a_quote_that_only_the_creditor_knows_is_not_believed() -> None:
    told = creditors(replace(QUOTE, version=5, until=MARCH.end))
    assert expected(told, {}) == expected(creditors(None), {})
    assert expected(told, {"m10": QUOTE}) == expected(creditors(None), {"m10": QUOTE})


def test_the_quote_of_a_move_from_a_third_cloud_is_the_creditors_word() -> None:
    arrived = event(Kind.ARRIVED, 5, "hamburg", "kyoto", pin=QUOTE)
    told = [arrived, event(Kind.STARTED, 6, "hamburg", "")]
    want = mirroring.expected(SIDES, [], told, {}, SHEETS, MARCH)
    assert want == billed(told)
    assert Terms(4, ("q1",)) in [each.terms for each in want.values()]


def test_a_quote_by_a_version_that_is_not_there_pins_nothing() -> None:
    want = expected(creditors(None), {"m10": replace(QUOTE, version=9)})
    assert want == expected(creditors(None), {})
