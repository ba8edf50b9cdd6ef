"""watari.windows: how bandwidth caps for parts of the day are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watari import errors, windows
from watari.v1 import common_pb2

MINUTES = st.integers(0, 1439)


def clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


@given(MINUTES, MINUTES, st.just(0) | st.integers(1 << 16, 1 << 50))
def test_every_window_can_be_written(begin: int, end: int, limit: int) -> None:
    parsed = windows.parse(f"{clock(begin)}-{clock(end)}={limit}")
    assert parsed == common_pb2.LimitWindow(
        from_minute=begin, to_minute=end, limit_bytes_per_second=limit
    )
    windows.require([parsed], "options.limit_schedule")


@given(st.text())
def test_other_text_is_refused_with_a_stable_code(text: str) -> None:
    try:
        windows.parse(text)
    except errors.InvalidArgument as error:
        assert error.reason in {"INVALID_QUANTITY", "INVALID_FIELD"}  # noqa: PT017


@pytest.mark.parametrize(
    ("text", "begin", "end", "limit"),
    [
        ("08:00-18:00=10M", 480, 1080, 10_000_000),
        ("8:00-18:00=10MiB/s", 480, 1080, 10 << 20),
        (" 22:00-06:00=0 ", 1320, 360, 0),
        ("18:00-24:00=1M", 1080, 0, 1_000_000),
        ("00:00-24:00=1M", 0, 0, 1_000_000),
    ],
)
def test_hours_suffixes_and_midnight(text: str, begin: int, end: int, limit: int) -> None:
    assert windows.parse(text) == common_pb2.LimitWindow(
        from_minute=begin, to_minute=end, limit_bytes_per_second=limit
    )


@pytest.mark.parametrize(
    "text",
    ["", "10M", "08:00-18:00", "08:00-18:00=", "08:60-18:00=1M", "25:00-18:00=1M", "24:00-1:00=1M",
     "08:00-24:01=1M", "0800-1800=1M", "08:00-18:00=x", "٠٨:00-18:00=1M", "8:00-9:00=1" + " " * 64],
)  # fmt: skip
def test_what_is_no_window_says_how_to_write_one(text: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        windows.parse(text)
    assert caught.value.reason == "INVALID_QUANTITY"
    assert caught.value.hint


def test_a_cap_that_is_too_small_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="INVALID_FIELD: limit window: 1 is out"):
        windows.parse("08:00-18:00=1")


def test_windows_are_shown_as_people_write_times() -> None:
    assert windows.show(windows.parse("8:05-18:00=10MiB")) == "08:05-18:00 10.0 MiB/s"
    assert windows.show(windows.parse("22:00-06:00=0")) == "22:00-06:00 no limit"
