"""Taints that are expected to end: to leave or to wait, whichever costs less."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.policies import deciding, waiting
from broker.policies.model import (
    HOUR,
    Cause,
    MoveCost,
    Objective,
    Situation,
)
from tests.support.placing import NOW, POLICY, machine, one_move, one_stay, situation, standing

SAME = {"a": 0.10, "b": 0.10}
"""Nothing is saved by a move of 4."""

WORKS = {"a": "works"}

PRICED = replace(POLICY, downtime_hour_price=2.0)
"""Two hours of standstill cost as much as a move."""


def tainted(hours: float | None, prices: dict[str, float] = SAME, **changes: object) -> Situation:
    """`a`, where the machine is, is tainted for so long; None: nobody knows."""
    ends = {} if hours is None else {"a": NOW + hours * HOUR}
    fields = {"policy": PRICED, "taints": WORKS, "taint_ends": ends} | changes
    return situation(prices, **fields)  # type: ignore[arg-type]


def test_a_machine_waits_for_an_end_that_is_nearer_than_the_move_is_worth() -> None:
    stay = one_stay(tainted(1.5))
    assert (stay.rule, stay.to_cloud) == ("taint", "b")
    told = "a: works; to wait 1.5 h for its expected end costs 3.00 EUR, to leave 4.00 EUR"
    assert stay.reason == told
    assert stay.counterfactual == "moves when its end is 2 h away or more"


def test_it_leaves_one_that_goes_on_for_longer_and_says_both_amounts() -> None:
    move = one_move(tainted(2.5))
    assert (move.cause, move.to_cloud) == (Cause.TAINT, "b")
    told = "a: works; to wait 2.5 h for its expected end costs 5.00 EUR, to leave 4.00 EUR"
    assert move.reason == told
    assert move.counterfactual == "stays when a is no longer marked, or its end is 2 h away or less"


def test_one_whose_end_nobody_knows_is_left_whatever_that_costs() -> None:
    move = one_move(tainted(None, move=1000.0))
    assert (move.cause, move.reason) == (Cause.TAINT, "a: works")
    assert move.counterfactual == "stays when a is no longer marked"


def test_an_end_that_has_passed_is_as_far_ahead_as_it_lies_back() -> None:
    assert one_stay(tainted(-0.1)).rule == "taint"
    assert "to wait 1.5 h" in one_stay(tainted(-1.5)).reason
    assert one_move(tainted(-2.5)).cause is Cause.TAINT


def test_one_that_is_off_waits_and_so_does_who_prices_no_standstill() -> None:
    off = one_stay(tainted(1000.0, machines=[replace(machine(), runs=False)]))
    assert off.rule == "taint"
    assert off.counterfactual == "moves when nobody knows when it ends"
    free = replace(PRICED, downtime_hour_price=0.0)
    assert one_stay(tainted(1000.0, policy=free)).rule == "taint"


def test_it_goes_only_where_that_costs_less_than_to_wait() -> None:
    three = tainted(2.5, {"a": 0.1, "b": 0.01, "c": 0.1})
    costs = {"b": 9.0, "c": 4.0}
    view = replace(three, move_cost=lambda _, to_cloud: MoveCost(egress=costs[to_cloud]))
    # b is the better place to be, and costs more to reach than to wait.
    assert one_move(view).to_cloud == "c"
    full = replace(view, feasible=lambda _, to_cloud, __: "is full" if to_cloud == "c" else "")
    stay = one_stay(full)
    assert stay.rule == "feasible"
    assert "c cannot take it: is full" in stay.reason


def test_where_no_cost_is_known_it_leaves_and_says_so() -> None:
    unknown = replace(tainted(0.1), move_cost=lambda _, __: None)
    assert "what it costs to leave is not known" in one_move(unknown).reason
    three = tainted(0.1, {"a": 0.1, "b": 0.1, "c": 0.1})

    def cost(_: object, to_cloud: str) -> MoveCost | None:
        return MoveCost(egress=4.0) if to_cloud == "b" else None

    # One that is known costs more than to wait, and nobody bets on another.
    assert one_stay(replace(three, move_cost=cost)).to_cloud == "b"
    there = one_move(replace(tainted(9.0, {"a": 0.1, "b": 0.1, "c": 0.1}), move_cost=cost))
    assert there.to_cloud == "b"


def test_what_else_makes_it_leave_does_so_while_it_could_wait() -> None:
    cheaper = {"a": 0.20, "b": 0.10}
    saving = one_move(tainted(0.1, cheaper))
    assert saving.cause is Cause.SAVING
    assert one_stay(tainted(0.1, cheaper, standings={"vm": standing(regret=0.0)})).rule == "taint"
    rises = replace(PRICED, objective=Objective.EVACUATE, price_rise_max=0.1)
    dear = tainted(0.1, cheaper, policy=rises, standings={"vm": standing(arrival=0.1)})
    assert one_move(dear).cause is Cause.PRICE_CHANGE


def test_budgets_and_rest_hold_of_who_leaves() -> None:
    failed = replace(machine(), failed_at=NOW - 60.0)
    assert one_stay(tainted(9.0, machines=[failed])).rule == "cooldown"
    # And what waits is told as waiting.
    assert one_stay(tainted(0.1, machines=[failed])).rule == "taint"


@given(
    hours=st.floats(-50.0, 50.0),
    cost=st.floats(0.0, 50.0),
    price=st.floats(0.0, 10.0),
    runs=st.booleans(),
)
def test_it_leaves_exactly_when_waiting_costs_more(
    hours: float, cost: float, price: float, runs: bool
) -> None:
    policy = replace(PRICED, objective=Objective.EVACUATE, downtime_hour_price=price)
    view = tainted(hours, policy=policy, move=cost, machines=[replace(machine(), runs=runs)])
    decision = deciding.decide(view)
    waits = waiting.waiting(view, view.machines[0])
    assert waits is not None
    assert waits.cost == pytest.approx(abs(hours) * price * runs)
    assert bool(decision.moves) == (cost < waits.cost)
    assert len(decision.moves) + len(decision.stays) == 1


@given(cost=st.floats(0.0, 50.0), before=st.floats(0.0, 50.0), later=st.floats(0.0, 50.0))
def test_who_waits_goes_on_waiting_until_the_end(cost: float, before: float, later: float) -> None:
    """Time passes and the end comes nearer: nobody waits first and leaves then."""
    near, far = sorted((before, later))
    policy = replace(PRICED, objective=Objective.EVACUATE)
    if not deciding.decide(tainted(far, policy=policy, move=cost)).moves:
        assert not deciding.decide(tainted(near, policy=policy, move=cost)).moves
