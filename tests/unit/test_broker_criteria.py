"""Requests: what is accepted, and that a refusal names the field."""

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import pytest

from broker import criteria, demands, pricing
from tests.support import catalogue_records as records
from watari import errors
from watari.v1 import broker_pb2, common_pb2


def place_request() -> broker_pb2.PlaceRequest:
    return broker_pb2.PlaceRequest(
        requirements=broker_pb2.Requirements(resources=records.resources())
    )


def test_a_request_becomes_criteria() -> None:
    request = place_request()
    wanted = request.requirements
    wanted.clouds.extend(["osaka", "nara", "osaka"])
    wanted.jurisdictions.append("jp")
    wanted.labels["tier"] = "gold"
    wanted.hourly_price_max.CopyFrom(common_pb2.Money(currency_code="EUR", nanos=40_000_000))
    request.weights.price, request.weights.region = 0.3, 0.1
    found = demands.of_place(request)
    assert found.clouds == ("osaka", "nara")
    assert found.jurisdictions == ("JP",)
    assert found.labels == {"tier": "gold"}
    assert found.ceiling == pricing.Price("EUR", Decimal("0.04"))
    assert found.weights == criteria.Weights(Fraction(3, 4), Fraction(1, 4), Fraction(0))
    assert (found.rtt_ms_max, found.source_cloud, found.candidates_max) == (None, None, 10)


def test_weights_that_are_all_zero_are_the_default() -> None:
    assert demands.of_place(place_request()).weights == criteria.WEIGHTS_DEFAULT
    assert sum(vars(criteria.WEIGHTS_DEFAULT).values()) == 1


def change(request: broker_pb2.PlaceRequest, field: str, value: object) -> None:
    *path, last = field.split(".")
    target = request
    for part in path:
        target = getattr(target, part)
    if isinstance(value, list):
        getattr(target, last).extend(value)
    elif isinstance(value, common_pb2.Money | common_pb2.Resources):
        getattr(target, last).CopyFrom(value)
    else:
        setattr(target, last, value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("requirements.resources.vcpus", 0),
        ("requirements.resources.memory_bytes", 0),
        ("requirements.clouds", ["Osaka"]),
        ("requirements.excluded_clouds", [f"c{number}" for number in range(65)]),
        ("requirements.regions", [""]),
        ("requirements.required_traits", ["x" * 129]),
        ("requirements.forbidden_traits", ["evil\x1b[2J"]),
        ("requirements.hourly_price_max", common_pb2.Money(currency_code="EUR", units=-1)),
        ("requirements.hourly_price_max", common_pb2.Money(currency_code="euro")),
        ("requirements.rtt_ms_max", 20.0),
        ("weights.price", -0.1),
        ("weights.region", float("nan")),
        ("weights.free_capacity", float("inf")),
        ("preferred_regions", [f"r{number}" for number in range(65)]),
        ("candidates_max", 101),
    ],
)
def test_a_field_that_makes_no_sense_is_refused_by_its_name(field: str, value: object) -> None:
    request = place_request()
    change(request, field, value)
    with pytest.raises(errors.InvalidArgument) as caught:
        demands.of_place(request)
    assert (caught.value.reason, caught.value.metadata["field"]) == ("INVALID_FIELD", field)


def test_labels_are_checked_on_both_sides() -> None:
    for labels in ({"": "x"}, {"tier": "x" * 129}):
        request = place_request()
        request.requirements.labels.update(labels)
        with pytest.raises(errors.InvalidArgument, match=r"requirements\.labels"):
            demands.of_place(request)


def test_a_placement_needs_resources_and_a_migration_takes_the_machines_own() -> None:
    with pytest.raises(errors.InvalidArgument, match=r"requirements\.resources"):
        demands.of_place(broker_pb2.PlaceRequest())
    request = broker_pb2.MigrateRequest(from_cloud="tokyo")
    request.requirements.rtt_ms_max = 20.0
    found = demands.of_migrate(request, records.resources(2, 4, 10))
    assert (found.needed["vcpus"], found.rtt_ms_max, found.source_cloud) == (2, 20.0, "tokyo")
    request.requirements.resources.CopyFrom(records.resources(8, 4, 10))
    assert demands.of_migrate(request, records.resources(2, 4, 10)).needed["vcpus"] == 8


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda request: request.ClearField("from_cloud"), "from_cloud"),
        (lambda request: setattr(request.requirements, "rtt_ms_max", -1), "rtt_ms_max"),
    ],
)
def test_a_migration_request_is_checked_without_the_machine(
    spoil: Callable[[broker_pb2.MigrateRequest], None], field: str
) -> None:
    request = broker_pb2.MigrateRequest(from_cloud="tokyo")
    spoil(request)
    with pytest.raises(errors.InvalidArgument, match=field):
        demands.of_migrate(request)
