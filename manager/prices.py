"""What this cloud charges, by its price sheet: functions of values.

    an hour     = vcpu_hour x vCPUs + memory_gib_hour x GiB + disk_gib_month / 730 x GiB
    a migration = migration_flat, and where the machine leaves, egress_gib x sealed GiB

rounded once, to 10^-9 of the currency's unit.
"""

from decimal import Decimal, localcontext

from manager import catalogue
from manager.settings import PriceSettings
from watari import money
from watari.v1 import common_pb2

HOURS_PER_MONTH = 730
"""Of the contract: a month of disk is 730 hours."""

_GIB = 1024**3
_DIGITS = 60
"""Working precision: products of 64-bit integers stay exact."""


def hourly(prices: PriceSettings, resources: common_pb2.Resources) -> common_pb2.Money:
    """What a machine costs an hour; resource classes without a price cost nothing."""
    sheet = catalogue.price_sheet(prices)
    with localcontext(prec=_DIGITS):
        amount = (
            money.to_decimal(sheet.vcpu_hour) * resources.vcpus
            + money.to_decimal(sheet.memory_gib_hour) * resources.memory_bytes / _GIB
            + money.to_decimal(sheet.disk_gib_month) * resources.disk_bytes / _GIB / HOURS_PER_MONTH
        )
    return money.from_decimal(amount, prices.currency)


def arrival(prices: PriceSettings) -> common_pb2.Money:
    """What a migration to this cloud costs here."""
    return catalogue.price_sheet(prices).migration_flat


def departure(prices: PriceSettings, wire_bytes: int) -> common_pb2.Money:
    """What a migration that takes so many sealed bytes out of this cloud costs here."""
    sheet = catalogue.price_sheet(prices)
    with localcontext(prec=_DIGITS):
        egress = money.to_decimal(sheet.egress_gib) * Decimal(wire_bytes) / _GIB
        amount = money.to_decimal(sheet.migration_flat) + egress
    return money.from_decimal(amount, prices.currency)
