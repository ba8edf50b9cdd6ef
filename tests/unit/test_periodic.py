"""Periodic work comes again, whatever happened, and ends with its block."""

import threading

from watari.clock import FakeClock
from watari.periodic import Periodic


def test_every_function_runs_once_an_interval_also_after_a_failure() -> None:
    clock, rounds, ran = FakeClock(), threading.Semaphore(0), []

    def fails() -> None:
        ran.append("fails")
        raise OSError("the disk is full")

    def works() -> None:
        ran.append("works")
        rounds.release()

    with Periodic("test", 5, clock, fails, works):
        for _ in range(3):
            clock.await_sleepers(1)
            clock.advance(4.9)
            assert not rounds.acquire(blocking=False)
            clock.advance(0.1)
            assert rounds.acquire(timeout=30)
    assert ran == ["fails", "works"] * 3
    assert "test" not in [thread.name for thread in threading.enumerate()]
