"""`watari cloud`: the clouds of the federation, as the directory and their managers know them."""

from typing import Annotated, Any

import typer

from watari import errors, units
from watari.cli import exits, views
from watari.cli.clients import Clients, Manager, cloud_not_found
from watari.cli.exits import CALL_EPILOG, Exit
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.output import Column, facts, table
from watari.cli.plain import plain
from watari.v1 import directory_pb2

_app = typer.Typer(no_args_is_help=True, help="Show the clouds of the federation.")


def _taints(row: dict[str, Any]) -> str:
    """Each with the end that is expected of it."""
    ends = row["taint_ends"] or {}
    return ", ".join(
        f"{taint} until {views.when(ends[taint])}" if ends.get(taint) else taint
        for taint in row["taints"]
    )


_COLUMNS = (
    Column("CLOUD", lambda one: one["cloud_id"]),
    Column("PROVIDER", lambda one: one["provider_domain"], optional=True),
    Column("REGIONS", lambda one: ", ".join(one["regions"])),
    Column("LAW", lambda one: one["jurisdiction"], optional=True),
    Column("FREE VCPUS", lambda one: str(one["free"]["vcpus"]), right=True),
    Column("FREE MEMORY", lambda one: views.size(one["free"]["memory_bytes"]), right=True),
    Column("FREE DISK", lambda one: views.size(one["free"]["disk_bytes"]), right=True),
    Column("TAINTS", _taints),
    Column("RECORD", lambda one: "stale" if one["stale"] else "ok"),
)
_HOST_COLUMNS = (
    Column("HOST", lambda one: "(pool)" if one["host_id"] == "*" else one["host_id"]),
    Column("ANSWERS", lambda one: "yes" if one["reachable"] else "no"),
    Column("VCPUS FREE", lambda one: _of(one, "vcpus", str), right=True),
    Column("MEMORY FREE", lambda one: _of(one, "memory_bytes", views.size), right=True),
    Column("DISK FREE", lambda one: _of(one, "disk_bytes", views.size), right=True),
    Column("OTHER FREE", lambda one: ", ".join(_others(one)), optional=True),
)


def _throughput(link: dict[str, Any]) -> str:
    rate = link["throughput_bytes_per_second"]
    least = "at least " if link["throughput_at_least"] else ""
    return f"{least}{units.format_rate(rate)}" if rate else ""


_LINK_COLUMNS = (
    Column("FROM", lambda one: one["from_cloud_id"]),
    Column("TO", lambda one: one["to_cloud_id"]),
    Column(
        "ROUND TRIP", lambda one: f"{one['rtt_ms']:.3g} ms" if one["rtt_ms"] else "", right=True
    ),
    Column("MEASURED", lambda one: views.when(one["measured_at"]), optional=True),
    Column("THROUGHPUT", _throughput, right=True),
    Column("BY A MIGRATION", lambda one: views.when(one["throughput_measured_at"]), optional=True),
    Column("RECORD", lambda one: "stale" if one["stale"] else "ok"),
)


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="cloud", rich_help_panel=FEDERATION_PANEL)


@command(_app, "list", epilog=exits.epilog(Exit.UNAVAILABLE))
def list_clouds(invocation: Invocation) -> None:
    """List the clouds that the directory knows, with the room that they have."""
    rows = [_row(*pair) for pair in _records(invocation.clients)]
    invocation.output.rows(rows, _COLUMNS, "The directory knows no cloud.")


@command(_app, "show", epilog=CALL_EPILOG)
def show_cloud(
    invocation: Invocation,
    name: Annotated[str, typer.Argument(metavar="CLOUD", help="The cloud's id.")],
) -> None:
    """Show one cloud: its record, and what its manager says of its hosts."""
    records = {record.key.cloud_id: (record, room) for record, room in _records(invocation.clients)}
    if name not in records:
        raise cloud_not_found(name, sorted(records))
    row = _row(*records[name])
    row |= {"status": None, "hosts": [], "manager_problem": None}
    if name in invocation.clients.cloud_ids:
        row |= _ask_manager(invocation.clients, name)
    invocation.output.record(row, facts(_facts(row)), "", table(row["hosts"], _HOST_COLUMNS))


