"""`watari settlement`: what two providers owe one another for a month."""

from typing import Annotated, Any

import typer
from rich.console import RenderableType

from watari.cli import amounts, lookup, views
from watari.cli.billing import Money
from watari.cli.exits import CALL_EPILOG
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.output import Column, facts, table
from watari.cli.plain import plain

_app = typer.Typer(no_args_is_help=True, help="Settle with other providers.")

_CloudOption = Annotated[
    str | None,
    typer.Option("--cloud", metavar="CLOUD", help="Our cloud, where there are several."),
]
_PeerArgument = Annotated[str, typer.Argument(metavar="PEER", help="The other provider's cloud.")]
_MonthOption = Annotated[str, typer.Option("--month", metavar="YYYY-MM", help="The billing month.")]


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="settlement", rich_help_panel=FEDERATION_PANEL)


@command(_app, "show", epilog=CALL_EPILOG)
def show(
    invocation: Invocation, peer: _PeerArgument, month: _MonthOption, cloud: _CloudOption = None
) -> None:
    """Show what a cloud and another provider's owe one another: worked out from both sides'
    records, or as it was netted.
    """
    money = Money(invocation.clients.manager(lookup.only(invocation.clients, cloud)))
    with invocation.output.working(f"Comparing with {peer}"):
        found = money.settlement(peer, month)
    _show(invocation, money.cloud_id, plain(found.settlement))


@command(_app, "net", epilog=CALL_EPILOG)
def net(
    invocation: Invocation, peer: _PeerArgument, month: _MonthOption, cloud: _CloudOption = None
) -> None:
    """Book a settlement, once: what is agreed is netted, what is not becomes disputes. Both
    providers do it, each in its own ledger.
    """
    money = Money(invocation.clients.manager(lookup.only(invocation.clients, cloud)))
    with invocation.output.working(f"Comparing with {peer}"):
        found = money.net(peer, month)
    _show(invocation, money.cloud_id, plain(found))


def _show(invocation: Invocation, cloud_id: str, row: dict[str, Any]) -> None:
    shown: list[RenderableType] = [
        facts(
            [
                ("between", f"{cloud_id} and {row['peer_cloud']}"),
                ("month", row["period"]),
                ("net", _words(row["net"])),
                ("netted", views.when(row["netted_at"]) or "not yet"),
            ]
        ),
        "",
        table([row["receivable"], row["payable"]], _CLAIMS),
    ]
    disputes = [
        {"creditor": claim["creditor"], **each}
        for claim in (row["receivable"], row["payable"])
        for each in claim["disputes"]
    ]
    if disputes:
        shown += ["", table(disputes, _DISPUTES)]
    invocation.output.record({"cloud_id": cloud_id} | row, *shown)


def _words(net: dict[str, str]) -> str:
    side = "in our favour"
    shown = amounts.exact(net)
    if shown.startswith("-"):
        side, shown = "in their favour", shown[1:]
    return f"{shown} {side}"


_CLAIMS = (
    Column("IS OWED", lambda one: one["creditor"]),
    Column("BY", lambda one: one["debtor"]),
    Column("BILLED", lambda one: amounts.exact(one["billed"]), right=True),
    Column("AGREED", lambda one: amounts.exact(one["agreed"]), right=True),
    Column("CHARGES", lambda one: str(one["charges_agreed"]), right=True),
    Column("DISPUTED", lambda one: str(one["charges_disputed"] or ""), right=True),
)

_DISPUTES = (
    Column("OWED TO", lambda one: one["creditor"]),
    Column("CHARGE", lambda one: one["description"]),
    Column("BILLED", lambda one: amounts.bare(one["billed"]), right=True),
    Column("EXPECTED", lambda one: amounts.bare(one["expected"]), right=True),
    Column("ID", lambda one: one["charge_id"], optional=True),
)
