"""Price sheets: what makes sense, how they are written, and which version holds when."""

from dataclasses import replace

import pytest

from manager import prices
from manager.accounting import exact, price_sheet, sheet_documents
from manager.accounting.events import Event, Kind, Pin
from manager.accounting.metering import meter
from manager.accounting.periods import month
from manager.accounting.price_sheet import GIB, HOUR, PriceBook, PriceSheet
from manager.accounting.rating import rate
from manager.settings.accounts import PriceSettings
from tests.support.accounting_world import sheets
from watari import errors, money
from watari.v1 import common_pb2

DOCUMENT = """
version = 3
currency = "EUR"
effective_from = 2026-03-01T00:00:00Z

[[components]]
name = "vcpu"
measure = "running"
resource = "vcpus"
unit = "vCPU-hour"
minimum_seconds = 60
tiers = [{ price = "0.03", up_to = 1000 }, { price = "0.02" }]

[[components]]
name = "egress"
measure = "sent"
unit = "GiB"
price = "0.05"

[[discounts]]
payer = "tenant:acme"
percent = "12.5"

[[discounts]]
payer = "tenant:acme"
component = "egress"
percent = 50

[[taxes]]
name = "VAT"
percent = "19"
"""


def book() -> PriceBook:
    return PriceBook([PriceSheet(1, "EUR", 0, ()), PriceSheet(2, "EUR", 100, ())])


def test_a_sheet_is_read_from_toml_and_keeps_its_meaning_as_json() -> None:
    sheet = sheet_documents.from_toml(DOCUMENT)
    vcpu, egress = sheet.components
    assert [(tier.price_nanos, tier.up_to) for tier in vcpu.tiers] == [
        (30_000_000, 1000),
        (20_000_000, None),
    ]
    assert (vcpu.minimum_seconds, egress.tiers[0].price_nanos) == (60, 50_000_000)
    assert sheet_documents.from_json(sheet_documents.to_json(sheet)) == sheet
    for each in sheets(5):
        assert sheet_documents.from_json(sheet_documents.to_json(each)) == each


def test_a_discount_of_a_component_goes_before_the_one_for_all() -> None:
    sheet = sheet_documents.from_toml(DOCUMENT)
    assert sheet.discount("tenant:acme", "vcpu") == 125_000
    assert sheet.discount("tenant:acme", "egress") == 500_000
    assert sheet.discount("tenant:other", "egress") == 0


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('currency = "EUR"', 'currency = "euro"', "currency"),
        ("2026-03-01T00:00:00Z", "2026-03-01T00:00:00", "effective_from"),
        ('measure = "sent"', 'measure = "seen"', "components.egress.measure"),
        ('unit = "GiB"', 'unit = "GiB-hour"', "components.egress.unit"),
        ('resource = "vcpus"', "", "components.vcpu.resource"),
        ('price = "0.05"', "price = 0.05", "components.egress.price"),
        ('price = "0.05"', 'price = "-1"', "components.egress.price"),
        ('price = "0.05"', 'price = "1e-10"', "components.egress.price"),
        ('price = "0.05"', 'price = "NaN"', "components.egress.price"),
        ('price = "0.05"', "", "components.egress"),
        ("up_to = 1000", "up_to = 0", "components.vcpu.tiers.up_to"),
        (", up_to = 1000", "", "components.vcpu.tiers.up_to"),
        ("minimum_seconds = 60", "minimum_seconds = 100000", "components.vcpu.minimum_seconds"),
        ('name = "egress"', 'name = "vcpu"', "components.name"),
        ('component = "egress"', 'component = "ingress"', "discounts.component"),
        ("percent = 50", "percent = 101", "discounts.percent"),
        ('name = "VAT"', 'title = "VAT"', "taxes"),
        ("version = 3", 'version = "3"', "version"),
        ("version = 3", "version = = 3", "document"),
    ],
)
def test_a_sheet_that_makes_no_sense_is_refused_with_the_field(
    old: str, new: str, field: str
) -> None:
    assert old in DOCUMENT
    with pytest.raises(errors.InvalidArgument) as caught:
        sheet_documents.from_toml(DOCUMENT.replace(old, new, 1))
    assert caught.value.metadata["field"] == field
    assert caught.value.hint


