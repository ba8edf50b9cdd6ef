"""What keeps a transfer within its bounds: a queue, credit, a rate. Each can be broken off at once.

All three end with the *first* error that anyone reported, for everyone who waits.
"""

import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from watari import clock, errors

_Item = TypeVar("_Item")

WAIT_SECONDS_MAX = 5.0
"""How long a waiter sleeps before it looks again; only a bound, a change wakes it at once."""


class Failure:
    """The first error of a transfer, and the bell that wakes everyone who waits for anything."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.error: errors.WatariError | None = None

    def fail(self, error: errors.WatariError) -> None:
        """Records the first error; later ones are consequences and are dropped."""
        with self.changed:
            self.error = self.error or error
            self.changed.notify_all()

    def check(self) -> None:
        """Raises the error if there is one."""
        if self.error is not None:
            raise self.error

    def let_go(self) -> None:
        """Frees what the error holds: the stack that it came through, with content in its frames.
        For a transfer that has ended and is only remembered.
        """
        if self.error is not None:
            self.error.__traceback__ = self.error.__cause__ = self.error.__context__ = None


class Channel(Generic[_Item]):
    """A queue between workers and streams, bounded in items and, with `bytes_max`, in bytes."""

    def __init__(
        self,
        failure: Failure,
        items_max: int,
        bytes_max: int = 0,
        size: Callable[[_Item], int] = lambda _: 0,
    ) -> None:
        self._failure = failure
        self._items_max = items_max
        self._bytes_max = bytes_max or math.inf
        self._size = size
        self._items: deque[_Item] = deque()
        self._bytes = 0
        self._closed = False

    def put(self, item: _Item) -> None:
        """Waits for room; an item of more than all bytes goes in alone. Raises the transfer's first
        error, Cancelled once it is closed.
        """
        size = self._size(item)
        with self._failure.changed:
            while not self._has_room(size) and not self._closed:
                self._failure.check()
                self._failure.changed.wait(WAIT_SECONDS_MAX)
            self._failure.check()
            if self._closed:
                raise errors.Cancelled("CANCELLED", "the transfer has ended")
            self._items.append(item)
            self._bytes += size
            self._failure.changed.notify_all()

    def get(self, wanted: Callable[[_Item], bool] = lambda _: True) -> _Item | None:
        """The next item once it is `wanted`, or None once the queue is closed and empty. Raises the
        first error. `wanted` is asked again after every change, and taken at its word.
        """
        with self._failure.changed:
            while not (self._items and wanted(self._items[0])):
                self._failure.check()
                if self._closed and not self._items:
                    return None
                self._failure.changed.wait(WAIT_SECONDS_MAX)
            self._failure.check()
            item = self._items.popleft()
            self._bytes -= self._size(item)
            self._failure.changed.notify_all()
            return item

    def drain(self) -> list[_Item]:
        """Everything that is there now. Raises the first error."""
        with self._failure.changed:
            self._failure.check()
            items = list(self._items)
            self._items.clear()
            self._bytes = 0
            self._failure.changed.notify_all()
            return items

    @property
    def fill(self) -> float:
        """How full it is, 0 to 1."""
        return min(1.0, max(len(self._items) / self._items_max, self._bytes / self._bytes_max))

    def close(self) -> None:
        """Nothing more will be put."""
        with self._failure.changed:
            self._closed = True
            self._failure.changed.notify_all()

    def _has_room(self, size: int) -> bool:
        if not self._items:
            return True
        return len(self._items) < self._items_max and self._bytes + size <= self._bytes_max


class Credit:
    """Bytes that may be under way: taken before sending, given back by acknowledgements."""

    def __init__(self, failure: Failure, bytes_max: int) -> None:
        self._failure = failure
        self._bytes_max = bytes_max
        self._taken = 0

    def try_take(self, amount: int) -> bool:
        """Takes `amount` if it fits now; one item larger than all credit goes alone."""
        with self._failure.changed:
            if self._taken > 0 and self._taken + amount > self._bytes_max:
                return False
            self._taken += amount
            return True

    def take(self, amount: int) -> None:
        """Waits until `amount` fits. Raises the first error."""
        with self._failure.changed:
            self._failure.check()
            while not self.try_take(amount):
                self._failure.changed.wait(WAIT_SECONDS_MAX)
                self._failure.check()

    def set(self, bytes_max: int) -> None:
        """Changes how much may be under way."""
        with self._failure.changed:
            self._bytes_max = bytes_max
            self._failure.changed.notify_all()

    def give_back(self, amount: int) -> None:
        """Returns credit."""
        with self._failure.changed:
            self._taken -= amount
            self._failure.changed.notify_all()


class Throttle:
    """A bandwidth cap that can be changed while it is waited for."""

    BURST_SECONDS = 0.25
    """What may be sent at once after a pause, as time at the cap."""

    def __init__(
        self,
        failure: Failure,
        time: clock.Clock,
        bytes_per_second: int,
        burst_seconds: float = BURST_SECONDS,
    ) -> None:
        self._failure = failure
        self._clock = time
        self._burst_seconds = burst_seconds
        self._rate = bytes_per_second
        self._next = time.monotonic()

    @property
    def capped(self) -> bool:
        """Whether there is a cap."""
        return self._rate > 0

    def set(self, bytes_per_second: int) -> None:
        """Changes the cap; 0 removes it. Setting what is set changes nothing."""
        if bytes_per_second == self._rate:
            return
        with self._failure.changed:
            self._rate = bytes_per_second
            self._next = self._clock.monotonic()
            self._failure.changed.notify_all()

    def pace(self, amount: int) -> None:
        """Waits until `amount` bytes may go. Raises the first error."""
        with self._failure.changed:
            while True:
                self._failure.check()
                now = self._clock.monotonic()
                if not self._rate or self._next <= now:
                    break
                self._failure.changed.wait(min(self._next - now, WAIT_SECONDS_MAX))
            if self._rate:
                earliest = now - self._burst_seconds
                self._next = max(self._next, earliest) + amount / self._rate
