"""The options of `watari policy put` as the message that they make, and whose policy it is."""

import pytest

from watari import errors
from watari.cli.policy import Whose
from watari.cli.policy_options import PolicyOptions
from watari.identity import SpiffeId
from watari.v1 import broker_pb2, common_pb2


def test_what_is_not_said_is_left_to_the_broker() -> None:
    made = PolicyOptions().policy("cheap", 2)
    assert made == broker_pb2.Policy(
        policy_id="cheap",
        objective="cost",
        automation=broker_pb2.AUTOMATION_MANUAL,
        moves_per_vm_day_max=2,
        mode=common_pb2.MIGRATION_MODE_COLD,
    )
    assert not made.HasField("patience")


def test_every_option_has_its_field() -> None:
    made = PolicyOptions(
        objective="schedule",
        automation="approved",
        currency="jpy",
        residency_time="2h",
        cooldown="90s",
        horizon="3d",
        patience=0.0,
        hysteresis=1.5,
        allowance=0.2,
        confidence=2.0,
        saving_min="5 JPY",
        downtime_price="1.5 JPY",
        latency_price="0.1 JPY",
        presence_price="7 JPY",
        price_rise_max=0.5,
        schedule=["22:00-06:30=osaka|nara", "06:30-22:00=tokyo"],
        mode="warm",
    ).policy("p", 4)
    assert (made.automation, made.currency_code) == (broker_pb2.AUTOMATION_APPROVED, "JPY")
    seconds = (made.residency_seconds_min, made.cooldown_seconds, made.horizon_seconds)
    assert seconds == (7200, 90, 259_200)
    assert made.HasField("patience")
    assert (made.hysteresis, made.allowance, made.confidence) == (1.5, 0.2, 2.0)
    assert (made.saving_min.units, made.downtime_hour_price.nanos) == (5, 500_000_000)
    assert (made.latency_ms_hour_price.nanos, made.presence_hour_price.units) == (100_000_000, 7)
    assert made.price_rise_max == 0.5
    night, day = made.schedule
    assert (night.from_minute, night.to_minute, list(night.clouds)) == (
        1320,
        390,
        ["osaka", "nara"],
    )
    assert (day.from_minute, day.to_minute, list(day.clouds)) == (390, 1320, ["tokyo"])
    assert made.mode == common_pb2.MIGRATION_MODE_WARM


@pytest.mark.parametrize(
    "text",
    ["", "22:00", "22:00-06:00", "22:00=osaka", "24:00-06:00=a", "22:60-06:00=a", "x-y=a", "-=a"],
)
def test_a_window_that_is_none_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        PolicyOptions(schedule=[text]).policy("p", 1)
    assert "22:00-06:00=osaka|nara" in caught.value.hint


@pytest.mark.parametrize("option", ["saving_min", "downtime_price", "presence_price"])
def test_an_amount_needs_its_currency(option: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        PolicyOptions(**{option: "five"}).policy("p", 1)  # type: ignore[arg-type]


def test_a_tenant_acts_for_itself_and_an_operator_for_whom_it_names() -> None:
    acme = SpiffeId.parse("spiffe://tokyo.example/user/acme")
    operator = SpiffeId.parse("spiffe://tokyo.example/operator/main")
    own, named = Whose.of(acme, ""), Whose.of(operator, "acme")
    assert (own.domain, own.name) == (named.domain, named.name) == ("tokyo.example", "acme")
    with pytest.raises(errors.InvalidArgument, match="is no tenant"):
        Whose.of(operator, "")