def test_versions_that_contradict_one_another_are_refused() -> None:
    for others in (
        [PriceSheet(1, "EUR", 5, ())],
        [PriceSheet(2, "EUR", 0, ())],
    ):
        with pytest.raises(errors.InvalidArgument):
            PriceBook([PriceSheet(1, "EUR", 0, ()), *others])
    one, two = sheets(5)
    with pytest.raises(errors.InvalidArgument, match="differ"):
        PriceBook([one, replace(two, currency="JPY")])
    free = PriceSheet(9, "JPY", 9, ())
    assert PriceBook([one, free]).currency == "EUR", "what charges nothing has any currency"
    moved = PriceSheet(
        2,
        "EUR",
        5,
        (price_sheet.Component("vcpu", price_sheet.Measure.SENT, "GiB", one.components[0].tiers),),
    )
    assert PriceBook([one, two])
    with pytest.raises(errors.InvalidArgument, match="counts something else"):
        PriceBook([one, moved])


def test_a_version_holds_from_its_instant_on_and_a_pin_until_its_own() -> None:
    assert [sheet.version for sheet in map(book().at, (0, 99, 100))] == [1, 1, 2]
    pin = Pin(1, 150)
    assert [book().price(instant, pin).version for instant in (100, 149, 150)] == [1, 1, 2]

    def parts(start: int, end: int, pin: Pin | None) -> list[tuple[int, int, int]]:
        return [(a, b, sheet.version) for a, b, sheet in book().parts(start, end, pin)]

    assert parts(50, 200, None) == [(50, 100, 1), (100, 200, 2)]
    assert parts(50, 200, pin) == [(50, 150, 1), (150, 200, 2)]
    assert parts(50, 120, pin) == [(50, 120, 1)]
    assert parts(160, 200, pin) == [(160, 200, 2)]
    assert parts(10, 200, Pin(2, 60)) == [(10, 60, 2), (60, 100, 1), (100, 200, 2)]


def test_what_was_used_before_the_first_version_is_refused_and_so_is_an_unknown_pin() -> None:
    later = PriceBook([PriceSheet(1, "EUR", 10, ())])
    with pytest.raises(errors.FailedPrecondition):
        later.at(9)
    with pytest.raises(errors.NotFound):
        later.price(20, Pin(7, 100))


def test_the_simple_settings_are_charged_as_they_are_estimated() -> None:
    settings = PriceSettings(
        currency="JPY",
        vcpu_hour="2.5",
        memory_gib_hour="1",
        disk_gib_month="7.3",
        egress_gib="6",
        migration_flat="10",
    )
    resources = {"vcpus": 4, "memory_bytes": 8 * GIB, "disk_bytes": 20 * GIB}
    period = month(2026, 3)
    at = period.start + HOUR
    event = Event(
        "1", 1, "tokyo", Kind.ARRIVED, at, "vm", "tenant:t", "t", resources=resources, running=True
    )
    gone = Event(
        "2", 2, "tokyo", Kind.DEPARTED, at + HOUR, "vm", "tenant:t", "t", sent_bytes=GIB // 2
    )
    book = PriceBook([sheet_documents.from_settings(settings)])
    rated = rate(meter([event, gone], period.end), book, period, "tokyo")
    total = sum(line.net_nanos for line in rated.lines)
    message = common_pb2.Resources(vcpus=4, memory_bytes=8 * GIB, disk_bytes=20 * GIB)
    estimated = [
        prices.hourly(book.at(at), message),
        prices.arrival(book.at(at)),
        prices.departure(book.at(at), GIB // 2),
    ]
    assert exact.decimal(total) == sum(map(money.to_decimal, estimated))
