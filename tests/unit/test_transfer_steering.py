"""Level, connections, credit and pace follow what is measured, within their bounds."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.transfer.geometry import FRAME_CONTENT_BYTES_MAX, STREAMS_MAX
from agent.transfer.steering import (
    CREDIT_BYTES_FIRST,
    CREDIT_BYTES_FIRST_FAR,
    CREDIT_BYTES_MIN,
    CREDIT_BYTES_STARTING_MAX,
    EMPTY,
    FAR_SECONDS,
    FRAME_BYTES_LAST,
    FULL,
    GROWTH_TICKS,
    HALF,
    HELD_GAIN,
    IDLE_MIN,
    LAST_BYTES,
    LEVEL_FIRST,
    LEVEL_FIRST_FAR,
    LEVELS,
    PACE_GAIN,
    PACE_TICKS,
    QUEUED_MIN,
    QUEUED_SECONDS_MIN,
    Seen,
    Steering,
    way,
)
from tests.support.steered import (
    BEHIND,
    FAR,
    MIB,
    MIDDLE,
    NEAR,
    QUIET,
    TICK,
    at_rate,
    run,
    steering,
)


@pytest.mark.parametrize(
    ("fill", "idle", "step"),
    [
        (FULL, IDLE_MIN, 1),
        (1.0, 1.0, 1),
        (1.0, IDLE_MIN - 0.01, 0),
        (FULL - 0.01, 1.0, 0),
        (EMPTY + 0.01, 1.0, 0),
        (EMPTY + 0.01, 0.0, 0),
        (EMPTY, 1.0, -1),
        (0.0, 1.0, -1),
        (0.0, 0.0, -2),
    ],
)
def test_the_level_rises_with_a_full_queue_and_idle_processors_and_falls_with_an_empty_one(
    fill: float, idle: float, step: int
) -> None:
    steered = steering()
    steered.tick(QUIET)
    steered.tick(replace(QUIET, fill=fill, idle=idle))
    assert steered.level == LEVELS[LEVELS.index(LEVEL_FIRST) + step]


@pytest.mark.parametrize("round_trip", [NEAR, FAR])
def test_a_queue_that_is_still_filling_is_no_reason_for_a_lower_level(round_trip: float) -> None:
    steered = steering(round_trip)
    level = steered.level
    for fill in (0.1, 0.2, 0.5, 0.7):
        steered.tick(replace(QUIET, fill=fill, idle=0.0))
        assert steered.level == level


@pytest.mark.parametrize("round_trip", [NEAR, FAR])
def test_the_level_stays_on_its_scale(round_trip: float) -> None:
    steered = steering(round_trip)
    run(steered, BEHIND, 2 * len(LEVELS))
    assert steered.level == LEVELS[-1]
    run(steered, replace(QUIET, fill=0.0), 2 * len(LEVELS))
    assert steered.level == LEVELS[0]


def test_a_busy_host_whose_queue_falls_gives_up_a_costly_level_and_then_all_of_them() -> None:
    steered = steering()
    run(steered, replace(BEHIND, fill=1.0), 3)
    levels = []
    for fill in (1.0, 0.9, 0.8, 0.8, 0.9, HALF - 0.01, 0.4, EMPTY):
        steered.tick(replace(BEHIND, fill=fill, idle=0.0))
        levels.append(steered.level)
    assert levels == [6, 5, 4, 4, 4, 3, 3, 1]


def test_an_empty_queue_gives_all_levels_above_the_first_up_at_once() -> None:
    steered = steering()
    run(steered, BEHIND, len(LEVELS))
    steered.tick(replace(QUIET, fill=0.0))
    assert steered.level == LEVEL_FIRST


def test_over_a_long_way_it_begins_with_a_higher_level_more_connections_and_credit() -> None:
    near, far = steering(NEAR), steering(FAR)
    assert (near.level, far.level) == (LEVEL_FIRST, LEVEL_FIRST_FAR)
    assert (near.streams, far.streams) == (2, 16)
    assert near.credit_bytes(1 << 40) == CREDIT_BYTES_FIRST
    assert far.credit_bytes(1 << 40) == CREDIT_BYTES_FIRST_FAR


@pytest.mark.parametrize("round_trip", [0.0, NEAR, 0.002, FAR_SECONDS, 0.09, 0.15, FAR, 30.0])
def test_there_is_a_way_for_every_round_trip_and_a_longer_one_has_as_many_connections(
    round_trip: float,
) -> None:
    assert way(round_trip).streams >= way(round_trip * 0.99).streams
    assert way(round_trip).sealed_bytes <= FRAME_CONTENT_BYTES_MAX


SEEN = st.builds(
    Seen,
    seconds=st.floats(0.1, 2.0),
    fill=st.floats(0.0, 1.0),
    settled_wire_bytes=st.integers(0, 1 << 32),
    settled_frames=st.integers(0, 5000),
    held_seconds=st.floats(0.0, 10.0),
    capped=st.booleans(),
    idle=st.floats(0.0, 1.0),
    queued_seconds=st.none() | st.floats(0.0, 10.0),
)
ROUND_TRIPS = st.sampled_from([0.0, NEAR, 0.01, MIDDLE, 0.1, FAR])


@given(
    ticks=st.lists(SEEN, max_size=60),
    round_trip=ROUND_TRIPS,
    streams_max=st.integers(1, STREAMS_MAX),
    credit_max=st.integers(1, 1 << 30),
)
def test_whatever_is_seen_everything_stays_within_its_bounds(
    ticks: list[Seen], round_trip: float, streams_max: int, credit_max: int
) -> None:
    steered = steering(round_trip, streams_max=streams_max)
    for seen in ticks:
        before = LEVELS.index(steered.level)
        streams = steered.streams
        steered.tick(seen)
        now = LEVELS.index(steered.level)
        assert now <= before + 1
        assert now <= before or (seen.fill >= FULL and seen.idle >= IDLE_MIN)
        assert now >= before or seen.fill <= EMPTY or seen.idle < IDLE_MIN
        assert 1 <= steered.streams <= min(streams_max, 2 * streams)
        assert steered.streams <= streams or (seen.fill >= FULL and seen.idle >= IDLE_MIN)
        assert min(CREDIT_BYTES_MIN, credit_max) <= steered.credit_bytes(credit_max) <= credit_max
        assert steered.pace_bytes_per_second >= 0
        assert FRAME_BYTES_LAST <= steered.frame_bytes(0, 1.0) <= FRAME_CONTENT_BYTES_MAX


@given(
    ticks=st.lists(SEEN, max_size=60),
    round_trip=ROUND_TRIPS,
    level=st.sampled_from([-3, 1, 8, 19]),
    streams=st.integers(1, STREAMS_MAX),
)
def test_what_the_user_has_fixed_stays_fixed(
    ticks: list[Seen], round_trip: float, level: int, streams: int
) -> None:
    steered = steering(round_trip, level=level, streams=streams)
    for seen in ticks:
        steered.tick(seen)
        assert (steered.level, steered.streams) == (level, streams)


@pytest.mark.parametrize(("round_trip", "below", "gain"), [(MIDDLE, 2.4, 2.4), (FAR, 1.0, 1.0)])
def test_credit_is_what_the_way_and_the_receiver_hold_at_the_rate_that_was_reached(
    round_trip: float, below: float, gain: float
) -> None:
    rate, held = 200 * MIB, 0.5
    steered = steering(round_trip)
    run(steered, at_rate(rate), 20)
    product = rate * round_trip
    on_the_way = steered.credit_bytes(1 << 40)
    partial = way(round_trip).grain * steered.streams * MIB
    assert on_the_way == pytest.approx(gain * product + partial, rel=0.05)
    run(steered, replace(at_rate(rate), held_seconds=held), 2)
    expected = on_the_way + HELD_GAIN * rate * held
    assert steered.credit_bytes(1 << 40) == pytest.approx(expected, rel=0.01)
    assert steered.credit_bytes(7 * MIB) == 7 * MIB
    run(steered, QUIET, 20)
    assert steered.credit_bytes(1 << 40) < on_the_way / 2, "what is not used is taken back"


def test_credit_follows_a_rate_that_still_grows_twice_as_far() -> None:
    """Else the first credit would be the rate's limit for ever."""
    steered = steering(FAR)
    for rate in (40 * MIB, 80 * MIB, 160 * MIB):
        steered.tick(at_rate(rate))
        assert steered.credit_bytes(1 << 40) >= rate * FAR
    settled = steering(FAR)
    run(settled, at_rate(120 * MIB), 20)
    assert steered.credit_bytes(1 << 40) > 1.5 * settled.credit_bytes(1 << 40)


