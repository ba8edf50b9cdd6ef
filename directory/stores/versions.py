"""The history of records as one SQLite table.

Every version of a record is a row, valid from its `revision` until, exclusively, the revision in
`superseded`; a deletion is a row without a record. One table so answers all three questions:

    now                  superseded = 9223372036854775807 (the view `present`)
    as it was at R       revision <= R < superseded
    changes after R      revision > R

Compaction to C drops the rows that neither of the last two needs for any R >= C.

Never: begins or ends a transaction; each function runs in its caller's.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from directory.records import Key
from directory.stores import CHANGE_BYTES_MAX, CHANGES_PER_REVISION_MAX
from watari import errors
from watari.v1 import directory_pb2

SCHEMA = """
CREATE TABLE position (revision INTEGER NOT NULL, compacted INTEGER NOT NULL);
INSERT INTO position VALUES (1, 1);  -- FIRST_REVISION
CREATE TABLE versions (
    kind INTEGER NOT NULL,
    cloud_id TEXT NOT NULL,
    name TEXT NOT NULL,
    revision INTEGER NOT NULL,
    superseded INTEGER NOT NULL DEFAULT 9223372036854775807,
    lease_id TEXT,     -- NULL once the lease has expired
    stale_since REAL,  -- Unix time; NULL while fresh
    record BLOB,       -- serialized Record; NULL is a deletion
    PRIMARY KEY (kind, cloud_id, name, revision)
);
CREATE VIEW present AS
    SELECT * FROM versions WHERE superseded = 9223372036854775807 AND record IS NOT NULL;
CREATE INDEX present_by_cloud ON versions (cloud_id)
    WHERE superseded = 9223372036854775807 AND record IS NOT NULL;
CREATE INDEX present_by_lease ON versions (lease_id)
    WHERE superseded = 9223372036854775807 AND record IS NOT NULL;
CREATE INDEX present_by_staleness ON versions (stale_since)
    WHERE superseded = 9223372036854775807 AND record IS NOT NULL;
CREATE INDEX versions_by_revision ON versions (revision);
CREATE INDEX past_by_end ON versions (superseded) WHERE superseded < 9223372036854775807;
CREATE INDEX deletions_by_revision ON versions (revision) WHERE record IS NULL;
"""

COMPACTION_SLACK = 10

_ALL_KINDS_END = 2**31
"""Beyond every number of an enum."""


class Row(NamedTuple):
    """What a revision did to one record."""

    key: Key
    record: bytes | None = None
    """Serialized, with everything that the directory sets; None is a deletion."""
    lease_id: str | None = None
    stale_since: float | None = None
    """Unix time."""


class Compaction:
    """When history is dropped: once it exceeds its limit by one part in COMPACTION_SLACK, so not on
    every change. Used by one writer at a time.
    """

    def __init__(self, changes_kept_max: int) -> None:
        self._changes_kept_max = changes_kept_max
        self._changes = 0

    def count(self, db: sqlite3.Connection, changes: int) -> None:
        """So many changes have been made in this transaction."""
        self._changes += changes
        if self._changes > self._changes_kept_max // COMPACTION_SLACK:
            self._changes = 0
            compact(db, self._changes_kept_max)


@dataclass(frozen=True)
class Write:
    """One record of a revision; no record is a deletion."""

    key: Key
    record: directory_pb2.Record | None = None
    lease_id: str | None = None
    stale: bool = False


def position(db: sqlite3.Connection) -> tuple[int, int]:
    """The last revision, and the one that history is compacted to."""
    last, compacted = db.execute("SELECT revision, compacted FROM position").fetchone()
    return last, compacted


def require_kept(db: sqlite3.Connection, revision: int) -> None:
    """Raises OutOfRange REVISION_COMPACTED when `revision` is not kept, or not reached."""
    last, compacted = position(db)
    if not compacted <= revision <= last:
        raise errors.OutOfRange(
            "REVISION_COMPACTED",
            f"revision {revision} is not kept: the directory holds {compacted} to {last}",
            hint="query again, and go on from the revision of that answer",
            revision=revision,
            oldest=compacted,
            newest=last,
        )


def present(db: sqlite3.Connection, key: Key) -> directory_pb2.Record | None:
    """The record now, or None."""
    row = db.execute(
        "SELECT record FROM present WHERE kind = ? AND cloud_id = ? AND name = ?", key
    ).fetchone()
    return directory_pb2.Record.FromString(row[0]) if row else None


def generation(db: sqlite3.Connection, key: Key) -> int:
    """The record's generation now; 0 when there is none."""
    record = present(db, key)
    return record.generation if record else 0


def count(db: sqlite3.Connection, cloud_id: str) -> int:
    """Records of the cloud now."""
    row = db.execute("SELECT COUNT(*) FROM present WHERE cloud_id = ?", (cloud_id,)).fetchone()
    return int(row[0])


def count_by_kind(db: sqlite3.Connection) -> dict[tuple[int, bool], int]:
    """Records now, by kind and whether they are stale."""
    rows = db.execute(
        "SELECT kind, stale_since IS NOT NULL, COUNT(*) FROM present GROUP BY 1, 2"
    ).fetchall()
    return {(kind, bool(stale)): count for kind, stale, count in rows}


