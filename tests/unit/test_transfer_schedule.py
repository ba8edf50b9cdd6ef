"""agent.transfer.schedule: which bandwidth cap holds at which time of the day."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.transfer import schedule
from watari import errors
from watari.v1 import common_pb2

MIB = 1 << 20
MINUTES = st.integers(0, 1439)
LIMITS = st.just(0) | st.integers(1 << 16, 1 << 50)
WINDOWS = st.lists(
    st.builds(
        common_pb2.LimitWindow,
        from_minute=MINUTES,
        to_minute=MINUTES,
        limit_bytes_per_second=LIMITS,
    ),
    max_size=16,
)
MOMENTS = st.datetimes(datetime.datetime(2026, 1, 1), datetime.datetime(2027, 1, 1))  # noqa: DTZ001


def at(clock: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(f"2026-11-24T{clock}")


def window(begin: str, end: str, limit: int) -> common_pb2.LimitWindow:
    minutes = [int(each[:2]) * 60 + int(each[3:]) for each in (begin, end)]
    return common_pb2.LimitWindow(
        from_minute=minutes[0], to_minute=minutes[1], limit_bytes_per_second=limit
    )


def cap(clock: str, *windows: common_pb2.LimitWindow, limit: int = MIB) -> int:
    return schedule.cap_at(at(clock), limit, windows)[0]


def slow_cap(moment: datetime.datetime, limit: int, windows: list[common_pb2.LimitWindow]) -> int:
    """The same answer by walking through every minute of each window."""
    now = moment.hour * 60 + moment.minute
    for each in windows:
        minute, covered = each.from_minute, {each.from_minute}
        while (minute := (minute + 1) % 1440) != each.to_minute and minute not in covered:
            covered.add(minute)
        if now in covered:
            return each.limit_bytes_per_second
    return limit


def test_outside_every_window_the_fixed_cap_holds() -> None:
    day = window("08:00", "18:00", 2 * MIB)
    assert cap("07:59:59.999999", day) == MIB
    assert cap("08:00", day) == 2 * MIB
    assert cap("17:59:59", day) == 2 * MIB
    assert cap("18:00", day) == MIB


def test_a_window_over_midnight_covers_evening_and_morning() -> None:
    night = window("22:00", "06:00", 0)
    assert [cap(clock, night) for clock in ("21:59", "22:00", "00:00", "05:59", "06:00")] == [
        MIB,
        0,
        0,
        0,
        MIB,
    ]


def test_equal_bounds_are_the_whole_day() -> None:
    whole = window("08:00", "08:00", 3 * MIB)
    assert [cap(clock, whole) for clock in ("00:00", "08:00", "23:59")] == [3 * MIB] * 3


def test_the_first_window_that_covers_the_moment_wins() -> None:
    noon, day = window("12:00", "13:00", 0), window("08:00", "18:00", 2 * MIB)
    assert cap("12:30", noon, day) == 0
    assert cap("12:30", day, noon) == 2 * MIB
    assert cap("13:00", noon, day) == 2 * MIB


def test_it_says_how_long_the_answer_holds() -> None:
    day = window("08:00", "18:00", 2 * MIB)
    assert schedule.cap_at(at("07:59:30.5"), 0, [day]) == (0, 29.5)
    assert schedule.cap_at(at("08:00"), 0, [day]) == (2 * MIB, 60)
    assert schedule.cap_at(at("17:59:59"), 0, [day]) == (2 * MIB, 1)
    assert schedule.cap_at(at("12:00"), 5, []) == (5, 60)


@given(MOMENTS, LIMITS, WINDOWS)
def test_the_cap_is_that_of_a_minute_by_minute_reading(
    moment: datetime.datetime, limit: int, windows: list[common_pb2.LimitWindow]
) -> None:
    assert schedule.cap_at(moment, limit, windows)[0] == slow_cap(moment, limit, windows)


@given(MOMENTS, LIMITS, WINDOWS, st.floats(0, 1, exclude_max=True))
def test_the_cap_stays_until_the_moment_that_was_told(
    moment: datetime.datetime, limit: int, windows: list[common_pb2.LimitWindow], part: float
) -> None:
    first, seconds = schedule.cap_at(moment, limit, windows)
    assert 0 < seconds <= schedule.RECHECK_SECONDS_MAX
    before = moment + datetime.timedelta(microseconds=int(seconds * 1e6 * part))
    assert schedule.cap_at(before, limit, windows)[0] == first


@given(WINDOWS)
def test_every_schedule_within_bounds_is_accepted(windows: list[common_pb2.LimitWindow]) -> None:
    schedule.check(windows)


@pytest.mark.parametrize(
    ("windows", "field"),
    [
        ([common_pb2.LimitWindow()] * 17, "options.limit_schedule"),
        ([common_pb2.LimitWindow(from_minute=1440)], "options.limit_schedule[0].from_minute"),
        (
            [common_pb2.LimitWindow(), common_pb2.LimitWindow(to_minute=1440)],
            "options.limit_schedule[1].to_minute",
        ),
        (
            [common_pb2.LimitWindow(limit_bytes_per_second=65535)],
            "options.limit_schedule[0].limit_bytes_per_second",
        ),
        (
            [common_pb2.LimitWindow(limit_bytes_per_second=(1 << 50) + 1)],
            "options.limit_schedule[0].limit_bytes_per_second",
        ),
    ],
)
def test_a_schedule_out_of_bounds_is_refused_by_field(
    windows: list[common_pb2.LimitWindow], field: str
) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        schedule.check(windows)
    assert caught.value.reason == "INVALID_FIELD"
    assert caught.value.metadata == {"field": field}
