"""Time as a dependency: domain code is handed a `Clock` and never asks the system itself.

`now` is for dates that are stored and shown, `monotonic` for durations and deadlines.
"""

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

FAKE_POLL_SECONDS = 0.002
"""How often, in real time, a waiter of FakeClock looks whether its event was set."""


class Clock(Protocol):
    """Tells and passes time. Implementations may be used from any thread."""

    def now(self) -> datetime:
        """The date, in UTC and aware of it. May jump when the system's clock is set."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return after `seconds`; at once when not positive."""
        ...

    def wait(self, event: threading.Event, timeout_seconds: float) -> bool:
        """Return when `event` is set or the time has passed; tells whether it is set."""
        ...


class SystemClock:
    """The machine's own time."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)

    def wait(self, event: threading.Event, timeout_seconds: float) -> bool:
        return event.wait(max(0.0, timeout_seconds))


class FakeClock:
    """Time that passes only when a test says so.

    With `auto_advance` a sleep or wait advances the time itself instead of blocking, for code that
    runs in the test's own thread.
    """

    def __init__(self, start: datetime | None = None, *, auto_advance: bool = False) -> None:
        self._start = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._auto_advance = auto_advance
        self._elapsed = 0.0
        self._sleepers = 0
        self._changed = threading.Condition()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        with self._changed:
            return self._elapsed

    def advance(self, seconds: float) -> None:
        """Let time pass and wake every sleeper whose moment has come."""
        if seconds < 0:
            raise ValueError("time does not go back")
        with self._changed:
            self._elapsed += seconds
            self._changed.notify_all()

    def sleep(self, seconds: float) -> None:
        self.wait(threading.Event(), seconds)

    def wait(self, event: threading.Event, timeout_seconds: float) -> bool:
        with self._changed:
            until = self._elapsed + max(0.0, timeout_seconds)
            if self._auto_advance and not event.is_set():
                self._elapsed = until
                self._changed.notify_all()
            self._sleepers += 1
            self._changed.notify_all()
            try:
                while not event.is_set() and self._elapsed < until:
                    self._changed.wait(FAKE_POLL_SECONDS)
            finally:
                self._sleepers -= 1
        return event.is_set()

    def await_sleepers(self, count: int, timeout_seconds: float = 30.0) -> None:
        """Block, in real time, until `count` threads sleep or wait; else AssertionError."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: self._sleepers >= count, timeout_seconds)
        if not arrived:
            raise AssertionError(f"fewer than {count} sleepers after {timeout_seconds} s")
