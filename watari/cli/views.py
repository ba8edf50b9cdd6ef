"""Plain values of the contract as cells and facts for people."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any

from watari import units, windows
from watari.cli.output import Column
from watari.v1 import common_pb2


def size(value: int) -> str:
    """Bytes with a unit; nothing for none."""
    return units.format_bytes(value) if value else ""


def rate(value: int) -> str:
    """Bytes per second with a unit; nothing for none."""
    return units.format_rate(value) if value else ""


def bottleneck(value: str) -> str:
    """What holds a transfer back; nothing while that is not known."""
    return "" if value == "unspecified" else value


def limits(options: dict[str, Any] | None) -> str:
    """The bandwidth caps of a migration, as "9.5 MiB/s; 08:00-18:00 1.0 MiB/s"; none is nothing."""
    if not options:
        return ""
    schedule = [windows.show(common_pb2.LimitWindow(**each)) for each in options["limit_schedule"]]
    return "; ".join(filter(None, [rate(options["limit_bytes_per_second"]), *schedule]))


def when(value: str | None) -> str:
    """A time in this machine's zone: of today's the time of day, of others the date too."""
    if not value:
        return ""
    local = datetime.fromisoformat(value).astimezone()
    today = datetime.now(local.tzinfo).date() == local.date()
    return local.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M")


def price(value: dict[str, str] | None) -> str:
    """Such as "2.40 JPY", rounded to two decimals, or to two significant digits below one."""
    if not value:
        return ""
    amount = Decimal(value["amount"])
    places = 2 if amount == 0 or abs(amount) >= 1 else 1 - amount.adjusted()
    return f"{amount:,.{places}f} {value['currency']}"


def words(value: str) -> str:
    """An enum's name as words."""
    return value.replace("_", " ")


def problem(value: dict[str, Any] | None) -> str:
    """What a problem says; nothing for none."""
    return value["message"] if value else ""


def disks_bytes(vm: dict[str, Any], key: str) -> int:
    """Sum over a machine's disks."""
    return sum(disk[key] for disk in vm["disks"])


VM_COLUMNS = (
    Column("NAME", lambda vm: vm["name"]),
    Column("CLOUD", lambda vm: vm["cloud_id"]),
    Column("HOST", lambda vm: vm["host_id"], optional=True),
    Column("STATE", lambda vm: vm["state"]),
    Column("VCPUS", lambda vm: str(vm["resources"]["vcpus"]), right=True),
    Column("MEMORY", lambda vm: size(vm["resources"]["memory_bytes"]), right=True),
    Column("DISKS", lambda vm: size(disks_bytes(vm, "size_bytes")), right=True),
    Column("USED", lambda vm: size(disks_bytes(vm, "allocated_bytes")), right=True),
    Column("ID", lambda vm: vm["vm_id"], optional=True),
    Column("MIGRATION", lambda vm: vm["migration_id"]),
    Column("PROBLEM", lambda vm: problem(vm["problem"])),
)

DISK_COLUMNS = (
    Column("DISK", lambda disk: disk["disk_id"]),
    Column("SIZE", lambda disk: size(disk["size_bytes"]), right=True),
    Column("USED", lambda disk: size(disk["allocated_bytes"]), right=True),
    Column("FORMAT", lambda disk: disk["format"]),
)

MIGRATION_COLUMNS = (
    Column("VM", lambda one: one["vm_name"]),
    Column("FROM", lambda one: one["from_cloud"]),
    Column("TO", lambda one: one["to_cloud"]),
    Column("STATE", lambda one: f"{words(one['state'])} {percent(one)}".rstrip()),
    Column("STARTED", lambda one: when(one["created_at"])),
    Column("ID", lambda one: one["migration_id"]),
    Column("PROBLEM", lambda one: problem(one["problem"])),
)

USAGE_COLUMNS = (
    Column("WHEN", lambda one: when(one["occurred_at"])),
    Column("CLOUD", lambda one: one["cloud_id"]),
    Column("WHAT", lambda one: words(one["kind"])),
    Column("VM", lambda one: one["vm_name"]),
    Column("TENANT", lambda one: one["tenant"] if one["tenant"] != "default" else ""),
    Column("PEER", lambda one: one["peer_cloud"]),
    Column("RAW", lambda one: size(one["raw_bytes"]), right=True),
    Column("WIRE", lambda one: size(one["wire_bytes"]), right=True),
    Column("RECEIPT", lambda one: one["receipt_root"][:12]),
)

