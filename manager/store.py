"""The database: one writer at a time, every commit on stable storage.

A `write` block is one transaction that sees and changes a state nobody else changes meanwhile;
leaving it normally commits, an exception rolls it all back. A `read` block sees one snapshot.
Nothing in here knows what the tables mean.
"""

import fcntl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from manager import tables
from manager.settings import StoreSettings
from watari import errors

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_READ_ONLY = "watari_read_only"


class Store:
    """Opens or makes the database of `settings`.

    Raises InvalidArgument CONFIG_INVALID when it cannot be opened or is of another schema version.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self._wait_seconds_max = settings.write_wait_seconds_max
        # SQLite's own waiting for a lock polls and is unfair; threads of this process queue here.
        self._writer = threading.Lock()
        self._lock_file = _lock(settings.path)
        self._engine = _engine(settings)
        try:
            self._prepare()
        except sa.exc.DatabaseError as error:
            raise errors.InvalidArgument(
                "CONFIG_INVALID",
                f"the database {settings.path} cannot be opened: {error.orig}",
                hint="check store.path: a manager's database that this user may write to",
            ) from error

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One read-write transaction. Raises Unavailable when it cannot begin in time."""
        if not self._writer.acquire(timeout=self._wait_seconds_max):
            raise _overloaded()
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            raise _overloaded() from error
        finally:
            self._writer.release()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One snapshot. Nothing may be changed in it."""
        with self._engine.connect().execution_options(**{_READ_ONLY: True}) as connection:
            yield connection

    def close(self) -> None:
        """Close every connection and let another process have the database."""
        self._engine.dispose()
        self._lock_file.close()

    def _prepare(self) -> None:
        with self.write() as connection:
            tables.metadata.create_all(connection)
            found = connection.scalar(sa.select(tables.schema.c.version))
            if found is None:
                connection.execute(tables.schema.insert().values(version=tables.SCHEMA_VERSION))
            elif found != tables.SCHEMA_VERSION:
                raise errors.InvalidArgument(
                    "CONFIG_INVALID",
                    f"the database has schema version {found}, this release needs "
                    f"{tables.SCHEMA_VERSION}",
                    hint="use the release that wrote it, or another store.path",
                )


def micros(moment: datetime) -> int:
    """A moment as the tables keep it."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment(value: int) -> datetime:
    """The inverse of `micros`."""
    return _EPOCH + timedelta(microseconds=value)


def _lock(database: Path) -> IO[bytes]:
    """Two managers over one database would drive every migration twice."""
    path = database.with_name(f"{database.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It holds keys of open invitations: for its owner only, and so are the files beside it,
        # which SQLite gives the mode of this one.
        database.touch(mode=0o600)
        database.chmod(0o600)
    except BlockingIOError:
        raise errors.InvalidArgument(
            "CONFIG_INVALID",
            f"another manager uses the database {database}",
            hint="stop it first, or set another store.path",
        ) from None
    except OSError as error:
        raise errors.InvalidArgument(
            "CONFIG_INVALID",
            f"{path}: {error.strerror}",
            hint="check store.path: a folder that this user may write to",
        ) from error
    return file


def _engine(settings: StoreSettings) -> Engine:
    engine = sa.create_engine(
        URL.create("sqlite", database=str(settings.path)),
        pool_size=settings.connections_max,
        max_overflow=0,
        pool_timeout=settings.write_wait_seconds_max,
        connect_args={"timeout": settings.write_wait_seconds_max, "check_same_thread": False},
    )
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver would begin transactions by itself, and too late: `_begin` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    # WAL: readers go on while one writes. FULL: a commit that returned survives a power failure.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    # IMMEDIATE takes the write lock before the first read, so that what a transaction read is
    # still true when it writes.
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _overloaded() -> errors.Unavailable:
    return errors.Unavailable(
        "SERVER_UNAVAILABLE",
        "the manager's database is busy",
        hint="repeat the call; if it lasts, look for slow storage under store.path",
    )
