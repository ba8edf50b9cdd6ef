"""Ends a transfer in which nothing moves."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agent.transfer.flow import Failure
from agent.transfer.meter import Meter
from watari import clock, errors


class Watchdog:
    """Fails a transfer in which nothing has been settled for too long."""

    def __init__(
        self, failure: Failure, meter: Meter, time: clock.Clock, seconds_max: float
    ) -> None:
        self._failure = failure
        self._meter = meter
        self._clock = time
        self._seconds_max = seconds_max

    @contextmanager
    def watching(self, settled: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Watches while the body runs and not everything is `settled`."""
        done = threading.Event()
        watcher = threading.Thread(
            target=self._watch, args=(done, settled), name="watchdog", daemon=True
        )
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _watch(self, done: threading.Event, settled: Callable[[], bool]) -> None:
        seen, since = self._activity(), self._clock.monotonic()
        while not self._clock.wait(done, min(1.0, self._seconds_max / 4)):
            now = self._clock.monotonic()
            if settled() or self._activity() != seen:
                seen, since = self._activity(), now
            elif now - since > self._seconds_max:
                self._failure.fail(
                    errors.Unavailable(
                        "PEER_UNAVAILABLE", f"no data has moved for {self._seconds_max:.0f} s"
                    )
                )
                return

    def _activity(self) -> tuple[int, int]:
        return self._meter.settled_bytes, self._meter.wire_bytes
