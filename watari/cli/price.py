"""`watari price`: what clouds charge, version by version."""

import json
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from watari import errors
from watari.cli import lookup, views
from watari.cli.billing import Money
from watari.cli.exits import CALL_EPILOG
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.output import Column, facts, table
from watari.cli.plain import plain

FILE_BYTES_MAX = 1024 * 1024
"""Largest file that is sent."""

_app = typer.Typer(no_args_is_help=True, help="Show and record what clouds charge.")

_CloudOption = Annotated[
    str | None,
    typer.Option("--cloud", metavar="CLOUD", help="The cloud, where there are several."),
]


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="price", rich_help_panel=FEDERATION_PANEL)


@command(_app, "put", epilog=CALL_EPILOG)
def put(
    invocation: Invocation,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The sheet: .toml or .json.")],
    cloud: _CloudOption = None,
) -> None:
    """Record a version of the price sheet, for good. It has to come into effect later than now;
    what was used before is charged as it was.
    """
    money = Money(invocation.clients.manager(lookup.only(invocation.clients, cloud)))
    row = {"cloud_id": money.cloud_id} | _row(plain(money.put_sheet(_document(file))))
    _show(invocation, row)


@command(_app, "list", epilog=CALL_EPILOG)
def list_sheets(
    invocation: Invocation,
    cloud: Annotated[
        str | None, typer.Option(metavar="CLOUD", help="Only this cloud; all are asked otherwise.")
    ] = None,
) -> None:
    """List the versions of clouds' price sheets, newest first."""

    def fetch(manager: Any) -> list[dict[str, Any]]:
        money = Money(manager)
        return [{"cloud_id": money.cloud_id} | _bare(plain(each)) for each in money.sheets()]

    found, missed = lookup.gather(invocation.clients, cloud, fetch)
    invocation.output.rows(found, _VERSIONS, "There are no price sheets.")
    if missed:
        raise missed


@command(_app, "show", epilog=CALL_EPILOG)
def show(
    invocation: Invocation,
    version: Annotated[
        int,
        typer.Argument(metavar="[VERSION]", min=0, help="The one in effect, unless one is said."),
    ] = 0,
    cloud: _CloudOption = None,
    diff: Annotated[
        int,
        typer.Option("--diff", min=0, metavar="OTHER", help="Show what differs from this version."),
    ] = 0,
) -> None:
    """Show a version of a cloud's price sheet."""
    money = Money(invocation.clients.manager(lookup.only(invocation.clients, cloud)))
    row = {"cloud_id": money.cloud_id} | _row(plain(money.sheet(version)))
    if not diff:
        _show(invocation, row)
        return
    changes = list(_changes(_row(plain(money.sheet(diff)))["sheet"], row["sheet"]))
    if invocation.output.is_json:
        told = {"cloud_id": money.cloud_id, "from": diff, "to": row["version"]}
        invocation.output.record(told | {"changes": changes})
    else:
        columns = (
            Column("WHAT", lambda one: one["what"]),
            Column(f"VERSION {diff}", lambda one: one["before"], right=True),
            Column(f"VERSION {row['version']}", lambda one: one["after"], right=True),
        )
        invocation.output.rows(changes, columns, "Nothing differs.")


def _document(file: Path) -> str:
    """The sheet in a file, as JSON. Instants and numbers are sent as they are written."""
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise _wrong(file, f"more than {FILE_BYTES_MAX} bytes")
        text = content.decode()
        found = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise _wrong(file, error.strerror or str(error)) from error
    except ValueError as error:
        raise _wrong(file, str(error)) from error
    return json.dumps(found, default=_moment)


def _moment(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{value!r} is nothing that a sheet has")


def _wrong(file: Path, problem: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        "INVALID_FIELD", f"{file}: {problem}", hint="docs/accounting.md has an example"
    )


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A version with its document as a value."""
    return _bare(row) | {"sheet": json.loads(row["document"])}


def _bare(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "document"}


def _show(invocation: Invocation, row: dict[str, Any]) -> None:
    sheet = row["sheet"]
    about = [
        ("cloud", row["cloud_id"]),
        ("version", f"{row['version']}, in effect" if row["in_effect"] else str(row["version"])),
        ("from", views.when(row["effective_from"])),
        ("currency", row["currency_code"]),
        *((tax["name"], f"{tax['percent']} %") for tax in sheet["taxes"]),
        *(
            (f"discount {each['payer']}", f"{each['percent']} % on {each['component'] or 'all'}")
            for each in sheet["discounts"]
        ),
    ]
    lines = [line for each in sheet["components"] for line in _tiers(each)]
    invocation.output.record(row, facts(about), "", table(lines, _COMPONENTS))


def _tiers(component: dict[str, Any]) -> list[dict[str, str]]:
    """A line a tier."""
    lines, below = [], 0
    for tier in component["tiers"]:
        up_to = tier.get("up_to")
        several = len(component["tiers"]) > 1
        upper = f"to {up_to}" if up_to else f"beyond {below}"
        lines.append(
            {
                "name": component["name"],
                "price": tier["price"],
                "unit": component["unit"],
                "tier": upper if several else "",
                "counts": f"{component['measure']} {component['resource']}".strip(),
                "minimum": f"{component['minimum_seconds']} s"
                if component["minimum_seconds"]
                else "",
            }
        )
        below = up_to or below
    return lines


def _changes(before: dict[str, Any], after: dict[str, Any]) -> Any:
    """What differs, as what it is called and both texts."""
    old, new = _facts_of(before), _facts_of(after)
    for name in [*old, *(name for name in new if name not in old)]:
        if old.get(name) != new.get(name):
            yield {"what": name, "before": old.get(name, ""), "after": new.get(name, "")}


def _facts_of(sheet: dict[str, Any]) -> dict[str, str]:
    found = {"currency": sheet["currency"], "effective from": sheet["effective_from"]}
    for each in sheet["components"]:
        for line in _tiers(each):
            name = " ".join(filter(None, [line["name"], line["tier"]]))
            found[name] = f"{line['price']} / {line['unit']}"
        if each["minimum_seconds"]:
            found[f"{each['name']} minimum"] = f"{each['minimum_seconds']} s"
    for each in sheet["discounts"]:
        found[f"discount {each['payer']} {each['component']}".rstrip()] = f"{each['percent']} %"
    for each in sheet["taxes"]:
        found[each["name"]] = f"{each['percent']} %"
    return found


_VERSIONS = (
    Column("CLOUD", lambda one: one["cloud_id"]),
    Column("VERSION", lambda one: str(one["version"]), right=True),
    Column("FROM", lambda one: views.when(one["effective_from"])),
    Column("CURRENCY", lambda one: one["currency_code"]),
    Column("RECORDED", lambda one: views.when(one["recorded_at"]), optional=True),
    Column("", lambda one: "in effect" if one["in_effect"] else ""),
)

_COMPONENTS = (
    Column("COMPONENT", lambda one: one["name"]),
    Column("PRICE", lambda one: one["price"], right=True),
    Column("UNIT", lambda one: one["unit"]),
    Column("TIER", lambda one: one["tier"]),
    Column("COUNTS", lambda one: one["counts"]),
    Column("MINIMUM", lambda one: one["minimum"], right=True),
)
