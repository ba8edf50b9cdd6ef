"""manager.prices: what a machine and a migration cost by the price sheet."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from manager import prices
from manager.accounting.price_sheet import PriceSheet
from manager.accounting.sheet_documents import from_settings
from manager.settings.accounts import PriceSettings
from watari import money
from watari.v1 import common_pb2

GIB = 1024**3


def sheet(**amounts: str) -> PriceSheet:
    """A sheet of settings."""
    return from_settings(PriceSettings(**amounts))  # type: ignore[arg-type]


SHEET = sheet(
    currency="JPY",
    vcpu_hour="2.5",
    memory_gib_hour="1",
    disk_gib_month="7.3",
    egress_gib="6",
    migration_flat="10",
)
AMOUNTS = st.decimals(0, 1000, places=4).map(str)


def jpy(amount: str) -> common_pb2.Money:
    """An amount of the sheet's currency."""
    return money.from_decimal(Decimal(amount), "JPY")


def test_an_hour_is_the_sum_of_cpus_memory_and_a_730th_of_the_months_disk() -> None:
    machine = common_pb2.Resources(vcpus=4, memory_bytes=8 * GIB, disk_bytes=20 * GIB)
    assert prices.hourly(SHEET, machine) == jpy("18.2")


def test_an_amount_that_has_no_end_is_rounded_to_nanos() -> None:
    machine = common_pb2.Resources(disk_bytes=GIB)
    assert prices.hourly(sheet(disk_gib_month="1"), machine) == jpy("0.001369863")


def test_leaving_costs_the_flat_price_and_the_sealed_bytes_and_arriving_the_flat_price() -> None:
    assert prices.departure(SHEET, GIB // 2) == jpy("13")
    assert prices.arrival(SHEET) == jpy("10")


def test_without_prices_everything_costs_nothing() -> None:
    machine = common_pb2.Resources(vcpus=4, memory_bytes=8 * GIB, disk_bytes=20 * GIB)
    free = sheet()
    costs = [prices.hourly(free, machine), prices.arrival(free), prices.departure(free, GIB)]
    assert costs == [jpy("0")] * 3


@given(AMOUNTS, AMOUNTS, st.integers(0, 2**52))
def test_leaving_is_exact_to_the_nano(flat: str, egress: str, size: int) -> None:
    cost = prices.departure(sheet(migration_flat=flat, egress_gib=egress), size)
    exact = Decimal(flat) * GIB + Decimal(egress) * size
    assert abs(money.to_decimal(cost) * GIB - exact) <= Decimal("0.5e-9") * GIB
