"""`watari offer`: what clouds sell, and for how much."""

from typing import Annotated, Any

import typer

from watari.cli import exits, views
from watari.cli.exits import Exit
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.output import Column
from watari.cli.plain import plain
from watari.v1 import directory_pb2

_app = typer.Typer(no_args_is_help=True, help="Show what clouds offer.")

_COLUMNS = (
    Column("CLOUD", lambda one: one["cloud_id"]),
    Column("OFFER", lambda one: one["offer"] if one["offer"] != one["region"] else ""),
    Column("REGION", lambda one: one["region"]),
    Column("VCPU/H", lambda one: _price(one, "vcpu_hour"), right=True),
    Column("MEMORY/H", lambda one: _price(one, "memory_gib_hour"), right=True),
    Column("DISK/MONTH", lambda one: _price(one, "disk_gib_month"), right=True),
    Column("EGRESS", lambda one: _price(one, "egress_gib"), right=True),
    Column("TRAITS", lambda one: ", ".join(one["traits"]), optional=True),
    Column("RECORD", lambda one: "stale" if one["stale"] else "ok"),
)


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="offer", rich_help_panel=FEDERATION_PANEL)


@command(_app, "list", epilog=exits.epilog(Exit.UNAVAILABLE))
def list_offers(
    invocation: Invocation,
    cloud: Annotated[str, typer.Option(metavar="CLOUD", help="Only this cloud's.")] = "",
    filter_text: Annotated[
        str,
        typer.Option(
            "--filter", metavar="TEXT", help="Only those that match, as in 'region = \"jp-east\"'."
        ),
    ] = "",
) -> None:
    """List the offers that the directory knows, with their prices."""
    records = invocation.clients.directory().records(
        directory_pb2.RECORD_KIND_OFFER, cloud_id=cloud, filter_text=filter_text
    )
    rows = [
        {"cloud_id": record.key.cloud_id, "offer": record.key.name, "stale": record.stale}
        | plain(record.offer)
        for record in records
    ]
    invocation.output.rows(rows, _COLUMNS, "No offer matches.")


def _price(offer: dict[str, Any], name: str) -> str:
    prices = offer["prices"]
    return views.price(prices[name]) if prices else ""
