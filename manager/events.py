"""What only memory knows of migrations, and who watches them.

Progress and what a migration waits for change often and matter only while it runs, so they are not
on disk: after a restart they are measured again. A watcher gets every change of state and the
latest progress in between; it holds at most one message per state, however slow it is.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from watari import errors
from watari.clock import Clock
from watari.v1 import common_pb2, manager_pb2

LIVE_MAX = 2000
"""Migrations whose last progress is remembered; the longest untouched is forgotten."""

PROGRESS_INTERVAL_SECONDS = 0.25
"""A watcher gets progress at most this often, as the contract says."""

IDLE_SECONDS_MAX = 1.0
"""A watcher looks at least this often whether anybody still listens."""

Migration = manager_pb2.Migration


@dataclass
class _Live:
    progress: common_pb2.Progress | None = None
    waiting_for: common_pb2.Problem | None = None


@dataclass
class _Watcher:
    migration_id: str
    states: deque[Migration] = field(default_factory=deque)
    touched: bool = False
    woken: threading.Event = field(default_factory=threading.Event)


class Board:
    """Live facts by migration id. May be used from any thread."""

    def __init__(self, clock: Clock, watchers_max: int) -> None:
        self._clock = clock
        self._watchers_max = watchers_max
        self._lock = threading.Lock()
        self._live: OrderedDict[str, _Live] = OrderedDict()
        self._watchers: list[_Watcher] = []

    def progress(self, migration_id: str, progress: common_pb2.Progress) -> None:
        """A migration moves: it waits for nothing."""
        with self._lock:
            live = self._of(migration_id)
            live.progress, live.waiting_for = progress, None
            self._touch(migration_id)

    def waits_for(self, migration_id: str, problem: common_pb2.Problem | None) -> None:
        """What a migration waits for, or None when it goes on."""
        with self._lock:
            live = self._of(migration_id)
            if live.waiting_for != problem:
                live.waiting_for = problem
                self._touch(migration_id)

    def state_changed(self, migration: Migration) -> None:
        """A migration is in a new state."""
        with self._lock:
            self._of(migration.migration_id).waiting_for = None
            self._fill(migration)
            for watcher in self._watchers:
                if watcher.migration_id == migration.migration_id:
                    watcher.states.append(migration)
                    watcher.woken.set()

    def fill(self, migration: Migration) -> Migration:
        """The message with what memory knows of it."""
        with self._lock:
            return self._fill(migration)

    @contextmanager
    def watching(
        self, migration_id: str, read: Callable[[], Migration], gone: Callable[[], bool]
    ) -> Iterator[Iterator[Migration]]:
        """The migration at once, then at every change, until a final state.

        `read` gives it as it stands; `gone` tells that nobody listens any more, or raises. Raises
        Unavailable SERVER_UNAVAILABLE when as many watch as may.
        """
        watcher = _Watcher(migration_id)
        with self._lock:
            if len(self._watchers) >= self._watchers_max:
                raise _too_many(self._watchers_max)
            self._watchers.append(watcher)
        try:
            yield self._follow(watcher, read, gone)
        finally:
            with self._lock:
                self._watchers.remove(watcher)

    def _follow(
        self, watcher: _Watcher, read: Callable[[], Migration], gone: Callable[[], bool]
    ) -> Iterator[Migration]:
        # Subscribed before the first read: a change between the two comes twice rather than never.
        latest = read()
        yield latest
        while not latest.HasField("ended_at"):
            self._clock.wait(watcher.woken, IDLE_SECONDS_MAX)
            if gone():
                return
            # Read before the announced states are taken: whatever came before what is read was
            # announced by then. What was never announced (a step that was cut off after its
            # transaction) is read all the same.
            touched = self._settle(watcher)
            now = read()
            for state in self._take_states(watcher):
                if state.generation > latest.generation:
                    latest = state
                    yield latest
            newer = now.generation - latest.generation
            if newer > 0 or (newer == 0 and touched and not now.HasField("ended_at")):
                latest = now
                yield latest
                self._pause(watcher)

    def _settle(self, watcher: _Watcher) -> bool:
        """Whether something was touched; what is touched from now on wakes the watcher again."""
        with self._lock:
            watcher.woken.clear()
            touched, watcher.touched = watcher.touched, False
        return touched

    def _take_states(self, watcher: _Watcher) -> list[Migration]:
        with self._lock:
            states = list(watcher.states)
            watcher.states.clear()
        return states

    def _pause(self, watcher: _Watcher) -> None:
        """Let progress gather for a moment, unless the state changes."""
        until = self._clock.monotonic() + PROGRESS_INTERVAL_SECONDS
        while not watcher.states and (left := until - self._clock.monotonic()) > 0:
            self._clock.wait(watcher.woken, left)
            watcher.woken.clear()
        watcher.woken.set()

    def _fill(self, migration: Migration) -> Migration:
        live = self._live.get(migration.migration_id, _Live())
        if live.progress is not None:
            migration.progress.CopyFrom(live.progress)
        if live.waiting_for is not None and not migration.HasField("ended_at"):
            migration.waiting_for.CopyFrom(live.waiting_for)
        return migration

    def _of(self, migration_id: str) -> _Live:
        live = self._live.setdefault(migration_id, _Live())
        self._live.move_to_end(migration_id)
        if len(self._live) > LIVE_MAX:
            self._live.popitem(last=False)
        return live

    def _touch(self, migration_id: str) -> None:
        for watcher in self._watchers:
            if watcher.migration_id == migration_id:
                watcher.touched = True
                watcher.woken.set()


def _too_many(limit: int) -> errors.Unavailable:
    return errors.Unavailable(
        "SERVER_UNAVAILABLE",
        f"{limit} migrations are being watched already",
        hint="ask with GetMigration instead, or raise watchers_max",
    )