USAGE_EVENT_COLUMNS = (
    Column("WHEN", lambda one: ("by " if one["event"]["inferred"] else "") + when(_told_at(one))),
    Column("CLOUD", lambda one: one["cloud_id"]),
    Column("HOST", lambda one: one["host_id"]),
    Column("WHAT", lambda one: words(one["event"]["kind"])),
    Column("VM", lambda one: one["event"]["vm_name"] or one["event"]["vm_id"]),
    Column("TENANT", lambda one: one["tenant"] if one["tenant"] != "default" else ""),
    Column("VCPUS", lambda one: _of_event(one, "vcpus"), right=True),
    Column("MEMORY", lambda one: size(int(_of_event(one, "memory_bytes") or 0)), right=True),
    Column("DISK", lambda one: size(int(_of_event(one, "disk_bytes") or 0)), right=True),
    Column("RAW", lambda one: size(one["event"]["raw_bytes"]), right=True, optional=True),
    Column("WIRE", lambda one: size(one["event"]["wire_bytes"]), right=True, optional=True),
    Column("WHY", lambda one: one["event"]["reason"], optional=True),
)


def _told_at(one: dict[str, Any]) -> str | None:
    moment: str | None = one["event"]["occurred_at"]
    return moment


def _of_event(one: dict[str, Any], amount: str) -> str:
    resources = one["event"]["resources"]
    return str(resources[amount] or "") if resources else ""


REJECTION_COLUMNS = (
    Column("CLOUD", lambda one: one["cloud_id"]),
    Column("OFFER", lambda one: one["offer"]),
    Column("CONSTRAINT", lambda one: words(one["constraint"])),
    Column("WHY NOT", lambda one: one["reason"]),
    Column("WOULD FIT", lambda one: one["would_fit"]),
)


SCORE_COLUMNS = (
    Column("CLOUD", lambda one: one["cloud_id"]),
    Column("OFFER", lambda one: one["offer"]),
    Column("SCORE", lambda one: words(one["name"])),
    Column("SAW", lambda one: one["value"]),
    Column("OF THE BEST", lambda one: f"{one['normalised']:.0%}", right=True),
    Column("WEIGHT", lambda one: f"{one['weight']:.2f}", right=True),
    Column("ADDS", lambda one: f"{one['weight'] * one['normalised']:.3f}", right=True),
)

COUNT_COLUMNS = (
    Column("CONSTRAINT", lambda one: words(one["constraint"])),
    Column("CLOUDS MISS IT", lambda one: f"{one['clouds']:,}", right=True),
    Column("OFFERS MISS IT", lambda one: f"{one['offers']:,}", right=True),
)


def candidate_columns(candidates: Sequence[dict[str, Any]]) -> list[Column]:
    """Columns for ranked candidates, with what each part adds to the score."""
    columns = [
        Column("#", lambda one: str(one["rank"]), right=True),
        Column("CLOUD", lambda one: one["cloud_id"]),
        Column("REGION", lambda one: one["region"]),
        # Most clouds have one offer in a region and name it so.
        Column("OFFER", lambda one: one["offer"] if one["offer"] != one["region"] else ""),
        Column("AN HOUR", lambda one: price(one["hourly_price"]), right=True),
        Column("SCORE", lambda one: f"{one['score']:.2f}", right=True),
    ]
    names = [part["name"] for part in candidates[0]["scores"]] if candidates else []
    return columns + [
        Column(f"{sign} {words(name).upper()}", partial(_part, name), right=True)
        for sign, name in zip("=" + "+" * len(names), names, strict=False)
    ]


def _part(name: str, candidate: dict[str, Any]) -> str:
    part = next((each for each in candidate["scores"] if each["name"] == name), None)
    return f"{part['weight'] * part['normalised']:.2f}" if part else ""


def percent(migration: dict[str, Any]) -> str:
    """How far the transfer is, while it runs."""
    progress = migration["progress"]
    if migration["state"] != "copying" or not progress or not progress["total_bytes"]:
        return ""
    return f"{100 * progress['done_bytes'] // progress['total_bytes']} %"
