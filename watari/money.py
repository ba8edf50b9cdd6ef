"""Exact money: `watari.v1.Money` to and from Decimal, in which all arithmetic is done.

Amounts are exact to a billionth of the currency's unit. What does not fit is rounded half to even,
once, when the message is made.
"""

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

from watari import errors
from watari.v1 import common_pb2

NANO = Decimal("1e-9")
UNITS_MAX = 2**63 - 1

# 19 digits of units and 9 of nanos, times a factor of the same size.
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)


def from_decimal(amount: Decimal, currency_code: str) -> common_pb2.Money:
    """The message for an amount, rounded half to even to nanos.

    Raises InvalidArgument INVALID_FIELD for a malformed currency code and for an amount that is not
    finite or beyond UNITS_MAX.
    """
    if _CURRENCY.fullmatch(currency_code) is None:
        raise _invalid(f"{currency_code[:16]!r} is not an ISO 4217 currency code")
    if not amount.is_finite():
        raise _invalid(f"{amount} is not an amount")
    with localcontext(_EXACT):
        if abs(amount) > UNITS_MAX:
            raise _invalid("the amount is too large")
        rounded = amount.quantize(NANO)
        units = int(rounded)
        nanos = int((rounded - units).scaleb(9))
    return common_pb2.Money(currency_code=currency_code, units=units, nanos=nanos)


def to_decimal(money: common_pb2.Money) -> Decimal:
    """The exact amount. Raises InvalidArgument INVALID_FIELD when the message is malformed."""
    if _CURRENCY.fullmatch(money.currency_code) is None:
        raise _invalid(f"{money.currency_code[:16]!r} is not an ISO 4217 currency code")
    if abs(money.nanos) > 999_999_999 or money.units * money.nanos < 0:
        raise _invalid(f"nanos {money.nanos} do not go with units {money.units}")
    with localcontext(_EXACT):
        return Decimal(money.units) + Decimal(money.nanos).scaleb(-9)


def _invalid(problem: str) -> errors.InvalidArgument:
    return errors.InvalidArgument("INVALID_FIELD", problem, field="money")
