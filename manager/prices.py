"""What this cloud charges by a version of its price sheet, for quotes, estimates, the directory.

List prices, in the first tier of each component; what is charged in the end has tiers, discounts
and taxes too (`manager.accounting.rating`). Each amount is rounded once, to 10^-9 of the currency's
unit, halves to even.
"""

from collections.abc import Mapping
from fractions import Fraction

from manager import inventory
from manager.accounting import exact
from manager.accounting.price_sheet import GIB, HOUR, MONTH, TIMED, Measure, PriceSheet
from watari.v1 import common_pb2, directory_pb2


def hourly(sheet: PriceSheet, resources: common_pb2.Resources) -> common_pb2.Money:
    """What a machine that runs costs an hour; resource classes without a price cost nothing."""
    amounts = inventory.amounts(resources)
    nanos = sum(
        (
            Fraction(amounts.get(each.resource, 0) * HOUR * each.tiers[0].price_nanos, each.base)
            for each in sheet.components
            if each.measure in TIMED
        ),
        Fraction(),
    )
    return _money(nanos, sheet)


def arrival(sheet: PriceSheet) -> common_pb2.Money:
    """What a migration to this cloud costs here, apart from its bytes."""
    return _money(_counted(sheet, {Measure.ARRIVALS: 1}), sheet)


def departure(sheet: PriceSheet, wire_bytes: int) -> common_pb2.Money:
    """What a migration that takes so many sealed bytes out of this cloud costs here."""
    return _money(_counted(sheet, {Measure.DEPARTURES: 1, Measure.SENT: wire_bytes}), sheet)


def message(sheet: PriceSheet) -> directory_pb2.PriceSheet:
    """The sheet as the directory has it: what fits into its fields."""
    return directory_pb2.PriceSheet(
        version=sheet.version,
        vcpu_hour=_money(_unit(sheet, inventory.VCPUS, HOUR), sheet),
        memory_gib_hour=_money(_unit(sheet, inventory.MEMORY, GIB * HOUR), sheet),
        disk_gib_month=_money(_unit(sheet, inventory.DISK, GIB * MONTH), sheet),
        egress_gib=_money(_counted(sheet, {Measure.SENT: GIB}), sheet),
        migration_flat=arrival(sheet),
    )


def _unit(sheet: PriceSheet, resource: str, base: int) -> Fraction:
    found = [each for each in sheet.components if each.resource == resource]
    return sum(
        (Fraction(each.tiers[0].price_nanos * base, each.base) for each in found), Fraction()
    )


def _counted(sheet: PriceSheet, counts: Mapping[Measure, int]) -> Fraction:
    return sum(
        (
            Fraction(counts.get(each.measure, 0) * each.tiers[0].price_nanos, each.base)
            for each in sheet.components
        ),
        Fraction(),
    )


def _money(nanos: Fraction, sheet: PriceSheet) -> common_pb2.Money:
    return exact.message(exact.divided(nanos.numerator, nanos.denominator), sheet.currency)
