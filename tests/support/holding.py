"""A step of a service of this process that stands still until a test lets it go on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from watari import failpoint

HELD_SECONDS_MAX = 60.0


class Held:
    """Whoever comes first to a fail point waits there."""

    def __init__(self, point: str) -> None:
        self._point = point
        self._there, self._let = threading.Event(), threading.Event()
        self._hit = failpoint.hit

    def await_there(self) -> None:
        """Until somebody has come to it."""
        assert self._there.wait(HELD_SECONDS_MAX), f"nobody comes to {self._point}"

    def let_go(self) -> None:
        """Who waits goes on, and nobody is held any more."""
        self._let.set()

    def hit(self, name: str) -> None:
        """In place of `failpoint.hit`."""
        if name == self._point and not self._there.is_set():
            self._there.set()
            self._let.wait(HELD_SECONDS_MAX)
        self._hit(name)


@contextmanager
def held(point: str) -> Iterator[Held]:
    """Holds it within the block, until it is let go."""
    holding = Held(point)
    with mock.patch.object(failpoint, "hit", holding.hit):
        try:
            yield holding
        finally:
            holding.let_go()
