"""Billing months in a provider's time zone, as instants.

A month begins at midnight of its first day in the zone, so the one in which clocks go forward is an
hour shorter than its days say, and the one in which they go back an hour longer. Instants are POSIX
time, in which leap seconds do not exist: a day that had one is 86,400 s like every other.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from watari import validate

MICROS = 1_000_000
"""Microseconds in a second."""

_LABEL = re.compile("[0-9]{4}-[0-9]{2}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Month:
    """A billing month [start, end), microseconds since 1970."""

    label: str
    """As in "2026-03"."""
    zone: str
    start: int
    end: int


def month(year: int, number: int, zone: str = "UTC") -> Month:
    """That month in a zone of the tz database. Raises InvalidArgument INVALID_FIELD."""
    validate.require_range(year, "year", 1970, 9998)
    validate.require_range(number, "month", 1, 12)
    try:
        place = ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise validate.invalid_field(
            "time_zone", f"{zone!r} is not known", 'a name of the tz database, as "Europe/Berlin"'
        ) from None
    following = (year + 1, 1) if number == 12 else (year, number + 1)
    return Month(
        f"{year:04}-{number:02}",
        zone,
        micros(datetime(year, number, 1, tzinfo=place)),
        micros(datetime(*following, 1, tzinfo=place)),
    )


def micros(moment: datetime) -> int:
    """Microseconds since 1970 of a moment that knows its zone."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment(value: int, zone: str = "UTC") -> datetime:
    """The inverse of `micros`, told in a zone."""
    return (_EPOCH + timedelta(microseconds=value)).astimezone(ZoneInfo(zone))


def instant(text: str) -> int:
    """The inverse of `rfc3339`."""
    return micros(datetime.fromisoformat(text))


def labelled(label: str, zone: str) -> Month:
    """The month of a label, as in "2026-03". Raises InvalidArgument INVALID_FIELD."""
    if not _LABEL.fullmatch(label):
        raise validate.invalid_field("period", f"{label[:16]!r} is no month", 'as in "2026-03"')
    return month(int(label[:4]), int(label[5:]), zone)


def rfc3339(value: int) -> str:
    """In UTC, as in "2026-03-01T00:00:00Z"; microseconds where there are any."""
    return moment(value).isoformat().replace("+00:00", "Z")
