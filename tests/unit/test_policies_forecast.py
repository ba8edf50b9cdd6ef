"""Forecasts: what they expect of spikes, regimes and days, and whether their doubt is honest."""

import math
import statistics
from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.policies.forecast import GAP_HOURS_MAX, LOOKS_MIN, Forecaster
from broker.policies.model import DAY, HOUR

WEEK = 7 * DAY


def watched(prices: Iterable[float]) -> Forecaster:
    history = Forecaster()
    for hour, price in enumerate(prices):
        history = history.seen(hour * HOUR, price)
    return history


def noisy(random: Random, phi: float, hours: int, mean: float = 1.0) -> list[float]:
    off, prices = 0.0, []
    for _ in range(hours):
        off = phi * off + random.gauss(0, 0.05)
        prices.append(max(mean + off, 0.01))
    return prices


def test_a_price_that_never_moved_is_expected_to_stay_and_for_certain() -> None:
    outlook = watched([0.5] * 200).outlook(WEEK, 0.05)
    assert (outlook.mean, outlook.deviation) == pytest.approx((1.0, 0.0))


def test_little_history_is_doubtful() -> None:
    assert watched([1.0] * LOOKS_MIN).outlook(WEEK, 0.05).deviation > 0.2
    assert Forecaster().outlook(WEEK, 0.05).mean == 1.0


def test_a_spike_is_expected_to_pass() -> None:
    prices = noisy(Random(1), 0.2, 300)
    outlook = watched([*prices, 2.0]).outlook(WEEK, 0.05)
    assert 0.45 < outlook.mean < 0.6


def test_a_new_regime_is_expected_to_stay() -> None:
    steps = [1.0] * 200 + [1.5] * 72
    outlook = watched(steps).outlook(DAY, 0.05)
    assert outlook.mean > 0.9


def test_a_day_that_pays_is_used_and_one_that_does_not_is_not() -> None:
    random = Random(2)
    daily = [
        1 + 0.3 * math.sin(2 * math.pi * hour / 24) + random.gauss(0, 0.01) for hour in range(500)
    ]
    assert watched(daily).seasonal
    assert not watched(noisy(random, 0.5, 500)).seasonal
    # At the top of the day the next six hours are cheaper than now, and the whole day is cheaper.
    top = watched(daily[: 480 + 7])
    assert top.outlook(6 * HOUR, 0.0).mean < 0.95
    assert top.outlook(DAY, 0.0).mean == pytest.approx(1 / 1.3, rel=0.05)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_the_doubt_is_about_as_large_as_the_errors(phi: float) -> None:
    """Of many histories the average that came is within two deviations in nine of ten."""
    hours, within, errors_seen = 48, 0, []
    for seed in range(200):
        prices = noisy(Random(seed), phi, 400 + hours)
        outlook = watched(prices[:400]).outlook(hours * HOUR, 0.0)
        # The first hour of the horizon is the one that has begun.
        came = statistics.fmean(prices[399 : 399 + hours]) / prices[399]
        errors_seen.append((came - outlook.mean) / outlook.deviation)
        within += abs(errors_seen[-1]) <= 2
    assert within >= 180
    assert 0.4 < statistics.pstdev(errors_seen) < 1.3, "neither boastful nor timid"


def test_hours_without_a_look_keep_the_last_price_and_a_long_silence_starts_anew() -> None:
    silent = watched([1.0] * 50).seen(60 * HOUR, 1.0)
    assert silent == watched([1.0] * 61)
    assert watched([1.0] * 50).seen((51 + GAP_HOURS_MAX) * HOUR, 2.0).looks == 0


def test_looks_within_an_hour_are_one() -> None:
    twice = Forecaster().seen(0.0, 1.0).seen(HOUR / 2, 3.0).seen(HOUR, 1.0)
    assert twice == Forecaster().seen(0.0, 3.0).seen(HOUR, 1.0)


@given(
    st.lists(st.floats(0.0, 1e6), min_size=1, max_size=200),
    st.sampled_from([HOUR / 2, DAY, 90 * DAY]),
    st.sampled_from([0.0, 0.05, 0.99]),
)
def test_any_history_has_an_outlook(prices: list[float], horizon: float, discount: float) -> None:
    outlook = watched(prices).outlook(horizon, discount)
    assert math.isfinite(outlook.mean)
    assert outlook.mean >= 0.0
    assert math.isfinite(outlook.deviation)
    assert outlook.deviation >= 0.0
