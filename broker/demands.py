"""Reads what a request asks for: checked here once, and nowhere again."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType

from google.protobuf.timestamp_pb2 import Timestamp

from broker import amounts, pricing
from broker.criteria import (
    CANDIDATES_DEFAULT,
    EXPLAINED_DEFAULT,
    WEIGHT_NAMES,
    WEIGHTS_DEFAULT,
    Budget,
    Criteria,
    ImageNeed,
    LinkLimit,
    Weights,
)
from watari import validate
from watari.v1 import broker_pb2, common_pb2

ENTRIES_MAX = 64
"""Most entries of each list and map of a request."""

OTHER_RESOURCES_MAX = 32
"""Most further resource classes, as the contract says."""

TEXT_BYTES_MAX = 128
"""Longest region, trait or side of a label."""

WEIGHT_MAX = 1_000_000
"""Largest weight; only their ratios count."""

CANDIDATES_MAX = 100
"""Most candidates of an answer."""

CHOICES_MAX = 16
"""Most choices of traits, links and images of a request, and clouds to explain."""

EXPLAINED_MAX = 100
"""Most clouds explained because they are near to fitting."""

SECONDS_MAX = 10 * 366 * 86_400
"""Longest stay and budget: ten years."""

ROOT_BYTES_MAX = 64
"""Longest root of an image."""

_NOTHING = Fraction()


def of_place(request: broker_pb2.PlaceRequest) -> Criteria:
    """What a PlaceRequest asks for. Raises InvalidArgument INVALID_FIELD."""
    wanted = request.requirements
    if not wanted.HasField("resources"):
        raise validate.invalid_field(
            "requirements.resources", "must be set", "say what the machine needs"
        )
    if wanted.rtt_ms_max and not request.source_cloud:
        raise validate.invalid_field(
            "requirements.rtt_ms_max",
            "there is no source cloud to measure from",
            "leave it out, or name source_cloud",
        )
    count = validate.require_range(request.candidates_max, "candidates_max", 0, CANDIDATES_MAX)
    near = validate.require_range(
        request.explained_clouds_max, "explained_clouds_max", 0, EXPLAINED_MAX
    )
    validate.require_count(len(request.explained_clouds), "explained_clouds", CHOICES_MAX)
    source = request.source_cloud
    placed = _criteria(
        wanted,
        request,
        needed=_needed(wanted.resources),
        source_cloud=validate.require_cloud_id(source, "source_cloud") if source else None,
        candidates_max=count or CANDIDATES_DEFAULT,
    )
    return replace(
        placed,
        explained_clouds_max=near or EXPLAINED_DEFAULT,
        explained_clouds=_cloud_ids(request.explained_clouds, "explained_clouds"),
    )


def of_migrate(
    request: broker_pb2.MigrateRequest, own: common_pb2.Resources | None = None
) -> Criteria:
    """What a MigrateRequest asks for, with the machine's `own` resources unless it says otherwise.

    Without `own` the request alone is checked. Raises InvalidArgument INVALID_FIELD.
    """
    wanted = request.requirements
    if wanted.HasField("resources"):
        needed = _needed(wanted.resources)
    else:
        needed = amounts.of(own or common_pb2.Resources())
    return _criteria(
        wanted,
        request,
        needed=needed,
        source_cloud=validate.require_cloud_id(request.from_cloud, "from_cloud"),
        candidates_max=CANDIDATES_DEFAULT,
    )


def of_batch(
    wanted: broker_pb2.Requirements, request: broker_pb2.PlaceBatchRequest, current_cloud: str
) -> Criteria:
    """What one machine of a batch asks for; `current_cloud` is empty for one that is new.

    Raises InvalidArgument INVALID_FIELD.
    """
    if not wanted.HasField("resources"):
        raise validate.invalid_field(
            "requirements.resources", "must be set", "say what the machine needs"
        )
    if wanted.rtt_ms_max and not current_cloud:
        raise validate.invalid_field(
            "requirements.rtt_ms_max",
            "there is no current cloud to measure from",
            "leave it out, or name current_cloud",
        )
    return _criteria(
        wanted,
        request,
        needed=_needed(wanted.resources),
        source_cloud=current_cloud or None,
        candidates_max=CANDIDATES_DEFAULT,
    )


def _criteria(
    wanted: broker_pb2.Requirements,
    request: broker_pb2.PlaceRequest | broker_pb2.MigrateRequest | broker_pb2.PlaceBatchRequest,
    *,
    needed: amounts.Amounts,
    source_cloud: str | None,
    candidates_max: int,
) -> Criteria:
    ceiling = None
    if wanted.HasField("hourly_price_max"):
        ceiling = pricing.require_price(wanted.hourly_price_max, "requirements.hourly_price_max")
    return Criteria(
        needed=needed,
        clouds=_cloud_ids(wanted.clouds, "requirements.clouds"),
        excluded_clouds=_cloud_ids(wanted.excluded_clouds, "requirements.excluded_clouds"),
        regions=_texts(wanted.regions, "requirements.regions"),
        jurisdictions=tuple(
            text.upper() for text in _texts(wanted.jurisdictions, "requirements.jurisdictions")
        ),
        required_traits=_texts(wanted.required_traits, "requirements.required_traits"),
        forbidden_traits=_texts(wanted.forbidden_traits, "requirements.forbidden_traits"),
        labels=_labels(wanted.labels, "requirements.labels"),
        ceiling=ceiling,
        rtt_ms_max=_rtt(wanted.rtt_ms_max),
        source_cloud=source_cloud,
        weights=_weights(request.weights),
        preferred_regions=_texts(request.preferred_regions, "preferred_regions"),
        candidates_max=candidates_max,
        any_traits=_choices(wanted.any_traits, "requirements.any_traits"),
        residency=tuple(
            text.upper()
            for text in _texts(
                wanted.residency_jurisdictions, "requirements.residency_jurisdictions"
            )
        ),
        copy_clouds=_cloud_ids(wanted.copy_clouds, "requirements.copy_clouds"),
        budget=_budget(wanted.budget) if wanted.HasField("budget") else None,
        links=_links(wanted.links),
        images=_images(wanted.images),
        providers=_texts(wanted.providers, "requirements.providers"),
        excluded_providers=_texts(wanted.excluded_providers, "requirements.excluded_providers"),
        preferred_providers=_texts(request.preferred_providers, "preferred_providers"),
        starts_at=_moment(wanted.starts_at) if wanted.HasField("starts_at") else None,
        stay_seconds=validate.require_range(
            wanted.stay_seconds, "requirements.stay_seconds", 0, SECONDS_MAX
        ),
    )


def _needed(resources: common_pb2.Resources) -> amounts.Amounts:
    field = "requirements.resources"
    validate.require_count(len(resources.other), f"{field}.other", OTHER_RESOURCES_MAX)
    for name in resources.other:
        validate.require_name(name, f"{field}.other")
    for name in ("vcpus", "memory_bytes"):
        if not getattr(resources, name):
            raise validate.invalid_field(f"{field}.{name}", "is 0", "a machine needs some of it")
    return amounts.of(resources)


def _cloud_ids(values: Iterable[str], field: str) -> tuple[str, ...]:
    ids = _bounded(values, field)
    return tuple(validate.require_cloud_id(value, field) for value in ids)


def _texts(values: Iterable[str], field: str) -> tuple[str, ...]:
    texts = _bounded(values, field)
    return tuple(
        validate.require_text(value, field, bytes_max=TEXT_BYTES_MAX, empty=False)
        for value in texts
    )


def _bounded(values: Iterable[str], field: str) -> tuple[str, ...]:
    """The values in their order, each once."""
    once = tuple(dict.fromkeys(values))
    validate.require_count(len(once), field, ENTRIES_MAX)
    return once


def _labels(labels: Mapping[str, str], field: str) -> Mapping[str, str]:
    validate.require_count(len(labels), field, ENTRIES_MAX)
    for key, value in labels.items():
        validate.require_text(key, field, bytes_max=TEXT_BYTES_MAX, empty=False)
        validate.require_text(value, field, bytes_max=TEXT_BYTES_MAX)
    return MappingProxyType(dict(sorted(labels.items())))


def _choices(choices: Sequence[broker_pb2.TraitChoice], field: str) -> tuple[tuple[str, ...], ...]:
    validate.require_count(len(choices), field, CHOICES_MAX)
    for choice in choices:
        if not choice.traits:
            raise validate.invalid_field(field, "has an empty choice", "name one trait at least")
    return tuple(_texts(choice.traits, field) for choice in choices)


def _budget(budget: broker_pb2.Budget) -> Budget:
    field = "requirements.budget"
    seconds = validate.require_range(budget.seconds, f"{field}.seconds", 1, SECONDS_MAX)
    return Budget(pricing.require_price(budget.amount, f"{field}.amount"), seconds)


def _links(limits: Sequence[broker_pb2.LinkLimit]) -> tuple[LinkLimit, ...]:
    field = "requirements.links"
    validate.require_count(len(limits), field, CHOICES_MAX)
    return tuple(
        LinkLimit(
            validate.require_cloud_id(limit.cloud_id, f"{field}.cloud_id"),
            _rtt(limit.rtt_ms_max, f"{field}.rtt_ms_max"),
            limit.throughput_bytes_per_second_min,
        )
        for limit in limits
    )


def _images(images: Sequence[broker_pb2.ImageNeed]) -> tuple[ImageNeed, ...]:
    field = "requirements.images"
    validate.require_count(len(images), field, CHOICES_MAX)
    for image in images:
        if len(image.public_root) > ROOT_BYTES_MAX:
            raise validate.invalid_field(
                f"{field}.public_root", "is too long", f"at most {ROOT_BYTES_MAX} bytes"
            )
        if not image.public_root:
            validate.require_text(
                image.name, f"{field}.name", bytes_max=TEXT_BYTES_MAX, empty=False
            )
    return tuple(
        ImageNeed(image.public_root, "" if image.public_root else image.name, image.required)
        for image in images
    )


def _moment(timestamp: Timestamp) -> datetime:
    try:
        # A stay must end before dates do.
        return (
            timestamp.ToDatetime(tzinfo=UTC)
            + timedelta(seconds=SECONDS_MAX)
            - timedelta(seconds=SECONDS_MAX)
        )
    except (ValueError, OverflowError):
        raise validate.invalid_field(
            "requirements.starts_at", "is no date", "a date of this age"
        ) from None


def _rtt(value: float, field: str = "requirements.rtt_ms_max") -> float | None:
    if not (math.isfinite(value) and value >= 0):
        raise validate.invalid_field(field, f"{value} is no limit", "milliseconds; 0 is no limit")
    return value or None


def _weights(weights: broker_pb2.Weights) -> Weights:
    parts = []
    for name in WEIGHT_NAMES:
        value = getattr(weights, name)
        if not (math.isfinite(value) and 0 <= value <= WEIGHT_MAX):
            raise validate.invalid_field(
                f"weights.{name}", f"{value} is out of bounds", f"0 to {WEIGHT_MAX}"
            )
        # By way of decimal text, so that 0.1 is a tenth.
        parts.append(Fraction(Decimal(repr(value))) if value else _NOTHING)
    total = sum(parts)
    if not total:
        return WEIGHTS_DEFAULT
    return Weights(*(part / total if part else part for part in parts))
