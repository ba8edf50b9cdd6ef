"""`watari dispute`: charges that their payers do not accept."""

import uuid
from typing import Annotated, Any

import typer

from watari import errors
from watari.cli import amounts, lookup, views
from watari.cli.billing import Money
from watari.cli.clients import Manager
from watari.cli.exits import CALL_EPILOG
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.output import Column, facts
from watari.cli.plain import plain
from watari.v1 import common_pb2, manager_pb2

_app = typer.Typer(no_args_is_help=True, help="Dispute charges, and decide disputes.")

_CloudOption = Annotated[
    str | None,
    typer.Option("--cloud", metavar="CLOUD", help="The cloud, where there are several."),
]


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="dispute", rich_help_panel=FEDERATION_PANEL)


@command(_app, "open", epilog=CALL_EPILOG)
def open_dispute(
    invocation: Invocation,
    charge: Annotated[
        str, typer.Argument(metavar="CHARGE", help="UUID, as `watari invoice show` has it.")
    ],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why.")],
    amount: Annotated[
        str, typer.Option(metavar="AMOUNT", help="As in '1.20 EUR'; all that is left otherwise.")
    ] = "",
    dispute_id: Annotated[
        str, typer.Option("--id", metavar="UUID", help="To repeat a command that was cut off.")
    ] = "",
    cloud: _CloudOption = None,
) -> None:
    """Dispute a charge of yours, or a part of it: nobody owes that until it is decided."""
    money = Money(invocation.clients.manager(lookup.only(invocation.clients, cloud)))
    request = manager_pb2.OpenDisputeRequest(
        dispute_id=dispute_id or str(uuid.uuid4()), charge_id=charge, reason=reason
    )
    if amount:
        request.amount.CopyFrom(amounts.parse(amount))
    show(invocation, {"cloud_id": money.cloud_id} | plain(money.open_dispute(request)))


@command(_app, "list", epilog=CALL_EPILOG)
def list_disputes(
    invocation: Invocation,
    cloud: Annotated[
        str | None, typer.Option(metavar="CLOUD", help="Only this cloud; all are asked otherwise.")
    ] = None,
    open_only: Annotated[
        bool, typer.Option("--open", help="Only those that are not decided.")
    ] = False,
) -> None:
    """List disputes, newest first. A tenant sees its own."""

    def fetch(manager: Manager) -> list[dict[str, Any]]:
        money = Money(manager)
        found = money.disputes(open_only=open_only)
        return [{"cloud_id": money.cloud_id} | plain(each) for each in found]

    found, missed = lookup.gather(invocation.clients, cloud, fetch)
    invocation.output.rows(found, _COLUMNS, "There are no disputes.")
    if missed:
        raise missed


@command(_app, "decide", epilog=CALL_EPILOG)
def decide(
    invocation: Invocation,
    dispute: Annotated[str, typer.Argument(metavar="DISPUTE", help="UUID.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; the payer reads it.")],
    uphold: Annotated[bool, typer.Option("--uphold", help="Credit all of it.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="It is owed again.")] = False,
    credit: Annotated[
        str, typer.Option(metavar="AMOUNT", help="Credit a part; the rest is owed again.")
    ] = "",
    cloud: _CloudOption = None,
) -> None:
    """Decide a dispute, for good."""
    if [uphold, reject, bool(credit)].count(True) != 1:
        raise errors.InvalidArgument(
            "INVALID_FIELD",
            "a decision is one of three",
            hint="--uphold, --reject or --credit AMOUNT",
        )
    money = Money(invocation.clients.manager(lookup.only(invocation.clients, cloud)))
    credited: common_pb2.Money | None = None
    if credit:
        credited = amounts.parse(credit)
    elif uphold:
        known = [each for each in money.disputes(open_only=False) if each.dispute_id == dispute]
        if not known:
            raise errors.NotFound(
                "RECORD_NOT_FOUND",
                f"there is no dispute {dispute}",
                hint="`watari dispute list` shows those that there are",
            )
        credited = known[0].amount
    told = money.decide(dispute, credited, reason)
    show(invocation, {"cloud_id": money.cloud_id} | plain(told))


def show(invocation: Invocation, row: dict[str, Any]) -> None:
    """Shows a dispute of the cloud in `cloud_id`."""
    pairs = [
        ("dispute", row["dispute_id"]),
        ("cloud", row["cloud_id"]),
        ("payer", row["payer"]),
        ("charge", row["description"]),
        ("month", row["period"]),
        ("disputed", amounts.exact(row["amount"])),
        ("reason", row["reason"]),
        ("state", views.words(row["state"])),
        ("credited", amounts.exact(row["credited"])),
        ("decision", row["decision_reason"]),
    ]
    invocation.output.record(row, facts(pairs))


_COLUMNS = (
    Column("CLOUD", lambda one: one["cloud_id"]),
    Column("DISPUTE", lambda one: one["dispute_id"]),
    Column("PAYER", lambda one: one["payer"]),
    Column("MONTH", lambda one: one["period"]),
    Column("CHARGE", lambda one: one["description"]),
    Column("DISPUTED", lambda one: amounts.exact(one["amount"]), right=True),
    Column("STATE", lambda one: views.words(one["state"])),
    Column("CREDITED", lambda one: amounts.exact(one["credited"]), right=True),
    Column("REASON", lambda one: one["reason"], optional=True),
)
