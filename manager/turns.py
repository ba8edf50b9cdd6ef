"""Threads that take turns, in the order in which they came."""

import threading
from collections import deque


class Turns:
    """One thread at a time has the turn. It passes to whoever has waited longest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken = False

    def take(self, seconds_max: float) -> bool:
        """Wait for the turn. False: it did not come in time, and will not any more."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return True
            mine = threading.Event()
            self._waiting.append(mine)
        try:
            if mine.wait(seconds_max):
                return True
        except BaseException:
            # An interrupt: whoever does not wait any more must neither get the turn nor keep it.
            with self._lock:
                if mine.is_set():
                    self._taken = self._pass()
                else:
                    self._waiting.remove(mine)
            raise
        with self._lock:
            if mine.is_set():
                return True  # It came this very moment.
            self._waiting.remove(mine)
            return False

    def hand_on(self) -> bool:
        """End the turn if somebody waits for it: then that thread has it, for certain."""
        with self._lock:
            return self._pass()

    def leave(self) -> None:
        """End the turn."""
        with self._lock:
            self._taken = self._pass()

    def _pass(self) -> bool:
        if not self._waiting:
            return False
        self._waiting.popleft().set()
        return True
