"""When a warm migration goes over to its last round."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.transfer.rounds import (
    FRUITLESS_MAX,
    HANDSHAKES,
    ROUNDS_MAX,
    ROUNDS_MIN,
    STOP_SECONDS_EXPECTED,
    Ran,
    Rounds,
)

MB = 1_000_000


def go_on(rounds: Rounds, dirty: float, rate: float, disk: float, overhead: float = 0.5) -> int:
    """Runs rounds of a guest that changes `dirty` bytes a second over a way of `rate`."""
    changed = disk
    while rounds.another:
        seconds = overhead + changed / rate
        rounds.ended(Ran(seconds, 0.0, int(changed), int(changed), whole=False))
        changed = min(disk, dirty * seconds)
    return rounds.number - 1


def test_a_guest_that_changes_less_than_the_way_carries_is_stopped_within_the_target() -> None:
    rounds = Rounds(3.0, 0.12)
    assert go_on(rounds, dirty=5 * MB, rate=12 * MB, disk=1000 * MB) < 12
    assert rounds.expected_seconds <= 3.0


def test_an_idle_guest_takes_the_fewest_rounds_there_are() -> None:
    assert go_on(Rounds(2.0, 0.0), dirty=0, rate=100 * MB, disk=4000 * MB) == ROUNDS_MIN


def test_a_guest_that_changes_faster_than_the_way_carries_is_stopped_all_the_same() -> None:
    rounds = Rounds(2.0, 0.0)
    assert go_on(rounds, dirty=50 * MB, rate=10 * MB, disk=500 * MB) <= ROUNDS_MIN + FRUITLESS_MAX
    assert rounds.expected_seconds > 2.0


def test_a_longer_way_costs_its_round_trips() -> None:
    near, far = Rounds(1.0, 0.0), Rounds(1.0, 0.2)
    for rounds in (near, far):
        for _ in range(ROUNDS_MIN):
            rounds.ended(Ran(1.0, 0.0, 0, 0, whole=False))
    assert near.expected_seconds == STOP_SECONDS_EXPECTED
    assert far.expected_seconds == pytest.approx(STOP_SECONDS_EXPECTED + HANDSHAKES * 0.2)


def test_where_changes_are_not_told_the_last_round_reads_everything() -> None:
    rounds = Rounds(1.0, 0.0)
    for _ in range(ROUNDS_MIN):
        rounds.ended(Ran(9.0, 8.0, 0, 0, whole=True))
    assert rounds.expected_seconds == STOP_SECONDS_EXPECTED + 8.0
    assert rounds.another
    for _ in range(FRUITLESS_MAX):
        rounds.ended(Ran(9.0, 8.0, 0, 0, whole=True))
    assert not rounds.another


RAN = st.builds(
    Ran,
    st.floats(0.001, 1e5),
    st.floats(0, 1e5),
    st.integers(0, 1 << 44),
    st.integers(0, 1 << 44),
    st.booleans(),
)


@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(st.lists(RAN, min_size=ROUNDS_MAX, max_size=ROUNDS_MAX), st.floats(1, 3600))
def test_whatever_happens_there_are_so_many_rounds_at_most(ran: list[Ran], target: float) -> None:
    rounds = Rounds(target)
    for each in ran:
        if not rounds.another:
            break
        rounds.ended(each)
    assert not rounds.another
    assert rounds.expected_seconds >= STOP_SECONDS_EXPECTED
