"""Amounts as a person reads them."""

import pytest

from broker.policies import words


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (0.0, "0.00 EUR"),
        (12.0, "12.00 EUR"),
        (0.1, "0.10 EUR"),
        (0.05, "0.05 EUR"),
        (-0.05, "-0.05 EUR"),
        (0.01234, "0.012 EUR"),
        (0.000035, "0.000035 EUR"),
        (2e-9, "0.000000002 EUR"),
        (9e-10, "0.00 EUR"),
    ],
)
def test_small_amounts_are_said_without_an_exponent(amount: float, said: str) -> None:
    assert words.money(amount, "EUR") == said
