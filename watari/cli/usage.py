"""`watari usage`: what clouds metered, which is what they bill from."""

from typing import Annotated, Any

import typer

from watari.cli import lookup, views
from watari.cli.exits import CALL_EPILOG
from watari.cli.invocation import MACHINES_PANEL, Invocation, command
from watari.cli.plain import plain


def add(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "usage", epilog=CALL_EPILOG, panel=MACHINES_PANEL)(list_usage)


def list_usage(
    invocation: Invocation,
    cloud: Annotated[
        str | None, typer.Option(metavar="CLOUD", help="Only this cloud; all are asked otherwise.")
    ] = None,
    vm: Annotated[str, typer.Option(metavar="UUID", help="Only this machine.")] = "",
    tenant: Annotated[str, typer.Option(metavar="TENANT", help="Only this tenant.")] = "",
    events: Annotated[
        bool,
        typer.Option("--events", help="What hosts told instead: starts, stops, transfers."),
    ] = False,
) -> None:
    """List what clouds metered, oldest first.

    An arrival and its departure show the same bytes and the same receipt root.
    """
    if events:
        _list_events(invocation, cloud, vm, tenant)
        return
    records, missed = lookup.gather(
        invocation.clients, cloud, lambda manager: manager.usage(vm_id=vm, tenant=tenant)
    )
    rows = sorted(map(plain, records), key=lambda one: (one["occurred_at"] or "", one["cloud_id"]))
    invocation.output.rows(rows, views.USAGE_COLUMNS, "Nothing has been metered yet.")
    if missed:
        raise missed


def _list_events(invocation: Invocation, cloud: str | None, vm: str, tenant: str) -> None:
    told, missed = lookup.gather(
        invocation.clients, cloud, lambda manager: manager.usage_events(vm_id=vm, tenant=tenant)
    )
    rows = sorted(map(plain, told), key=_moment)
    invocation.output.rows(rows, views.USAGE_EVENT_COLUMNS, "No host has told anything yet.")
    if missed:
        raise missed


def _moment(one: dict[str, Any]) -> tuple[str, str, str, int]:
    """Events of one host at the same instant stay in their order."""
    event = one["event"]
    return event["occurred_at"] or "", one["cloud_id"], one["host_id"], event["sequence"]
