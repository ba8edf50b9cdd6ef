"""The bandwidth cap at a moment, of a fixed cap and windows of the day. Pure: the caller has the
clock.

Windows are in local wall-clock time, so a change of the clock (summer time, a correction) moves
them; that is why an answer holds for a minute at most.
"""

import datetime
from collections.abc import Sequence

from watari import windows as limit_windows
from watari.v1 import common_pb2

RECHECK_SECONDS_MAX = 60.0
"""An answer is asked for again after this time even if no window begins or ends."""

FIELD = "options.limit_schedule"

_DAY_SECONDS = 24 * 60 * 60


def check(windows: Sequence[common_pb2.LimitWindow], field: str = FIELD) -> None:
    """Refuses more than 16 windows, minutes beyond a day and caps out of bounds. Raises
    InvalidArgument INVALID_FIELD, which names the window, as a part of `field`.
    """
    limit_windows.require(windows, field)


def cap_at(
    local: datetime.datetime, limit: int, windows: Sequence[common_pb2.LimitWindow]
) -> tuple[int, float]:
    """The cap in bytes per second at `local` (0 is none), and the seconds, more than 0 and at most
    RECHECK_SECONDS_MAX, until it may be another.

    The first window that covers the moment decides; `limit` counts when none does. A window covers
    its first minute and not its last; one that ends before it begins goes over midnight, and one
    that ends where it begins is the whole day. The windows have passed `check`.
    """
    minute = local.hour * 60 + local.minute
    covering = (each.limit_bytes_per_second for each in windows if _covers(each, minute))
    return next(covering, limit), _seconds_to_edge(local, windows)


def _covers(window: common_pb2.LimitWindow, minute: int) -> bool:
    begin, end = window.from_minute, window.to_minute
    if begin < end:
        return begin <= minute < end
    return minute >= begin or minute < end


def _seconds_to_edge(local: datetime.datetime, windows: Sequence[common_pb2.LimitWindow]) -> float:
    now = local.hour * 3600 + local.minute * 60 + local.second + local.microsecond / 1e6
    edges = (edge for each in windows for edge in (each.from_minute, each.to_minute))
    # An edge that is now has been counted already: it comes again in a day.
    ahead = ((edge * 60 - now) % _DAY_SECONDS or _DAY_SECONDS for edge in edges)
    return min(RECHECK_SECONDS_MAX, *ahead, _DAY_SECONDS)
