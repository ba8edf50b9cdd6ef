"""watari.cli.constraints: what was typed is what the broker is asked for."""

from dataclasses import fields
from decimal import Decimal

import pytest

from watari import errors, money
from watari.cli.constraints import NO_CONSTRAINTS, Constraints
from watari.v1 import broker_pb2, common_pb2


def test_nothing_typed_constrains_nothing() -> None:
    assert NO_CONSTRAINTS.requirements(None) == broker_pb2.Requirements()
    assert NO_CONSTRAINTS.ranking() == broker_pb2.Weights()


def test_every_constraint_reaches_the_broker() -> None:
    typed = Constraints(
        clouds=["osaka"],
        excluded=["tokyo"],
        regions=["jp-west"],
        jurisdictions=["JP"],
        traits=["cpu:avx2"],
        forbidden=["cpu:old"],
        labels=["tier=gold", "note=a=b"],
        price_max="12.5 jpy",
        rtt_max="80ms",
        preferred=["jp-west"],
        weights="price=0.7, region=0.3",
    )
    assert all(getattr(typed, each.name) for each in fields(typed))
    resources = common_pb2.Resources(vcpus=2)
    assert typed.requirements(resources) == broker_pb2.Requirements(
        resources=resources,
        clouds=["osaka"],
        excluded_clouds=["tokyo"],
        regions=["jp-west"],
        jurisdictions=["JP"],
        required_traits=["cpu:avx2"],
        forbidden_traits=["cpu:old"],
        labels={"tier": "gold", "note": "a=b"},
        hourly_price_max=money.from_decimal(Decimal("12.5"), "JPY"),
        rtt_ms_max=80,
    )
    assert typed.ranking() == broker_pb2.Weights(price=0.7, region=0.3)


@pytest.mark.parametrize(
    "typed",
    [
        Constraints(labels=["tier"]),
        Constraints(labels=["=gold"]),
        Constraints(price_max="cheap"),
        Constraints(price_max="12.5"),
        Constraints(rtt_max="near"),
    ],
)
def test_a_constraint_that_cannot_be_read_is_refused(typed: Constraints) -> None:
    with pytest.raises(errors.InvalidArgument):
        typed.requirements(None)


@pytest.mark.parametrize("weights", ["price", "luck=1", "price=much"])
def test_weights_that_cannot_be_read_are_refused(weights: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="--weights"):
        Constraints(weights=weights).ranking()
