"""The catalogue as etcd's watch tells it, in a private SQLite file. Answers every read.

It has the history of etcd from some revision on, by the same tables as the embedded store, so that
reads cost etcd nothing, go on while etcd is away, and see one state. The file is thrown away.
"""

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from directory.leases import Held
from directory.stores import versions
from directory.stores.sqlite_file import SqliteFile
from directory.stores.versions import Row
from watari import errors

SCHEMA_VERSION = 1

_SCHEMA = f"""
{versions.SCHEMA}
CREATE TABLE clouds (
    cloud_id TEXT PRIMARY KEY, owner TEXT NOT NULL,
    revision INTEGER NOT NULL  -- of its key in etcd
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class CloudKey:
    """A cloud's key in etcd, as far as writers must know it."""

    owner: str
    revision: int
    """Changes with every change of the cloud's records."""


@dataclass
class Step:
    """What one revision of etcd did."""

    revision: int
    rows: list[Row] = field(default_factory=list)
    clouds: dict[str, CloudKey | None] = field(default_factory=dict)
    """None: the key is gone."""


class Replica:
    """The file. One thread writes; methods that read may be called from any thread."""

    def __init__(self, changes_kept_max: int) -> None:
        """Empty, in a temporary folder. Raises OSError."""
        self._folder = tempfile.TemporaryDirectory(prefix="watari-directory-")
        path = Path(self._folder.name) / "replica.db"
        self._file = SqliteFile(path, _SCHEMA, SCHEMA_VERSION, durable=False)
        self._compaction = versions.Compaction(changes_kept_max)

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """All that is read within it belongs to one state; `versions` reads records."""
        with self._file.read() as db:
            yield db

    def add(self, steps: Sequence[Step]) -> bool:
        """Applies steps in order, all or none; tells whether any record changed."""
        if not steps:
            return False
        changes = 0
        with self._file.write() as db:
            for step in steps:
                for cloud_id, cloud in step.clouds.items():
                    _set_cloud(db, cloud_id, cloud)
                if step.rows:
                    versions.add(db, step.revision, step.rows)
                    changes += len(step.rows)
            self._compaction.count(db, changes)
        return changes > 0

    def reset(
        self, revision: int, rows: Iterable[tuple[int, Row]], clouds: Mapping[str, CloudKey]
    ) -> None:
        """Begins again at `revision`, the catalogue's last, with records, each with its own
        revision. There is no history before.
        """
        with self._file.write() as db:
            db.execute("DELETE FROM versions")
            db.execute("DELETE FROM clouds")
            for changed_at, row in rows:
                versions.add(db, changed_at, [row])
            db.execute("UPDATE position SET revision = ?, compacted = ?", (revision, revision))
            for cloud_id, cloud in clouds.items():
                _set_cloud(db, cloud_id, cloud)

    def close(self) -> None:
        """Deletes the file."""
        self._file.close()
        self._folder.cleanup()


def cloud_of(db: sqlite3.Connection, cloud_id: str) -> CloudKey | None:
    """The cloud's key, or None."""
    found = db.execute(
        "SELECT owner, revision FROM clouds WHERE cloud_id = ?", (cloud_id,)
    ).fetchone()
    return CloudKey(*found) if found else None


def require_cloud(db: sqlite3.Connection, held: Held) -> CloudKey:
    """The key of a lease's cloud. Raises NotFound LEASE_NOT_FOUND: it was deleted by hand."""
    cloud = cloud_of(db, held.cloud_id)
    if cloud is None:
        raise errors.NotFound(
            "LEASE_NOT_FOUND",
            f"cloud {held.cloud_id} is not known any more",
            hint="grant a new lease and publish the records again",
            lease_id=held.lease_id,
        )
    return cloud


def kept_by_none(db: sqlite3.Connection, alive: Iterable[str]) -> list[str]:
    """Leases that records still belong to and that are not among those alive."""
    rows = db.execute("SELECT DISTINCT lease_id FROM present WHERE lease_id IS NOT NULL")
    return sorted({lease_id for (lease_id,) in rows} - set(alive))


def _set_cloud(db: sqlite3.Connection, cloud_id: str, cloud: CloudKey | None) -> None:
    if cloud is None:
        db.execute("DELETE FROM clouds WHERE cloud_id = ?", (cloud_id,))
        return
    db.execute(
        "INSERT INTO clouds VALUES (?, ?, ?) ON CONFLICT (cloud_id) "
        "DO UPDATE SET owner = excluded.owner, revision = excluded.revision",
        (cloud_id, cloud.owner, cloud.revision),
    )
