"""`watari manager`: what an operator looks after in a cloud's manager."""

from typing import Annotated

import typer

from watari.cli import lookup
from watari.cli.exits import CALL_EPILOG
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.output import Column
from watari.cli.plain import plain

_app = typer.Typer(no_args_is_help=True, help="Look after a cloud's manager.")

_COLUMNS = (
    Column("WHAT", lambda one: one["kind"].replace("_", " ")),
    Column("HOST", lambda one: one["host_id"]),
    Column("ID", lambda one: one["subject_id"]),
    Column("FOUND", lambda one: one["found"]),
    Column("EXPECTED", lambda one: one["expected"]),
    Column("REPAIR", lambda one: "done" if one["repaired"] else one["repair"] or "yours to decide"),
)


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="manager", rich_help_panel=FEDERATION_PANEL)


@command(_app, "audit", epilog=CALL_EPILOG)
def audit(
    invocation: Invocation,
    cloud: Annotated[
        str | None,
        typer.Option("--cloud", metavar="CLOUD", help="The cloud, where there are several."),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what is safe; nothing is changed otherwise.")
    ] = False,
) -> None:
    """Compare what a cloud has written down of allocations, machines and reservations with each
    other and with what its hosts list now.
    """
    manager = invocation.clients.manager(lookup.only(invocation.clients, cloud))
    with invocation.output.working("Asking the hosts"):
        drifts = manager.audit_allocations(repair=repair)
    invocation.output.rows([plain(each) for each in drifts], _COLUMNS, "Everything agrees.")
