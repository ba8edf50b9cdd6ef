"""Amounts of money in commands: exact, as they are written and as they are shown."""

from decimal import Decimal
from typing import Any

from watari import errors, money
from watari.v1 import common_pb2


def parse(text: str, currency: str = "") -> common_pb2.Money:
    """The amount of "12.50 EUR", or of "12.50" where the currency is known.

    Raises InvalidArgument INVALID_FIELD.
    """
    amount, _, named = text.strip().partition(" ")
    try:
        value = Decimal(amount)
        if value.is_finite() and value == value.quantize(money.NANO):
            return money.from_decimal(value, named.strip() or currency)
    except (ArithmeticError, errors.InvalidArgument):
        pass
    raise errors.InvalidArgument(
        "INVALID_FIELD", f"{text!r} is no amount", hint="write it as in '12.50 EUR'"
    )


def exact(value: dict[str, str] | None) -> str:
    """Every digit that counts, and two decimals at least: "1,204.30 EUR"."""
    return f"{bare(value)} {value['currency']}" if value else ""


def bare(value: dict[str, Any] | None) -> str:
    """The same without the currency."""
    if not value:
        return ""
    amount = Decimal(value["amount"])
    whole, _, part = f"{amount:,.9f}".partition(".")
    return f"{whole}.{part.rstrip('0').ljust(2, '0')}"
