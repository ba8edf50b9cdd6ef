"""The index of one image: an immutable SQLite file, block fingerprint -> block number.

`fingerprint` is the table's own key (its rowid), which measured smaller and faster than a table
without one. The file is written by `building` and never changed; whatever cannot be used, damaged,
of another version or made under another key, is deleted here and counts as not there.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

from agent.seeds.images import Identity
from watari import errors, logs

VERSION = 1
"""Of the file; another one is built again."""

CACHE_BYTES_MAX = 4 * 1024 * 1024
"""Memory for pages of one open index; the kernel caches the rest."""

READ_AHEAD_BYTES_MAX = 256 * 1024 * 1024
"""What the kernel is asked to fetch when an index is opened: lookups hit pages at random, which
slow storage would answer one at a time."""

SCHEMA = (
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE blocks(fingerprint INTEGER PRIMARY KEY, block INTEGER NOT NULL)",
)

_CHUNKS = (256, 16)
"""Fingerprints in one query. Two sizes, so that SQLite compiles two statements."""

_NOBODY = -1
"""Fills a query up; no fingerprint is negative."""

_QUERIES = {
    size: "SELECT fingerprint, block FROM blocks WHERE fingerprint IN ("  # noqa: S608 - only "?"
    + ",".join("?" * size)
    + ")"
    for size in _CHUNKS
}

_log = logs.get(__name__)


class BlockIndex:
    """One image's index, open for reading. Safe to share between threads."""

    def __init__(self, path: Path, connection: sqlite3.Connection, identity: Identity) -> None:
        self.path = path
        self.identity = identity
        """The image that was read, as it was then."""
        self._connection: sqlite3.Connection | None = connection
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path, check_value: bytes) -> Self | None:
        """The index at `path`, or None when there is none that was made under this key.

        `check_value` is that of the scope's Fingerprints. A file that cannot be used is deleted.
        """
        if not path.is_file():
            return None
        connection: sqlite3.Connection | None = None
        try:
            connection = _connect(path)
            meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
            identity = _identity(meta, check_value)
        except (sqlite3.Error, ValueError) as error:
            if connection is not None:
                connection.close()
            discard(path, str(error))
            return None
        return cls(path, connection, identity)

    def find(self, fingerprints: Sequence[int]) -> list[int | None]:
        """The block number of each fingerprint; None where the image has no such block.

        Numbers are hints: check them against the image's size. Raises DataLoss DISK_IO when the
        file is damaged, which deletes it, and for a closed index.
        """
        found: dict[int, int] = {}
        with self._lock:
            if self._connection is None:
                raise errors.DataLoss("DISK_IO", f"index {self.path.name} is closed")
            try:
                at = 0
                while at < len(fingerprints):
                    size = _CHUNKS[0] if len(fingerprints) - at > _CHUNKS[1] else _CHUNKS[1]
                    chunk = list(fingerprints[at : at + size])
                    chunk += [_NOBODY] * (size - len(chunk))
                    found.update(self._connection.execute(_QUERIES[size], chunk).fetchall())
                    at += size
            except sqlite3.Error as error:
                discard(self.path, str(error))
                raise errors.DataLoss(
                    "DISK_IO", f"index {self.path.name}: {error}", hint="it will be built again"
                ) from error
        return [found.get(each) for each in fingerprints]

    def close(self) -> None:
        """Closes the file; again is fine."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def meta_rows(check_value: bytes, image: Path, identity: Identity) -> Iterable[tuple[str, object]]:
    """What `meta` of a new index holds; the path is there for people only."""
    return {
        "version": VERSION,
        "check_value": check_value,
        "image": str(image),
        # As text: inode numbers may have 64 bits, SQLite's integers have 63.
        **{name: str(value) for name, value in asdict(identity).items()},
    }.items()


def discard(path: Path, why: str) -> None:
    """Deletes an index that cannot be used."""
    _log.warning("block index deleted", index=path.name, why=why)
    with contextlib.suppress(OSError):
        path.unlink()


def _connect(path: Path) -> sqlite3.Connection:
    # Immutable: nobody writes to the file once it has its name, so no locks and no journal.
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
    connection.execute(f"PRAGMA cache_size = {-(CACHE_BYTES_MAX // 1024)}")
    _read_ahead(path)
    return connection


def _read_ahead(path: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, READ_AHEAD_BYTES_MAX, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def _identity(meta: dict[str, object], check_value: bytes) -> Identity:
    if meta.get("version") != VERSION:
        raise ValueError(f"version {meta.get('version')} is not {VERSION}")
    if meta.get("check_value") != check_value:
        raise ValueError("made under another key")
    numbers = [meta.get(name) for name in Identity.__dataclass_fields__]
    if not all(isinstance(each, str) for each in numbers):
        raise ValueError("it does not say which image it describes")
    return Identity(*[int(str(each)) for each in numbers])