@pytest.mark.parametrize("round_trip", [NEAR, FAR, 1.0])
def test_frames_are_not_paced_while_the_rate_grows_and_then_little_above_the_best_of_late(
    round_trip: float,
) -> None:
    steered = steering(round_trip)
    rate = 10 * MIB
    for _ in range(5):
        rate *= 2
        steered.tick(at_rate(rate))
        assert steered.pace_bytes_per_second == 0
    for _ in range(GROWTH_TICKS + int(round_trip / TICK) - 1):
        steered.tick(at_rate(rate // 2))
        assert steered.pace_bytes_per_second == 0
    run(steered, at_rate(rate), 2 * PACE_TICKS)
    assert steered.pace_bytes_per_second == pytest.approx(PACE_GAIN * rate, rel=0.01)
    run(steered, at_rate(rate // 10), PACE_TICKS - 1)
    assert steered.pace_bytes_per_second >= rate, "one loss is no reason to go slower"
    run(steered, at_rate(rate // 10), PACE_TICKS)
    assert steered.pace_bytes_per_second == pytest.approx(PACE_GAIN * rate / 10, rel=0.01)


def test_a_rate_that_suddenly_grows_is_let_go_again() -> None:
    steered = steering(MIDDLE)
    run(steered, at_rate(10 * MIB), 20)
    assert steered.pace_bytes_per_second > 0
    run(steered, at_rate(100 * MIB), 2)
    assert steered.pace_bytes_per_second == 0


@pytest.mark.parametrize("silent", [1, 10])
def test_the_time_before_the_first_acknowledgement_says_nothing_about_the_rate(silent: int) -> None:
    rate = 100 * MIB
    late, early = steering(FAR), steering(FAR)
    run(late, QUIET, silent)
    late.tick(at_rate(rate))
    early.tick(at_rate(rate))
    assert late.credit_bytes(1 << 40) == early.credit_bytes(1 << 40) > CREDIT_BYTES_FIRST_FAR


@pytest.mark.parametrize(
    ("round_trip", "small"),
    [(NEAR, False), (FAR_SECONDS * 0.9, False), (MIDDLE, True), (FAR, True)],
)
def test_frames_get_small_at_the_end_of_a_long_way_and_never_near_by(
    round_trip: float, small: bool
) -> None:
    steered = steering(round_trip)
    large = way(round_trip).sealed_bytes
    assert steered.frame_bytes(1 << 40, 1.0) == steered.frame_bytes(LAST_BYTES, 1.0) == large
    last = FRAME_BYTES_LAST if small else large
    assert steered.frame_bytes(LAST_BYTES - 1, 1.0) == steered.frame_bytes(0, 1.0) == last


@pytest.mark.parametrize("round_trip", [NEAR, MIDDLE, 0.1, FAR])
def test_frames_have_about_one_size_on_the_wire_whatever_their_content_keeps(
    round_trip: float,
) -> None:
    steered, size = steering(round_trip), way(round_trip).sealed_bytes
    for kept in (0.01, 0.15, 0.3, 0.7, 1.0):
        content = steered.frame_bytes(1 << 40, kept)
        assert content == pytest.approx(min(size / kept, FRAME_CONTENT_BYTES_MAX), rel=0.01)


@pytest.mark.parametrize(("round_trip", "more"), [(NEAR, 1), (MIDDLE, 1), (0.1, 8), (FAR, 8)])
def test_over_a_long_way_more_frames_wait_for_connections(round_trip: float, more: int) -> None:
    assert steering(round_trip).queue_factor == more


PINGED = replace(QUIET, queued_seconds=0.0)
"""Nothing queues on the way."""


def credits_of(steered: Steering, *ticks: Seen) -> list[int]:
    """Credit in MiB after each tick."""
    found = []
    for seen in ticks:
        steered.tick(seen)
        found.append(steered.credit_bytes(1 << 40) // MIB)
    return found


def test_credit_grows_while_it_is_used_and_no_ping_is_late() -> None:
    first = CREDIT_BYTES_FIRST_FAR // MIB
    used = at_rate(30 * MIB, PINGED)
    growing = [at_rate(rate * MIB, PINGED) for rate in (30, 60, 120)]
    assert credits_of(steering(FAR), *growing)[-1] >= 7 * first
    little = replace(at_rate(5 * MIB, PINGED), settled_frames=1000)
    assert credits_of(steering(FAR), little, little) == [first, first]
    late = replace(used, settled_frames=1000, queued_seconds=QUEUED_SECONDS_MIN)
    assert max(credits_of(steering(FAR), late, late)) < 2 * first
    assert max(credits_of(steering(FAR), *growing)) == CREDIT_BYTES_STARTING_MAX // MIB


def test_a_way_that_is_full_at_once_takes_the_first_credit_back() -> None:
    little = replace(at_rate(MIB, PINGED), settled_frames=1000)
    late = replace(little, queued_seconds=QUEUED_MIN * FAR)
    found = credits_of(steering(FAR), little, late)
    assert found == [CREDIT_BYTES_FIRST_FAR // MIB, CREDIT_BYTES_MIN // MIB]


def test_credit_never_grows_more_than_fourfold_in_a_tick() -> None:
    steered = steering(0.1)
    assert credits_of(steered, at_rate(16 * MIB, PINGED)) == [4 * CREDIT_BYTES_FIRST_FAR // MIB]


def test_queues_that_fill_bring_credit_down_to_what_the_way_holds() -> None:
    rate = 12 * MIB
    used, late = at_rate(rate, PINGED), replace(at_rate(rate), queued_seconds=QUEUED_MIN * FAR)
    steered = steering(FAR)
    grown = credits_of(steered, used, used)[-1]
    expected = (rate * FAR + way(FAR).grain * steered.streams * MIB) / MIB
    assert credits_of(steered, late)[-1] == pytest.approx(expected, abs=1)
    assert grown > 1.2 * expected
    run(steered, late, 20)
    assert credits_of(steered, used)[-1] == pytest.approx(expected, abs=1), "and there it stays"
