"""`watari invoice`: what payers owe for a month."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from watari import errors
from watari.cli import amounts, lookup, views
from watari.cli.billing import Money
from watari.cli.clients import Clients, Manager
from watari.cli.exits import CALL_EPILOG
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.output import Column, facts, table
from watari.cli.plain import plain
from watari.v1 import manager_pb2

_FORMATS = {
    "json": manager_pb2.INVOICE_FORMAT_JSON,
    "csv": manager_pb2.INVOICE_FORMAT_CSV,
    "html": manager_pb2.INVOICE_FORMAT_HTML,
    "focus": manager_pb2.INVOICE_FORMAT_FOCUS,
}

_app = typer.Typer(no_args_is_help=True, help="Issue, show and export invoices.")

_CloudOption = Annotated[
    str | None,
    typer.Option("--cloud", metavar="CLOUD", help="The cloud, where there are several."),
]
_AnyCloudOption = Annotated[
    str | None, typer.Option("--cloud", metavar="CLOUD", help="Only this cloud; all are asked.")
]
_MonthOption = Annotated[str, typer.Option("--month", metavar="YYYY-MM", help="The billing month.")]
_InvoiceArgument = Annotated[
    str, typer.Argument(metavar="INVOICE", help="Its number, or its UUID.")
]


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="invoice", rich_help_panel=FEDERATION_PANEL)


@command(_app, "issue", epilog=CALL_EPILOG)
def issue(invocation: Invocation, month: _MonthOption, cloud: _CloudOption = None) -> None:
    """Issue the invoices of a month that has ended and is closed, each once. What is issued
    is never changed; what comes later is a correction on the next invoice.
    """
    money = Money(invocation.clients.manager(lookup.only(invocation.clients, cloud)))
    with invocation.output.working("Rating the month"):
        told = money.issue(month)
    rows = [{"cloud_id": money.cloud_id} | _bare(each) for each in money.invoices(period=month)]
    if invocation.output.is_json:
        invocation.output.record(
            {"cloud_id": money.cloud_id, "period": month, "issued": told.issued, "invoices": rows}
        )
        return
    invocation.output.say(f"{told.issued} issued, {told.invoices} of {month} in all.")
    invocation.output.show(table(rows, _COLUMNS))


@command(_app, "list", epilog=CALL_EPILOG)
def list_invoices(
    invocation: Invocation,
    cloud: _AnyCloudOption = None,
    month: Annotated[str, typer.Option(metavar="YYYY-MM", help="Only this month's.")] = "",
    payer: Annotated[
        str,
        typer.Option(metavar="PAYER", help="Only of tenant:NAME or peer:DOMAIN."),
    ] = "",
) -> None:
    """List invoices, newest first. A tenant sees its own."""

    def fetch(manager: Manager) -> list[dict[str, Any]]:
        money = Money(manager)
        return [{"cloud_id": money.cloud_id} | _bare(each) for each in money.invoices(payer, month)]

    found, missed = lookup.gather(invocation.clients, cloud, fetch)
    found.sort(key=lambda one: one["issued_at"] or "", reverse=True)
    invocation.output.rows(found, _COLUMNS, "There are no invoices.")
    if missed:
        raise missed


@command(_app, "show", epilog=CALL_EPILOG)
def show(invocation: Invocation, invoice: _InvoiceArgument, cloud: _AnyCloudOption = None) -> None:
    """Show an invoice with its lines. The charge of a line is what a dispute names."""
    _, found = _find(invocation.clients, invoice, cloud)
    row = plain(found)
    about = [
        ("invoice", row["number"]),
        ("from", f"{row['issuer_name']} ({row['cloud_id']})"),
        ("to", f"{row['customer_name']} ({row['payer']})"),
        ("month", f"{row['period']}, {row['time_zone']}"),
        ("issued", views.when(row["issued_at"])),
        ("due", views.when(row["due_at"])),
    ]
    sums = [
        ("net", amounts.exact(row["net"])),
        ("taxes", amounts.exact(row["tax"])),
        ("corrections", amounts.exact(row["correction"]) if _counts(row["correction"]) else ""),
        ("rounding", amounts.exact(row["rounding"]) if _counts(row["rounding"]) else ""),
        ("total", amounts.exact(row["total"])),
    ]
    lines = table(row["lines"], _LINES)
    invocation.output.record(row, facts(about), "", lines, "", facts(sums))


@command(_app, "export", epilog=CALL_EPILOG)
def export(
    invocation: Invocation,
    invoice: _InvoiceArgument,
    format_name: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="json, csv, html or focus.")
    ] = "json",
    file: Annotated[
        Path,
        typer.Option("-O", "--file", metavar="FILE", help="Written; must not exist. - is stdout."),
    ] = Path("-"),
    cloud: _AnyCloudOption = None,
) -> None:
    """Write an invoice as JSON, CSV, a page to print, or FOCUS 1.2."""
    if format_name not in _FORMATS:
        raise errors.InvalidArgument(
            "INVALID_FIELD",
            f"--format: {format_name!r} is none",
            hint=f"one of {', '.join(_FORMATS)}",
        )
    money, found = _find(invocation.clients, invoice, cloud)
    content = money.export(found.invoice_id, _FORMATS[format_name])
    if str(file) == "-":
        invocation.output.out.file.write(content.decode())
        invocation.output.out.file.flush()
        return
    try:
        with file.open("xb") as out:
            out.write(content)
    except OSError as error:
        raise errors.FailedPrecondition(
            "INVALID_FIELD", f"{file}: {error.strerror}", hint="name a file that does not exist yet"
        ) from error
    told = {"invoice": found.number, "file": str(file), "bytes": len(content)}
    invocation.output.record(told, facts([("File", str(file)), ("Bytes", str(len(content)))]))


@command(_app, "correct", epilog=CALL_EPILOG)
def correct(
    invocation: Invocation,
    month: _MonthOption,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; the next invoice shows it.")],
    cloud: _CloudOption = None,
) -> None:
    """Book now what a month that was issued lacks, or has too much: due with the next invoice."""
    money = Money(invocation.clients.manager(lookup.only(invocation.clients, cloud)))
    with invocation.output.working("Rating the month"):
        told = plain(money.correct(month, reason))
    row = {"cloud_id": money.cloud_id, "period": month} | told
    pairs = [("entries", str(row["entries"])), ("in all", amounts.exact(row["amount"]))]
    invocation.output.record(row, facts(pairs))


def _find(clients: Clients, key: str, cloud: str | None) -> tuple[Money, manager_pb2.Invoice]:
    """The invoice, and the cloud that issued it. Raises NotFound RECORD_NOT_FOUND."""

    def fetch(manager: Manager) -> list[tuple[Money, manager_pb2.Invoice]]:
        money = Money(manager)
        return lookup.unless_missing(lambda: (money, money.invoice(key)), "RECORD_NOT_FOUND")

    found, missed = lookup.gather(clients, cloud, fetch)
    if found:
        return found[0]
    raise missed or errors.NotFound(
        "RECORD_NOT_FOUND",
        f"there is no invoice {key}",
        hint="`watari invoice list` shows those that there are",
    )


def _bare(invoice: manager_pb2.Invoice) -> dict[str, Any]:
    return {name: value for name, value in plain(invoice).items() if name != "lines"}


def _counts(amount: dict[str, str]) -> bool:
    return Decimal(amount["amount"]) != 0


def _quantity(line: dict[str, Any]) -> str:
    """Three decimals: the exact quantity is in the export."""
    return f"{Decimal(line['quantity']):,.3f}" if line["quantity"] else ""


def _what(line: dict[str, Any]) -> str:
    month = f"{line['period']} " if line["period"] else ""
    return f"{month}{line['description']}"


_COLUMNS = (
    Column("CLOUD", lambda one: one["cloud_id"]),
    Column("INVOICE", lambda one: one["number"]),
    Column("MONTH", lambda one: one["period"]),
    Column("PAYER", lambda one: one["payer"]),
    Column("TOTAL", lambda one: amounts.exact(one["total"]), right=True),
    Column("ISSUED", lambda one: views.when(one["issued_at"])),
    Column("DUE", lambda one: views.when(one["due_at"]), optional=True),
)

_LINES = (
    Column("DESCRIPTION", _what),
    Column("QUANTITY", _quantity, right=True),
    Column("UNIT", lambda one: one["unit"]),
    Column("PRICE", lambda one: amounts.bare(one["unit_price"]), right=True),
    Column(
        "DISCOUNT",
        lambda one: (
            f"{one['percent']} %" if one["kind"] == "charge" and one["percent"] != "0" else ""
        ),
        right=True,
    ),
    Column("AMOUNT", lambda one: amounts.bare(one["amount"]), right=True),
    Column("SHEET", lambda one: str(one["price_version"] or ""), right=True, optional=True),
    Column("CHARGE", lambda one: one["charge_id"], optional=True),
)
