"""`watari migration`: the migrations that are running or have run."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from watari import units
from watari.cli import follow, lookup, progress, resolve, transfer, views
from watari.cli.exits import CALL_EPILOG, MIGRATE_EPILOG
from watari.cli.invocation import MACHINES_PANEL, Invocation, command
from watari.cli.output import facts
from watari.cli.plain import plain

_app = typer.Typer(no_args_is_help=True, help="Show, watch, slow down and cancel migrations.")

_Id = Annotated[str, typer.Argument(metavar="ID", help="The migration's UUID.")]
_Cloud = Annotated[
    str | None,
    typer.Option("--cloud", metavar="CLOUD", help="Its source cloud; all are asked otherwise."),
]


def add(app: typer.Typer) -> None:
    """Adds the group."""
    resolve.add(_app)
    app.add_typer(_app, name="migration", rich_help_panel=MACHINES_PANEL)


@command(_app, "list", epilog=CALL_EPILOG)
def list_migrations(
    invocation: Invocation,
    cloud: _Cloud = None,
    active: Annotated[bool, typer.Option("--active", help="Only those that run.")] = False,
    vm: Annotated[str, typer.Option(metavar="UUID", help="Only this machine's.")] = "",
) -> None:
    """List migrations, newest first."""
    found, missed = lookup.gather(
        invocation.clients,
        cloud,
        lambda manager: manager.migrations(active_only=active, vm_id=vm),
    )
    rows = sorted(map(plain, found), key=lambda one: one["created_at"] or "", reverse=True)
    invocation.output.rows(rows, views.MIGRATION_COLUMNS, "There are no migrations.")
    if missed:
        raise missed


@command(_app, "show", epilog=CALL_EPILOG)
def show_migration(invocation: Invocation, migration_id: _Id, cloud: _Cloud = None) -> None:
    """Show one migration."""
    _, found = lookup.migration(invocation.clients, migration_id, cloud)
    row = plain(found)
    invocation.output.record(row, facts(_facts(row)))


@command(_app, "watch", epilog=MIGRATE_EPILOG)
def watch_migration(invocation: Invocation, migration_id: _Id, cloud: _Cloud = None) -> None:
    """Watch a migration to its end.

    With -o json one object a line for every change. Ctrl-C stops the watching only.
    """
    manager, _ = lookup.migration(invocation.clients, migration_id, cloud)
    with follow.detaching_on_interrupt(migration_id):
        final = follow.to_the_end(invocation, manager, migration_id, events=True)
    follow.conclude(invocation.output, final)


@command(_app, "cancel", epilog=CALL_EPILOG)
def cancel_migration(invocation: Invocation, migration_id: _Id, cloud: _Cloud = None) -> None:
    """Cancel a migration before its commit point; the machine stays where it was."""
    manager, _ = lookup.migration(invocation.clients, migration_id, cloud)
    row = plain(manager.cancel(migration_id))
    invocation.output.record(row)
    invocation.output.say(f"Cancelled: {row['vm_name']} stays in {row['from_cloud']}.")


@command(_app, "limit", epilog=CALL_EPILOG)
def limit_migration(
    invocation: Invocation,
    migration_id: _Id,
    rate: Annotated[
        str, typer.Argument(metavar="RATE", help="At most so much a second, as 50MiB; 0 for none.")
    ],
    limit_window: transfer.WindowsOption = None,
    cloud: _Cloud = None,
) -> None:
    """Change the bandwidth cap of a migration while it runs.

    Windows take the place of all that were set before; without any there are none.
    """
    limit, schedule = transfer.rate(rate), transfer.schedule(limit_window)
    manager, _ = lookup.migration(invocation.clients, migration_id, cloud)
    row = plain(manager.set_limit(migration_id, limit, schedule))
    invocation.output.record(row)
    cap = transfer.shown(limit, schedule)
    invocation.output.say(f"{row['vm_name']} crosses with {cap} from now on.")


def _facts(row: dict[str, Any]) -> list[tuple[str, str]]:
    done, receipt = row["progress"] or {}, row["receipt"] or {}
    return [
        ("migration", row["migration_id"]),
        ("machine", f"{row['vm_name']} ({row['vm_id']})"),
        ("from, to", f"{row['from_cloud']}, {row['to_cloud']}"),
        ("mode", row["mode"]),
        ("state", f"{views.words(row['state'])} {views.percent(row)}".rstrip()),
        ("", progress.TAKING_BACK if row["state"] == "taking_back" else ""),
        ("round", _round(done)),
        ("disks", views.size(done.get("total_bytes", 0))),
        ("needed there", views.size(done.get("needed_bytes", 0))),
        ("already there", views.size(done.get("deduplicated_bytes", 0))),
        ("zeros", views.size(done.get("zero_bytes", 0))),
        ("sent", views.size(done.get("sent_bytes", 0))),
        ("on the wire", views.size(done.get("wire_bytes", 0))),
        *(_speed(done) if row["state"] == "copying" and done else ()),
        ("limit", views.limits(row["options"])),
        ("attempt", str(done.get("attempt", "") or "")),
        ("downtime", _seconds(row["downtime_seconds"])),
        ("requested by", row["requested_by"]),
        ("requested", views.when(row["created_at"])),
        ("ended", views.when(row["ended_at"])),
        ("waiting for", views.problem(row["waiting_for"])),
        ("problem", views.problem(row["problem"])),
        ("receipt", receipt.get("root", "")),
        ("signed by", receipt.get("signed_by") or ""),
    ]


def _speed(progress: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """How fast it is, of a migration that copies."""
    yield "rate", views.rate(progress["rate_bytes_per_second"])
    eta = progress["eta_seconds"]
    yield "time left", units.format_duration(eta) if eta >= 0 else ""
    yield "held back by", views.bottleneck(progress["bottleneck"])
    yield "connections", str(progress["streams"] or "")
    # Raw frames have no level; it is known once connections are.
    yield "zstd level", str(progress["compression_level"]) if progress["streams"] else ""
    round_trip = progress["round_trip_seconds"]
    yield "round trip", _seconds(round_trip)
    yield "changed", views.size(progress["changed_bytes"])
    yield "expected downtime", _seconds(progress["downtime_seconds_estimated"])


def _round(progress: dict[str, Any]) -> str:
    number = progress.get("round", 0)
    if not number:
        return ""
    return f"{number}, the last" if progress["last_round"] else str(number)


def _seconds(value: float) -> str:
    return units.format_duration(value) if value else ""
