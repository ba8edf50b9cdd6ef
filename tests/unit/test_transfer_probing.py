"""Pings beside the data tell how long frames queue on the way."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest

from agent.transfer.probing import ANSWERED, PROBE_SECONDS, PROBES_UNDER_WAY_MAX, Prober
from watari.clock import FAKE_POLL_SECONDS, FakeClock

ROUND_TRIP = 0.2
WAIT_SECONDS_MAX = 30.0


class Answer(grpc.RpcError):
    """How a ping ended."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__()
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code


class Ping:
    """One that a test ends."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._cancelled = False
        self._error: grpc.RpcError | None = None
        self._callbacks: list[Callable[[Ping], None]] = []

    def add_done_callback(self, callback: "Callable[[Ping], None]") -> None:
        self._callbacks.append(callback)

    def cancelled(self) -> bool:
        return self._cancelled

    def exception(self) -> grpc.RpcError | None:
        assert not self._cancelled
        return self._error

    def cancel(self) -> None:
        self._cancelled = True
        self._end()

    def answer(self, code: grpc.StatusCode = ANSWERED) -> None:
        self._error = Answer(code)
        self._end()

    def _end(self) -> None:
        for callback in self._callbacks:
            callback(self)


class Rounds(FakeClock):
    """Time of which a waiter notices nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self._waits, self._let = threading.Semaphore(0), threading.Semaphore(0)

    def wait(self, event: threading.Event, timeout_seconds: float) -> bool:
        """Returns when the test says that it is time, or the event is set."""
        self._waits.release()
        while not event.is_set():
            if self._let.acquire(timeout=FAKE_POLL_SECONDS):
                break
        return event.is_set()

    def await_waiting(self) -> None:
        """Returns when it waits, once for each time that it does."""
        assert self._waits.acquire(timeout=WAIT_SECONDS_MAX), "it does not wait"

    def let_go(self) -> None:
        """Ends one wait, and returns when the next one has begun."""
        self._let.release()
        self.await_waiting()


class Bench:
    """A prober, its clock and the pings that it sent."""

    def __init__(self) -> None:
        self.clock = Rounds()
        self.sent: list[Ping] = []
        self.prober = Prober(self._ping, ROUND_TRIP, self.clock)

    @contextmanager
    def probing(self) -> Iterator[None]:
        """The prober waits for the moment of its first ping when the block begins."""
        with self.prober.probing():
            self.clock.await_waiting()
            yield

    def _ping(self) -> Ping:
        self.sent.append(Ping())
        return self.sent[-1]

    def pass_time(self) -> None:
        """Until it was time for a ping and the prober waits again."""
        self.clock.advance(PROBE_SECONDS)
        self.clock.let_go()

    def next(self) -> Ping:
        """The ping that is sent when it is time for one."""
        count = len(self.sent)
        self.pass_time()
        assert len(self.sent) == count + 1
        return self.sent[-1]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    with made.probing():
        yield made


def test_without_a_ping_nothing_is_known(bench: Bench) -> None:
    assert bench.prober.take_queued_seconds() is None


@pytest.mark.parametrize(
    ("delays", "found"), [([0.0], 0.0), ([0.05, 0.01], 0.05), ([-0.01, 0.03], 0.03), ([-0.02], 0)]
)
def test_the_latest_of_the_pings_counts_once(
    bench: Bench, delays: list[float], found: float
) -> None:
    for each in delays:
        ping = bench.next()
        bench.clock.advance(ROUND_TRIP + each)
        ping.answer()
    assert bench.prober.take_queued_seconds() == pytest.approx(found)
    assert bench.prober.take_queued_seconds() is None


def test_a_ping_that_is_not_back_yet_tells_how_long_it_waits_already(bench: Bench) -> None:
    bench.next()
    assert bench.prober.take_queued_seconds() is None, "it is not late yet"
    bench.clock.advance(ROUND_TRIP + 0.5)
    assert bench.prober.take_queued_seconds() == pytest.approx(0.5)


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK]
)
def test_a_ping_that_failed_says_nothing(bench: Bench, code: grpc.StatusCode) -> None:
    bench.next().answer(code)
    assert bench.prober.take_queued_seconds() is None


def test_no_more_are_sent_than_may_be_unanswered(bench: Bench) -> None:
    for _ in range(PROBES_UNDER_WAY_MAX):
        bench.next()
    bench.pass_time()
    assert len(bench.sent) == PROBES_UNDER_WAY_MAX
    bench.sent[0].answer()
    bench.next()
    assert len(bench.sent) == PROBES_UNDER_WAY_MAX + 1


def test_what_is_under_way_at_the_end_is_cancelled() -> None:
    bench = Bench()
    with bench.probing():
        first, second = bench.next(), bench.next()
        first.answer()
    assert (first.cancelled(), second.cancelled()) == (False, True)
    assert bench.prober.take_queued_seconds() == 0.0
