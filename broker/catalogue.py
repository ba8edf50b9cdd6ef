"""The broker's view of the directory: read once, then fed with its changes.

Two threads. One follows a directory: it reads everything, watches from that revision, resumes where
it was after a break, reads again when history is gone, and goes to the next directory when one is
away. The other makes a snapshot of what has changed, at most every `index_seconds_min`, so that a
storm of changes costs a bounded share of the processor. Questions take the newest snapshot and wait
for neither; they never reach the directory.

Waits are in real time, not by the clock that dates and ages come from: they pace threads.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType
from typing import Self

from broker import reading
from broker.reading import READ_ATTEMPTS_MAX, Loaded, Source
from broker.settings import CatalogueSettings
from broker.snapshot import Snapshot, Store
from watari import errors, logs
from watari.clock import Clock
from watari.v1 import directory_pb2

__all__ = ["READ_ATTEMPTS_MAX", "Catalogue", "Source"]

SILENCE_SECONDS_MAX = 35.0
"""A watch sends something every 15 seconds; after two of these and some the answer is stale."""

WATCH_SECONDS_MAX = 3600.0
"""Deadline of one watch; it is resumed after it."""

RESUME_SECONDS = 0.05
"""Between the end of a watch and its resumption."""

JOIN_SECONDS_MAX = 10.0
"""How long stopping waits for the threads."""

_log = logs.get(__name__)


@dataclass(frozen=True)
class _Position:
    """Where a directory is followed from."""

    source: Source
    revision: int


@dataclass(frozen=True)
class _Heard:
    """Until when what is held is known to be so."""

    as_of: float
    """By the monotonic clock."""
    at: datetime


class Catalogue:
    """Keeps one snapshot while its block is open. May be used from any thread."""

    def __init__(
        self,
        sources: Sequence[Source],
        settings: CatalogueSettings,
        clock: Clock,
        loaded: Callable[[], None] = lambda: None,
    ) -> None:
        """`loaded` is called after each whole read, once its snapshot is there."""
        self._sources = sources
        self._settings = settings
        self._clock = clock
        self._loaded = loaded
        self._stopped = threading.Event()
        # Guards what is below; questions only wait on it when there is no snapshot for them yet.
        self._state = threading.Condition()
        self._store = Store()
        self._revision = 0
        self._dirty = self._whole = False
        self._position: _Position | None = None
        self._heard: _Heard | None = None
        self._snapshot: Snapshot | None = None
        self._failure: errors.WatariError | None = None
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("directory-feed", self._feed), ("directory-index", self._index))
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        with self._state:
            self._state.notify_all()
        for thread in self._threads:
            thread.join(JOIN_SECONDS_MAX)

    def current(self, revision_min: int = 0) -> Snapshot:
        """The newest snapshot, with its age in `taken_at` and marked when no directory is heard.

        Waits for the first one, up to `first_seconds_max`, and for a revision up to
        `call_seconds_max`. Raises Unavailable PEER_UNAVAILABLE when there is none that is young and
        new enough.
        """
        found = self._snapshot
        if found is None or found.revision < revision_min:
            found = self._awaited(revision_min)
        heard, failure = self._heard, self._failure
        if found is None or heard is None:
            raise self._away("there is no snapshot", failure)
        age = self._clock.monotonic() - heard.as_of
        limit = self._settings.snapshot_age_seconds_max
        if age > limit:
            raise self._away(
                f"the last snapshot is {age:.0f} s old, {limit:g} s are allowed", failure
            )
        if found.revision < revision_min:
            raise self._away(
                f"the newest snapshot is of revision {found.revision}, not {revision_min}", failure
            )
        stale = failure is not None or age > SILENCE_SECONDS_MAX
        return replace(found, taken_at=heard.at, stale=stale)

    def _awaited(self, revision_min: int) -> Snapshot | None:
        def settled() -> bool:
            if self._snapshot is None:  # once anything was read it comes in a moment
                failed = self._failure is not None and not self._dirty
                return failed or self._stopped.is_set()
            return self._snapshot.revision >= revision_min or self._stopped.is_set()

        settings = self._settings
        first = self._snapshot is None
        with self._state:
            self._state.wait_for(
                settled, settings.first_seconds_max if first else settings.call_seconds_max
            )
            return self._snapshot

    def _feed(self) -> None:
        while not self._stopped.is_set():
            try:
                if self._follow() or (self._load() and self._follow()):
                    self._stopped.wait(RESUME_SECONDS)
                    continue
            except Exception:  # noqa: BLE001 - logged, and tried again
                # A record or an answer that nothing above foresees: what is held grows old, and
                # another directory or a later record may do better.
                _log.exception("directory.feed_failed")
                self._position = None
            self._stopped.wait(max(self._settings.refresh_seconds_min, RESUME_SECONDS))

    def _follow(self) -> bool:
        """Watches from where the catalogue stands until that ends; whether anything was heard."""
        position = self._position
        if position is None:
            return False
        source, heard = position.source, False
        request = directory_pb2.WatchRecordsRequest(
            after_revision=position.revision, filter=reading.FILTER
        )
        try:
            with source.watch(request, WATCH_SECONDS_MAX) as messages:
                for message in messages:
                    if self._stopped.is_set():
                        return True
                    heard = True
                    self._apply(source, message)
        except errors.OutOfRange as error:
            _log.info("directory.watch_lost", directory=source.name, problem=str(error))
            self._position, heard = None, False
        except errors.WatariError as error:
            _log.warning("directory.watch_ended", directory=source.name, problem=str(error))
            if error.reason == "PEER_ERROR":
                self._position = None
            if not isinstance(error, errors.Exhausted):  # else it is queried at intervals
                self._fail(error)
        return heard

    def _apply(self, source: Source, message: directory_pb2.WatchRecordsResponse) -> None:
        with self._state:
            for change in message.changes:
                if change.kind == directory_pb2.CHANGE_KIND_PUT:
                    self._store.put(change.record)
                else:
                    self._store.delete(change.record.key)
            self._revision = message.revision
            self._position = _Position(source, message.revision)
            self._heard = _Heard(self._clock.monotonic(), self._clock.now())
            self._failure = None
            self._dirty = True
            self._state.notify_all()
        reading.require_bounded(source, self._store, self._settings)

    def _load(self) -> bool:
        """Reads the first directory that is current, else the latest past; whether it is current,
        and to be watched.
        """
        deadline = self._clock.monotonic() + self._settings.read_seconds_max
        problem: errors.WatariError | None = None
        for source in self._sources:
            try:
                found = reading.read(source, self._settings, self._clock, deadline)
            except errors.WatariError as error:
                _log.warning("directory.read_failed", directory=source.name, problem=str(error))
                problem = error
                continue
            self._take(found)
            problem = None
            if found.fresh:
                return True
            _log.warning("directory.read_of_the_past", directory=source.name)
        if problem is not None:  # not before: who waits is served by the next directory
            self._fail(problem)
        return False

    def _fail(self, error: errors.WatariError) -> None:
        with self._state:
            self._failure = error
            self._state.notify_all()

    def _take(self, found: Loaded) -> None:
        with self._state:
            held = self._heard
            if held is None or found.fresh or found.as_of > held.as_of:
                self._store, self._revision = found.store, found.revision
                self._heard = _Heard(found.as_of, found.taken_at)
                self._position = _Position(found.source, found.revision) if found.fresh else None
                self._dirty = self._whole = True
            past = reading.broken(found.source, "tells what its store said some time ago")
            self._failure = None if found.fresh else past
            self._state.notify_all()

    def _index(self) -> None:
        while not self._stopped.is_set():
            with self._state:
                self._state.wait_for(lambda: self._dirty or self._stopped.is_set())
                if self._stopped.is_set():
                    return
                began = time.monotonic()
                whole, self._whole, self._dirty = self._whole, False, False
                taken_at = self._heard.at if self._heard else self._clock.now()
                self._snapshot = self._store.snapshot(self._revision, taken_at)
                self._state.notify_all()
            if whole:
                self._loaded()
            took = time.monotonic() - began
            # A catalogue that takes long to lay out rests as long as that, at least.
            self._stopped.wait(max(self._settings.index_seconds_min, 2 * took) - took)

    def _away(self, kept: str, failure: errors.WatariError | None) -> errors.Unavailable:
        cause = f": {failure}" if failure else ""
        return errors.Unavailable(
            "PEER_UNAVAILABLE",
            f"no directory could be read and {kept}{cause}",
            hint="try again once a directory answers; a manager migrates to a named cloud without",
            peer="directory",
            address=",".join(source.name for source in self._sources),
        )
