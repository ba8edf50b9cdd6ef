"""What a move is expected to take: by what the directory tells, or a manager has found. Pure."""

import math
from dataclasses import dataclass
from decimal import Decimal

from broker import pricing
from broker.policies.model import HOUR, MoveCost
from broker.policies.plans import Outcome
from watari import errors, money
from watari.v1 import common_pb2, manager_pb2

_GIB = 1024**3

STILL_SECONDS = 2.0
"""What a machine that moves while it runs stands still for beside the way: stop and start."""

ROUND_TRIPS = 20
"""Round trips of its last round."""

LIVE = frozenset({common_pb2.MIGRATION_MODE_WARM})
"""Modes in which the machine runs while its disks cross."""


@dataclass(frozen=True)
class Way:
    """From one cloud to another."""

    bytes_per_second: float
    round_trip_seconds: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """What a source's manager found by comparing disks."""

    wire_bytes: int
    source: Decimal
    """What it charges, in the policy's currency."""
    destination: Decimal
    duration_seconds: float
    downtime_seconds: float


def content_bytes(vm: manager_pb2.Vm) -> int:
    """The most that has to cross: what its disks have allocated, or all of them."""
    disks = sum(disk.allocated_bytes or disk.size_bytes for disk in vm.disks)
    return disks or vm.resources.disk_bytes


def by_the_sheets(
    vm: manager_pb2.Vm,
    way: Way,
    source: pricing.Sheet | None,
    destination: pricing.Sheet | None,
    *,
    hourly: float,
    downtime_hour_price: float,
    mode: common_pb2.MigrationMode.ValueType,
) -> MoveCost:
    """By the directory: all content crosses, as it is. `hourly` is the price at the destination."""
    content = content_bytes(vm)
    seconds = content / way.bytes_per_second
    still = 0.0
    if runs(vm):
        live = mode in LIVE
        still = STILL_SECONDS + (ROUND_TRIPS * way.round_trip_seconds if live else seconds)
    flats = [sheet.migration_flat for sheet in (source, destination) if sheet is not None]
    return MoveCost(
        transfer_bytes=float(content),
        egress=content / _GIB * float(source.egress_gib) if source is not None else 0.0,
        flat=float(sum(flats)),
        overlap=hourly * seconds / HOUR,
        downtime_seconds=still,
        downtime=still / HOUR * downtime_hour_price,
        duration_seconds=seconds,
    )


def by_the_manager(
    vm: manager_pb2.Vm, found: Estimate, *, hourly: float, downtime_hour_price: float
) -> MoveCost:
    """By a comparison of the disks."""
    still = found.downtime_seconds if runs(vm) else 0.0
    return MoveCost(
        transfer_bytes=float(found.wire_bytes),
        egress=float(found.source),
        flat=float(found.destination),
        overlap=hourly * found.duration_seconds / HOUR,
        downtime_seconds=still,
        downtime=still / HOUR * downtime_hour_price,
        duration_seconds=found.duration_seconds,
    )


def outcome_of(migration: manager_pb2.Migration) -> Outcome:
    """What a migration took that has ended."""
    warm = migration.mode in LIVE
    began, ended = migration.created_at.ToNanoseconds(), migration.ended_at.ToNanoseconds()
    return Outcome(
        transfer_bytes=0.0 if warm else float(migration.progress.wire_bytes),
        duration_seconds=max(0.0, (ended - began) / 1e9),
        downtime_seconds=max(0.0, migration.downtime_seconds),
    )


def ratios(estimated: MoveCost, took: Outcome) -> dict[str, float]:
    """How often what was estimated it took, of each kind that both have: 1 is just right."""
    pairs = {
        "transfer_bytes": (estimated.transfer_bytes, took.transfer_bytes),
        "duration": (estimated.duration_seconds, took.duration_seconds),
        "downtime": (estimated.downtime_seconds, took.downtime_seconds),
    }
    return {
        name: actual / expected
        for name, (expected, actual) in pairs.items()
        if expected > 0.0 and actual > 0.0
    }


def estimate_of(answer: manager_pb2.EstimateMigrationResponse, currency: str) -> Estimate | str:
    """What a manager answered, or why the machine cannot move, in words."""
    for finding in answer.findings:
        return f"{finding.reason}: {finding.message}"
    times = (answer.duration_seconds, answer.downtime_seconds)
    if not all(math.isfinite(seconds) and seconds >= 0.0 for seconds in times):
        return "its manager's estimate makes no sense"
    return Estimate(
        wire_bytes=answer.wire_bytes,
        source=_amount(answer.price, currency),
        destination=_amount(answer.destination_price, currency),
        duration_seconds=answer.duration_seconds,
        downtime_seconds=answer.downtime_seconds,
    )


def runs(vm: manager_pb2.Vm) -> bool:
    """Whether it would stand still."""
    return vm.state not in ("", "shut off")


def _amount(price: common_pb2.Money, currency: str) -> Decimal:
    """Prices in other currencies do not count."""
    if price.currency_code != currency:
        return Decimal()
    try:
        return max(money.to_decimal(price), Decimal())
    except errors.InvalidArgument:
        return Decimal()
