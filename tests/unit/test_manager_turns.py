"""The turn passes on whatever becomes of those who wait for it."""

import ctypes
import threading
import time

import pytest

from manager.turns import Turns

WAIT_SECONDS_MAX = 30.0


class Interrupt(BaseException):
    """What comes into a thread from outside."""


class Waiter(threading.Thread):
    """Waits for the turn until it is interrupted."""

    def __init__(self, turns: Turns) -> None:
        super().__init__(daemon=True)
        self._turns = turns
        self.interrupted = False

    def run(self) -> None:
        try:
            # In short waits: Python raises between two instructions only.
            while not self._turns.take(0.05):
                pass
        except Interrupt:
            self.interrupted = True

    def interrupt(self) -> None:
        """As a signal's handler does in the main thread."""
        assert self.ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self.ident), ctypes.py_object(Interrupt)
        )
        self.join(WAIT_SECONDS_MAX)
        assert self.interrupted


def test_who_is_interrupted_waits_no_more_and_keeps_nobody_from_the_turn() -> None:
    for _ in range(40):
        turns = Turns()
        assert turns.take(0)
        waiter = Waiter(turns)
        waiter.start()
        while not turns._waiting:
            time.sleep(0)
        waiter.interrupt()
        assert not turns._waiting
        turns.leave()
        assert turns.take(0), "the turn went to a thread that does not wait for it"


@pytest.mark.parametrize("came", [False, True])
def test_a_turn_that_comes_as_the_interrupt_does_goes_to_the_next(
    monkeypatch: pytest.MonkeyPatch, came: bool
) -> None:
    turns = Turns()
    assert turns.take(0)

    def wait(_event: threading.Event, _seconds: float) -> bool:
        if came:
            turns.leave()
        raise Interrupt

    monkeypatch.setattr(threading.Event, "wait", wait)
    with pytest.raises(Interrupt):
        turns.take(1.0)
    if not came:
        turns.leave()
    assert turns.take(0)
