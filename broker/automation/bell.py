"""Tells whoever watches plans that one may have changed."""

import threading


class Bell:
    """A counter that is waited for. May be used from any thread."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._rung = 0

    @property
    def rung(self) -> int:
        """How often it was."""
        return self._rung

    def ring(self) -> None:
        """Wakes everybody who waits."""
        with self._condition:
            self._rung += 1
            self._condition.notify_all()

    def wait(self, since: int, seconds_max: float) -> int:
        """How often it was rung, once that is not `since` any more or the time is over."""
        with self._condition:
            self._condition.wait_for(lambda: self._rung != since, seconds_max)
            return self._rung
