"""`watari audit`: what managers decided about security, and whether their logs are whole."""

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from watari import audit, errors
from watari.audit import Head, Noted
from watari.cli import audit_entries, exits, lookup, views
from watari.cli.audit_entries import RemoteLog
from watari.cli.clients import Manager
from watari.cli.exits import CALL_EPILOG, Exit
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.output import Column, facts
from watari.v1.audit_pb2 import AuditEntry

SEARCHED_MAX = 10_000
"""Newest entries of a cloud that `list` looks through when it filters."""

LISTED_MAX = 1000
"""Entries that `list` shows at most; `export` has all."""

DETAILS_CHARS_MAX = 120
"""Of an entry's details in a table; JSON has all."""

PROGRESS_ENTRIES = 500
"""Between two changes of what the progress says."""

_KEEP = (
    "Keep the last number and hash elsewhere: with --last-sequence and --last-hash they show later "
    "whether the log was cut off or written anew."
)

_app = typer.Typer(no_args_is_help=True, help="Read, export and verify audit logs.")

_CloudOption = Annotated[
    str | None,
    typer.Option("--cloud", metavar="CLOUD", help="The cloud, where there are several."),
]


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="audit", rich_help_panel=FEDERATION_PANEL)


@command(_app, "list", epilog=CALL_EPILOG)
def list_entries(
    invocation: Invocation,
    cloud: _CloudOption = None,
    limit: Annotated[
        int, typer.Option(min=1, max=LISTED_MAX, metavar="N", help="Entries that are shown.")
    ] = 50,
    action: Annotated[
        str,
        typer.Option(
            metavar="ACTION",
            help='Only this, as in "grant.issued"; "grant." is all that begins with it.',
        ),
    ] = "",
    subject: Annotated[
        str,
        typer.Option(metavar="ID", help="Only what is about this, or names it in its details."),
    ] = "",
) -> None:
    """List the newest entries of a cloud's audit log, newest last.

    Filters look through the newest 10,000 entries.
    """
    log = RemoteLog(invocation.clients.manager(lookup.only(invocation.clients, cloud)))
    searched = SEARCHED_MAX if action or subject else limit
    after = max(0, log.head.sequence - searched)
    found: deque[AuditEntry] = deque(maxlen=limit)
    with invocation.output.working("Reading the audit log"):
        found.extend(each for each in log.entries(after) if _matches(each, action, subject))
    rows = [audit_entries.plain(entry) for entry in found]
    invocation.output.rows(rows, _COLUMNS, "There is no such entry.")
    if after and (action or subject):
        invocation.output.note(
            f"Only the newest {searched} of {log.head.sequence} entries were looked through."
        )


@command(_app, "export", epilog=CALL_EPILOG)
def export(
    invocation: Invocation,
    file: Annotated[
        Path, typer.Argument(metavar="[FILE|-]", help="Written; must not exist. - is stdout.")
    ] = Path("-"),
    cloud: _CloudOption = None,
) -> None:
    """Write a cloud's whole audit log: a line of JSON an entry, which can be verified offline."""
    output = invocation.output
    cloud_id = lookup.only(invocation.clients, cloud)
    log = RemoteLog(invocation.clients.manager(cloud_id))
    lines = (audit_entries.line(entry) for entry in _shown(invocation, log))
    if str(file) == "-":
        for line in lines:
            output.out.file.write(line)
        output.out.file.flush()
        return
    _write(file, lines)
    told = {"cloud_id": cloud_id, "file": str(file), **_of_head(log.head)}
    output.record(told, facts([("File", str(file)), *_head_facts(log.head)]))


@command(_app, "verify", epilog=exits.epilog(Exit.NOT_FOUND, Exit.REFUSED, Exit.UNAVAILABLE))
def verify(
    invocation: Invocation,
    cloud: _CloudOption = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="An exported log, instead of a cloud's."),
    ] = None,
    last_sequence: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="A last number that was kept earlier.")
    ] = None,
    last_hash: Annotated[
        str, typer.Option(metavar="HEX", help="A last hash that was kept earlier.")
    ] = "",
) -> None:
    """Verify that audit logs are what was written: nothing changed, removed or put elsewhere. All
    clouds' are, unless one is named.

    Ends with 1 and the first entry that is wrong. What the log once ended with shows whether it was
    cut off, which the log alone cannot.
    """
    noted = Noted(last_sequence, _hash(last_hash))
    if file is not None and cloud is not None:
        raise _wrong("--cloud", "the log is that of --file", "leave one of the two out")
    if file is not None:
        verified = [_verified(str(file), audit_entries.read_file(file), noted)]
        missed = None
    else:
        if noted != Noted():
            cloud = lookup.only(invocation.clients, cloud)
        verified, missed = lookup.gather(
            invocation.clients, cloud, lambda manager: [_verified_cloud(invocation, manager, noted)]
        )
    if invocation.output.is_json:
        invocation.output.rows([row for row, _ in verified], (), "")
    elif verified:
        invocation.output.show(*(view for _, view in verified))
        invocation.output.note(_KEEP)
    if missed:
        raise missed


