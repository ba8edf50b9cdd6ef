"""The database: writes one after another, every commit on stable storage.

A `write` block is one transaction that sees and changes a state nobody else changes meanwhile;
leaving it normally means that it is committed, an exception rolls it all back. A `read` block sees
one snapshot. Nothing in here knows what the tables mean.

Writes that wait for their turn share a transaction: each is a savepoint in it, and one COMMIT, with
one flush to the disk, is all of them or none. Whoever finds nobody behind commits, and no block is
left before that. So a flush costs its time once for as many as came during the one before, and
there is no moment in which somebody sees what a power cut could still take back.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from manager import schema
from manager.postgresql import PostgresqlDatabase
from manager.settings.store import StoreSettings
from manager.sqlite import SqliteFile
from manager.statements import Ask, Told, run
from manager.turns import Turns
from watari import errors, logs

COMMIT_SECONDS_MAX = 120.0
"""A write waits for those that share its commit for no longer: each has bounds of its own."""

KNOWN = "watari known"
"""In a write's `Connection.info`: a dict of what holds as long as nobody else writes, and is empty
again in the next transaction, and after a write of the same one was taken back."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FAILED = (
    sa.exc.OperationalError,
    sa.exc.InterfaceError,
    sa.exc.InternalError,
    sa.exc.TimeoutError,
    sa.exc.PendingRollbackError,
)
"""What the database or the way to it did, rather than a statement that is wrong."""

_log = logs.get(__name__)


class Database(Protocol):
    """What differs from one database to another."""

    engine: Engine
    name: str
    """For messages; without secrets."""

    hint: str
    """What to look at when it cannot be opened."""

    def begin_write(self, connection: Connection, asked: Sequence[Ask]) -> Sequence[Told]:
        """Begin a transaction that no other write is beside, from whichever process, and what is
        asked first in it.
        """

    def begin_read(self, connection: Connection) -> None:
        """Begin a transaction that sees one snapshot and changes nothing."""

    def broken(self, connection: Connection) -> bool:
        """Whether the transaction can only be rolled back."""

    def is_away(self, problem: BaseException) -> bool:
        """Whether a problem of opening it may pass by itself; wrong settings do not."""

    def close(self) -> None:
        """Close every connection."""


class Guard(Protocol):
    """Says whether this process may go on with a database that others share."""

    def require_in_time(self) -> None:
        """Raises Unavailable: it may not be so any more."""

    @property
    def question(self) -> Sequence[Ask]:
        """Is put at the begin of a write transaction."""

    def require_held(self, told: Sequence[Told]) -> None:
        """By what was told. Raises FailedPrecondition: it may not."""


