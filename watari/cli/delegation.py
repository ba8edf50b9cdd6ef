"""`watari delegation`: what brokers may do at clouds again and again, and the end of it."""

from typing import Annotated, Any

import typer

from watari.cli import lookup, views
from watari.cli.exits import CALL_EPILOG
from watari.cli.invocation import MACHINES_PANEL, Invocation, command
from watari.cli.operating import Operating
from watari.cli.output import Column
from watari.cli.plain import plain

_app = typer.Typer(
    no_args_is_help=True, help="Show and revoke the standing delegations that clouds know."
)

_Cloud = Annotated[
    str | None,
    typer.Option(metavar="CLOUD", help="Only this cloud; all are asked otherwise."),
]


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="delegation", rich_help_panel=MACHINES_PANEL)


@command(_app, "list", epilog=CALL_EPILOG)
def list_delegations(invocation: Invocation, cloud: _Cloud = None) -> None:
    """List the standing delegations that brokers have shown to clouds, or that were revoked there.
    A tenant sees those of its machines.
    """
    found, missed = lookup.gather(
        invocation.clients,
        cloud,
        lambda manager: [
            {"cloud_id": manager.cloud_id} | plain(one) for one in Operating(manager).delegations()
        ],
    )
    invocation.output.rows(found, _COLUMNS, "No broker has shown a standing delegation.")
    if missed:
        raise missed


@command(_app, "revoke", epilog=CALL_EPILOG)
def revoke(
    invocation: Invocation,
    delegation_id: Annotated[
        str,
        typer.Argument(metavar="ID", help="The delegation's UUID: watari policy show has it."),
    ],
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why, for the audit log and for the broker.")
    ] = "",
    cloud: _Cloud = None,
) -> None:
    """Revoke a standing delegation: each cloud that answers begins nothing under it any more, at
    once and for good. What has begun goes on. Repeat it while a cloud does not answer.
    """
    found, missed = lookup.gather(
        invocation.clients,
        cloud,
        lambda manager: [
            {"cloud_id": manager.cloud_id}
            | plain(Operating(manager).revoke_delegation(delegation_id, reason))
        ],
    )
    invocation.output.rows(found, _COLUMNS, "It was revoked nowhere.")
    if missed:
        raise missed


def _tenant(row: dict[str, Any]) -> str:
    return f"{row['tenant']} of {row['tenant_domain']}" if row["tenant"] else ""


_COLUMNS = (
    Column("CLOUD", lambda one: one["cloud_id"]),
    Column("ID", lambda one: one["delegation_id"]),
    Column("TENANT", _tenant),
    Column("BROKER", lambda one: one["delegate"]),
    Column("SHOWN", lambda one: views.when(one["seen_at"]) or "never"),
    Column("UNTIL", lambda one: views.when(one["expires_at"])),
    Column("REVOKED", lambda one: views.when(one["revoked_at"]) or "-"),
    Column("BY", lambda one: one["revoked_by"], optional=True),
    Column("WHY", lambda one: one["reason"], optional=True),
)
