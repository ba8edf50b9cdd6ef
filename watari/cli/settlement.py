"""`watari settlement`: what two providers owe one another for a month."""

import uuid
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from watari import errors
from watari.cli import amounts, dispute, lookup, views
from watari.cli.billing import Money
from watari.cli.exits import CALL_EPILOG
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.output import Column, facts, table
from watari.cli.plain import plain
from watari.v1 import manager_pb2

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
    invocation: Invocation,
    peer: _PeerArgument,
    month: _MonthOption,
    charges: Annotated[
        bool,
        typer.Option("--charges", help="Every charge, with its price sheet and its quotes."),
    ] = False,
    cloud: _CloudOption = None,
) -> None:
    """Show what a cloud and another provider's owe one another: worked out from both sides'
    records, or as it was netted, with the disputes as they stand now.
    """
    money = Money(invocation.clients.manager(lookup.only(invocation.clients, cloud)))
    with invocation.output.working(f"Comparing with {peer}"):
        found = money.settlement(peer, month)
    _show(invocation, money.cloud_id, plain(found.settlement), charges=charges)
    if found.HasField("not_asked"):
        raise errors.from_problem(found.not_asked)


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


@command(_app, "dispute", epilog=CALL_EPILOG)
def dispute_charge(
    invocation: Invocation,
    peer: Annotated[
        str, typer.Argument(metavar="PEER", help="The other provider's cloud, which charges.")
    ],
    charge: Annotated[
        str,
        typer.Argument(
            metavar="CHARGE", help="UUID, as `watari settlement show --charges` has it."
        ),
    ],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; the other provider reads it.")],
    amount: Annotated[
        str, typer.Option(metavar="AMOUNT", help="As in '1.20 EUR'; all that is left otherwise.")
    ] = "",
    dispute_id: Annotated[
        str, typer.Option("--id", metavar="UUID", help="To repeat a command that was cut off.")
    ] = "",
    cloud: _CloudOption = None,
) -> None:
    """Dispute what another provider's cloud charges us, or a part of it. It is no part of what is
    netted then; the other provider decides.
    """
    money = Money(invocation.clients.manager(lookup.only(invocation.clients, cloud)))
    request = manager_pb2.DisputeBilledChargeRequest(
        dispute_id=dispute_id or str(uuid.uuid4()), cloud_id=peer, charge_id=charge, reason=reason
    )
    if amount:
        request.amount.CopyFrom(amounts.parse(amount))
    try:
        with invocation.output.working(f"Telling {peer}"):
            found = money.dispute_billed(request)
    except errors.Unavailable as error:
        error.hint = (
            f"it may be disputed already: repeat the command with --id {request.dispute_id}"
        )
        raise
    dispute.show(invocation, {"cloud_id": peer} | plain(found))
    month = f"--month {found.period}"
    invocation.output.note(f"`watari settlement show {peer} {month}` tells how it stands.")


def _show(
    invocation: Invocation, cloud_id: str, row: dict[str, Any], *, charges: bool = False
) -> None:
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
    for listed, columns in (
        ("charges" if charges else "disputes", _CHARGES),
        ("opened", _OPENED),
    ):
        rows = [
            {"creditor": claim["creditor"], **each}
            for claim in (row["receivable"], row["payable"])
            for each in claim[listed]
        ]
        if rows:
            shown += ["", table(rows, columns)]
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

_CHARGES = (
    Column("OWED TO", lambda one: one["creditor"]),
    Column("CHARGE", lambda one: one["description"]),
    Column("BILLED", lambda one: amounts.bare(one["billed"]), right=True),
    Column("EXPECTED", lambda one: amounts.bare(one["expected"]), right=True),
    Column("DISPUTED", lambda one: _some(one["held"]), right=True),
    Column("SHEET", lambda one: str(one["price_version"] or ""), right=True),
    Column("QUOTES", lambda one: " ".join(one["quote_ids"])),
    Column("ID", lambda one: one["charge_id"]),
)

_OPENED = (
    Column("OWED TO", lambda one: one["creditor"]),
    Column("DISPUTE", lambda one: one["dispute_id"]),
    Column("CHARGE", lambda one: one["description"]),
    Column("DISPUTED", lambda one: amounts.exact(one["amount"]), right=True),
    Column("STATE", lambda one: views.words(one["state"])),
    Column("CREDITED", lambda one: amounts.exact(one["credited"]), right=True),
    Column("REASON", lambda one: one["reason"]),
)


def _some(amount: dict[str, str] | None) -> str:
    shown = amounts.bare(amount)
    return "" if shown == "0.00" else shown
