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
        any_traits=["gpu:a100|gpu:l4"],
        residency=["JP"],
        copies=["nara"],
        budget="40 EUR/30d",
        near=["tokyo=20ms"],
        throughput=["tokyo=50MB"],
        images=["base"],
        required_images=["db"],
        providers=["a.example"],
        excluded_providers=["b.example"],
        preferred_providers=["a.example"],
        stay="1h",
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
        any_traits=[broker_pb2.TraitChoice(traits=["gpu:a100", "gpu:l4"])],
        residency_jurisdictions=["JP"],
        copy_clouds=["nara"],
        budget=broker_pb2.Budget(
            amount=money.from_decimal(Decimal(40), "EUR"), seconds=30 * 86_400
        ),
        links=[
            broker_pb2.LinkLimit(
                cloud_id="tokyo", rtt_ms_max=20, throughput_bytes_per_second_min=50_000_000
            )
        ],
        images=[
            broker_pb2.ImageNeed(name="base"),
            broker_pb2.ImageNeed(name="db", required=True),
        ],
        providers=["a.example"],
        excluded_providers=["b.example"],
        stay_seconds=3600,
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
        Constraints(budget="40 EUR"),
        Constraints(budget="much/30d"),
        Constraints(near=["tokyo"]),
        Constraints(near=["tokyo=far"]),
        Constraints(stay="long"),
    ],
)
def test_a_constraint_that_cannot_be_read_is_refused(typed: Constraints) -> None:
    with pytest.raises(errors.InvalidArgument):
        typed.requirements(None)


@pytest.mark.parametrize("weights", ["price", "luck=1", "price=much"])
def test_weights_that_cannot_be_read_are_refused(weights: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="--weights"):
        Constraints(weights=weights).ranking()