def some_kept_by(db: sqlite3.Connection, lease_id: str) -> list[directory_pb2.Record]:
    """Records of the lease, as many as may share a revision; empty when there are none."""
    return _one_revision(db.execute("SELECT record FROM present WHERE lease_id = ?", (lease_id,)))


def some_stale_since(db: sqlite3.Connection, unix_time: float) -> list[directory_pb2.Record]:
    """Records stale since then or longer, as many as may share a revision."""
    return _one_revision(
        db.execute("SELECT record FROM present WHERE stale_since <= ?", (unix_time,))
    )


def scan(
    db: sqlite3.Connection, revision: int, kind: int, cloud_id: str, after: Key | None, limit: int
) -> list[directory_pb2.Record]:
    """As DirectoryStore.scan, without its check of the revision."""
    start = after or Key(kind, cloud_id if kind else "", "")
    end = kind + 1 if kind else _ALL_KINDS_END
    rows = db.execute(
        """
        SELECT record FROM versions
        WHERE (kind, cloud_id, name) > (?, ?, ?) AND kind < ? AND (? = '' OR cloud_id = ?)
            AND revision <= ? AND superseded > ? AND record IS NOT NULL
        ORDER BY kind, cloud_id, name LIMIT ?
        """,
        (*start, end, cloud_id, cloud_id, revision, revision, limit),
    )
    return [directory_pb2.Record.FromString(raw) for (raw,) in rows]


def changes(db: sqlite3.Connection, after: int, limit: int) -> list[directory_pb2.Change]:
    """As DirectoryStore.changes, without its check of the revision."""
    revisions = db.execute(
        "SELECT revision FROM versions WHERE revision > ? ORDER BY revision LIMIT ?",
        (after, limit + 1),
    ).fetchall()
    if not revisions:
        return []
    (first,), (last,) = revisions[0], revisions[-1]
    # With more to come, the last revision may be cut: leave it out unless it is the only one.
    until = max(first, last - 1) if len(revisions) > limit else last
    rows = db.execute(
        """
        SELECT kind, cloud_id, name, revision, record FROM versions
        WHERE revision > ? AND revision <= ? ORDER BY revision, kind, cloud_id, name
        """,
        (after, until),
    )
    return [_change(Key(*key), revision, raw) for *key, revision, raw in rows]


def apply(db: sqlite3.Connection, writes: list[Write], now: datetime) -> int:
    """Makes the writes, at least one, the next revision; returns it."""
    revision = position(db)[0] + 1
    add(db, revision, [_row(db, write, revision, now) for write in writes])
    return revision


def add(db: sqlite3.Connection, revision: int, rows: Sequence[Row]) -> None:
    """Makes `revision`, later than all others, the last one, with what it changed: a row a key."""
    db.execute("UPDATE position SET revision = ?", (revision,))
    db.executemany(
        """
        UPDATE versions SET superseded = ? WHERE superseded = 9223372036854775807
            AND kind = ? AND cloud_id = ? AND name = ?
        """,
        [(revision, *row.key) for row in rows],
    )
    db.executemany(
        """
        INSERT INTO versions (kind, cloud_id, name, revision, lease_id, stale_since, record)
        VALUES (?, ?, ?, ?, ?, ?, ?)
        """,
        [(*row.key, revision, row.lease_id, row.stale_since, row.record) for row in rows],
    )


def compact(db: sqlite3.Connection, changes_kept: int) -> None:
    """Drops history so that at most `changes_kept` changes of whole revisions are left."""
    dropped = db.execute(
        "SELECT revision FROM versions ORDER BY revision DESC LIMIT 1 OFFSET ?", (changes_kept,)
    ).fetchone()
    if dropped is None or dropped[0] <= position(db)[1]:
        return
    db.execute("UPDATE position SET compacted = ?", dropped)
    db.execute(
        "DELETE FROM versions WHERE superseded <= ? AND superseded < 9223372036854775807", dropped
    )
    db.execute("DELETE FROM versions WHERE record IS NULL AND revision <= ?", dropped)


def _row(db: sqlite3.Connection, write: Write, revision: int, now: datetime) -> Row:
    """What the directory sets is set."""
    if write.record is None:
        return Row(write.key)
    record = directory_pb2.Record()
    record.CopyFrom(write.record)
    record.generation = generation(db, write.key) + 1
    record.revision = revision
    record.updated_at.FromDatetime(now)
    record.stale = write.stale
    stale_since = now.timestamp() if write.stale else None
    return Row(write.key, record.SerializeToString(), write.lease_id, stale_since)


def _one_revision(rows: sqlite3.Cursor) -> list[directory_pb2.Record]:
    part: list[directory_pb2.Record] = []
    size = 0
    for (raw,) in rows:
        size += len(raw)
        if part and size > CHANGE_BYTES_MAX:
            break
        part.append(directory_pb2.Record.FromString(raw))
        if len(part) == CHANGES_PER_REVISION_MAX:
            break
    rows.close()
    return part


def _change(key: Key, revision: int, raw: bytes | None) -> directory_pb2.Change:
    change = directory_pb2.Change(revision=revision)
    if raw is None:
        change.kind = directory_pb2.CHANGE_KIND_DELETE
        change.record.key.CopyFrom(key.to_proto())
    else:
        change.kind = directory_pb2.CHANGE_KIND_PUT
        change.record.ParseFromString(raw)
    return change
