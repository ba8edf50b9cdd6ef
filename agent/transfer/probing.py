"""Whether frames queue on the way: pings on a connection of their own, beside the data.

A queue at the narrowest point of a path delays everything that passes it. A ping feels that within
a round trip, long before the acknowledgements of frames say anything about the rate.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

from watari import clock

PROBE_SECONDS = 0.05
"""Time from one ping to the next."""

PROBES_UNDER_WAY_MAX = 64
"""Pings that may be unanswered; while the way is interrupted no more are sent."""

ANSWERED = grpc.StatusCode.UNIMPLEMENTED
"""What a ping is answered: it calls a method that there is not."""


class Prober:
    """Pings while `probing`; any thread may ask for what was found."""

    def __init__(
        self,
        ping: Callable[[], "grpc.Future[bytes]"],
        round_trip_seconds: float,
        time: clock.Clock,
    ) -> None:
        self._ping = ping
        self._round_trip = round_trip_seconds
        self._clock = time
        self._lock = threading.Lock()
        self._under_way: dict[grpc.Future[bytes], float] = {}
        self._delays: list[float] = []

    def take_queued_seconds(self) -> float | None:
        """How much longer than the round trip a ping took, at most, since this was asked last, or
        waits already. None when there was none.
        """
        with self._lock:
            delays, self._delays = self._delays, []
            oldest = min(self._under_way.values(), default=None)
        if oldest is not None:
            overdue = self._clock.monotonic() - oldest - self._round_trip
            delays += [overdue] if overdue > 0 else []
        return max(0.0, *delays) if delays else None

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Pings as the block runs."""
        done = threading.Event()
        thread = threading.Thread(target=self._run, args=(done,), name="probe")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            with self._lock:
                left = list(self._under_way)
            for ping in left:
                ping.cancel()

    def _run(self, done: threading.Event) -> None:
        while not self._clock.wait(done, PROBE_SECONDS):
            if len(self._under_way) < PROBES_UNDER_WAY_MAX:
                began, ping = self._clock.monotonic(), self._ping()
                with self._lock:
                    self._under_way[ping] = began
                ping.add_done_callback(self._ended)  # at once, when it has ended already

    def _ended(self, ping: "grpc.Future[bytes]") -> None:
        now = self._clock.monotonic()
        error = None if ping.cancelled() else ping.exception()
        with self._lock:
            began = self._under_way.pop(ping)
            if isinstance(error, grpc.RpcError) and error.code() is ANSWERED:
                self._delays.append(now - began - self._round_trip)