class _Shared:
    """One transaction of several writes."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.begun = 0
        self.kept = 0
        """Writes that are to be committed."""

        self.lost = False
        """It can only be rolled back."""

        self.ended = threading.Event()
        self.committed = False


class Store:
    """Opens or makes the database of `settings`.

    Raises InvalidArgument CONFIG_INVALID when it cannot be opened or is of a newer release, and
    Unavailable when its server is away: `manager.opening` waits for it.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self._wait_seconds_max = settings.write_wait_seconds_max
        self._writes_at_once_max = settings.writes_at_once_max
        # A database's own waiting for a lock may poll or be unfair; threads of this process queue
        # here.
        self._turns = Turns()
        self._shared: _Shared | None = None
        """The transaction that the one who has the turn goes on with."""
        self._database: Database = (
            PostgresqlDatabase(settings) if settings.url else SqliteFile(settings)
        )
        self.guard: Guard | None = None
        """Asked for each transaction, once there is one."""

        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def write(self, *, in_time: bool = True) -> Iterator[Connection]:
        """One read-write transaction. Without `in_time` the guard may be late, which renews it.
        Raises what `write_asking` raises.
        """
        with self.write_asking(tuple, in_time=in_time) as (connection, _):
            yield connection

    @contextmanager
    def write_asking(
        self, asking: Callable[[], Sequence[Ask]], *, in_time: bool = True
    ) -> Iterator[tuple[Connection, Sequence[Told]]]:
        """One read-write transaction, and what came of the questions that it begins with: they take
        no round trip of their own. `asking` is called once it can begin.

        Raises Unavailable when it cannot begin in time, and when it is not known to be committed:
        the connection may die while COMMIT is on its way. Whoever repeats the call finds out, as
        the next write begins after that COMMIT has come to an end.
        """
        if in_time and self.guard is not None:
            self.guard.require_in_time()
        if not self._turns.take(self._wait_seconds_max):
            raise _overloaded()
        sound = False
        try:
            shared, told = self._join(asking())
            yield shared.connection, told
            self._require_sound(shared)
            sound = True
        except _FAILED as error:
            raise _unavailable(error) from error
        finally:
            if not sound:
                self._take_back()
        shared.kept += 1
        if shared.begun < self._writes_at_once_max and self._turns.hand_on():
            shared.ended.wait(COMMIT_SECONDS_MAX)
        else:
            self._end(shared)
        if not shared.committed:
            raise _overloaded()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One snapshot. Nothing may be changed in it. Raises Unavailable."""
        if self.guard is not None:
            self.guard.require_in_time()
        try:
            with self._database.engine.connect() as connection:
                self._database.begin_read(connection)
                yield connection
        except _FAILED as error:
            raise _unavailable(error) from error

    def close(self) -> None:
        """Close every connection and let another process have the database."""
        self._database.close()

    def _join(self, asked: Sequence[Ask]) -> tuple[_Shared, Sequence[Told]]:
        """The transaction that is open, or a new one, and what it was asked. The caller has the
        turn.
        """
        shared = self._shared
        if shared is None:
            connection = self._database.engine.connect()
            try:
                guard = self.guard
                question = guard.question if guard is not None else ()
                told = self._database.begin_write(connection, [*question, *asked])
                if guard is not None:
                    guard.require_held(told[: len(question)])
            except BaseException:
                connection.close()
                raise
            connection.info[KNOWN] = {}
            shared = self._shared = _Shared(connection)
            told = told[len(question) :]
        else:
            # Until it stands there is nothing of this write to go back to, and all of it is lost.
            shared.lost = True
            shared.connection.exec_driver_sql("SAVEPOINT one")
            shared.lost = False
            told = run(shared.connection, asked) if asked else ()
        shared.begun += 1
        return shared, told

    def _require_sound(self, shared: _Shared) -> None:
        """A block may have gone on after a statement that failed: nothing of it can be kept."""
        if shared.connection.invalidated or self._database.broken(shared.connection):
            raise _overloaded()

    def _take_back(self) -> None:
        """Undo the write that has the turn, none of those before it, and end the turn."""
        shared = self._shared
        if shared is None:
            self._turns.leave()
            return
        try:
            if shared.kept and not shared.lost:
                shared.connection.exec_driver_sql("ROLLBACK TO SAVEPOINT one")
                shared.connection.info[KNOWN] = {}
        except (sa.exc.DBAPIError, sa.exc.PendingRollbackError):
            shared.lost = True
        if not shared.kept or shared.lost or not self._turns.hand_on():
            self._end(shared)

    def _end(self, shared: _Shared) -> None:
        """Commit or, when there is nothing to keep, roll back; end the turn, and tell all."""
        self._shared = None
        try:
            if shared.kept and not shared.lost:
                shared.connection.exec_driver_sql("COMMIT")
                shared.committed = True
            else:
                shared.connection.exec_driver_sql("ROLLBACK")
        except (sa.exc.DBAPIError, sa.exc.PendingRollbackError) as error:
            _unavailable(error)
            # What the server makes of it is not known; the pool must not hand it to the next.
            shared.connection.invalidate()
        finally:
            try:
                shared.connection.close()
            finally:
                self._turns.leave()
                shared.ended.set()

    def _prepare(self) -> None:
        try:
            with self.write() as connection:
                schema.upgrade(connection)
        except errors.Unavailable as error:
            raise self._closed(error.__cause__ or error) from error
        except sa.exc.DatabaseError as error:
            raise self._closed(error) from error

    def _closed(self, problem: BaseException) -> errors.WatariError:
        said = str(getattr(problem, "orig", None) or problem).strip()
        if self._database.is_away(problem):
            return errors.Unavailable(
                "SERVER_UNAVAILABLE",
                f"the database {self._database.name} is away: {said}",
                hint=self._database.hint,
            )
        return errors.InvalidArgument(
            "CONFIG_INVALID",
            f"the database {self._database.name} cannot be opened: {said}",
            hint=self._database.hint,
        )


def micros(moment: datetime) -> int:
    """A moment as the tables keep it."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment(value: int) -> datetime:
    """The inverse of `micros`."""
    return _EPOCH + timedelta(microseconds=value)


def _unavailable(error: BaseException) -> errors.Unavailable:
    _log.warning("database", problem=str(getattr(error, "orig", error)).strip())
    return _overloaded()


def _overloaded() -> errors.Unavailable:
    return errors.Unavailable(
        "SERVER_UNAVAILABLE",
        "the manager's database is busy or away",
        hint="repeat the call; if it lasts, look at the database's server and its storage",
    )
