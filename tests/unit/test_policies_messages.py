"""Policies and plans on the wire are those of the model."""

import dataclasses
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.policies import messages, plans
from broker.policies.model import (
    Automation,
    Cause,
    MoveCost,
    Objective,
    Policy,
    Proposal,
    Reckoning,
    Window,
)
from broker.policies.plans import Action, Outcome, Plan, State
from watari import errors, money
from watari.v1 import broker_pb2


def message(**fields: Any) -> broker_pb2.Policy:
    given_: dict[str, Any] = {
        "policy_id": "p",
        "tenant": "t",
        "objective": "cost",
        "automation": broker_pb2.AUTOMATION_MANUAL,
    }
    return broker_pb2.Policy(**(given_ | fields))


def eur(amount: str) -> Any:
    return money.from_decimal(Decimal(amount), "EUR")


def test_what_is_unset_is_the_default() -> None:
    assert messages.policy_of(message()) == Policy("p", "t")


def test_every_field_of_a_policy_travels() -> None:
    policy = messages.policy_of(
        message(
            objective="latency",
            automation=broker_pb2.AUTOMATION_AUTOMATIC,
            moves_per_vm_day_max=3,
            moves_per_cloud_hour_max=4,
            moves_per_hour_max=5,
            residency_seconds_min=6,
            cooldown_seconds=7,
            horizon_seconds=8,
            discount_per_day=0.0,
            hysteresis=0.0,
            saving_min=eur("9.5"),
            confidence=0.0,
            patience=2.0,
            allowance=0.0,
            allowance_hours=0.0,
            downtime_hour_price=eur("0"),
            latency_ms_hour_price=eur("0.001"),
            presence_hour_price=eur("0.2"),
            price_rise_max=0.0,
            schedule=[broker_pb2.ScheduleWindow(from_minute=1, to_minute=0, clouds=["a", "b"])],
        )
    )
    assert policy == Policy(
        "p", "t", Objective.LATENCY, "EUR", Automation.AUTOMATIC, 3, 4, 5, 6.0, 7.0, 8.0, 0.0, 0.0,
        9.5, 0.0, 2.0, 0.0, 0.0, 0.0, 0.001, 0.2, 0.0, (Window(1, 0, ("a", "b")),),
    )  # fmt: skip
    default = Policy("p", "t")
    same = {
        field.name
        for field in dataclasses.fields(Policy)
        if getattr(policy, field.name) == getattr(default, field.name)
    }
    assert same == {"policy_id", "tenant", "currency"}, "or this test does not see a field"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"objective": "speed"}, "policy.objective"),
        ({"automation": 0}, "policy.automation"),
        ({"automation": 9}, "policy.automation"),
        ({"policy_id": ""}, "policy.policy_id"),
        ({"hysteresis": -0.1}, "policy.hysteresis"),
        ({"patience": float("nan")}, "policy.patience"),
        ({"confidence": float("inf")}, "policy.confidence"),
        ({"discount_per_day": 1.0}, "policy.discount_per_day"),
        ({"horizon_seconds": 91 * 86_400}, "policy.horizon_seconds"),
        ({"moves_per_hour_max": 100_001}, "policy.moves_per_hour_max"),
        ({"saving_min": money.from_decimal(Decimal(1), "JPY")}, "policy.saving_min"),
        ({"saving_min": eur("-1")}, "policy.saving_min"),
        ({"schedule": [broker_pb2.ScheduleWindow()]}, "policy.schedule.clouds"),
        (
            {"schedule": [broker_pb2.ScheduleWindow(from_minute=1440, clouds=["a"])]},
            "policy.schedule.from_minute",
        ),
        ({"schedule": [broker_pb2.ScheduleWindow(clouds=["a"])] * 49}, "policy.schedule"),
        ({"currency_code": "eur"}, "money"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        messages.policy_of(message(**fields))
    assert caught.value.metadata["field"] == named


AMOUNTS = st.integers(-(10**9), 10**9).map(lambda thousandths: thousandths / 1000)
COSTS = st.builds(
    MoveCost,
    transfer_bytes=st.integers(0, 2**50).map(float),
    egress=AMOUNTS,
    flat=AMOUNTS,
    overlap=AMOUNTS,
    downtime_seconds=AMOUNTS,
    downtime=AMOUNTS,
    duration_seconds=AMOUNTS,
)
OUTCOMES = st.builds(Outcome, st.integers(0, 2**50).map(float), AMOUNTS, AMOUNTS)
ACTIONS = st.builds(
    Action,
    st.builds(
        Proposal,
        st.sampled_from(["vm0", "vm1"]),
        st.just("a"),
        st.just("b"),
        st.sampled_from(Cause),
        st.text(max_size=9),
        st.text(max_size=9),
        st.builds(Reckoning, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, COSTS, AMOUNTS),
    ),
    st.sampled_from(State),
    st.text(max_size=9),
    st.text(max_size=9),
    st.none() | OUTCOMES,
)
MOMENTS = st.integers(0, 4 * 10**9).map(float)


@given(
    st.builds(
        Plan,
        st.just("plan"),
        st.just("p"),
        st.just("t"),
        st.sampled_from(Automation),
        MOMENTS,
        st.lists(ACTIONS, min_size=1, max_size=3).map(tuple),
        st.integers(1, 2**40),
        st.text(max_size=9),
        st.none() | MOMENTS,
    )
)
def test_a_plan_comes_back_as_it_was(plan: Plan) -> None:
    sent = messages.plan_message(plan, "EUR")
    assert messages.plan_of(broker_pb2.Plan.FromString(sent.SerializeToString())) == plan
    assert broker_pb2.PlanState.Name(sent.state) == f"PLAN_STATE_{plan.state}"


def test_the_contract_knows_every_state_level_and_cause() -> None:
    names = {value.name for value in broker_pb2.PlanState.DESCRIPTOR.values}
    assert names == {f"PLAN_STATE_{state}" for state in State} | {"PLAN_STATE_UNSPECIFIED"}
    numbers = {value.number for value in broker_pb2.Automation.DESCRIPTOR.values}
    assert numbers == {*map(int, Automation), 0}
    assert plans.ACTIONS_MAX == 1000
