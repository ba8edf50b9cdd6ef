"""Which index is built when, by whom, and for how much of the processor."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.seeds.builds import BuildLimits, Builds, Job, Pace
from agent.seeds.images import Image
from watari import errors
from watari.clock import FakeClock, SystemClock

LIMITS = BuildLimits(rest_ratio=1.0, rebuild_seconds_min=300, retry_seconds_min=60)
NEVER = threading.Event()


def job(name: str) -> Job:
    """A job whose target is a name."""
    return Job(Path(name), "scope", Image(Path("image"), "raw", "scope", name))


class Work:
    """Keeps what was built; does what a test hangs on a name while it is."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.actions: dict[str, Callable[[Pace], None]] = {}

    def __call__(self, asked: Job, pace: Pace) -> None:
        self.built.append(asked.target.name)
        self.actions.get(asked.target.name, lambda _: None)(pace)


@pytest.fixture
def work() -> Work:
    """What was built."""
    return Work()


@pytest.fixture
def clock() -> FakeClock:
    """Time that rests pass by themselves."""
    return FakeClock(auto_advance=True)


@pytest.fixture
def builds(work: Work, clock: FakeClock) -> Iterator[Builds]:
    """A queue under fake time."""
    queue = Builds(work, clock, LIMITS)
    yield queue
    queue.close()


def test_urgent_ones_come_first_and_each_once(builds: Builds, work: Work) -> None:
    builds.ask([job("a"), job("b")], urgent=False)
    builds.ask([job("b"), job("c")], urgent=True)
    builds.drain(NEVER)
    assert work.built == ["b", "c", "a"]


def test_what_the_background_adds_comes_behind_what_somebody_waits_for(
    builds: Builds, work: Work
) -> None:
    builds.ask([job("a")], urgent=True)
    builds.ask([job("b")], urgent=False)
    builds.drain(NEVER)
    assert work.built == ["a", "b"]


def test_the_background_waits_before_it_builds_an_image_again(
    builds: Builds, work: Work, clock: FakeClock
) -> None:
    for wait_seconds in (0, 299, 1):
        clock.advance(wait_seconds)
        builds.ask([job("a")], urgent=False)
        builds.drain(NEVER)
    assert work.built == ["a", "a"]


def test_who_waits_does_not_wait_for_that(builds: Builds, work: Work) -> None:
    for _ in range(2):
        builds.ask([job("a")], urgent=True)
        builds.drain(NEVER)
    assert work.built == ["a", "a"]


@pytest.mark.parametrize("error", [errors.DataLoss("DISK_IO", "x"), OSError("x"), ValueError("x")])
def test_a_build_that_fails_is_left_alone_for_a_while_and_the_next_has_its_turn(
    builds: Builds, work: Work, clock: FakeClock, error: Exception
) -> None:
    def fail(pace: Pace) -> None:
        raise error

    work.actions["a"] = fail
    for wait_seconds in (0, 59, 1):
        clock.advance(wait_seconds)
        builds.ask([job("a"), job("b")], urgent=True)
        builds.drain(NEVER)
    assert work.built == ["a", "b", "b", "a", "b"]


def test_what_stops_keeps_the_rest_for_another_time(builds: Builds, work: Work) -> None:
    stopping = threading.Event()

    def stop(pace: Pace) -> None:
        stopping.set()
        pace()
        raise AssertionError("it went on")

    work.actions["a"] = stop
    builds.ask([job("a"), job("b")], urgent=False)
    builds.drain(stopping)
    assert work.built == ["a"]
    builds.drain(NEVER)
    assert work.built == ["a", "b"]


def test_what_nobody_needs_any_more_is_not_built_and_nobody_waits_for_it(
    builds: Builds, work: Work
) -> None:
    gone = builds.ask([job("gone"), job("kept")], urgent=False)[0]
    builds.forget(lambda target: target.name == "kept")
    assert gone.done.is_set()
    builds.drain(NEVER)
    assert work.built == ["kept"]


def test_a_build_rests_as_long_as_it_works(builds: Builds, work: Work, clock: FakeClock) -> None:
    def chunks(pace: Pace) -> None:
        for _ in range(10):
            clock.advance(0.5)
            pace()

    work.actions["a"] = chunks
    builds.ask([job("a")], urgent=False)
    builds.drain(NEVER)
    assert clock.monotonic() == pytest.approx(10.0)


def test_a_build_rests_for_as_long_as_the_host_is_busy(work: Work, clock: FakeClock) -> None:
    queue = Builds(work, clock, LIMITS, lambda: clock.monotonic() < 42)

    def chunk(pace: Pace) -> None:
        pace()
        assert 42 <= clock.monotonic() < 44

    work.actions["a"] = chunk
    queue.ask([job("a")], urgent=False)
    queue.drain(NEVER)
    assert work.built == ["a"]
    queue.close()


def test_a_build_does_not_rest_while_somebody_waits(work: Work) -> None:
    clock = FakeClock()  # a rest would block for ever
    queue = Builds(work, clock, LIMITS)

    def chunks(pace: Pace) -> None:
        for _ in range(10):
            clock.advance(0.5)
            pace()

    work.actions["a"] = chunks
    queue.wait(queue.ask([job("a")], urgent=True), 1000)
    assert clock.monotonic() == pytest.approx(5.0)
    queue.close()


def test_waiting_ends_when_its_time_is_over_and_the_build_goes_on(work: Work) -> None:
    release, queue = threading.Event(), Builds(work, SystemClock(), LIMITS)

    def until_released(pace: Pace) -> None:
        assert release.wait(20)

    work.actions["slow"] = until_released
    asked = queue.ask([job("slow")], urgent=True)
    queue.wait(asked, 0.05)
    assert not asked[0].done.is_set()
    again = queue.ask([job("slow")], urgent=True)
    assert again[0] is asked[0]
    release.set()
    queue.wait(again, 20)
    assert again[0].done.is_set()
    assert work.built == ["slow"]
    queue.close()


def test_closing_ends_a_build_that_a_session_began(work: Work) -> None:
    started, queue = threading.Event(), Builds(work, SystemClock(), LIMITS)

    def endless(pace: Pace) -> None:
        started.set()
        while True:
            pace()

    work.actions["a"] = endless
    asked = queue.ask([job("a"), job("b")], urgent=True)
    queue.wait(asked[:1], 0)
    assert started.wait(20)
    queue.close()
    assert asked[0].done.is_set()
    queue.wait(queue.ask([job("c")], urgent=True), 0)
    assert work.built == ["a"]
