"""Quantities as people write and read them: bytes, rates and durations.

Parsing is exact (no floating point) and takes decimal suffixes (k, M, G: powers of 1000) and
binary ones (Ki, Mi, Gi: powers of 1024), in any case, with or without the final B. Formatting is
for people and rounds; it is never parsed back.
"""

import re
from fractions import Fraction

from watari import errors

QUANTITY_CHARS_MAX = 64
"""Longer text is refused before it is parsed."""

BYTES_MAX = 2**63 - 1
"""The largest size that the contract's and SQLite's integers can hold."""

_PREFIXES = "KMGTPE"
_BYTE_FACTORS = (
    {"": 1}
    | {prefix: 1000**power for power, prefix in enumerate(_PREFIXES, 1)}
    | {f"{prefix}I": 1024**power for power, prefix in enumerate(_PREFIXES, 1)}
)
_DURATION_FACTORS = {
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "min": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86400),
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtpe]i?)?b?", re.ASCII | re.IGNORECASE)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)\s*", re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)


def parse_bytes(text: str) -> int:
    """Bytes of "4GiB", "50M", "1.5 KiB" or "1024".

    Raises InvalidArgument INVALID_QUANTITY for anything else, for fractions of a byte and for
    sizes beyond BYTES_MAX.
    """
    match = _SIZE.fullmatch(_bounded(text, "size").strip())
    if match is None:
        raise _invalid(text, "size", "write a number with an optional suffix, such as 4GiB or 50M")
    size = Fraction(match[1]) * _BYTE_FACTORS[(match[2] or "").upper()]
    if size.denominator != 1:
        raise _invalid(text, "size", "a size is a whole number of bytes")
    if size > BYTES_MAX:
        raise _invalid(text, "size", f"the largest size is {BYTES_MAX} bytes")
    return int(size)


def parse_rate(text: str) -> int:
    """Bytes per second, of text such as "50MiB" or "50M/s". Raises as `parse_bytes`."""
    return parse_bytes(text.removesuffix("/s"))


def parse_duration(text: str) -> float:
    """Seconds of "90s", "15m", "2h", "7d", "500ms", "1h30m"; a bare number is seconds.

    Raises InvalidArgument INVALID_QUANTITY for anything else.
    """
    rest = _bounded(text, "duration").strip()
    if _NUMBER.fullmatch(rest):
        return float(rest)
    total, position = Fraction(0), 0
    while match := _DURATION_PART.match(rest, position):
        total += Fraction(match[1]) * _DURATION_FACTORS[match[2]]
        position = match.end()
    if not rest or position < len(rest):
        raise _invalid(text, "duration", "write it like 500ms, 90s, 15m, 2h, 7d or 1h30m")
    return float(total)


def format_bytes(size: int) -> str:
    """Such as "512 B" or "1.5 KiB": the largest binary unit that leaves a number of at least 1."""
    if abs(size) < 1024:
        return f"{size} B"
    value = float(size)
    for prefix in _PREFIXES:
        value /= 1024
        # 1023.95 would be printed as 1024.0: take the next unit instead.
        if abs(value) < 1023.95:
            return f"{value:.1f} {prefix}iB"
    return f"{value:.1f} EiB"


def format_rate(bytes_per_second: float) -> str:
    """Such as "12.0 MiB/s"."""
    return f"{format_bytes(round(bytes_per_second))}/s"


def format_duration(seconds: float) -> str:
    """Such as "250 ms", "12.3 s", "5 min 07 s", "1 h 02 min" or "3 d 04 h"."""
    if seconds < 0:
        return f"-{format_duration(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02} h"


def _bounded(text: str, what: str) -> str:
    if len(text) > QUANTITY_CHARS_MAX:
        raise _invalid(text[:16] + "...", what, f"at most {QUANTITY_CHARS_MAX} characters")
    return text


def _invalid(text: str, what: str, hint: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        "INVALID_QUANTITY", f"{text!r} is not a {what}", hint=hint, value=text
    )
