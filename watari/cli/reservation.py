"""`watari reservation`: room that a cloud holds for machines of others, now or in advance."""

from typing import Annotated, Any

import typer

from watari.cli import lookup, views
from watari.cli.exits import CALL_EPILOG
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.operating import Operating
from watari.cli.output import Column, facts
from watari.cli.plain import plain

_app = typer.Typer(no_args_is_help=True, help="Show and give back what a cloud has reserved.")

_Id = Annotated[str, typer.Argument(metavar="ID", help="The reservation's UUID.")]
_Cloud = Annotated[
    str | None,
    typer.Option("--cloud", metavar="CLOUD", help="The cloud, where there are several."),
]


def _until(one: dict[str, Any]) -> str:
    """Until when it holds room; what is confirmed holds it until a machine comes or it is given
    back.
    """
    return views.when(one["expires_at"]) if one["state"] in ("booked", "pending") else ""


_COLUMNS = (
    Column("ID", lambda one: one["reservation_id"]),
    Column("STATE", lambda one: views.words(one["state"])),
    Column("MACHINE", lambda one: one["vm_name"]),
    Column("TENANT", lambda one: one["tenant"]),
    Column("FROM CLOUD", lambda one: one["from_cloud"]),
    Column("HOST", lambda one: one["host_id"]),
    Column("FROM", lambda one: views.when(one["starts_at"] or one["created_at"])),
    Column("UNTIL", _until),
)


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="reservation", rich_help_panel=FEDERATION_PANEL)


@command(_app, "list", epilog=CALL_EPILOG)
def list_reservations(
    invocation: Invocation,
    cloud: _Cloud = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Those too that have ended or became a machine.")
    ] = False,
) -> None:
    """List what a cloud holds room for, now or in advance, newest first."""
    found = _operating(invocation, cloud).reservations(active_only=not everything)
    invocation.output.rows([plain(each) for each in found], _COLUMNS, "Nothing is reserved.")


@command(_app, "show", epilog=CALL_EPILOG)
def show_reservation(invocation: Invocation, reservation_id: _Id, cloud: _Cloud = None) -> None:
    """Show one reservation."""
    row = plain(_operating(invocation, cloud).reservation(reservation_id))
    invocation.output.record(row, facts(_facts(row)))


@command(_app, "release", epilog=CALL_EPILOG)
def release_reservation(invocation: Invocation, reservation_id: _Id, cloud: _Cloud = None) -> None:
    """Give back room that is booked or pending. What is confirmed only its source gives back: it
    may have given the machine up already.
    """
    row = plain(_operating(invocation, cloud).release(reservation_id))
    invocation.output.record(row, facts(_facts(row)))


def _operating(invocation: Invocation, cloud: str | None) -> Operating:
    cloud_id = lookup.only(invocation.clients, cloud)
    return Operating(invocation.clients.manager(cloud_id))


def _facts(one: dict[str, Any]) -> list[tuple[str, str]]:
    return [(column.title.capitalize(), column.cell(one)) for column in _COLUMNS]
