"""The audit log of this manager, in its database. Runs in the caller's transaction.

`append` belongs in the transaction that does what it tells of: then the entry is there if and only
if that happened. The chain is `watari.audit`'s; the database refuses whatever is no appending
(`manager.tables`). Refused calls, which change nothing, go through `manager.refusals`.

Never: takes an entry back, or changes one.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from manager import tables
from manager.statements import Ask, AskRows, Rows, Statement, Told, run
from manager.store import KNOWN, Store
from watari import audit, logs
from watari.audit import DONE, REFUSED, Head
from watari.identity import SpiffeId
from watari.v1 import audit_pb2
from watari.v1.audit_pb2 import AuditEntry

__all__ = [
    "DONE",
    "REFUSED",
    "Note",
    "append",
    "append_all",
    "appending",
    "asking_head",
    "chained",
    "end",
    "head",
    "page",
    "tell_head",
    "tells",
]

PAGE_BYTES_MAX = 2 * 1024 * 1024
"""Entries of one page take no more, but for the first: half of what a control message may have."""

TELL_HEAD_SECONDS = 3600.0
"""Between two lines in the process's own log that tell the head: where these are collected, nobody
who can write to the database only can take back more than this time without being noticed."""

_HEAD = "audit head"
"""What one transaction, which nobody else appends beside, knows of the chain's end."""

_log = logs.get(__name__)
_ROWS = tables.audit_entries.c
_AS_THEY_ARE = [sa.type_coerce(column, sa.types.NullType()) for column in _ROWS]
"""The columns without conversion: what somebody put there must not keep the log from being read."""


_END = Statement(sa.select(_ROWS.sequence, _ROWS.hash).order_by(_ROWS.sequence.desc()).limit(1))
_APPEND = Rows.inserting(tables.audit_entries, [column.name for column in _ROWS])


@dataclass(frozen=True)
class Note:
    """What is to be added; `append` says what its fields are."""

    now: int
    actor: str
    action: str
    subject: str
    outcome: audit_pb2.AuditOutcome.ValueType = DONE
    details: Mapping[str, object] | None = None


def append(
    connection: Connection,
    now: int,
    *,
    actor: str | SpiffeId,
    action: str,
    subject: str,
    outcome: audit_pb2.AuditOutcome.ValueType = DONE,
    details: Mapping[str, object] | None = None,
) -> AuditEntry:
    """Add an entry; `now` is microseconds since 1970.

    `actor` is who did it: the peer that called, or the manager itself. `details` are names and
    numbers behind it; text beyond the contract's limits is cut.
    """
    note = Note(now, str(actor), action, subject, outcome, details)
    (entry,) = append_all(connection, [note])
    return entry


def append_all(connection: Connection, notes: Sequence[Note]) -> list[AuditEntry]:
    """Add entries, in their order, in one statement."""
    known = connection.info.get(KNOWN, {})
    entries = chained(known.get(_HEAD) or head(connection), notes)
    if entries:
        run(connection, [appending(connection, entries)])
    return entries


def chained(end: Head, notes: Sequence[Note]) -> list[AuditEntry]:
    """The entries that follow `end`."""
    entries = []
    for note in notes:
        new = audit.entry(
            actor=note.actor,
            action=note.action,
            subject=note.subject,
            outcome=note.outcome,
            details=note.details,
        )
        _set_moment(new, note.now)
        entries.append(audit.chain(end, new))
        end = audit.head_of(entries[-1])
    return entries


def appending(connection: Connection, entries: Sequence[AuditEntry]) -> AskRows:
    """Writes entries that follow the log's end, in a write of `connection` that does so next."""
    connection.info.get(KNOWN, {})[_HEAD] = audit.head_of(entries[-1])
    return AskRows(_APPEND, list(map(_values, entries)))


def asking_head() -> Ask:
    """Reads the log's end; `end` tells it."""
    return Ask(_END)


def end(connection: Connection, told: Told) -> Head:
    """What `asking_head` read; the log is read again where somebody put there what is no hash."""
    if not told.rows:
        return audit.START
    sequence, last = told.rows[0]
    sound = isinstance(last, bytes) and len(last) == audit.HASH_BYTES
    return Head(sequence, last) if sound else head(connection)


def head(connection: Connection) -> Head:
    """The newest entry's number and hash; those of `audit.START` while there is none."""
    query = sa.select(*_AS_THEY_ARE).order_by(_ROWS.sequence.desc()).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    return audit.START if row is None else audit.head_of(_entry(row))


def tell_head(store: Store) -> None:
    """Tell the newest entry's number and hash in the process's own log."""
    with store.read() as connection:
        sequence, last_hash = head(connection)
    _log.info("audit log", sequence=sequence, hash=last_hash.hex())


def tells(connection: Connection, action: str, subject: str) -> bool:
    """Whether there is an entry of an action on a subject. Reads the whole log where there is none:
    for what people do, once in a while.
    """
    query = sa.select(_ROWS.sequence).where(_ROWS.action == action, _ROWS.subject == subject)
    return connection.scalar(query.limit(1)) is not None


def page(connection: Connection, *, after: int, limit: int) -> list[AuditEntry]:
    """Entries after a sequence number, oldest first: at most `limit`, and fewer if they are long.

    None at all: there are no further ones.
    """
    query = sa.select(*_AS_THEY_ARE).where(_ROWS.sequence > after).order_by(_ROWS.sequence)
    found: list[AuditEntry] = []
    size = 0
    for row in connection.execute(query.limit(limit)).mappings():
        entry = _entry(row)
        size += entry.ByteSize()
        if found and size > PAGE_BYTES_MAX:
            break
        found.append(entry)
    return found


def _values(entry: AuditEntry) -> dict[str, object]:
    moment = entry.occurred_at
    return {
        "sequence": entry.sequence,
        "occurred_at": moment.seconds * 1_000_000 + moment.nanos // 1000,
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "outcome": entry.outcome,
        "details": json.dumps(dict(entry.details), sort_keys=True, ensure_ascii=False),
        "previous_hash": entry.previous_hash,
        "hash": entry.hash,
    }


def _entry(row: RowMapping) -> AuditEntry:
    """What a row says. Whatever in it this release never wrote is left out: the hash shows it."""
    found = AuditEntry(sequence=row["sequence"])
    for name in ("actor", "action", "subject", "outcome", "previous_hash", "hash"):
        with suppress(TypeError, ValueError):
            setattr(found, name, row[name])
    with suppress(TypeError, ValueError):
        _set_moment(found, row["occurred_at"])
    with suppress(TypeError, ValueError, RecursionError):
        found.details.update(json.loads(row["details"]))
    if found.ByteSize() > audit.ENTRY_BYTES_MAX:
        return AuditEntry(sequence=found.sequence)
    return found


def _set_moment(entry: AuditEntry, now: int) -> None:
    entry.occurred_at.seconds, micros = divmod(now, 1_000_000)
    entry.occurred_at.nanos = micros * 1000
