"""The database as one SQLite file, which one process at a time has."""

import fcntl
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from manager.settings.store import StoreSettings
from manager.statements import Ask, Told, run
from watari import errors


class SqliteFile:
    """A database of `manager.store`."""

    def __init__(self, settings: StoreSettings) -> None:
        self._lock_file = _lock(settings.path)
        self.engine = _engine(settings)
        self.name = str(settings.path)
        self.hint = "check store.path: a manager's database that this user may write to"

    def begin_write(self, connection: Connection, asked: Sequence[Ask]) -> Sequence[Told]:
        """Takes the write lock before the first read: what a transaction read is still true when it
        writes.
        """
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return run(connection, asked)

    def begin_read(self, connection: Connection) -> None:
        """One snapshot."""
        connection.exec_driver_sql("BEGIN")

    def broken(self, connection: Connection) -> bool:
        """Whether SQLite has rolled the transaction back by itself (full disk, I/O error)."""
        driver = connection.connection.driver_connection
        return driver is None or not driver.in_transaction

    def is_away(self, _problem: BaseException) -> bool:
        """Never: a file of this machine is there, or is not."""
        return False

    def close(self) -> None:
        """Let another process have it."""
        self.engine.dispose()
        self._lock_file.close()


def _lock(database: Path) -> IO[bytes]:
    """Two managers over one file would drive every migration twice."""
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
            hint="stop it first, set another store.path, or store.url to share a PostgreSQL",
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
    return engine


def _configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver would begin transactions by itself, and too late: the store does.
    connection.isolation_level = None
    cursor = connection.cursor()
    # WAL: readers go on while one writes. FULL: a commit that returned survives a power failure.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
