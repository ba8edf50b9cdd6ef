"""Checks of request fields that several services share.

Each function returns the value it checked, so that a request can be checked where it is read, and
raises InvalidArgument, whose metadata `field` names the field as the contract spells it.
"""

import re
import uuid

from watari import errors

LIMIT_BYTES_PER_SECOND_MIN = 64 * 1024
"""Smallest bandwidth cap: a frame of 1 MiB then takes 16 s, well below what counts as a stall."""

LIMIT_BYTES_PER_SECOND_MAX = 1 << 50
"""Largest bandwidth cap: beyond any link, and far from overflowing."""

CLOUD_ID_CHARS_MAX = 63
"""A cloud id must be usable as one DNS label."""

NAME_CHARS_MAX = 128
"""Longest name of a record, virtual machine or other thing that a provider names."""

ADDRESS_BYTES_MAX = 300
"""Longest "host:port": a DNS name of 253 bytes and room for brackets, zone and port."""

SHOWN_CHARS_MAX = 64
"""Refused values are quoted in messages up to this length."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_CLOUD_ID = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%a-z]+\]|[^\s:\[\]/]+):([0-9]{1,5})", re.ASCII)


def require_uuid(value: str, field: str) -> str:
    """A UUID in canonical lower-case text form (RFC 9562). Raises INVALID_ID."""
    try:
        canonical = str(uuid.UUID(value)) == value
    except ValueError:
        canonical = False
    if not canonical:
        raise errors.InvalidArgument(
            "INVALID_ID",
            f"{field}: {_shown(value)} is not a canonical UUID",
            hint="send a UUID in lower case with hyphens, such as Python's str(uuid.uuid4())",
            field=field,
        )
    return value


def require_cloud_id(value: str, field: str) -> str:
    """A DNS label in lower case, at most CLOUD_ID_CHARS_MAX. Raises INVALID_FIELD."""
    if len(value) > CLOUD_ID_CHARS_MAX or not _CLOUD_ID.fullmatch(value):
        raise invalid_field(
            field,
            f"{_shown(value)} is not a cloud id",
            f"lower-case letters, digits and inner hyphens, 1 to {CLOUD_ID_CHARS_MAX} characters",
        )
    return value


def require_name(value: str, field: str) -> str:
    """Letters, digits, dot, hyphen, underscore, 1 to NAME_CHARS_MAX. Raises INVALID_FIELD."""
    if len(value) > NAME_CHARS_MAX or not _NAME.fullmatch(value):
        raise invalid_field(
            field,
            f"{_shown(value)} is not a name",
            f"letters, digits, dot, hyphen and underscore, 1 to {NAME_CHARS_MAX} characters",
        )
    return value


def require_address(value: str, field: str) -> str:
    """Host:port, an IPv6 host in brackets, at most ADDRESS_BYTES_MAX. Raises INVALID_FIELD."""
    match = _ADDRESS.fullmatch(value) if len(value.encode()) <= ADDRESS_BYTES_MAX else None
    if match is None or not 0 < int(match[2]) < 65536:
        raise invalid_field(
            field,
            f"{_shown(value)} is not an address",
            "write host:port with a port of 1 to 65535, and an IPv6 host in brackets",
        )
    return value


def require_text(value: str, field: str, *, bytes_max: int, empty: bool = True) -> str:
    """Text of at most `bytes_max` bytes of UTF-8 without control characters. Raises INVALID_FIELD.

    With `empty=False` it must not be empty either. Control characters, and those that turn the
    direction of writing, would let a peer forge what a terminal or a log shows.
    """
    size = len(value.encode())
    if size > bytes_max:
        raise invalid_field(field, f"{size} bytes are too long", f"at most {bytes_max} bytes")
    if not value and not empty:
        raise invalid_field(field, "must not be empty", f"1 to {bytes_max} bytes")
    if _CONTROL.search(value):
        raise invalid_field(field, "contains a control character", "printable text only")
    return value


def require_range(value: int, field: str, least: int, most: int) -> int:
    """A number from `least` to `most`, both included. Raises INVALID_FIELD."""
    if not least <= value <= most:
        raise invalid_field(field, f"{value} is out of bounds", f"{least} to {most}")
    return value


def require_limit(limit: int, field: str) -> int:
    """A bandwidth cap in bytes per second: 0 for none, or within bounds. Raises INVALID_FIELD."""
    if limit == 0:
        return limit
    return require_range(limit, field, LIMIT_BYTES_PER_SECOND_MIN, LIMIT_BYTES_PER_SECOND_MAX)


def require_count(count: int, field: str, most: int) -> int:
    """At most `most` entries of a repeated or map field. Raises INVALID_FIELD."""
    if count > most:
        raise invalid_field(field, f"{count} entries are too many", f"at most {most}")
    return count


def invalid_field(field: str, problem: str, hint: str) -> errors.InvalidArgument:
    """The error INVALID_FIELD for `field`: what is wrong, and what would be right."""
    return errors.InvalidArgument("INVALID_FIELD", f"{field}: {problem}", hint=hint, field=field)


def _shown(value: str) -> str:
    cut = value if len(value) <= SHOWN_CHARS_MAX else value[:SHOWN_CHARS_MAX] + "..."
    return repr(cut)
