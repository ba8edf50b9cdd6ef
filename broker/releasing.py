"""Holds that are given back while nobody waits: those of which nobody knows whether they are there.

A manager that did not answer in time may have held room all the same. It is asked to give it back,
some times over; what it is not told, it finds out by the hold's expiry.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from broker import metrics
from watari import errors, logs

WORKERS_MAX = 2
"""Threads that give back: a manager that does not answer keeps one for a few seconds."""

Key = tuple[str, str]
"""A cloud and a reservation."""

Release = Callable[[threading.Event], None]
"""Asks some times, until the event is set; raises WatariError in the end."""

_log = logs.get(__name__)


class Releasing:
    """Gives back in the background. As a context manager: what is still owed at its end expires."""

    def __init__(self, owed_max: int) -> None:
        """At most `owed_max` wait; further ones are left to expire."""
        self._owed_max = owed_max
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._owed: dict[Key, Future[None]] = {}
        self._pool = ThreadPoolExecutor(WORKERS_MAX, thread_name_prefix="releasing")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def owe(self, key: Key, release: Release) -> None:
        """Have `release` called."""
        with self._lock:
            if key in self._owed:
                return
            if len(self._owed) >= self._owed_max:
                metrics.RELEASES.labels("left to expire").inc()
                return
            try:
                future = self._pool.submit(self._release, key, release)
            except RuntimeError:  # The broker stops.
                return
            self._owed[key] = future
        future.add_done_callback(lambda _: self._settled(key))

    def forget(self, key: Key) -> None:
        """What is owed is wanted again, unless it is being given back this moment."""
        with self._lock:
            future = self._owed.get(key)
        if future is not None:
            future.cancel()

    def owed(self) -> int:
        """How many wait."""
        with self._lock:
            return len(self._owed)

    def _release(self, key: Key, release: Release) -> None:
        cloud_id, reservation_id = key
        try:
            release(self._stopping)
        except errors.WatariError as error:
            metrics.RELEASES.labels("left to expire").inc()
            _log.warning(
                "hold left to expire",
                cloud=cloud_id,
                reservation=reservation_id,
                problem=str(error),
            )
        else:
            metrics.RELEASES.labels("released").inc()

    def _settled(self, key: Key) -> None:
        with self._lock:
            self._owed.pop(key, None)
