"""`watari payment`: what was paid."""

import uuid
from typing import Annotated, Any

import typer

from watari.cli import amounts, lookup, views
from watari.cli.billing import Money
from watari.cli.exits import CALL_EPILOG
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.output import Column, facts
from watari.cli.plain import plain
from watari.v1 import manager_pb2

_app = typer.Typer(no_args_is_help=True, help="Record payments.")

_CloudOption = Annotated[
    str | None,
    typer.Option("--cloud", metavar="CLOUD", help="The cloud, where there are several."),
]


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="payment", rich_help_panel=FEDERATION_PANEL)


@command(_app, "record", epilog=CALL_EPILOG)
def record(
    invocation: Invocation,
    payer: Annotated[str, typer.Argument(metavar="PAYER", help="tenant:NAME or peer:DOMAIN.")],
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="As in '120.50 EUR'.")],
    reference: Annotated[
        str, typer.Option(metavar="TEXT", help="What the bank says, or the invoice's number.")
    ] = "",
    outgoing: Annotated[
        bool, typer.Option("--outgoing", help="Paid by us, to another provider.")
    ] = False,
    payment_id: Annotated[
        str, typer.Option("--id", metavar="UUID", help="To repeat a command that was cut off.")
    ] = "",
    cloud: _CloudOption = None,
) -> None:
    """Record a payment, and show what is still owed."""
    money = Money(invocation.clients.manager(lookup.only(invocation.clients, cloud)))
    request = manager_pb2.RecordPaymentRequest(
        payment_id=payment_id or str(uuid.uuid4()),
        payer=payer,
        amount=amounts.parse(amount),
        reference=reference,
        outgoing=outgoing,
    )
    row = {"cloud_id": money.cloud_id, "payer": payer} | plain(money.pay(request))
    pairs = [
        ("payment", row["entry"]["subject"]),
        ("booked", row["entry"]["description"]),
        ("amount", amounts.exact(plain(request)["amount"])),
        ("still owed", amounts.exact(row["left"])),
    ]
    invocation.output.record(row, facts(pairs))


@command(_app, "list", epilog=CALL_EPILOG)
def list_payments(invocation: Invocation, cloud: _CloudOption = None) -> None:
    """List all payments of a cloud, oldest first."""
    money = Money(invocation.clients.manager(lookup.only(invocation.clients, cloud)))
    rows = [plain(each) for each in money.entries(kind="payment")]
    invocation.output.rows(rows, _COLUMNS, "There are no payments.")


def _cash(row: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = next(
        each["amount"] for each in row["postings"] if each["account"] == "cash"
    )
    return found


_COLUMNS = (
    Column("NO", lambda one: str(one["sequence"]), right=True),
    Column("WHEN", lambda one: views.when(one["booked_at"])),
    Column("WHAT", lambda one: one["description"]),
    Column("CASH", lambda one: amounts.exact(_cash(one)), right=True),
    Column("PAYMENT", lambda one: one["subject"], optional=True),
)
