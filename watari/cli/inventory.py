"""`watari inventory`: what hosts have of each resource class, and what classes are called."""

from typing import Annotated, Any

import typer

from watari import errors, units
from watari.cli import lookup, views
from watari.cli.exits import CALL_EPILOG
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.operating import Operating
from watari.cli.output import Column, facts, table
from watari.cli.plain import plain
from watari.v1 import manager_pb2

_app = typer.Typer(
    no_args_is_help=True, help="Show what hosts have; rename and split resource classes."
)

_FIELDS = ("vcpus", "memory_bytes", "disk_bytes")
_PARTS = ("total", "reserved", "allocated", "held", "free")

_CloudOption = Annotated[
    str | None,
    typer.Option("--cloud", metavar="CLOUD", help="The cloud, where there are several."),
]
_ClassArgument = Annotated[str, typer.Argument(metavar="CLASS", help="The resource class.")]
_DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only tell what would come of it; nothing is changed.")
]


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="inventory", rich_help_panel=FEDERATION_PANEL)


@command(_app, "list", epilog=CALL_EPILOG)
def list_inventories(invocation: Invocation, cloud: _CloudOption = None) -> None:
    """List what a cloud's hosts have of each class, and what is taken of it. The host * is the
    pool, which no host owns.
    """
    found = [plain(each) for each in _operating(invocation, cloud).manager.inventories()]
    if invocation.output.is_json:
        invocation.output.rows(found, (), "")
    else:
        invocation.output.rows(_lines(found), _COLUMNS, "There are no hosts.")


@command(_app, "rename", epilog=CALL_EPILOG)
def rename(
    invocation: Invocation,
    resource_class: _ClassArgument,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
    cloud: _CloudOption = None,
    dry_run: _DryRunOption = False,
) -> None:
    """Give a resource class another name in the whole cloud: inventories, allocations, bookings and
    quotas. Who uses the old name means the new one. Repeating it changes nothing.
    """
    request = manager_pb2.ReshapeInventoryRequest(
        resource_class=resource_class, rename_to=new, dry_run=dry_run
    )
    _reshape(invocation, cloud, request)


@command(_app, "split", epilog=CALL_EPILOG)
def split(
    invocation: Invocation,
    resource_class: _ClassArgument,
    host: Annotated[str, typer.Option(metavar="HOST", help="The host; * is the pool.")],
    units_of: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="NEW=UNITS",
            help="So many units are of another class; to repeat. It replaces what was said before, "
            "and what is left stays of the class.",
        ),
    ] = None,
    moves: Annotated[
        list[str] | None,
        typer.Option(
            "--move",
            metavar="ID=CLASS",
            help="What a machine or reservation takes of it is of this class now; to repeat. "
            "Others keep theirs.",
        ),
    ] = None,
    generation: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Only if the host's inventory is still of this generation, as `list` shows it.",
        ),
    ] = 0,
    cloud: _CloudOption = None,
    dry_run: _DryRunOption = False,
) -> None:
    """Make units of a host's class other classes, with the allocations that use them. Refused where
    more would be taken of a class than there is. Repeating it changes nothing.
    """
    said = manager_pb2.ClassSplit(
        host_id=host,
        units={name: _amount(text, each) for each, name, text in map(_pair, units_of or ())},
        moves={key: name for _, key, name in map(_pair, moves or ())},
        generation=generation,
    )
    request = manager_pb2.ReshapeInventoryRequest(
        resource_class=resource_class, split=said, dry_run=dry_run
    )
    _reshape(invocation, cloud, request)


def _reshape(
    invocation: Invocation, cloud: str | None, request: manager_pb2.ReshapeInventoryRequest
) -> None:
    row = plain(_operating(invocation, cloud).reshape(request))
    changed = "no: it was so already"
    if row["changed"]:
        changed = "it would be; nothing was" if request.dry_run else "yes"
    pairs = [
        ("changed", changed),
        ("allocations moved", str(row["consumers"])),
        ("quotas renamed", str(row["quotas"]) if row["quotas"] else ""),
    ]
    of = {request.resource_class, request.rename_to, *request.split.units}
    lines = [each for each in _lines(row["inventories"]) if each["class"] in of]
    invocation.output.record(row, facts(pairs), "", table(lines, _COLUMNS))


def _operating(invocation: Invocation, cloud: str | None) -> Operating:
    return Operating(invocation.clients.manager(lookup.only(invocation.clients, cloud)))


def _lines(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for every class of every host."""
    lines = []
    for one in found:
        amounts = {part: _amounts(one[part]) for part in _PARTS}
        shape = one["shape"] or {"split": {}}
        was = {part: name for name, each in shape["split"].items() for part in each["units"]}
        for name in sorted({*amounts["total"], *amounts["allocated"], *amounts["held"]}):
            line: dict[str, Any] = {part: amounts[part].get(name, 0) for part in _PARTS}
            line |= {"host": one["host_id"], "class": name, "was": was.get(name, "")}
            lines.append(line | {"generation": one["generation"]})
    return lines


def _amounts(resources: dict[str, Any] | None) -> dict[str, int]:
    shown = resources or {}
    usual = {name: shown[name] for name in _FIELDS if shown.get(name)}
    return usual | dict(shown.get("other", {}))


def _shown(one: dict[str, Any], part: str) -> str:
    amount: int = one[part]
    return views.size(amount) or "0" if one["class"].endswith("_bytes") else str(amount)


def _pair(text: str) -> tuple[str, str, str]:
    """The text, and what stands before and after its last =."""
    name, equals, value = text.rpartition("=")
    if not (name and equals and value):
        raise _wrong(text)
    return text, name, value


def _amount(text: str, whole: str) -> int:
    try:
        return units.parse_bytes(text)
    except errors.InvalidArgument as error:
        raise _wrong(whole) from error


def _wrong(text: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        "INVALID_FIELD",
        f"{text!r} has no name and value",
        hint="write --to NEW=UNITS and --move ID=CLASS",
    )


_COLUMNS = (
    Column("HOST", lambda one: one["host"]),
    Column("CLASS", lambda one: one["class"]),
    Column("SPLIT OFF", lambda one: one["was"]),
    Column("TOTAL", lambda one: _shown(one, "total"), right=True),
    Column("RESERVED", lambda one: _shown(one, "reserved"), right=True, optional=True),
    Column("ALLOCATED", lambda one: _shown(one, "allocated"), right=True),
    Column("HELD", lambda one: _shown(one, "held"), right=True),
    Column("FREE", lambda one: _shown(one, "free"), right=True),
    Column("GENERATION", lambda one: str(one["generation"]), right=True, optional=True),
)
