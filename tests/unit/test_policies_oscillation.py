"""Automatic placement never oscillates: prices that turn just when a machine has moved, or may move
again, at the rules' own periods and thresholds, and what it does then."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from broker.policies.model import DAY, HOUR, Policy
from tests.support.placing import NOW, POLICY, Life, best_in_hindsight

Wave = Callable[[int, int], Sequence[float]]
"""Prices of two clouds in an hour, by its length in hours."""

LOW, HIGH = 4.0, 12.0
RESIDENCY_HOURS = 6
FORTNIGHT_HOURS = 14 * 24

DEFAULT = Policy("p", "t")
BARE = replace(POLICY, horizon_seconds=1000 * HOUR, hysteresis=0.0, patience=2.0)
"""Every saving is believed; residency, a move a day, and the account hold it back."""

IMPATIENT = replace(BARE, patience=0.0, moves_per_vm_day_max=6, allowance=0.5)


def square(hour: int, length: int) -> Sequence[float]:
    """Each cloud is cheap for `length` hours, then dear for as long."""
    return (HIGH, LOW) if hour // length % 2 == 0 else (LOW, HIGH)


def saw(hour: int, length: int) -> Sequence[float]:
    """One climbs as the other falls, and within an hour they have changed places."""
    up = (HIGH - LOW) * (hour % length) / max(length - 1, 1)
    return HIGH - up, LOW + up


def triangle(hour: int, length: int) -> Sequence[float]:
    """Up and down again, by turns."""
    place = hour % (2 * length)
    up = (HIGH - LOW) * min(place, 2 * length - place) / length
    return HIGH - up, LOW + up


WAVES = pytest.mark.parametrize("wave", [square, saw, triangle], ids=lambda each: each.__name__)
LENGTHS = pytest.mark.parametrize("length", [1, 5, 6, 7, 12, 24, 48])
"""Around the residency and the day of the budget, and towards the memory of forecasts."""

RULES = pytest.mark.parametrize(
    ("policy", "outlooks"),
    [(DEFAULT, True), (DEFAULT, False), (BARE, False), (IMPATIENT, False)],
    ids=["forecasting", "believing", "bare", "impatient"],
)


def lived(policy: Policy, wave: Wave, length: int, move: float, *, outlooks: bool) -> Life:
    life = Life(policy, "ab", move, outlooks=outlooks)
    for hour in range(FORTNIGHT_HOURS):
        life.live(wave(hour, length))
    return life


def assert_steady(life: Life, begun: float) -> None:
    """What "never oscillates" means, by the rules' own numbers."""
    policy = life.policy
    for before, after in pairwise(life.moves):
        assert after - before >= policy.residency_seconds_min, "it came a short time ago"
    for end in life.moves:
        within = sum(end - DAY < began <= end for began in life.moves)
        assert within <= policy.moves_per_vm_day_max - 1, "one is kept for evacuations"
    assert policy.patience * life.charged <= life.excess + 1e-6, "each move was waited for"
    lost = (DAY / HOUR + 1) * HIGH
    assert life.total <= (1 + policy.allowance) * life.stayed + begun + lost + 1e-6


@WAVES
@LENGTHS
@RULES
def test_never_oscillates_whenever_prices_turn(
    wave: Wave, length: int, policy: Policy, outlooks: bool
) -> None:
    for move in (1.0, 64.0):
        life = lived(policy, wave, length, move, outlooks=outlooks)
        assert_steady(life, begun=policy.allowance_hours * wave(0, length)[0])


@pytest.mark.parametrize("wave", [square, saw], ids=lambda each: each.__name__)
@pytest.mark.parametrize("length", [1, 3, 5, 6, 7, 12, 13, 23, 24, 25])
def test_never_oscillates_once_a_wave_of_a_day_or_less_is_known(wave: Wave, length: int) -> None:
    """The defaults: forecasts see through it within days, where one who believes goes on."""
    for move in (1.0, 64.0):
        life = lived(DEFAULT, wave, length, move, outlooks=True)
        assert len(life.moves) <= 2
        assert not [began for began in life.moves if began > NOW + 7 * DAY]


def test_one_who_believes_prices_is_what_the_forecast_saves_from() -> None:
    believing = lived(DEFAULT, square, RESIDENCY_HOURS, 64.0, outlooks=False)
    forecasting = lived(DEFAULT, square, RESIDENCY_HOURS, 64.0, outlooks=True)
    assert len(believing.moves) > 10 * len(forecasting.moves)
    assert believing.total > 1.2 * forecasting.total


REGRET = (HIGH - LOW) * (RESIDENCY_HOURS - 1)
"""All that is paid too much before the last hour in which a square wave still looks good."""


def test_just_below_the_threshold_of_patience_nothing_ever_moves() -> None:
    below = REGRET / BARE.patience + 0.5
    assert not lived(BARE, square, RESIDENCY_HOURS, below, outlooks=False).moves


def test_just_above_it_the_worst_timing_costs_no_more_than_the_bounds() -> None:
    """It arrives an hour before prices turn, every time that the day's budget lets it."""
    at = REGRET / BARE.patience
    free = replace(BARE, moves_per_vm_day_max=1000, allowance_hours=1e6)
    for policy in (BARE, free):
        life = lived(policy, square, RESIDENCY_HOURS, at, outlooks=False)
        assert life.moves
        assert_steady(life, begun=policy.allowance_hours * HIGH)
    prices = [square(hour, RESIDENCY_HOURS) for hour in range(FORTNIGHT_HOURS)]
    grown = max(life.regret_max / at, free.patience)
    ratio = max(1 + grown, 1 + (2 + grown) / free.patience)
    assert life.total <= ratio * best_in_hindsight(prices, at)


@pytest.mark.parametrize(("off", "moves"), [(-0.5, 0), (0.0, 0), (0.5, 1)])
def test_just_below_and_above_the_threshold_of_the_saving(off: float, moves: int) -> None:
    """A difference that stays for good: one move or none, and never back."""
    policy = replace(BARE, horizon_seconds=100 * HOUR, hysteresis=0.25, allowance_hours=1000.0)
    needed = 1.25 * 64.0
    life = Life(policy, "ab", 64.0)
    for _ in range(FORTNIGHT_HOURS):
        life.live([8.0, 8.0 - (needed + off) / 100])
    assert len(life.moves) == moves


@RULES
def test_never_oscillates_under_an_adversary_that_watches(policy: Policy, outlooks: bool) -> None:
    """Wherever the machine is, is dear from then on."""
    for move in (1.0, 16.0, 64.0):
        life = Life(policy, "abc", move, outlooks=outlooks)
        for _ in range(FORTNIGHT_HOURS):
            life.live([HIGH if each == life.at else LOW for each in life.clouds])
        assert_steady(life, begun=policy.allowance_hours * HIGH)
