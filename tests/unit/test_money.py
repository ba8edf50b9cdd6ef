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


@given(st.lists(AMOUNTS, min_size=1, max_size=8))
def test_sums_are_exact(amounts):
    messages = [money.from_decimal(amount, "EUR") for amount in amounts]
    assert money.to_decimal(money.add(*messages)) == sum(amounts)


@given(AMOUNTS)
def test_nanos_have_the_sign_of_the_units_and_stay_in_bounds(amount):
    message = money.from_decimal(amount, "EUR")
    assert message.units * message.nanos >= 0
    assert abs(message.nanos) < 10**9


@pytest.mark.parametrize(
    ("price", "quantity", "nanos"),
    [("0.000000001", "0.5", 0), ("0.000000001", "1.5", 2), ("0.000000003", "0.5", 2)],
)
def test_products_are_rounded_half_to_even(price, quantity, nanos):
    assert money.multiply(jpy(price), Decimal(quantity)).nanos == nanos


def test_the_largest_amount_times_a_small_factor_keeps_every_digit():
    largest = common_pb2.Money(currency_code="JPY", units=money.UNITS_MAX, nanos=0)
    assert money.multiply(largest, Decimal("1e-9")) == jpy("9223372036.854775807")


def test_different_currencies_are_not_added():
    with pytest.raises(errors.InvalidArgument):
        money.add(jpy("1"), money.from_decimal(Decimal(1), "EUR"))


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
    ("amount", "text"),
    [("0", "JPY 0.00"), ("120.5", "JPY 120.50"), ("-0.125", "JPY -0.125"),
     ("1234567", "JPY 1,234,567.00"), ("0.000000001", "JPY 0.000000001")],
)  # fmt: skip
def test_amounts_are_written_with_two_decimals_or_as_many_as_they_have(amount, text):
    assert money.format(jpy(amount)) == text
