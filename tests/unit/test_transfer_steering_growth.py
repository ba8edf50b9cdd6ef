"""More connections are used while they bring something, and only where they are what is lacking."""

from dataclasses import replace

import pytest

from agent.transfer.geometry import STREAMS_MAX
from agent.transfer.steering import FULL, GROW_SECONDS_MIN, IDLE_MIN, Seen, Steering
from tests.support.steered import BEHIND, FAR, MIB, NEAR, TICK, at_rate, run, run_for, steering


def grown(round_trip: float = NEAR, *, streams_max: int = STREAMS_MAX) -> Steering:
    """At 100 MiB a second, and about to use more connections than at first."""
    steered = steering(round_trip, streams_max=streams_max)
    first = steered.streams
    for _ in range(100):
        steered.tick(at_rate(100 * MIB, BEHIND))
        if steered.streams != first:
            break
    return steered


def test_more_connections_are_tried_twice_as_many_each_time_while_they_bring_something() -> None:
    steered, rate, seen = grown(), 100 * MIB, []
    for _ in range(4):
        seen.append(steered.streams)
        rate = rate * 6 // 5
        run_for(steered, at_rate(rate, BEHIND), GROW_SECONDS_MIN)
    assert seen == [4, 8, 16, 16]


@pytest.mark.parametrize("streams_max", [3, 5])
def test_there_are_no_more_connections_than_the_receiver_takes(streams_max: int) -> None:
    steered, rate = grown(streams_max=streams_max), 100 * MIB
    for _ in range(4):
        rate = rate * 6 // 5
        run_for(steered, at_rate(rate, BEHIND), GROW_SECONDS_MIN)
    assert steered.streams == streams_max
    assert steering(FAR, streams_max=streams_max).streams == streams_max


def test_growth_that_brought_nothing_is_undone_and_not_tried_again() -> None:
    steered = grown()
    run_for(steered, at_rate(100 * MIB, BEHIND), GROW_SECONDS_MIN - TICK)
    assert steered.streams == 4, "they have to get through their slow start"
    steered.tick(at_rate(100 * MIB, BEHIND))
    assert steered.streams == 2
    run_for(steered, at_rate(100 * MIB, BEHIND), 20 * GROW_SECONDS_MIN)
    assert steered.streams == 2


@pytest.mark.parametrize(
    "seen",
    [
        replace(BEHIND, capped=True),
        replace(BEHIND, idle=IDLE_MIN - 0.01),
        replace(BEHIND, fill=FULL - 0.01),
        replace(BEHIND, queued_seconds=0.02),
    ],
    ids=["a cap", "a busy host", "a queue that is not full", "queues on the way that are"],
)
def test_more_connections_are_not_tried_where_they_are_not_what_is_lacking(seen: Seen) -> None:
    steered = steering()
    run_for(steered, at_rate(100 * MIB, seen), 10 * GROW_SECONDS_MIN)
    assert steered.streams == 2
    run(steered, at_rate(100 * MIB, replace(BEHIND, queued_seconds=0.0)), 1)
    assert steered.streams == 4


def test_more_connections_are_not_tried_while_the_rate_grows() -> None:
    steered, rate = steering(), MIB
    for _ in range(20):
        rate = rate * 3 // 2
        steered.tick(at_rate(rate, BEHIND))
        assert steered.streams == 2


def test_growth_that_brought_something_is_kept_when_the_disk_is_behind_for_a_while() -> None:
    steered, rate = grown(), 100 * MIB
    for _ in range(3):
        rate = rate * 6 // 5
        run_for(steered, at_rate(rate, BEHIND), GROW_SECONDS_MIN)
    assert steered.streams == 16
    run_for(steered, at_rate(rate, BEHIND), 30)
    run_for(steered, at_rate(50 * MIB, replace(BEHIND, fill=0.0)), 5)
    run_for(steered, at_rate(50 * MIB, BEHIND), 5)
    assert steered.streams == 16


def test_growth_is_kept_where_losses_hold_each_connection_back() -> None:
    """No ping is late although the network is behind: more connections are what is lacking."""
    free = replace(BEHIND, queued_seconds=0.0)
    late = replace(BEHIND, queued_seconds=FAR)
    for seen, kept in ((free, 16), (late, 8)):
        steered = steering(0.1)
        while steered.streams == 8:
            steered.tick(at_rate(100 * MIB, free))
        run_for(steered, at_rate(100 * MIB, seen), 2 * GROW_SECONDS_MIN)
        assert steered.streams == kept
