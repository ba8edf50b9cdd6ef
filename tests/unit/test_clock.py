import threading
from datetime import UTC, datetime, timedelta

import pytest

from watari.clock import Clock, FakeClock, SystemClock


@pytest.mark.parametrize("clock", [SystemClock(), FakeClock()])
def test_now_is_aware_of_being_utc(clock: Clock):
    assert clock.now().tzinfo is UTC


def test_fake_time_passes_only_when_told():
    clock = FakeClock(datetime(2026, 5, 1, tzinfo=UTC))
    before = clock.monotonic()
    clock.advance(90)
    assert clock.now() == datetime(2026, 5, 1, tzinfo=UTC) + timedelta(seconds=90)
    assert clock.monotonic() - before == 90


def test_fake_time_does_not_go_back():
    with pytest.raises(ValueError, match="back"):
        FakeClock().advance(-1)


def test_a_sleeper_wakes_when_its_moment_has_come_and_not_before():
    clock, woken = FakeClock(), threading.Event()
    thread = threading.Thread(target=lambda: (clock.sleep(10), woken.set()))
    thread.start()
    clock.await_sleepers(1)
    clock.advance(9.9)
    assert not woken.wait(0.05)
    clock.advance(0.1)
    assert woken.wait(30)
    thread.join()


@pytest.mark.parametrize("clock", [SystemClock(), FakeClock()])
def test_waiting_ends_when_the_event_is_set(clock: Clock):
    event = threading.Event()
    timer = threading.Timer(0.02, event.set)
    timer.start()
    assert clock.wait(event, 60)
    timer.join()


@pytest.mark.parametrize("clock", [SystemClock(), FakeClock(auto_advance=True)])
def test_waiting_ends_when_the_time_has_passed(clock: Clock):
    assert not clock.wait(threading.Event(), 0.01)


def test_with_auto_advance_a_sleep_moves_the_time_itself():
    clock = FakeClock(auto_advance=True)
    clock.sleep(5)
    assert clock.monotonic() == 5
