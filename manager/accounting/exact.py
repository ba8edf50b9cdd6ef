"""Whole numbers for money and quantities: no rounding but the one that is asked for by name."""

import json
import uuid
from decimal import Decimal, InvalidOperation, localcontext

from watari import errors, money, validate
from watari.v1 import common_pb2

NANOS = 10**9
"""Nanos in one unit of a currency."""

PERCENT_SCALE = 10**4
"""Percentages have at most four decimals and are kept as whole ten-thousandths of a percent."""

PERCENT_WHOLE = 100 * PERCENT_SCALE
"""All of something, in ten-thousandths of a percent."""

TEXT_CHARS_MAX = 40
"""Longest decimal that is read."""

_NAMESPACE = uuid.UUID("7f0c1f52-6a3d-5c53-9d0e-0a4c6a1d2b77")
_DIGITS = 60


def divided(numerator: int, denominator: int) -> int:
    """The quotient, rounded half to even; the denominator is positive."""
    whole, rest = divmod(numerator, denominator)
    twice = 2 * rest
    if twice > denominator or (twice == denominator and whole % 2):
        return whole + 1
    return whole


def scaled(text: object, scale: int, field: str) -> int:
    """A decimal that is not negative, times a power of ten, as a whole number.

    Text or a whole number; a float is refused, because it is not what was written. Raises
    InvalidArgument INVALID_FIELD.
    """
    value = Decimal("NaN")
    if (isinstance(text, str) and len(text) <= TEXT_CHARS_MAX) or type(text) is int:
        try:
            value = Decimal(text)
        except InvalidOperation:
            value = Decimal("NaN")
    if not value.is_finite() or value < 0 or value > money.UNITS_MAX:
        raise validate.invalid_field(field, f"{text!r} is no amount", 'write it as in "2.50"')
    with localcontext(prec=_DIGITS):
        found = value * scale
    if found != int(found):
        raise validate.invalid_field(
            field, f"{text!r} has too many decimals", f"at most {len(str(scale)) - 1}"
        )
    return int(found)


def signed(text: str) -> Decimal:
    """The decimal that `text` wrote."""
    return Decimal(text)


def whole(text: str, scale: int = NANOS) -> int:
    """The inverse of `text`."""
    with localcontext(prec=_DIGITS):
        return int(Decimal(text) * scale)


def decimal(count: int, scale: int = NANOS) -> Decimal:
    """The exact decimal of a whole number of parts; `scale` is a power of ten."""
    with localcontext(prec=_DIGITS):
        return Decimal(count).scaleb(-(len(str(scale)) - 1))


def text(count: int, scale: int = NANOS, *, decimals_min: int = 0) -> str:
    """The same in writing, without zeros at the end beyond `decimals_min` decimals."""
    whole, _, part = f"{decimal(abs(count), scale):f}".partition(".")
    part = part.rstrip("0").ljust(decimals_min, "0")
    return ("-" if count < 0 else "") + whole + (f".{part}" if part else "")


def ratio(numerator: int, denominator: int, decimals: int = 12) -> str:
    """A quotient for people, rounded half to even: never calculated with."""
    scale: int = 10**decimals
    return text(divided(numerator * scale, denominator), scale)


def message(nanos: int, currency: str) -> common_pb2.Money:
    """The contract's message. Raises InvalidArgument for what it cannot hold."""
    return money.from_decimal(decimal(nanos), currency)


def identity(*parts: str | int) -> str:
    """The id of what these parts say: the same wherever and whenever it is made."""
    return str(uuid.uuid5(_NAMESPACE, json.dumps(parts, ensure_ascii=True)))


def reused(what: str, which: str) -> errors.Conflict:
    """The error for an id that stands for something else already."""
    return errors.Conflict(
        "ID_REUSED",
        f"{what} {which} is there with other content",
        hint="what is recorded is never changed: record a correction with an id of its own",
        id=which,
    )
