"""The database of automatic placement: one SQLite file that one broker has."""

import fcntl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from broker.automation import tables
from watari import errors

CONNECTIONS_MAX = 8
"""Open connections: readers that are more would wait for the interpreter all the same."""

WAIT_SECONDS_MAX = 5.0
"""A transaction that cannot begin within this time is refused as overload."""


class Store:
    """An open file. May be used from any thread.

    Raises InvalidArgument CONFIG_INVALID when it cannot be opened, is another broker's, or of
    another release.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_file = self._lock()
        # SQLite's own waiting polls; threads of this process queue here.
        self._writing = threading.Lock()
        self._engine = _engine(path)
        try:
            self._prepare()
        except sa.exc.DBAPIError as error:
            self.close()
            raise self._unusable(f"{error.orig}", "restore it, or name another file") from error
        except errors.WatariError:
            self.close()
            raise

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """The one read-write transaction: committed and on the disk at the end, rolled back on an
        exception. Raises Unavailable SERVER_UNAVAILABLE.
        """
        if not self._writing.acquire(timeout=WAIT_SECONDS_MAX):
            raise _overloaded()
        try:
            with self._begun("BEGIN IMMEDIATE") as connection:
                yield connection
                connection.commit()
        finally:
            self._writing.release()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One snapshot. Raises Unavailable SERVER_UNAVAILABLE."""
        with self._begun("BEGIN") as connection:
            yield connection

    def close(self) -> None:
        """Let another process have it."""
        self._engine.dispose()
        self._lock_file.close()

    @contextmanager
    def _begun(self, statement: str) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql(statement)
                yield connection
        except (sa.exc.OperationalError, sa.exc.TimeoutError) as error:
            raise _overloaded() from error

    def _prepare(self) -> None:
        with self.write() as connection:
            found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if found == 0:
                tables.metadata.create_all(connection)
                connection.exec_driver_sql(f"PRAGMA user_version={tables.VERSION}")
            elif found != tables.VERSION:
                raise self._unusable(
                    f"it has version {found}, this release reads {tables.VERSION}",
                    "start the release that made it, or name another file",
                )

    def _lock(self) -> IO[bytes]:
        """Two brokers over one file would each count only their own moves."""
        path = self._path.with_name(f"{self._path.name}.lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Delegations are in it: for its owner only, and so are the files beside it.
            self._path.touch(mode=0o600)
            self._path.chmod(0o600)
        except BlockingIOError:
            raise self._unusable("another broker uses it", "name another file") from None
        except OSError as error:
            hint = "name a file in a folder that this user may write to"
            raise self._unusable(error.strerror or str(error), hint) from error
        return file

    def _unusable(self, problem: str, hint: str) -> errors.InvalidArgument:
        return errors.InvalidArgument(
            "CONFIG_INVALID",
            f"automation.path {self._path}: {problem}",
            hint=hint,
            key="broker.automation.path",
        )


def _engine(path: Path) -> Engine:
    engine = sa.create_engine(
        URL.create("sqlite", database=str(path)),
        pool_size=CONNECTIONS_MAX,
        max_overflow=0,
        pool_timeout=WAIT_SECONDS_MAX,
        connect_args={"timeout": WAIT_SECONDS_MAX, "check_same_thread": False},
    )
    event.listen(engine, "connect", _configure)
    return engine


def _configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver would begin transactions by itself, and too late.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _overloaded() -> errors.Unavailable:
    return errors.Unavailable(
        "SERVER_UNAVAILABLE", "the broker's database is busy", hint="ask again in a moment"
    )
