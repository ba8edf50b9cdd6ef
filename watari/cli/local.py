"""`watari up`, `down` and `status`: a federation of two clouds on this machine."""

import os
from typing import Annotated, Any

import typer

from watari import errors
from watari.cli import exits, views
from watari.cli.clients import Clients
from watari.cli.exits import CommandFailed, Exit
from watari.cli.federation import control
from watari.cli.federation import layout as layouts
from watari.cli.invocation import LOCAL_PANEL, Invocation, command
from watari.cli.output import Column
from watari.cli.plain import plain

_COLUMNS = (
    Column("SERVER", lambda one: one["name"]),
    Column("STATE", lambda one: one["state"]),
    Column("ADDRESS", lambda one: one["address"]),
    Column("PID", lambda one: str(one["pid"] or ""), right=True),
    Column("IDENTITY", lambda one: one["spiffe_id"], optional=True),
)
_CLOUD_COLUMNS = (
    Column("CLOUD", lambda one: one["cloud_id"]),
    Column("ANSWERS", lambda one: "no" if one["problem"] else "yes"),
    Column("VERSION", lambda one: one.get("version", "")),
    Column("ACTIVE MIGRATIONS", lambda one: str(one.get("migrations_active", "")), right=True),
    Column("PROBLEM", lambda one: views.problem(one["problem"] or one.get("directory_problem"))),
)


def add(app: typer.Typer) -> None:
    """Adds the commands."""
    start = exits.epilog(Exit.REFUSED, Exit.UNAVAILABLE)
    command(app, "up", epilog=start, panel=LOCAL_PANEL)(up)
    command(app, "down", epilog=exits.epilog(Exit.REFUSED), panel=LOCAL_PANEL)(down)
    command(app, "status", epilog=exits.epilog(Exit.UNAVAILABLE), panel=LOCAL_PANEL)(status)


def up(
    invocation: Invocation,
    provider: Annotated[
        str | None,
        typer.Argument(
            metavar="[DOMAIN]", help="One provider only, by this domain, such as tokyo.example."
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Of this machine, where other providers reach this one."
        ),
    ] = "127.0.0.1",
) -> None:
    """Start a federation of two providers on this machine, or one provider.

    Without a domain: two providers, each with a certificate authority, a
    manager and an agent of its own, that have joined each other; the first one
    runs a directory and a broker. With a domain: that provider alone, which
    joins others by `watari federation invite` and `join`. Everything talks
    mutual TLS. Only what does not run is started, so this is also how to go on
    after a crash.
    """
    layout, output = invocation.layout, invocation.output
    plan = layouts.single(provider, host) if provider else None
    with output.working("starting the federation") as on_step:
        found = control.up(layout, invocation.clock, os.environ, on_step, plan)
    rows = [_row(each) for each in found]
    record = {"state_dir": str(layout.root), "config": str(layout.client), "servers": rows}
    output.record(record, output.table(rows, _COLUMNS))
    if len(layout.plan.clouds) > 1:
        output.say(f"\nThe federation runs in {layout.root}.")
    else:
        output.say(f"\n{layout.plan.domains[0]} runs in {layout.root}. It knows no other provider.")
        output.say("Next: watari federation invite, or: watari federation join INVITATION")


def down(invocation: Invocation) -> None:
    """Stop the federation on this machine.

    Machines stay on their shelves, and migrations go on where they were at the next `watari up`.
    """
    layout, output = invocation.layout, invocation.output
    with output.working("stopping the federation"):
        stopped, killed = control.down(layout, invocation.clock)
    output.record({"state_dir": str(layout.root), "stopped": stopped, "killed": killed})
    if not stopped:
        output.say("Nothing was running.")
        return
    output.say(f"Stopped {len(stopped)} servers.")
    if killed:
        output.note(f"Had to be killed: {', '.join(killed)}", style="yellow")


def status(invocation: Invocation) -> None:
    """Show how each server and each cloud is."""
    layout, output = invocation.layout, invocation.output
    servers = [_row(each) for each in control.status(layout)] if layout.is_configured else []
    if not servers and not invocation.config.exists():
        raise errors.FailedPrecondition(
            "FEDERATION_DOWN", f"there is no federation in {layout.root}", hint="watari up"
        )
    runs = any(server["pid"] for server in servers) or not servers
    clouds = _clouds(invocation.clients) if runs else []
    record = {"state_dir": str(layout.root), "servers": servers, "clouds": clouds}
    output.record(record, output.table(servers, _COLUMNS), "", output.table(clouds, _CLOUD_COLUMNS))
    silent = [one["name"] for one in servers if one["state"] != "serving"]
    silent = silent or [one["cloud_id"] for one in clouds if one["problem"]]
    if silent:
        raise CommandFailed(
            errors.FailedPrecondition(
                "FEDERATION_DOWN", f"not serving: {', '.join(silent)}", hint="watari up"
            ),
            Exit.UNAVAILABLE,
            title="Not well",
        )


def _row(one: control.Status) -> dict[str, Any]:
    return {
        "name": one.process.name,
        "state": one.state,
        "address": one.address,
        "pid": one.pid,
        "spiffe_id": str(one.process.spiffe_id),
        "log": str(one.log),
    }


def _clouds(clients: Clients) -> list[dict[str, Any]]:
    rows = []
    for cloud_id in clients.cloud_ids:
        row: dict[str, Any] = {"cloud_id": cloud_id, "problem": None}
        try:
            row |= plain(clients.manager(cloud_id).status())
        except errors.WatariError as error:
            row["problem"] = plain(errors.to_problem(error))
        rows.append(row)
    return rows
