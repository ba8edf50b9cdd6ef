"""Holds that are given back in the background: bounded, once each, and not past the end."""

import threading
import time
from collections.abc import Callable

from broker.releasing import WORKERS_MAX, Releasing
from watari import errors

SECONDS_MAX = 30.0


def eventually(condition: Callable[[], bool]) -> None:
    """Waits until it holds."""
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Blocked:
    """Releases that go on when they are let."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.begun: list[str] = []

    def release(self, name: str) -> Callable[[threading.Event], None]:
        """One that is noted."""

        def run(_stop: threading.Event) -> None:
            self.begun.append(name)
            self.let.wait(SECONDS_MAX)

        return run


def test_only_so_many_wait_and_each_is_asked_for_once() -> None:
    blocked = Blocked()
    with Releasing(owed_max=4) as releasing:
        for number in range(6):
            releasing.owe((f"c{number}", "r"), blocked.release(f"c{number}"))
            releasing.owe((f"c{number}", "r"), blocked.release("again"))
        assert releasing.owed() == 4
        blocked.let.set()
        eventually(lambda: releasing.owed() == 0)
    assert blocked.begun == ["c0", "c1", "c2", "c3"]


def test_what_is_wanted_again_is_not_given_back() -> None:
    blocked = Blocked()
    with Releasing(owed_max=10) as releasing:
        for number in range(WORKERS_MAX):
            releasing.owe((f"busy{number}", "r"), blocked.release("busy"))
        eventually(lambda: len(blocked.begun) == WORKERS_MAX)
        releasing.owe(("osaka", "r"), blocked.release("osaka"))
        releasing.forget(("osaka", "r"))
        blocked.let.set()
        eventually(lambda: releasing.owed() == 0)
    assert blocked.begun == ["busy"] * WORKERS_MAX


def test_one_that_fails_is_over_and_the_end_stops_who_still_asks() -> None:
    begun, stopped = threading.Event(), threading.Event()

    def fails(_stop: threading.Event) -> None:
        raise errors.Unavailable("PEER_UNAVAILABLE", "gone")

    def asks(stop: threading.Event) -> None:
        begun.set()
        if stop.wait(SECONDS_MAX):
            stopped.set()

    with Releasing(owed_max=10) as releasing:
        releasing.owe(("nagoya", "r"), fails)
        eventually(lambda: releasing.owed() == 0)
        releasing.owe(("osaka", "r"), asks)
        assert begun.wait(SECONDS_MAX)
    assert stopped.wait(SECONDS_MAX)
    releasing.owe(("sendai", "r"), asks)
    assert releasing.owed() == 0
