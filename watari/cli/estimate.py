"""`watari migrate --dry-run`: what a migration would take, and what would keep it from working."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from rich.console import RenderableType

from watari import errors, units
from watari.cli import views
from watari.cli.clients import Manager
from watari.cli.invocation import Invocation
from watari.cli.output import Column, facts, table
from watari.cli.plain import enum_name, plain
from watari.v1 import common_pb2, manager_pb2

WARNING_COLUMNS = (
    Column("WORTH KNOWING", lambda one: one["message"]),
    Column("NEXT", lambda one: one["hint"]),
)

FINDING_COLUMNS = (
    Column("WHAT STANDS AGAINST IT", lambda one: one["message"]),
    Column("NEXT", lambda one: one["hint"]),
)

_PRICES = ("price", "destination_price")


def dry_run(
    invocation: Invocation,
    manager: Manager,
    vm: manager_pb2.Vm,
    to_cloud: str,
    options: common_pb2.TransferOptions,
    mode: common_pb2.MigrationMode.ValueType = common_pb2.MIGRATION_MODE_COLD,
) -> None:
    """Prints the pre-flight and the estimate. Raises the first finding, so that a script sees it in
    the exit code; warnings keep nothing from working and change no exit code.
    """
    request = manager_pb2.EstimateMigrationRequest(
        vm=vm.vm_id, to_cloud=to_cloud, mode=mode, options=options
    )
    with invocation.output.working(f"comparing {vm.name} with what {to_cloud} has"):
        response = manager.estimate(request)
    about = {
        "vm_id": vm.vm_id,
        "vm_name": vm.name,
        "from_cloud": manager.cloud_id,
        "to_cloud": to_cloud,
        "mode": enum_name(common_pb2.MigrationMode.DESCRIPTOR, mode),
    }
    estimate = about | plain(response)
    invocation.output.record(estimate, *shown(estimate))
    if response.findings:
        raise errors.from_problem(response.findings[0])


def shown(estimate: dict[str, Any]) -> list[RenderableType]:
    """An estimate for people."""
    parts: list[RenderableType] = [facts(list(_facts(estimate)))]
    if estimate["findings"]:
        parts += ["", table(estimate["findings"], FINDING_COLUMNS)]
    if estimate["warnings"]:
        parts += ["", table(estimate["warnings"], WARNING_COLUMNS)]
    return parts


def _facts(estimate: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield (
        "machine",
        f"{estimate['vm_name']}, from {estimate['from_cloud']} to {estimate['to_cloud']}",
    )
    yield "mode", estimate["mode"]
    total = units.format_bytes(estimate["total_bytes"])
    if estimate["compared"]:
        unique, wire = (
            units.format_bytes(estimate[f"{each}_bytes"]) for each in ("unique", "wire")
        )
        yield "would send", f"{unique} of {total}, {wire} on the wire"
        yield "zeros", views.size(estimate["zero_bytes"])
        yield "there already", views.size(estimate["deduplicated_bytes"])
        yield "would take", _duration(estimate)
        yield "round trip", _seconds(estimate["round_trip_seconds"])
        yield "downtime", _seconds(estimate["downtime_seconds"])
    else:
        yield "disks", f"{total}, not compared"
    yield "would cost", _cost(estimate)
    yield f"in {estimate['to_cloud']}", _hourly(estimate)
    if not estimate["findings"]:
        yield "against it", "nothing found; nothing was reserved"


def _duration(estimate: dict[str, Any]) -> str:
    about = f"about {units.format_duration(estimate['duration_seconds'])}"
    rate = estimate["rate_bytes_per_second"]
    return f"{about} at {units.format_rate(rate)}" if rate else about


def _seconds(value: float) -> str:
    return units.format_duration(value) if value else ""


def _cost(estimate: dict[str, Any]) -> str:
    """What both clouds charge for the migration: one sum where they have one currency."""
    sums: dict[str, Decimal] = {}
    for price in filter(None, (estimate[each] for each in _PRICES)):
        currency = price["currency"]
        sums[currency] = sums.get(currency, Decimal()) + Decimal(price["amount"])
    amounts = [{"amount": str(amount), "currency": each} for each, amount in sorted(sums.items())]
    return " and ".join(map(views.price, amounts))


def _hourly(estimate: dict[str, Any]) -> str:
    hourly = views.price(estimate["machine_hour"])
    return f"{hourly} an hour" if hourly else ""
