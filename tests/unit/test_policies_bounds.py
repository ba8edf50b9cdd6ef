"""What automatic placement costs at most, whatever prices do: the theorems of
docs/automatic-placement.md, exactly, with prices that try to make it go to and fro."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.policies.model import DAY, HOUR, Policy
from tests.support.placing import POLICY, Life, best_in_hindsight

FREE = replace(
    POLICY,
    horizon_seconds=1000 * HOUR,
    hysteresis=0.0,
    residency_seconds_min=0.0,
    moves_per_vm_day_max=1000,
    moves_per_cloud_hour_max=1000,
    moves_per_hour_max=1000,
    allowance_hours=1e6,
    patience=2.0,
)
"""The bare rule of regret: every saving is believed, and nothing else holds a machine back."""

PRICES_MAX = 16

RICH = [1.0, 1.0]
"""A first hour that makes `allowance_hours` worth something: no account limits Theorem 3."""


def series(clouds: int, hours: int = 120) -> st.SearchStrategy[list[list[float]]]:
    """Whole prices: at random, or in stretches, which hypothesis finds bad cases in sooner."""
    prices = st.lists(st.integers(0, PRICES_MAX).map(float), min_size=clouds, max_size=clouds)
    stretch = st.tuples(prices, st.integers(1, 12)).map(lambda each: [each[0]] * each[1])
    return st.lists(stretch, min_size=1, max_size=30).map(
        lambda parts: [hour for part in parts for hour in part][:hours]
    )


@st.composite
def policies(draw: Callable[[Any], Any]) -> Policy:
    return replace(
        FREE,
        horizon_seconds=draw(st.sampled_from([4, 24, 1000])) * HOUR,
        hysteresis=draw(st.sampled_from([0.0, 0.25, 1.0])),
        residency_seconds_min=draw(st.sampled_from([0, 1, 6])) * HOUR,
        patience=draw(st.sampled_from([0.25, 0.5, 1.0, 2.0])),
        allowance=draw(st.sampled_from([0.0, 0.125, 0.5])),
        allowance_hours=draw(st.sampled_from([0.0, 8.0, 1e6])),
        moves_per_vm_day_max=draw(st.sampled_from([1, 2, 3, 1000])),
    )


def lived(policy: Policy, prices: Sequence[Sequence[float]], move: float) -> Life:
    life = Life(policy, "abcdefgh"[: len(prices[0])], move)
    for hour in prices:
        life.live(hour)
    return life


def harrying(policy: Policy, clouds: int, move: float, hours: int = 400) -> Life:
    """The cruellest adversary: wherever the machine is, is dear, and all else is free."""
    life = Life(policy, "abcdefgh"[:clouds], move)
    for _ in range(hours):
        life.live([float(PRICES_MAX if each == life.at else 0) for each in life.clouds])
    return life


def most_within_a_day(life: Life) -> int:
    return max(
        (sum(end - DAY < began <= end for began in life.moves) for end in life.moves), default=0
    )


@given(policies(), series(4), st.sampled_from([1.0, 8.0, 40.0]))
def test_no_machine_moves_more_often_than_its_budget(
    policy: Policy, prices: list[list[float]], move: float
) -> None:
    assert most_within_a_day(lived(policy, prices, move)) <= policy.moves_per_vm_day_max


@pytest.mark.parametrize("budget", [1, 2, 3, 5])
def test_the_budget_is_what_stops_an_adversary(budget: int) -> None:
    policy = replace(FREE, moves_per_vm_day_max=budget, patience=0.0)
    life = harrying(policy, 3, 1.0)
    voluntary = budget - 1 if budget > 1 else 1
    assert most_within_a_day(life) == voluntary, "one is kept for evacuations"


@given(policies(), series(4), st.sampled_from([1.0, 8.0, 40.0]))
def test_moves_for_a_saving_cost_at_most_a_share_of_what_was_paid_too_much(
    policy: Policy, prices: list[list[float]], move: float
) -> None:
    life = lived(policy, prices, move)
    assert policy.patience * life.charged <= life.excess


@given(policies(), series(4), st.sampled_from([1.0, 8.0, 40.0]))
def test_everything_costs_at_most_a_share_more_than_staying_and_the_allowance(
    policy: Policy, prices: list[list[float]], move: float
) -> None:
    """Theorem 2. A return that is due waits for residency, the day's budget, and one look."""
    life = lived(policy, prices, move)
    begun = policy.allowance_hours * prices[0][0]
    waits = (
        max(policy.residency_seconds_min, DAY)
        if policy.moves_per_vm_day_max < 1000
        else (policy.residency_seconds_min)
    )
    lost = (waits / HOUR + 1) * PRICES_MAX
    assert life.lowest_allowance >= -lost
    assert life.total <= (1 + policy.allowance) * life.stayed + begun + lost
    assert life.standing is not None
    # The account is the bound itself, to the last digit.
    spent = (1 + policy.allowance) * life.stayed + begun - life.total
    assert life.standing.allowance == spent


