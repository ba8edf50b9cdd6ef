"""Queue, credit, rate and watchdog keep their bounds, and let go at once when a transfer fails."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from agent.transfer.flow import Channel, Credit, Failure, Throttle
from agent.transfer.meter import Meter
from agent.transfer.watchdog import Watchdog
from watari import errors
from watari.clock import FakeClock, SystemClock

WAIT_SECONDS_MAX = 30.0
BROKEN = errors.DataLoss("DISK_IO", "broken")


@contextmanager
def waiting(call: Callable[[], object]) -> Iterator[list[object]]:
    """`call` blocks when the block begins and has returned after it. Yields what it returned."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(call())
        except errors.WatariError as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    yield results
    thread.join(WAIT_SECONDS_MAX)
    assert not thread.is_alive()


def test_a_channel_holds_so_many_items_and_gives_them_in_order() -> None:
    channel: Channel[int] = Channel(Failure(), 2)
    channel.put(1)
    channel.put(2)
    with waiting(lambda: channel.put(3)):
        assert channel.get() == 1
    channel.close()
    assert [channel.get(), channel.get(), channel.get()] == [2, 3, None]


def test_a_channel_holds_so_many_bytes_and_one_item_of_more_alone() -> None:
    channel: Channel[bytes] = Channel(Failure(), 10, 100, len)
    channel.put(bytes(60))
    assert channel.fill == 0.6
    channel.put(bytes(40))
    assert channel.fill == 1.0
    with waiting(lambda: channel.put(b"!")):
        assert channel.get() == bytes(60)
    assert channel.drain() == [bytes(40), b"!"]
    assert channel.fill == 0.0
    channel.put(bytes(1000))
    with waiting(lambda: channel.put(b"!")):
        assert channel.get() == bytes(1000)
    assert channel.fill == 0.1, "one item of ten"


def test_an_item_is_taken_by_who_wants_it_and_stays_first_until_then() -> None:
    channel: Channel[int] = Channel(Failure(), 10)
    wanted: list[int] = []
    asked: list[int] = []

    def wants(item: int) -> bool:
        asked.append(item)
        return item in wanted

    with waiting(lambda: channel.get(wants)) as got:
        channel.put(1)
        channel.put(2)
        wanted.append(2)
        channel.put(3)
        wanted.append(1)
        channel.put(4)
    assert got == [1]
    assert set(asked) == {1}, "nobody overtakes the first"
    assert channel.drain() == [2, 3, 4]


def test_credit_that_is_not_there_is_refused_at_once() -> None:
    credit = Credit(Failure(), 100)
    assert credit.try_take(60)
    assert not credit.try_take(50)
    credit.give_back(20)
    assert credit.try_take(50)
    credit.give_back(90)
    assert credit.try_take(500), "one item of more goes alone"
    assert not credit.try_take(1)


def test_one_item_larger_than_all_credit_goes_alone_whatever_was_given_back() -> None:
    credit = Credit(Failure(), 100)
    credit.take(10)
    credit.give_back(58)
    credit.take(1000)
    with waiting(lambda: credit.take(1)):
        credit.give_back(1000)


def test_credit_is_taken_until_none_is_left_and_given_back() -> None:
    credit = Credit(Failure(), 100)
    credit.take(60)
    credit.take(40)
    with waiting(lambda: credit.take(50)):
        credit.give_back(60)
    with waiting(lambda: credit.take(20)):
        credit.give_back(40)


def test_one_item_larger_than_all_credit_goes_alone() -> None:
    credit = Credit(Failure(), 100)
    credit.take(500)
    with waiting(lambda: credit.take(1)):
        credit.give_back(500)


@pytest.mark.parametrize("wait", ["put", "get", "credit", "pace"])
def test_whoever_waits_gets_the_first_error_at_once(wait: str) -> None:
    failure = Failure()
    channel: Channel[int] = Channel(failure, 1)
    credit, throttle = Credit(failure, 1), Throttle(failure, SystemClock(), 1)
    credit.take(1)
    throttle.pace(1000)
    if wait == "put":
        channel.put(1)
    calls: dict[str, Callable[[], object]] = {
        "put": lambda: channel.put(2),
        "get": channel.get,
        "credit": lambda: credit.take(1),
        "pace": lambda: throttle.pace(1),
    }
    with waiting(calls[wait]) as results:
        failure.fail(BROKEN)
        failure.fail(errors.Cancelled("CANCELLED", "later"))
    assert results == [BROKEN]
    with pytest.raises(errors.DataLoss):
        calls[wait]()


@pytest.mark.alone
def test_a_cap_holds_over_time_and_can_be_lifted() -> None:
    throttle = Throttle(Failure(), SystemClock(), 1_000_000)
    began = time.monotonic()
    for _ in range(6):
        throttle.pace(100_000)
    assert 0.2 < time.monotonic() - began < 1.5
    throttle.pace(10_000_000)
    with waiting(lambda: throttle.pace(1)):
        throttle.set(0)


@pytest.mark.parametrize("moved", ["settled", "wire"])
def test_a_transfer_in_which_nothing_moves_is_failed_and_one_that_moves_is_not(moved: str) -> None:
    clock, failure = FakeClock(), Failure()
    meter = Meter(clock, 100)
    with Watchdog(failure, meter, clock, 60).watching():
        for _ in range(4):
            clock.await_sleepers(1)
            meter.add(**{moved: 1})
            clock.advance(40)
            time.sleep(0.02)
        assert failure.error is None
        give_up = time.monotonic() + WAIT_SECONDS_MAX
        while failure.error is None and time.monotonic() < give_up:
            clock.advance(31)
            time.sleep(0.02)
    assert failure.error is not None
    assert failure.error.reason == "PEER_UNAVAILABLE"


def test_the_error_of_an_ended_transfer_holds_no_content() -> None:
    """Ended transfers are remembered by the hundred; each had megabytes in its frames."""

    class Content:
        pass

    failure = Failure()
    alive: list[weakref.ref[Content]] = []

    def part() -> None:
        content = Content()
        alive.append(weakref.ref(content))
        try:
            [].pop()
        except IndexError as cause:
            raise errors.DataLoss("DISK_IO", "broken") from cause

    try:
        part()
    except errors.DataLoss as error:
        failure.fail(error)
    gc.collect()
    assert alive[0]() is not None
    failure.let_go()
    gc.collect()
    assert alive[0]() is None
    assert failure.error is not None
