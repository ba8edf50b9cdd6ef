"""Which manager works, where several share one PostgreSQL: a lease, and a token that fences.

One process holds the lease and is the cloud's manager: it answers, drives every migration and does
every chore. The others stand by, each until the lease has run out by the database's clock. Taking
it raises the token, and every write of the holder looks at the token in its own transaction, after
it got the lock of writes. So who was taken for dead and wakes up writes nothing any more, whatever
it had read; what it still orders of an agent before it notices is what its successor orders as
well, once more, under the same grant and epoch. The generations of rows do not do that: they refuse
a step that was decided on an old row, not a second process that reads the row anew and goes on.

On SQLite the lock on the file does all of this.
"""

import os
import socket
import threading
import uuid
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from manager import tables
from manager.statements import Ask, Statement, Told
from manager.store import Store
from watari import errors, logs
from watari.clock import Clock

NAME = "manager"
"""Of the one lease that there is."""

STAND_BY_SECONDS = 0.5
"""Between two looks of a manager that stands by."""

RENEWALS = 3
"""In the time of a lease."""

EXIT_LEASE_LOST = 3

_log = logs.get(__name__)
_ROWS = tables.leases.c
_TOKEN = Statement(sa.select(_ROWS.token).where(_ROWS.name == NAME))
_CLOCK = sa.func.clock_timestamp()
_NOW = sa.cast(sa.extract("epoch", _CLOCK) * 1_000_000, sa.BigInteger)


class Lease:
    """The lease of one process over `store`. `lost` is called, once, when another one has it."""

    def __init__(
        self, store: Store, clock: Clock, seconds: float, lost: Callable[[], None] | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._seconds = seconds
        self._lost = lost or _end_at_once
        self.question = (Ask(_TOKEN),)
        self._holder = f"{socket.gethostname()[:60]}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._token = 0
        self._valid_until = 0.0

    @property
    def renew_seconds(self) -> float:
        """Between two renewals."""
        return self._seconds / RENEWALS

    def await_turn(self, stopping: threading.Event | None = None) -> None:
        """Stand by until this process is the one that works; from then on its writes are fenced.

        Raises Cancelled once `stopping` is set.
        """
        stopping = stopping or threading.Event()
        told = False
        while not self._try():
            if not told:
                _log.info("standing by: another manager works with this database")
                told = True
            if self._clock.wait(stopping, STAND_BY_SECONDS):
                raise errors.Cancelled("CANCELLED", "told to end while it stood by")
        _log.info("lease taken", holder=self._holder, token=self._token)
        self._store.guard = self
        if self._clock.monotonic() > self._valid_until:
            # It waited for the database, which whoever had it before had locked, for longer than it
            # may count on what it took.
            self.renew()

    def renew(self) -> None:
        """Hold it for longer, even if it ran out, as long as nobody else took it."""
        began = self._clock.monotonic()
        try:
            with self._store.write(in_time=False) as connection:
                connection.execute(
                    tables.leases.update()
                    .where(_ROWS.name == NAME)
                    .values(expires_at=_NOW + self._micros)
                )
        except errors.FailedPrecondition:
            _log.error("the lease is lost: another manager works with this database")
            self._lost()
            raise
        self._valid_until = began + self._seconds

    def give_back(self) -> None:
        """Let who stands by begin at once; otherwise it waits for the lease to run out."""
        self._valid_until = 0.0
        try:
            with self._store.write(in_time=False) as connection:
                connection.execute(
                    tables.leases.update().where(_ROWS.name == NAME).values(expires_at=0)
                )
        except errors.WatariError as error:
            _log.warning("lease not given back", reason=error.reason)

    def require_in_time(self) -> None:
        """Raises Unavailable when it was not renewed in time, so that another may have it by now:
        what is read then is nothing to go by.
        """
        if self._clock.monotonic() > self._valid_until:
            raise errors.Unavailable(
                "SERVER_UNAVAILABLE",
                "this manager's lease on the database ran out",
                hint="repeat the call; another manager takes over, or this one goes on",
            )

    def require_held(self, told: Sequence[Told]) -> None:
        """In a write transaction, by what the `question` told.

        Raises FailedPrecondition LEASE_LOST: another process has it.
        """
        if [token for each in told for (token,) in each.rows] != [self._token]:
            raise errors.FailedPrecondition(
                "LEASE_LOST",
                "another manager works with this database",
                hint="ask that one",
            )

    @property
    def _micros(self) -> int:
        return int(self._seconds * 1_000_000)

    def _try(self) -> bool:
        try:
            return self._take()
        except errors.Unavailable:
            return False  # Of the database, which a holder that stands still may lock for a while.

    def _take(self) -> bool:
        began = self._clock.monotonic()
        with self._store.write() as connection:
            row = connection.execute(
                sa.select(_ROWS.token, (_ROWS.expires_at <= _NOW).label("over")).where(
                    _ROWS.name == NAME
                )
            ).one_or_none()
            if row is not None and not row.over:
                return False
            values = {"holder": self._holder, "expires_at": _NOW + self._micros}
            if row is None:
                connection.execute(tables.leases.insert().values(name=NAME, token=1, **values))
                self._token = 1
            else:
                self._token = row.token + 1
                connection.execute(
                    tables.leases.update()
                    .where(_ROWS.name == NAME)
                    .values(token=self._token, **values)
                )
        self._valid_until = began + self._seconds
        return True


def _end_at_once() -> None:
    """Like a kill: nothing that this process could still do would count."""
    os._exit(EXIT_LEASE_LOST)
