"""The store in one SQLite file, for one directory process."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from directory.leases import LeaseTable, require_owner
from directory.records import Key
from directory.stores import REQUEST_KEPT_SECONDS, Census, Limits, Publication, checks, versions
from directory.stores.sqlite_file import SqliteFile
from directory.stores.versions import Write
from watari import clock, failpoint
from watari.v1 import directory_pb2

SCHEMA_VERSION = 1

AFTER_COMMIT = failpoint.declare("directory.store.after_commit")

_SCHEMA = f"""
{versions.SCHEMA}
CREATE TABLE clouds (cloud_id TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX clouds_by_owner ON clouds (owner);
CREATE TABLE leases (
    lease_id TEXT PRIMARY KEY, cloud_id TEXT NOT NULL, ttl_seconds INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE requests (
    request_id TEXT PRIMARY KEY, digest BLOB NOT NULL, revision INTEGER NOT NULL,
    answered_at REAL NOT NULL  -- Unix time
) WITHOUT ROWID;
CREATE INDEX requests_by_age ON requests (answered_at);
"""


class EmbeddedStore:
    """A DirectoryStore, where the duties of every method are written, in a file."""

    def __init__(self, path: Path, limits: Limits, time: clock.Clock) -> None:
        """Opens or makes the file. Raises InvalidArgument CONFIG_INVALID when it cannot be used."""
        self._limits = limits
        self._clock = time
        self._file = SqliteFile(path, _SCHEMA, SCHEMA_VERSION)
        self._listeners: list[Callable[[], None]] = []
        # Guards what is in memory, and keeps it in step with the transactions that belong to it.
        self._lock = threading.Lock()
        self._compaction = versions.Compaction(limits.changes_kept_max)
        self._leases = LeaseTable(time)
        with self._file.read() as db:
            for row in db.execute(
                "SELECT lease_id, cloud_id, owner, ttl_seconds "
                "FROM leases JOIN clouds USING (cloud_id)"
            ):
                self._leases.hold(*row)

    def revision(self) -> int:
        with self._file.read() as db:
            return versions.position(db)[0]

    def get(self, key: Key) -> tuple[directory_pb2.Record | None, int]:
        with self._file.read() as db:
            return versions.present(db, key), versions.position(db)[0]

    def scan(
        self, revision: int, kind: int, cloud_id: str, after: Key | None, limit: int
    ) -> list[directory_pb2.Record]:
        with self._file.read() as db:
            versions.require_kept(db, revision)
            return versions.scan(db, revision, kind, cloud_id, after, limit)

    def changes(self, after: int, limit: int) -> list[directory_pb2.Change]:
        with self._file.read() as db:
            versions.require_kept(db, after)
            return versions.changes(db, after, limit)

    def age(self) -> float | None:
        return None

    def census(self) -> Census:
        with self._file.read() as db:
            revision, records = versions.position(db)[0], versions.count_by_kind(db)
        with self._lock:
            return Census(revision, records, self._leases.alive())

    def publish(self, publication: Publication) -> int:
        with self._lock, self._file.write() as db:
            known = _remembered(db, publication)
            if known is not None:
                return known
            held = self._leases.require(publication.lease_id, publication.owner)
            checks.require_own_keys(publication, held.cloud_id)
            for put in publication.puts:
                checks.require_generation(put, versions.generation(db, put.key))
            writes = [Write(put.key, put.record, held.lease_id) for put in publication.puts]
            writes += [Write(key) for key in publication.deletes if versions.present(db, key)]
            revision = self._apply(db, writes) if writes else versions.position(db)[0]
            count = versions.count(db, held.cloud_id)
            checks.require_records(count, self._limits.records_per_cloud_max, held.cloud_id)
            db.execute(
                "INSERT INTO requests VALUES (?, ?, ?, ?)",
                (publication.request_id, publication.digest, revision, self._unix_time()),
            )
        self._announce()
        return revision

    def grant_lease(
        self, lease_id: str, cloud_id: str, owner: str, ttl_seconds: int
    ) -> directory_pb2.Lease:
        self._expire_due()
        with self._lock:
            with self._file.write() as db:
                self._bind(db, cloud_id, owner)
                most = self._limits.leases_per_cloud_max
                checks.require_free_lease(self._leases, lease_id, cloud_id, most)
                db.execute(
                    "INSERT INTO leases VALUES (?, ?, ?) ON CONFLICT (lease_id) "
                    "DO UPDATE SET ttl_seconds = excluded.ttl_seconds",
                    (lease_id, cloud_id, ttl_seconds),
                )
            held = self._leases.hold(lease_id, cloud_id, owner, ttl_seconds)
            return self._leases.to_proto(held)

    def renew_lease(self, lease_id: str, owner: str) -> directory_pb2.Lease:
        with self._lock:
            return self._leases.to_proto(self._leases.renew(lease_id, owner))

    def revoke_lease(self, lease_id: str, owner: str) -> None:
        with self._lock:
            held = self._leases.find(lease_id)
            if held is None:
                return
            require_owner(held.cloud_id, held.owner, owner)
            with self._file.write() as db:
                while records := versions.some_kept_by(db, lease_id):
                    self._apply(db, [Write(Key.of(record.key)) for record in records])
                db.execute("DELETE FROM leases WHERE lease_id = ?", (lease_id,))
            self._leases.drop(lease_id)
        self._announce()

    def sweep(self) -> None:
        self._expire_due()
        longest_ago = self._unix_time() - self._limits.stale_retention_seconds
        with self._lock, self._file.write() as db:
            before = versions.position(db)
            while records := versions.some_stale_since(db, longest_ago):
                self._apply(db, [Write(Key.of(record.key)) for record in records])
            forgotten = self._unix_time() - REQUEST_KEPT_SECONDS
            db.execute("DELETE FROM requests WHERE answered_at <= ?", (forgotten,))
            changed = versions.position(db) != before
        if changed:
            self._announce()

    def subscribe(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def _expire_due(self) -> None:
        with self._lock:
            expired = self._leases.expired()
            for held in expired:
                with self._file.write() as db:
                    while records := versions.some_kept_by(db, held.lease_id):
                        stale = [Write(Key.of(each.key), each, stale=True) for each in records]
                        self._apply(db, stale)
                    db.execute("DELETE FROM leases WHERE lease_id = ?", (held.lease_id,))
                self._leases.drop(held.lease_id)
        if expired:
            self._announce()

    def _announce(self) -> None:
        failpoint.hit(AFTER_COMMIT)
        for listener in self._listeners:
            listener()

    def _apply(self, db: sqlite3.Connection, writes: list[Write]) -> int:
        revision = versions.apply(db, writes, self._clock.now())
        self._compaction.count(db, len(writes))
        return revision

    def _bind(self, db: sqlite3.Connection, cloud_id: str, owner: str) -> None:
        bound = db.execute("SELECT owner FROM clouds WHERE cloud_id = ?", (cloud_id,)).fetchone()
        if bound is not None:
            require_owner(cloud_id, bound[0], owner)
            return
        (count,) = db.execute("SELECT COUNT(*) FROM clouds WHERE owner = ?", (owner,)).fetchone()
        checks.require_clouds(count + 1, self._limits.clouds_per_provider_max, owner)
        db.execute("INSERT INTO clouds VALUES (?, ?)", (cloud_id, owner))

    def _unix_time(self) -> float:
        return self._clock.now().timestamp()


def _remembered(db: sqlite3.Connection, publication: Publication) -> int | None:
    row = db.execute(
        "SELECT digest, revision FROM requests WHERE request_id = ?", (publication.request_id,)
    ).fetchone()
    if row is None:
        return None
    checks.require_same_request(publication, row[0])
    return int(row[1])
