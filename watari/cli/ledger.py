"""`watari ledger`: what was booked, whether it is whole, and who owes what."""

from collections import deque
from typing import Annotated, Any

import typer

from watari import audit, errors
from watari.audit import Head
from watari.cli import amounts, exits, lookup, views
from watari.cli.billing import Money
from watari.cli.clients import Manager
from watari.cli.exits import CALL_EPILOG, Exit
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.output import Column, facts
from watari.cli.plain import plain

LISTED_MAX = 10_000
"""Entries that `list` shows at most."""

_KEEP = (
    "Keep the last number and hash elsewhere: with --last-sequence and --last-hash they show later "
    "whether the ledger was cut off or written anew."
)

_app = typer.Typer(no_args_is_help=True, help="Read and verify ledgers.")

_CloudOption = Annotated[
    str | None,
    typer.Option("--cloud", metavar="CLOUD", help="The cloud, where there are several."),
]


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="ledger", rich_help_panel=FEDERATION_PANEL)


@command(_app, "list", epilog=CALL_EPILOG)
def list_entries(
    invocation: Invocation,
    cloud: _CloudOption = None,
    limit: Annotated[
        int, typer.Option(min=1, max=LISTED_MAX, metavar="N", help="Newest entries shown.")
    ] = 50,
    month: Annotated[str, typer.Option(metavar="YYYY-MM", help="Only this billing month's.")] = "",
    kind: Annotated[
        str, typer.Option(metavar="KIND", help="Only charge, tax, correction, payment and so on.")
    ] = "",
    subject: Annotated[
        str, typer.Option(metavar="ID", help="Only about this charge, invoice or payment.")
    ] = "",
    account: Annotated[
        str, typer.Option(metavar="ACCOUNT", help="Only those that touch this account.")
    ] = "",
) -> None:
    """List the newest entries of a cloud's ledger, newest last. Debit is positive."""
    money = Money(invocation.clients.manager(lookup.only(invocation.clients, cloud)))
    filters = {"period": month, "kind": kind, "subject": subject, "account": account}
    after = 0 if any(filters.values()) else max(0, money.head().sequence - limit)
    with invocation.output.working("Reading the ledger"):
        found = deque(money.entries(after, **filters), maxlen=limit)
    rows = [plain(each) for each in found]
    if invocation.output.is_json:
        invocation.output.rows(rows, (), "")
        return
    lines = [line for row in rows for line in _lines(row)]
    invocation.output.rows(lines, _COLUMNS, "Nothing is booked.")


@command(_app, "verify", epilog=exits.epilog(Exit.NOT_FOUND, Exit.REFUSED, Exit.UNAVAILABLE))
def verify(
    invocation: Invocation,
    cloud: _CloudOption = None,
    last_sequence: Annotated[
        int, typer.Option(min=0, metavar="N", help="A last number that was kept earlier.")
    ] = 0,
    last_hash: Annotated[
        str, typer.Option(metavar="HEX", help="The last hash that was kept with it.")
    ] = "",
) -> None:
    """Verify that ledgers are what was booked: every entry balances, none was changed, removed or
    put elsewhere. All clouds' are, unless one is named.

    Ends with 1 and the first entry that is wrong.
    """
    noted = _noted(last_sequence, last_hash)
    if noted is not None:
        cloud = lookup.only(invocation.clients, cloud)
    found, missed = lookup.gather(
        invocation.clients, cloud, lambda manager: [_verified(invocation, manager, noted)]
    )
    if invocation.output.is_json:
        invocation.output.rows(found, (), "")
    else:
        for row in found:
            pairs = [
                ("Ledger", row["cloud_id"]),
                ("Entries", f"{row['last_sequence']}, unbroken"),
                ("Last hash", row["last_hash"]),
            ]
            invocation.output.show(facts(pairs))
        if found:
            invocation.output.note(_KEEP)
    if missed:
        raise missed


@command(_app, "balances", epilog=CALL_EPILOG)
def balances(
    invocation: Invocation,
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only accounts that begin so: receivable:")
    ] = "",
    cloud: Annotated[
        str | None, typer.Option(metavar="CLOUD", help="Only this cloud; all are asked otherwise.")
    ] = None,
) -> None:
    """List what accounts hold; debit is positive. A tenant sees what it owes, and what of it is
    disputed.
    """

    def fetch(manager: Manager) -> list[dict[str, Any]]:
        money = Money(manager)
        return [{"cloud_id": money.cloud_id} | plain(each) for each in money.balances(prefix)]

    found, missed = lookup.gather(invocation.clients, cloud, fetch)
    columns = (
        Column("CLOUD", lambda one: one["cloud_id"]),
        Column("ACCOUNT", lambda one: one["account"]),
        Column("HOLDS", lambda one: amounts.bare(one["amount"]), right=True),
        Column("", lambda one: one["amount"]["currency"]),
    )
    invocation.output.rows(found, columns, "Nothing is booked.")
    if missed:
        raise missed


def _verified(invocation: Invocation, manager: Manager, noted: Head | None) -> dict[str, Any]:
    reached = audit.START
    with invocation.output.working("Verifying the ledger") as tell:
        try:
            for reached in Money(manager).verify(noted):
                tell(f"Verifying the ledger of {manager.cloud_id}: {reached.sequence} entries")
        except errors.DataLoss as error:
            named = errors.DataLoss(
                error.reason, f"{manager.cloud_id}: {error.message}", hint=error.hint
            )
            named.metadata = error.metadata
            raise named from error
    return {
        "cloud_id": manager.cloud_id,
        "last_sequence": reached.sequence,
        "last_hash": reached.hash.hex(),
    }


def _noted(sequence: int, text: str) -> Head | None:
    if not sequence and not text:
        return None
    try:
        kept = bytes.fromhex(text)
    except ValueError:
        kept = b""
    if not sequence or len(kept) != audit.HASH_BYTES:
        raise errors.InvalidArgument(
            "INVALID_FIELD",
            "--last-sequence and --last-hash: one of the two is missing or is no hash",
            hint=f"both, as they were shown; a hash has {2 * audit.HASH_BYTES} digits",
        )
    return Head(sequence, kept)


def _lines(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A line a side; what all sides have in common stands once."""
    first = {
        "sequence": str(row["sequence"]),
        "when": views.when(row["booked_at"]),
        "kind": row["kind"],
        "description": row["description"],
    }
    blank = dict.fromkeys(first, "")
    return [
        {**(blank if at else first), "account": each["account"], "amount": each["amount"]}
        for at, each in enumerate(row["postings"])
    ]


_COLUMNS = (
    Column("NO", lambda one: one["sequence"], right=True),
    Column("WHEN", lambda one: one["when"]),
    Column("KIND", lambda one: one["kind"]),
    Column("ACCOUNT", lambda one: one["account"]),
    Column("AMOUNT", lambda one: amounts.bare(one["amount"]), right=True),
    Column("", lambda one: one["amount"]["currency"]),
    Column("FOR", lambda one: one["description"], optional=True),
)
