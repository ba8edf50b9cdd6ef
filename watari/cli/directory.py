"""`watari directory`: the catalogue as a whole, for those who run it."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.message import DecodeError

from watari import errors
from watari.cli import catalogue, exits
from watari.cli.exits import CALL_EPILOG, CommandFailed, Exit
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.output import Column
from watari.cli.plain import plain
from watari.v1 import directory_pb2

DUMP_BYTES_MAX = 2 * 1024**3
"""A larger file is refused: it is no dump."""

_app = typer.Typer(no_args_is_help=True, help="Copy and check the directory's catalogue.")

_COLUMNS = (
    Column("SEVERITY", lambda one: one["severity"]),
    Column("RECORD", lambda one: one["record"]),
    Column("PROBLEM", lambda one: one["problem"]),
)


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="directory", rich_help_panel=FEDERATION_PANEL)


@command(_app, "dump", epilog=CALL_EPILOG)
def dump(
    invocation: Invocation,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Written; must not exist.")],
) -> None:
    """Write the whole catalogue, as it is at one revision, to a file: a line of JSON a record."""
    listing = invocation.clients.directory().listing()
    head = {
        "schema": 1,
        "revision": listing.revision,
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "snapshot_age_seconds": listing.age_seconds,
        "records": len(listing.records),
    }
    try:
        with file.open("x", encoding="utf-8") as out:
            for line in (head, *(_line(record) for record in listing.records)):
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
    except OSError as error:
        raise errors.FailedPrecondition(
            "INVALID_FIELD", f"{file}: {error.strerror}", hint="name a file that does not exist yet"
        ) from error
    told = f"{len(listing.records)} records at revision {listing.revision} in {file}"
    invocation.output.record(head | {"file": str(file)})
    invocation.output.say(told)
    if listing.age_seconds is not None:
        invocation.output.note(_old(listing.age_seconds), "yellow")


@command(_app, "verify", epilog=exits.epilog(Exit.FAILED, Exit.UNAVAILABLE))
def verify(
    invocation: Invocation,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="FILE", help="A dump to compare with.")
    ] = None,
) -> None:
    """Check that every record can be used and that nothing refers to what is not there; with a
    dump, also that the catalogue is no older than it. Ends with 1 when there is an error.
    """
    earlier = _read(against) if against else None
    listing = invocation.clients.directory().listing()
    found = catalogue.check(listing.revision, listing.records, datetime.now(UTC))
    if earlier is not None:
        found += catalogue.compare(earlier, listing.records)
    rows = [vars(each) for each in found]
    clean = f"{len(listing.records)} records at revision {listing.revision}: nothing is wrong."
    invocation.output.rows(rows, _COLUMNS, clean)
    if listing.age_seconds is not None:
        invocation.output.note(_old(listing.age_seconds), "yellow")
    wrong = sum(each.severity == catalogue.ERROR for each in found)
    if wrong:
        error = errors.FailedPrecondition(
            "INVALID_FIELD",
            f"{wrong} errors in {len(listing.records)} records",
            hint="tell the providers of these records; what cannot be used is left out by brokers",
        )
        raise CommandFailed(error, Exit.FAILED)


def _line(record: directory_pb2.Record) -> dict[str, Any]:
    """For people and programs; `raw` is all of it, with what this release does not know."""
    raw = base64.b64encode(record.SerializeToString()).decode()
    return {"record": catalogue.name_of(record.key), **plain(record), "raw": raw}


def _read(file: Path) -> list[directory_pb2.Record]:
    try:
        if file.stat().st_size > DUMP_BYTES_MAX:
            raise _no_dump(file, "it is too large")
        with file.open(encoding="utf-8") as lines:
            head = json.loads(next(lines))
            if head.get("schema") != 1:
                raise _no_dump(file, f"schema {head.get('schema')} is not known here")
            found = [
                directory_pb2.Record.FromString(base64.b64decode(json.loads(line)["raw"]))
                for line in lines
            ]
    except OSError as error:
        raise _no_dump(file, str(error.strerror)) from error
    except (ValueError, KeyError, AttributeError, StopIteration, DecodeError) as error:
        raise _no_dump(file, f"unreadable: {error}") from error
    if len(found) != head["records"]:
        raise _no_dump(file, f"{len(found)} of {head['records']} records: it was cut off")
    return found


def _no_dump(file: Path, problem: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        "INVALID_FIELD", f"{file}: {problem}", hint="name a file that `watari directory dump` wrote"
    )


def _old(seconds: float) -> str:
    return f"The directory's store is away: this is what it knew {seconds:.0f} s ago."
