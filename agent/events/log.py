"""The log itself: entries, and what the log knows of each machine, in one SQLite file.

Both change in one transaction, so that a change of a machine is recorded exactly if the log knows
the machine's new state. `synchronous=FULL`: what was committed outlives a kill and a power cut.

A file that cannot be read is put aside and another log begun, under a new identity. So is one that
lacks what its reader has seen already: it was set back, and its numbers would be given out twice.
"""

import contextlib
import datetime
import errno
import json
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from agent import files
from agent.events.comparing import Machine
from agent.settings import EventSettings
from watari import clock, errors, logs
from watari.v1 import agent_pb2

FILE = "events.sqlite"
ASIDE = "events.broken.sqlite"
"""Where a log goes that could not be used; the one before it is overwritten."""

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS log (
        id TEXT NOT NULL, last INTEGER NOT NULL, acknowledged INTEGER NOT NULL, looked_at INTEGER
    )""",
    """CREATE TABLE IF NOT EXISTS entries (
        sequence INTEGER PRIMARY KEY, at INTEGER NOT NULL, event BLOB NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS machines (vm_id TEXT PRIMARY KEY, machine TEXT NOT NULL)""",
)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)

_log = logs.get(__name__)


@dataclass(frozen=True)
class Page:
    """What a reader gets."""

    log_id: str
    events: Sequence[agent_pb2.HostEvent]
    first: int
    """Sequence of the oldest entry that is still here; of the next one when none is."""
    last: int
    """Sequence of the newest entry that there ever was."""


class EventLog:
    """One log a host. May be used from any thread."""

    def __init__(self, folder: Path, settings: EventSettings, time: clock.Clock) -> None:
        """Opens or begins the log. Raises Exhausted DISK_FULL, DataLoss DISK_IO."""
        self._path = files.ensure_folder(folder) / FILE
        self._settings = settings
        self._clock = time
        self._changed = threading.Condition(threading.RLock())
        self._closed = False
        self._id = ""
        self._last = self._acknowledged = 0
        self._looked_at: datetime.datetime | None = None
        self._machines: dict[str, Machine] = {}
        with _mapped(self._path):
            self._open()

    @property
    def machines(self) -> Mapping[str, Machine]:
        """What the log knows, by UUID."""
        return MappingProxyType(self._machines)

    @property
    def looked_at(self) -> datetime.datetime | None:
        """When the host was looked at last; None: never, for this log."""
        return self._looked_at

    def append(
        self,
        events: Sequence[agent_pb2.HostEvent],
        machines: Mapping[str, Machine | None],
        looked_at: datetime.datetime | None = None,
    ) -> None:
        """Adds entries, whose numbers it sets, and what is known of machines from now on: None for
        one that is gone. All or nothing; durable when it returns. Raises as the constructor.
        """
        with self._changed, _mapped(self._path):
            last = self._last + len(events)
            looked = looked_at or self._looked_at
            with self._transaction() as write:
                for sequence, event in enumerate(events, self._last + 1):
                    event.sequence = sequence
                    at = _micros(event.occurred_at.ToDatetime(datetime.UTC))
                    row = (sequence, at, event.SerializeToString(deterministic=True))
                    write.execute("INSERT INTO entries VALUES (?, ?, ?)", row)
                for vm_id, known in machines.items():
                    write.execute("DELETE FROM machines WHERE vm_id = ?", (vm_id,))
                    if known is not None:
                        text = json.dumps(asdict(known))
                        write.execute("INSERT INTO machines VALUES (?, ?)", (vm_id, text))
                write.execute(
                    "UPDATE log SET last = ?, looked_at = ?",
                    (last, None if looked is None else _micros(looked)),
                )
                floor = last - self._settings.entries_max
                write.execute("DELETE FROM entries WHERE sequence <= ?", (floor,))
            self._last, self._looked_at = last, looked
            now = {**self._machines, **machines}
            self._machines = {vm_id: known for vm_id, known in now.items() if known is not None}
            self._changed.notify_all()

    def read(
        self, log_id: str, after: int, acknowledged: int, limit: int, wait_seconds_max: float = 0.0
    ) -> Page:
        """Entries after a sequence number of the log `log_id`, and from the beginning for who knows
        another log or none. Waits for one when there is none. Raises as the constructor.
        """
        with self._changed, _mapped(self._path):
            if log_id == self._id and after == self._last:
                self._changed.wait(wait_seconds_max)
            if self._closed:
                raise errors.Unavailable("SERVER_UNAVAILABLE", "the agent is stopping")
            if log_id == self._id and max(after, acknowledged) > self._last:
                _log.warning("the event log was set back", last=self._last, read=after)
                self._begin_anew()
            if log_id != self._id:
                after = acknowledged = 0
            self._acknowledge(acknowledged)
            rows = self._database.execute(
                "SELECT event FROM entries WHERE sequence > ? ORDER BY sequence LIMIT ?",
                (after, limit),
            )
            events = [agent_pb2.HostEvent.FromString(event) for (event,) in rows]
            (first,) = self._database.execute("SELECT min(sequence) FROM entries").fetchone()
            return Page(self._id, events, first or self._last + 1, self._last)

    def close(self) -> None:
        """Lets the file go, and whoever waits."""
        with self._changed:
            self._closed = True
            self._database.close()
            self._changed.notify_all()

    def _acknowledge(self, sequence: int) -> None:
        """Drops what is recorded elsewhere and has been kept for its time."""
        if sequence <= self._acknowledged:
            return
        kept_since = self._clock.now() - datetime.timedelta(seconds=self._settings.kept_seconds)
        with self._transaction() as write:
            write.execute("UPDATE log SET acknowledged = ?", (sequence,))
            # Before the first that is to be kept: the clock may have been set, and no gap is made.
            (kept,) = write.execute(
                "SELECT min(sequence) FROM entries WHERE sequence > ? OR at > ?",
                (sequence, _micros(kept_since)),
            ).fetchone()
            bound = self._last + 1 if kept is None else kept
            write.execute("DELETE FROM entries WHERE sequence < ?", (bound,))
        self._acknowledged = sequence

    def _open(self) -> None:
        try:
            self._load()
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            if isinstance(error, sqlite3.OperationalError) and not _is_unreadable(error):
                raise  # the file system, not the content
            _log.error("the event log cannot be read", error=str(error), aside=ASIDE)
            self._begin_anew()

    def _begin_anew(self) -> None:
        with contextlib.suppress(AttributeError):
            self._database.close()
        # What was committed last may be in the WAL only: it stays with its file, under its name.
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                self._path.with_name(FILE + suffix).replace(self._path.with_name(ASIDE + suffix))
        self._load()

    def _load(self) -> None:
        self._database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            self._database.execute(f"PRAGMA {pragma}")
        (found,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise ValueError(found)
        with self._transaction() as write:
            for statement in _SCHEMA:
                write.execute(statement)
            if write.execute("SELECT 1 FROM log").fetchone() is None:
                write.execute("INSERT INTO log VALUES (?, 0, 0, NULL)", (str(uuid.uuid4()),))
        self._path.chmod(files.FILE_MODE)
        files.sync_folder(self._path.parent)
        (row,) = self._database.execute("SELECT id, last, acknowledged, looked_at FROM log")
        self._id, self._last, self._acknowledged, looked_at = row
        self._looked_at = None if looked_at is None else _EPOCH + looked_at * _MICROSECOND
        self._machines = {
            vm_id: Machine(**json.loads(text))
            for vm_id, text in self._database.execute("SELECT vm_id, machine FROM machines")
        }

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
            self._database.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
                self._database.execute("ROLLBACK")
            raise


def _micros(moment: datetime.datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _is_unreadable(error: sqlite3.Error) -> bool:
    """Whether the storage under the file does not give it back. Another file may lie on better."""
    return _name(error).startswith("SQLITE_IOERR")


def _name(error: Exception) -> str:
    return str(getattr(error, "sqlite_errorname", ""))


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if _name(error) == "SQLITE_FULL" or getattr(error, "errno", None) == errno.ENOSPC:
            raise errors.Exhausted(
                "DISK_FULL",
                f"{path}: no space is left for the event log",
                hint="free some space on the agent's file system",
            ) from error
        raise errors.DataLoss(
            "DISK_IO", f"{path}: {error}", hint="look at the storage of the agent's folder"
        ) from error
