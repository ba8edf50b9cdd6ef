"""Which machines move, which rule keeps the others, and how both are put in words."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.policies import deciding
from broker.policies.model import (
    FORCED,
    HOUR,
    Cause,
    Machine,
    Move,
    MoveCost,
    Objective,
    Outlook,
    Policy,
    Standing,
    Window,
)
from tests.support.placing import (
    NOW,
    POLICY,
    machine,
    one_move,
    one_stay,
    situation,
    standing,
)

CHEAPER = {"a": 0.20, "b": 0.10}
"""100 hours at b save 10, a move of 4 needs 5."""


def test_a_move_pays_and_says_both_numbers() -> None:
    move = one_move(situation(CHEAPER))
    assert (move.vm_id, move.from_cloud, move.to_cloud) == ("vm", "a", "b")
    assert move.cause is Cause.SAVING
    assert move.reckoning.sure_saving == pytest.approx(10)
    assert move.reckoning.needed == pytest.approx(5)
    assert "saves 10.00 EUR in 4.17 days" in move.reason
    assert "needs 5.00 EUR for a move of 4.00 EUR" in move.reason
    assert move.counterfactual == "stays if the saving is 5.00 EUR less"


def test_a_move_says_what_its_cost_is_made_of() -> None:
    cost = MoveCost(
        transfer_bytes=20 * 1024**3, egress=1.8, flat=0.1, downtime_seconds=12.4, downtime=0.05
    )
    view = replace(situation(CHEAPER), move_cost=lambda _, __: cost)
    told = "a move of 1.95 EUR (egress 1.80 EUR for 20 GiB, flat 0.10 EUR, standstill 0.05 EUR "
    assert f"{told}for 12 s)" in one_move(view).reason
    free = replace(situation(CHEAPER), move_cost=lambda _, __: MoveCost(flat=0.1))
    assert one_move(free).reason.endswith("a move of 0.10 EUR")


class Counted(list[Machine]):
    """Knows how often it was looked through."""

    times = 0

    def __iter__(self) -> Iterator[Machine]:
        self.times += 1
        return super().__iter__()


@pytest.mark.parametrize("objective", list(Objective))
def test_a_machine_is_judged_without_a_look_at_all_others(objective: Objective) -> None:
    """Or a thousand machines would take a million looks."""
    policy = replace(POLICY, objective=objective, presence_hour_price=0.01)
    machines = [machine(f"vm{number}") for number in range(30)]
    counted = Counted(machines)
    view = replace(situation(CHEAPER, machines, policy=policy), machines=counted)
    deciding.decide(view)
    assert 0 < counted.times < 10


def test_a_saving_that_is_too_small_says_how_much_more_it_takes() -> None:
    stay = one_stay(situation({"a": 0.146, "b": 0.10}))
    assert stay.rule == "saving"
    assert stay.to_cloud == "b"
    assert stay.counterfactual == "moves when the saving is 0.40 EUR more"
    assert one_move(situation({"a": 0.1501, "b": 0.10})).to_cloud == "b"


def test_the_discount_shortens_the_horizon() -> None:
    hasty = replace(POLICY, discount_per_day=0.5)
    # ln 2 a day: what is saved in 100 hours is worth some 33 hours of now.
    stay = one_stay(situation(CHEAPER, policy=hasty))
    assert stay.reckoning is not None
    assert stay.reckoning.saving == pytest.approx(0.1 * 32.695, rel=1e-3)


def test_what_is_doubtful_counts_less() -> None:
    outlooks = {"a": Outlook(1.0, 0.3), "b": Outlook(1.0, 0.0)}
    stay = one_stay(situation(CHEAPER, outlooks=outlooks))
    assert stay.reckoning is not None
    assert stay.reckoning.deviation == pytest.approx(6)
    assert stay.reckoning.sure_saving == pytest.approx(4)
    assert "10.00 EUR expected, give or take 6.00 EUR" in stay.reason


def test_a_spike_that_will_pass_is_sat_out() -> None:
    stay = one_stay(situation(CHEAPER, outlooks={"a": Outlook(0.6, 0.0)}))
    assert stay.rule == "saving"


def test_a_hard_rule_speaks_before_a_soft_one() -> None:
    rules = {
        "patience": situation(CHEAPER, standings={"vm": standing(regret=1.9)}),
        "allowance": situation(CHEAPER, standings={"vm": standing(allowance=7.9)}),
        "residency": situation(CHEAPER, [machine(since=NOW - 5 * HOUR)]),
        "cooldown": situation(CHEAPER, [replace(machine(), failed_at=NOW - 0.5 * HOUR)]),
        "budget": situation(CHEAPER, [replace(machine(), moves=(NOW - 23 * HOUR,))]),
        "feasible": situation(CHEAPER, unfit={"b": "is full"}),
        "busy": situation(CHEAPER, [replace(machine(), busy="moves under m1")]),
        "unwatched": situation(CHEAPER, standings={}),
        "best": situation({"a": 0.1, "b": 0.1}),
    }
    for rule, case in rules.items():
        stay = one_stay(case)
        assert stay.rule == rule, stay
        assert stay.reason
        assert stay.counterfactual
    assert one_stay(rules["patience"]).counterfactual == "moves after 0.10 EUR more paid too much"
    assert (
        "may lose 7.90 EUR, there and home again costs 8.00" in one_stay(rules["allowance"]).reason
    )
    assert "stays for 1 h more" in one_stay(rules["residency"]).reason
    assert "b cannot take it: is full" in one_stay(rules["feasible"]).reason


def test_the_next_best_cloud_takes_what_the_best_cannot() -> None:
    prices = CHEAPER | {"c": 0.12}
    assert one_move(situation(prices, unfit={"b": "is full"})).to_cloud == "c"


def test_equal_clouds_are_taken_in_their_order() -> None:
    assert one_move(situation({"a": 0.2, "c": 0.1, "b": 0.1})).to_cloud == "c"


def test_what_one_plan_sends_to_a_cloud_counts_for_the_next_machine() -> None:
    machines = [machine("vm1"), machine("vm2"), machine("vm3")]
    decision = deciding.decide(situation(CHEAPER, machines, room={"b": 2}))
    assert [move.vm_id for move in decision.moves] == ["vm1", "vm2"]
    assert [(stay.vm_id, stay.rule) for stay in decision.stays] == [("vm3", "feasible")]


@pytest.mark.parametrize(
    "limited",
    [
        replace(POLICY, moves_per_hour_max=3),
        replace(POLICY, moves_per_cloud_hour_max=3),
    ],
)
def test_an_hours_budget_counts_what_has_begun_already(limited: Policy) -> None:
    machines = [machine(f"vm{number}") for number in range(5)]
    recent = [Move("x", "a", "z", NOW - 0.5 * HOUR), Move("y", "a", "z", NOW - 2 * HOUR)]
    decision = deciding.decide(situation(CHEAPER, machines, policy=limited, recent=recent))
    assert len(decision.moves) == 2
    assert {stay.rule for stay in decision.stays} == {"budget"}


def test_a_taint_overrides_savings_residency_and_the_account() -> None:
    case = situation(
        {"a": 0.10, "b": 0.30, "c": 0.20},
        [machine(since=NOW - 60)],
        standings={},
        taints={"a": "taint maintenance"},
    )
    move = one_move(case)
    assert move.cause is Cause.TAINT
    assert move.to_cloud == "c", "the cheapest of them"
    assert move.reason == "a: taint maintenance"


def test_a_taint_does_not_override_budgets_nor_the_rest_after_a_failure() -> None:
    tainted = {"taints": {"a": "taint maintenance"}}
    spent = replace(machine(), moves=(NOW - 2 * HOUR, NOW - HOUR))
    assert one_stay(situation(CHEAPER, [spent], **tainted)).rule == "budget"
    failed = replace(machine(), failed_at=NOW - 60)
    assert one_stay(situation(CHEAPER, [failed], **tainted)).rule == "cooldown"
    nobody = replace(POLICY, moves_per_hour_max=0)
    assert one_stay(situation(CHEAPER, policy=nobody, **tainted)).rule == "budget"


def test_the_last_move_of_a_day_is_kept_for_evacuations() -> None:
    once = replace(machine(), moves=(NOW - 2 * HOUR,))
    assert one_stay(situation(CHEAPER, [once])).rule == "budget"
    assert one_move(situation(CHEAPER, [once], taints={"a": "is out"})).cause is Cause.TAINT


def test_evacuations_are_served_before_savings() -> None:
    limited = replace(POLICY, moves_per_hour_max=1)
    machines = [machine("saves", "a"), machine("leaves", "c")]
    prices = {"a": 0.9, "b": 0.1, "c": 0.1}
    decision = deciding.decide(
        situation(prices, machines, policy=limited, taints={"c": "taint maintenance"})
    )
    assert [move.vm_id for move in decision.moves] == ["leaves"]


def test_nobody_is_sent_to_a_tainted_cloud() -> None:
    assert one_stay(situation(CHEAPER, taints={"b": "taint maintenance"})).rule == "best"
    stay = one_stay(situation(CHEAPER, taints={"a": "is out", "b": "is out"}))
    assert stay.rule == "feasible"


def test_a_policy_that_only_evacuates_never_moves_for_a_saving() -> None:
    policy = replace(POLICY, objective=Objective.EVACUATE)
    assert one_stay(situation(CHEAPER, policy=policy)).rule == "best"


def test_a_cloud_that_became_dearer_than_agreed_is_left() -> None:
    policy = replace(POLICY, objective=Objective.EVACUATE, price_rise_max=0.5)
    dear = {"vm": standing(arrival=0.12)}
    move = one_move(situation(CHEAPER, policy=policy, standings=dear))
    assert move.cause is Cause.PRICE_CHANGE
    assert "asks 0.20 EUR/h, at most 0.18 EUR/h" in move.reason
    fair = {"vm": standing(arrival=0.14)}
    assert one_stay(situation(CHEAPER, policy=policy, standings=fair)).rule == "best"


def test_latency_is_worth_what_the_policy_says() -> None:
    policy = replace(POLICY, objective=Objective.LATENCY, latency_ms_hour_price=0.002)
    prices = {"a": 0.10, "b": 0.12}
    move = one_move(situation(prices, policy=policy, latencies={"a": 100, "b": 20}))
    assert move.to_cloud == "b"
    assert move.reckoning.hourly_saving == pytest.approx(0.14)
    assert one_stay(situation(prices, policy=policy, latencies={"a": 100})).rule == "best"


def test_a_schedule_is_followed_over_midnight() -> None:
    policy = replace(
        POLICY,
        objective=Objective.SCHEDULE,
        schedule=(Window(22 * 60, 6 * 60, ("b",)), Window(6 * 60, 22 * 60, ("a",))),
    )
    night = situation(CHEAPER, policy=policy, now=NOW + 23 * HOUR)
    move = one_move(night)
    assert (move.cause, move.to_cloud) == (Cause.SCHEDULE, "b")
    assert move.reason == "the schedule has it in b until 06:00 UTC"
    assert one_move(situation(CHEAPER, policy=policy, now=NOW + 5.9 * HOUR)).to_cloud == "b"
    assert one_stay(situation(CHEAPER, policy=policy, now=NOW + 6 * HOUR)).rule == "best"


def test_a_machine_goes_home_when_its_allowance_just_pays_for_that() -> None:
    away = {"vm": standing(home="b", allowance=3.9)}
    move = one_move(situation(CHEAPER, standings=away))
    assert (move.cause, move.to_cloud) == (Cause.RETURN, "b")
    assert "has 3.90 EUR left to lose, the way home costs 4.00 EUR" in move.reason


CONSOLIDATING = replace(POLICY, objective=Objective.CONSOLIDATE, presence_hour_price=0.2)
"""Leaving a cloud for good is worth 20."""


def test_a_cloud_is_emptied_when_its_presence_costs_more_than_moving_everybody() -> None:
    machines = [machine("vm1", "b"), machine("vm2", "a"), machine("vm3", "a"), machine("vm4", "a")]
    prices = {"a": 0.1, "b": 0.1, "c": 0.09}
    decision = deciding.decide(situation(prices, machines, policy=CONSOLIDATING))
    (move,) = decision.moves
    assert (move.vm_id, move.to_cloud, move.cause) == ("vm1", "a", Cause.CONSOLIDATION)
    assert "emptying b of 1 machines saves 20.00 EUR of presence" in move.reason
    assert move.counterfactual == "stays if that is 15.00 EUR less"
    poor = replace(CONSOLIDATING, presence_hour_price=0.04)
    assert not deciding.decide(situation(prices, machines, policy=poor)).moves


def test_no_cloud_is_emptied_into_one_that_is_emptied_too() -> None:
    machines = [machine("vm1", "a"), machine("vm2", "b"), machine("vm3", "c")]
    prices = {"a": 0.1, "b": 0.1, "c": 0.1}
    decision = deciding.decide(situation(prices, machines, policy=CONSOLIDATING))
    assert not {move.to_cloud for move in decision.moves} & {
        move.from_cloud for move in decision.moves
    }
    assert decision.moves


def test_a_cloud_is_not_emptied_while_one_of_its_machines_must_stay() -> None:
    fresh = machine("vm1", "b", since=NOW - 60)
    machines = [fresh, machine("vm2", "b"), *(machine(f"x{n}", "a") for n in range(5))]
    decision = deciding.decide(situation({"a": 0.1, "b": 0.1}, machines, policy=CONSOLIDATING))
    assert not decision.moves


def test_a_group_is_not_moved_where_only_a_part_of_it_fits() -> None:
    machines = [
        machine("vm1", "b"),
        machine("vm2", "b"),
        *(machine(f"x{n}", "a") for n in range(3)),
    ]
    case = situation({"a": 0.1, "b": 0.1}, machines, policy=CONSOLIDATING, room={"a": 1, "b": 0})
    assert not deciding.decide(case).moves


@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=12),
    st.lists(st.integers(0, 40), min_size=4, max_size=4),
    st.sampled_from(list(Objective)),
    st.dictionaries(st.sampled_from("abcd"), st.just("is out"), max_size=3),
    st.integers(0, 6),
    st.integers(0, 6),
    st.integers(0, 3),
    st.floats(0, 20),
)
def test_every_machine_is_decided_once_and_no_budget_is_exceeded(
    places: list[str],
    prices: list[int],
    objective: Objective,
    taints: dict[str, str],
    per_cloud: int,
    per_hour: int,
    moved: int,
    allowance: float,
) -> None:
    policy = replace(
        POLICY,
        objective=objective,
        moves_per_cloud_hour_max=per_cloud,
        moves_per_hour_max=per_hour,
        presence_hour_price=0.3,
        schedule=(Window(0, 0, ("a", "b")),),
    )
    machines = [
        Machine(f"vm{number}", place, NOW - number * 2 * HOUR, moves=(NOW - HOUR,) * (number % 3))
        for number, place in enumerate(places)
    ]
    recent = [Move("other", "a", "b", NOW - 60)] * min(moved, per_cloud, per_hour)
    standings = {
        each.vm_id: Standing("a", dict.fromkeys("abcd", 9.0), allowance) for each in machines
    }
    case = situation(
        {name: price / 100 for name, price in zip("abcd", prices, strict=True)},
        machines,
        policy=policy,
        taints=taints,
        recent=recent,
        standings=standings,
        room={"c": 2},
    )
    decision = deciding.decide(case)
    decided = [move.vm_id for move in decision.moves] + [stay.vm_id for stay in decision.stays]
    assert sorted(decided) == sorted(each.vm_id for each in machines)
    assert len(recent) + len(decision.moves) <= per_hour
    clouds = Counter(
        cloud for move in (*recent, *decision.moves) for cloud in (move.from_cloud, move.to_cloud)
    )
    assert all(count <= per_cloud for count in clouds.values())
    present = {each.vm_id: each for each in machines}
    for move in decision.moves:
        spent = len(present[move.vm_id].moves)
        assert spent < policy.moves_per_vm_day_max - (move.cause not in FORCED)
        assert move.to_cloud not in taints
        assert move.to_cloud != move.from_cloud == present[move.vm_id].cloud_id
        assert move.reason
        assert move.counterfactual
    assert sum(move.to_cloud == "c" for move in decision.moves) <= 2
    assert decision == deciding.decide(case)