def _verified_cloud(
    invocation: Invocation, manager: Manager, noted: Noted
) -> tuple[dict[str, Any], RenderableType]:
    log = RemoteLog(manager)
    return _verified(manager.cloud_id, _shown(invocation, log), noted, log.head)


def _verified(
    name: str, entries: Iterable[AuditEntry], noted: Noted, told: Head | None = None
) -> tuple[dict[str, Any], RenderableType]:
    """What is shown of a log that is whole; `told` is the head that its manager says it has."""
    walk = _Walk(entries)
    try:
        head = audit.verify(walk, noted=noted)
        if told not in (None, head):
            raise audit.broken(head.sequence + 1, "missing", "its manager does not list all of it")
    except errors.DataLoss as error:
        named = errors.DataLoss(error.reason, f"{name}: {error.message}", hint=error.hint)
        named.metadata = error.metadata
        raise named from error
    first, last = (each and audit_entries.plain(each)["occurred_at"] for each in walk.ends)
    row = {"log": name, "entries": walk.count, "first_at": first, "last_at": last, **_of_head(head)}
    pairs = [("Log", name), ("Entries", f"{walk.count}, unbroken"), ("From", first), ("To", last)]
    return row, facts([(title, text or "") for title, text in pairs] + _head_facts(head))


class _Walk:
    """Entries on their way to whoever goes through them, counted."""

    def __init__(self, entries: Iterable[AuditEntry]) -> None:
        self._entries = entries
        self.count = 0
        self.ends: tuple[AuditEntry | None, AuditEntry | None] = (None, None)
        """The first and the last."""

    def __iter__(self) -> Iterator[AuditEntry]:
        for entry in self._entries:
            self.count += 1
            self.ends = (self.ends[0] or entry, entry)
            yield entry


def _shown(invocation: Invocation, log: RemoteLog) -> Iterator[AuditEntry]:
    """All entries, while a terminal shows how far it is."""
    with invocation.output.working("Reading the audit log") as tell:
        for at, entry in enumerate(log.entries()):
            if at % PROGRESS_ENTRIES == 0:
                tell(f"Reading the audit log: {at} of {log.head.sequence} entries")
            yield entry


def _write(file: Path, lines: Iterable[str]) -> None:
    """A file that is whole or not there."""
    try:
        with file.open("x", encoding="utf-8") as out:
            try:
                out.writelines(lines)
            except BaseException:
                file.unlink()
                raise
    except OSError as error:
        raise errors.FailedPrecondition(
            "INVALID_FIELD", f"{file}: {error.strerror}", hint="name a file that does not exist yet"
        ) from error


def _matches(entry: AuditEntry, action: str, subject: str) -> bool:
    prefix = action.endswith(".") and entry.action.startswith(action)
    if action and entry.action != action and not prefix:
        return False
    return not subject or subject in (entry.subject, entry.actor, *entry.details.values())


def _hash(text: str) -> bytes | None:
    if not text:
        return None
    try:
        kept = bytes.fromhex(text)
    except ValueError:
        kept = b""
    if len(kept) != audit.HASH_BYTES:
        raise _wrong("--last-hash", "is no hash", f"{2 * audit.HASH_BYTES} hexadecimal digits")
    return kept


def _of_head(head: Head) -> dict[str, Any]:
    return {"last_sequence": head.sequence, "last_hash": head.hash.hex()}


def _head_facts(head: Head) -> list[tuple[str, str]]:
    return [("Last number", str(head.sequence)), ("Last hash", head.hash.hex())]


def _wrong(what: str, problem: str, hint: str) -> errors.InvalidArgument:
    return errors.InvalidArgument("INVALID_FIELD", f"{what}: {problem}", hint=hint)


def _when(row: dict[str, Any]) -> str:
    try:
        return views.when(row["occurred_at"])
    except ValueError:
        return str(row["occurred_at"])


def _details(row: dict[str, Any]) -> str:
    text = " ".join(f"{name}={value}" for name, value in row["details"].items())
    return text if len(text) <= DETAILS_CHARS_MAX else text[: DETAILS_CHARS_MAX - 3] + "..."


def _what(row: dict[str, Any]) -> str:
    """The action, with the one detail that says most."""
    details = row["details"]
    return f"{row['action']} {details.get('state') or details.get('reason', '')}".rstrip()


_COLUMNS = (
    Column("NO", lambda one: str(one["sequence"]), right=True),
    Column("WHEN", _when),
    Column("ACTION", _what),
    Column("OUTCOME", lambda one: "" if one["outcome"] == "done" else one["outcome"]),
    Column("SUBJECT", lambda one: one["subject"]),
    Column("ACTOR", lambda one: one["actor"].removeprefix("spiffe://")),
    Column("DETAILS", _details, optional=True),
)
