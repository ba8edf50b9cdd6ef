"""Bandwidth caps for parts of the day: how people write them, and which are well-formed.

"08:00-18:00=10M" is a cap of 10 MB/s from eight to six, in the local time of the host that sends.
What a schedule means at a given moment is decided by the agent (agent/transfer/schedule.py).
"""

import re
from collections.abc import Sequence

from watari import errors, units, validate
from watari.v1 import common_pb2

LIMIT_WINDOWS_MAX = 16
"""Most windows of one schedule."""

MINUTES_PER_DAY = 24 * 60

_WINDOW = re.compile(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})=(.+)", re.ASCII)
_HINT = "write it like 08:00-18:00=10M, or 22:00-06:00=0 for no cap during the night"


def parse(text: str) -> common_pb2.LimitWindow:
    """The window of "08:00-18:00=10M"; the end may be 24:00, which is midnight.

    Raises InvalidArgument INVALID_QUANTITY for other text, INVALID_FIELD for a cap out of bounds.
    """
    match = _WINDOW.fullmatch(text.strip()) if len(text) <= units.QUANTITY_CHARS_MAX else None
    if match is None:
        raise _invalid(text)
    begin, end = _minute(text, match[1], match[2]), _minute(text, match[3], match[4])
    if begin == MINUTES_PER_DAY:
        raise _invalid(text)
    limit = validate.require_limit(units.parse_rate(match[5]), "limit window")
    return common_pb2.LimitWindow(
        from_minute=begin, to_minute=end % MINUTES_PER_DAY, limit_bytes_per_second=limit
    )


def show(window: common_pb2.LimitWindow) -> str:
    """Such as "08:00-18:00 9.5 MiB/s" or "22:00-06:00 no limit", for people."""
    limit = window.limit_bytes_per_second
    rate = units.format_rate(limit) if limit else "no limit"
    return f"{_clock(window.from_minute)}-{_clock(window.to_minute)} {rate}"


def require(windows: Sequence[common_pb2.LimitWindow], field: str) -> None:
    """At most LIMIT_WINDOWS_MAX windows, minutes within a day, caps within bounds.

    `field` is the schedule's name in the contract. Raises INVALID_FIELD, which names the window.
    """
    validate.require_count(len(windows), field, LIMIT_WINDOWS_MAX)
    for position, window in enumerate(windows):
        name = f"{field}[{position}]"
        last = MINUTES_PER_DAY - 1
        validate.require_range(window.from_minute, f"{name}.from_minute", 0, last)
        validate.require_range(window.to_minute, f"{name}.to_minute", 0, last)
        validate.require_limit(window.limit_bytes_per_second, f"{name}.limit_bytes_per_second")


def _minute(text: str, hours: str, minutes: str) -> int:
    minute = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or minute > MINUTES_PER_DAY:
        raise _invalid(text)
    return minute


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _invalid(text: str) -> errors.InvalidArgument:
    shown = text if len(text) <= units.QUANTITY_CHARS_MAX else text[:16] + "..."
    return errors.InvalidArgument(
        "INVALID_QUANTITY", f"{shown!r} is not a limit window", hint=_HINT, value=shown
    )
