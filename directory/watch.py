"""Watching: every change after a revision, in order, without gap or repeat.

A watcher has no queue. It reads the store's history from its own position, so a slow one costs no
memory, and is told to start over once history has moved past it.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

from directory.queries import Selection
from directory.stores import DirectoryStore
from watari import clock, errors
from watari.v1 import directory_pb2

PROGRESS_SECONDS = 15.0
"""At most this long between two messages of a watch (the contract's promise)."""

ATTENTION_SECONDS = 0.5
"""How soon an idle watch notices that the server stops."""

CHANGES_READ_MAX = 200
"""Changes in memory for one watcher; one revision may exceed it."""


class Hub:
    """Who watches, and what wakes them. Bounds how many there are."""

    def __init__(self, watchers_max: int) -> None:
        self._watchers_max = watchers_max
        self._lock = threading.Lock()
        self._watchers: set[threading.Event] = set()

    def wake(self) -> None:
        """There may be something new for everyone."""
        with self._lock:
            for watcher in self._watchers:
                watcher.set()

    def count(self) -> int:
        """How many watch."""
        with self._lock:
            return len(self._watchers)

    @contextmanager
    def watcher(self) -> Iterator[threading.Event]:
        """Set whenever there may be something new. Raises Exhausted SERVER_UNAVAILABLE."""
        watcher = threading.Event()
        with self._lock:
            if len(self._watchers) >= self._watchers_max:
                raise errors.Exhausted(
                    "SERVER_UNAVAILABLE",
                    f"{self._watchers_max} watch already, as many as may",
                    hint="try later, or query at intervals",
                    limit=self._watchers_max,
                )
            self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            with self._lock:
                self._watchers.discard(watcher)


class Watches:
    """The watches of one server."""

    def __init__(
        self,
        store: DirectoryStore,
        time: clock.Clock,
        watchers_max: int,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._store = store
        self._clock = time
        self._is_stopping = is_stopping
        self._hub = Hub(watchers_max)
        store.subscribe(self._hub.wake)

    def count(self) -> int:
        """Watches that are open."""
        return self._hub.count()

    def follow(
        self,
        selection: Selection,
        after: int,
        context: grpc.ServicerContext,
    ) -> Iterator[directory_pb2.WatchRecordsResponse]:
        """Messages for the changes of `selection` after revision `after`; 0 is from now.

        The first one is sent at once and says where the watch begins. Ends with its call. Raises
        OutOfRange: REVISION_COMPACTED when the history after `after` is not kept, WATCHER_TOO_SLOW
        when that happens later; Exhausted SERVER_UNAVAILABLE when too many watch; Unavailable
        SERVER_UNAVAILABLE when the server stops.
        """
        with self._hub.watcher() as news:
            context.add_callback(news.set)
            position = after or self._store.revision()
            changes = self._store.changes(position, CHANGES_READ_MAX)
            yield directory_pb2.WatchRecordsResponse(revision=position)
            sent_at = self._clock.monotonic()
            while context.is_active():
                if self._is_stopping():
                    raise _stopping(position)
                for message in _messages(changes, selection):
                    yield message
                    sent_at = self._clock.monotonic()
                if changes:
                    position = changes[-1].revision
                else:
                    self._clock.wait(news, ATTENTION_SECONDS)
                if self._clock.monotonic() - sent_at >= PROGRESS_SECONDS:
                    yield directory_pb2.WatchRecordsResponse(revision=position)
                    sent_at = self._clock.monotonic()
                news.clear()
                changes = self._read_on(position)

    def _read_on(self, position: int) -> list[directory_pb2.Change]:
        try:
            return self._store.changes(position, CHANGES_READ_MAX)
        except errors.OutOfRange as error:
            raise errors.OutOfRange(
                "WATCHER_TOO_SLOW",
                f"history has moved past revision {position}, the last one that was sent",
                hint="query again, and watch from the revision of that answer",
                revision=position,
            ) from error


def _stopping(position: int) -> errors.Unavailable:
    return errors.Unavailable(
        "SERVER_UNAVAILABLE",
        "the directory is stopping",
        hint=f"watch again, from revision {position}",
        revision=position,
    )


def _messages(
    changes: list[directory_pb2.Change], selection: Selection
) -> Iterator[directory_pb2.WatchRecordsResponse]:
    """One message for each revision that has a change of the selection."""
    for revision, group in itertools.groupby(changes, lambda change: change.revision):
        chosen = [change for change in group if _is_chosen(change, selection)]
        if chosen:
            yield directory_pb2.WatchRecordsResponse(changes=chosen, revision=revision)


def _is_chosen(change: directory_pb2.Change, selection: Selection) -> bool:
    # A deletion has no content to filter by: the watcher may have had a record that matched.
    if change.kind == directory_pb2.CHANGE_KIND_DELETE:
        return selection.concerns(change.record.key)
    return selection.matches(change.record)