def test_without_an_account_the_same_prices_cost_many_times_staying() -> None:
    """What the allowance is for: with three clouds an adversary makes the bare rule go round."""
    bare = harrying_but_for_home(replace(FREE, patience=0.5))
    bound = harrying_but_for_home(replace(FREE, patience=0.5, allowance_hours=8.0))
    assert bare.total > 9 * bare.stayed
    assert bound.total <= 1.1 * bound.stayed + 8 + PRICES_MAX


def harrying_but_for_home(policy: Policy) -> Life:
    """At home it always costs 1; the cheap one of the two others is where the machine is not."""
    life = Life(policy, "abc", 4.0)
    for _ in range(400):
        dear = [16.0 if each == life.at else 0.0 for each in life.clouds]
        life.live([1.0, *dear[1:]])
    return life


@given(series(2), st.sampled_from([4.0, 16.0, 40.0]), st.sampled_from([0.5, 1.0, 2.0, 4.0]))
@example([[3.0, 0.0]] * 40 + [[0.0, 3.0]] * 40, 16.0, 2.0)
def test_of_two_clouds_the_rule_of_regret_is_competitive_with_hindsight(
    prices: list[list[float]], move: float, patience: float
) -> None:
    """Theorem 3, with the regret that it really let grow: 3 in the limit at patience 2."""
    life = lived(replace(FREE, patience=patience), [RICH, *prices], move)
    grown = max(life.regret_max / move, patience)
    ratio = max(1 + grown, 1 + (2 + grown) / patience)
    assert life.total <= ratio * best_in_hindsight([RICH, *prices], move)


@given(policies(), series(2), st.sampled_from([4.0, 16.0, 40.0]))
def test_the_same_holds_however_much_else_holds_the_machine_back(
    policy: Policy, prices: list[list[float]], move: float
) -> None:
    life = lived(replace(policy, allowance_hours=1e6), [RICH, *prices], move)
    grown = max(life.regret_max / move, policy.patience)
    ratio = max(1 + grown, 1 + (2 + grown) / policy.patience)
    assert life.total <= ratio * best_in_hindsight([RICH, *prices], move)


def test_three_times_hindsight_is_nearly_reached_so_that_the_bound_says_something() -> None:
    policy = replace(FREE, patience=2.0)
    life, prices = Life(policy, "ab", 64.0), []
    for _ in range(4000):
        prices.append([float(each == life.at) for each in life.clouds])
        life.live(prices[-1])
    assert 2.7 < life.total / best_in_hindsight(prices, 64.0) <= 3.05


@pytest.mark.parametrize("allowance_hours", [1.0, 4.0, 8.0, 12.0, 40.0])
def test_a_machine_never_leaves_home_without_the_way_back_in_its_pocket(
    allowance_hours: float,
) -> None:
    """Prices turn against it at once whenever it has moved."""
    policy = replace(FREE, patience=0.5, allowance=0.125, allowance_hours=allowance_hours)
    life = Life(policy, "abc", 40.0)
    for _ in range(400):
        at_home = life.at == "a"
        life.live([8.0, 0.0, 4.0] if at_home else [0.0, 16.0, 16.0])
        assert life.lowest_allowance >= -PRICES_MAX
    assert life.moves, "or nothing was shown"