@command(_app, "links", epilog=exits.epilog(Exit.UNAVAILABLE))
def show_links(invocation: Invocation) -> None:
    """Show how far clouds are from each other, and what migrations reached between them."""
    records = invocation.clients.directory().records(directory_pb2.RECORD_KIND_LINK)
    rows = [
        {"from_cloud_id": record.key.cloud_id} | plain(record.link) | {"stale": record.stale}
        for record in records
    ]
    invocation.output.rows(rows, _LINK_COLUMNS, "No cloud has measured a way to another one yet.")


def _records(
    clients: Clients,
) -> list[tuple[directory_pb2.Record, list[directory_pb2.Record]]]:
    """Each cloud's record with its capacity records."""
    directory = clients.directory()
    rooms = directory.records(directory_pb2.RECORD_KIND_CAPACITY)
    return [
        (record, [room for room in rooms if room.key.cloud_id == record.key.cloud_id])
        for record in directory.records(directory_pb2.RECORD_KIND_CLOUD)
    ]


def _row(record: directory_pb2.Record, rooms: list[directory_pb2.Record]) -> dict[str, Any]:
    row = {"cloud_id": record.key.cloud_id} | plain(record.cloud)
    free = [room.capacity.free for room in rooms]
    row["free"] = {
        "vcpus": sum(each.vcpus for each in free),
        "memory_bytes": sum(each.memory_bytes for each in free),
        "disk_bytes": sum(each.disk_bytes for each in free),
    }
    row["capacity"] = [plain(room.capacity) for room in rooms]
    return row | {"labels": dict(record.labels), "stale": record.stale}


def _ask_manager(clients: Clients, name: str) -> dict[str, Any]:
    """What only the manager knows. That it does not answer is part of the picture, not an error."""
    manager = clients.manager(name)
    try:
        return {"status": plain(manager.status()), "hosts": _hosts(manager)}
    except errors.Unavailable as error:
        return {"manager_problem": plain(errors.to_problem(error))}


def _hosts(manager: Manager) -> list[dict[str, Any]]:
    """The hosts' inventories, for an operator; a tenant is shown none."""
    try:
        return [plain(one) for one in manager.inventories()]
    except errors.Denied:
        return []


def _facts(row: dict[str, Any]) -> list[tuple[str, str]]:
    status = row["status"] or {}
    return [
        ("cloud", f"{row['cloud_id']} ({row['display_name'] or row['provider_domain']})"),
        ("provider", row["provider_domain"]),
        ("regions", ", ".join(row["regions"])),
        ("jurisdiction", row["jurisdiction"]),
        ("manager", row["manager"]["address"] if row["manager"] else ""),
        ("capabilities", ", ".join(row["capabilities"])),
        ("taints", _taints(row)),
        ("labels", ", ".join(f"{key}={value}" for key, value in row["labels"].items())),
        ("record", "stale" if row["stale"] else "ok"),
        ("active migrations", str(status.get("migrations_active", ""))),
        ("directory problem", views.problem(status.get("directory_problem"))),
        ("manager problem", views.problem(row["manager_problem"])),
    ]


def _others(inventory: dict[str, Any]) -> list[str]:
    free, total = (inventory[part]["other"] for part in ("free", "total"))
    return [f"{free.get(name, 0)} of {total[name]} {name}" for name in sorted(total)]


def _of(inventory: dict[str, Any], key: str, text: Any) -> str:
    free, total = ((inventory[part] or {}).get(key, 0) for part in ("free", "total"))
    return f"{text(free) or '0'} of {text(total) or '0'}"
