"""Answers that are given in pages: the first page works one out, the others are of the same."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from watari.clock import Clock

KEPT_SECONDS = 60.0
"""How long the pages of one answer stay those of one answer."""

KEPT_MAX = 16
"""Answers that are kept at a time."""

_Answer = TypeVar("_Answer")


class Kept(Generic[_Answer]):
    """Answers by what was asked. From any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, ...], tuple[float, _Answer]] = {}

    def get(self, key: tuple[str, ...], work: Callable[[], _Answer], *, anew: bool) -> _Answer:
        """What was worked out for the key, by `work` if it is not there or is wanted anew."""
        now = self._clock.monotonic()
        with self._lock:
            at, found = self._known.get(key, (now - KEPT_SECONDS, None))
        if found is not None and not anew and now - at < KEPT_SECONDS:
            return found
        answer = work()
        with self._lock:
            self._known = {
                each: kept for each, kept in self._known.items() if now - kept[0] < KEPT_SECONDS
            }
            while len(self._known) >= KEPT_MAX:
                self._known.pop(next(iter(self._known)))
            self._known[key] = (self._clock.monotonic(), answer)
        return answer
