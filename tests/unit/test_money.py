from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watari import errors, money
from watari.v1 import common_pb2

AMOUNTS = st.decimals(-(10**15), 10**15, places=9)


def jpy(amount: str) -> common_pb2.Money:
    return money.from_decimal(Decimal(amount), "JPY")


@given(AMOUNTS)
def test_amounts_of_whole_nanos_survive_the_message_exactly(amount):
    assert money.to_decimal(money.from_decimal(amount, "EUR")) == amount


@given(AMOUNTS)
def test_nanos_have_the_sign_of_the_units_and_stay_in_bounds(amount):
    message = money.from_decimal(amount, "EUR")
    assert message.units * message.nanos >= 0
    assert abs(message.nanos) < 10**9


@pytest.mark.parametrize(
    "message",
    [
        common_pb2.Money(currency_code="yen", units=1),
        common_pb2.Money(units=1),
        common_pb2.Money(currency_code="JPY", units=1, nanos=-1),
        common_pb2.Money(currency_code="JPY", nanos=1_000_000_000),
    ],
)
def test_malformed_messages_are_refused(message):
    with pytest.raises(errors.InvalidArgument):
        money.to_decimal(message)


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "9223372036854775808", "-1e400"])
def test_amounts_that_no_message_can_hold_are_refused(amount):
    with pytest.raises(errors.InvalidArgument):
        jpy(amount)


@pytest.mark.parametrize(
    ("amount", "nanos"), [("0.0000000005", 0), ("0.0000000015", 2), ("0.0000000025", 2)]
)
def test_what_does_not_fit_is_rounded_half_to_even(amount, nanos):
    assert jpy(amount).nanos == nanos
