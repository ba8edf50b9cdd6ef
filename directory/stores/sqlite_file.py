"""One SQLite file: opened durably by one process, with one writer and a few readers.

Write-ahead log, so that readers do not wait for the writer; synchronous=FULL unless said otherwise,
so that a commit is on the disk when it returns.
"""

import fcntl
import queue
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from watari import errors, failpoint

READERS_MAX = 4
"""Connections for reading: more would only compete for the interpreter."""

READER_WAIT_SECONDS_MAX = 5.0
"""How long a call waits for one of them before it is refused as overload."""

BEFORE_COMMIT = failpoint.declare("directory.store.before_commit")


class SqliteFile:
    """An open database file. Methods may be called from any thread."""

    def __init__(self, path: Path, schema: str, version: int, *, durable: bool = True) -> None:
        """Opens the file, or makes it with `schema`, whose number is `version`.

        What is not `durable` is not flushed: for what can be had again from elsewhere.

        Raises InvalidArgument CONFIG_INVALID when the file cannot be opened, is not a database of
        that version, or is in use by another process.
        """
        self._path = path
        self._synchronous = "FULL" if durable else "OFF"
        self._lock_file = self._lock()
        self._write_lock = threading.Lock()
        try:
            self._writer = self._connect()
            self._prepare(schema, version)
            self._readers: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue(READERS_MAX)
            for _ in range(READERS_MAX):
                self._readers.put(self._connect())
        except sqlite3.Error as error:
            self._lock_file.close()
            raise self._unusable(str(error), "restore it from a copy, or name another") from error
        except errors.WatariError:
            self._lock_file.close()
            raise

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """The only writer, in a transaction: committed at the end, rolled back on an exception."""
        with self._write_lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                failpoint.hit(BEFORE_COMMIT)
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A reader whose statements all see the same committed state.

        Raises Unavailable SERVER_UNAVAILABLE when none becomes free in time.
        """
        try:
            reader = self._readers.get(timeout=READER_WAIT_SECONDS_MAX)
        except queue.Empty:
            raise errors.Unavailable(
                "SERVER_UNAVAILABLE", "the directory is overloaded with queries", hint="try later"
            ) from None
        try:
            reader.execute("BEGIN")
            yield reader
        finally:
            if reader.in_transaction:
                reader.execute("ROLLBACK")
            self._readers.put(reader)

    def close(self) -> None:
        """Closes every connection, and lets another process open the file."""
        with self._write_lock:
            for _ in range(READERS_MAX):
                self._readers.get(timeout=READER_WAIT_SECONDS_MAX).close()
            self._writer.close()
            self._lock_file.close()

    def _connect(self) -> sqlite3.Connection:
        # Autocommit mode: transactions begin and end where this module says, and nowhere else.
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={self._synchronous}")
        return connection

    def _prepare(self, schema: str, version: int) -> None:
        (found,) = self._writer.execute("PRAGMA user_version").fetchone()
        if found == 0:
            script = f"BEGIN IMMEDIATE;\n{schema}\nPRAGMA user_version={version};\nCOMMIT;"
            self._writer.executescript(script)
        elif found != version:
            raise self._unusable(
                f"it has schema version {found}, this release reads {version}",
                "start the release that made it, or name another file",
            )

    def _lock(self) -> IO[bytes]:
        """Two processes would each keep their own leases, and each expire the other's records."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._path.with_name(self._path.name + ".lock").open("wb")
        except OSError as error:
            raise self._unusable(
                str(error), "name a file in a folder that can be written"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise self._unusable(
                "another process uses it", "stop that process, or name another file"
            ) from error
        return file

    def _unusable(self, problem: str, hint: str) -> errors.InvalidArgument:
        return errors.InvalidArgument(
            "CONFIG_INVALID",
            f"state_path {self._path}: {problem}",
            hint=hint,
            key="directory.state_path",
        )
