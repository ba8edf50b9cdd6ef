"""What a request asks for: checked once, then a value that the pure parts read."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType

from broker import amounts, pricing
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

CANDIDATES_DEFAULT = 10
"""Candidates of an answer when the request says 0."""

CANDIDATES_MAX = 100
"""Most candidates of an answer."""


@dataclass(frozen=True)
class Weights:
    """How much each score counts; they add up to 1."""

    price: Fraction
    region: Fraction
    free_capacity: Fraction


WEIGHTS_DEFAULT = Weights(Fraction(1, 2), Fraction(1, 5), Fraction(3, 10))
"""Price first; room next, since a full cloud refuses the reservation; region breaks near ties."""


@dataclass(frozen=True)
class Criteria:
    """Hard constraints and preferences. An empty collection or None constrains nothing."""

    needed: amounts.Amounts
    clouds: tuple[str, ...] = ()
    excluded_clouds: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    jurisdictions: tuple[str, ...] = ()
    required_traits: tuple[str, ...] = ()
    forbidden_traits: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    ceiling: pricing.Price | None = None
    """For an hour of the whole machine."""
    rtt_ms_max: float | None = None
    """Needs `source_cloud`."""
    source_cloud: str | None = None
    """Where the machine is, when it is one that exists; never a candidate."""
    weights: Weights = WEIGHTS_DEFAULT
    preferred_regions: tuple[str, ...] = ()
    """Best first."""
    candidates_max: int = CANDIDATES_DEFAULT


def of_place(request: broker_pb2.PlaceRequest) -> Criteria:
    """What a PlaceRequest asks for. Raises InvalidArgument INVALID_FIELD."""
    wanted = request.requirements
    if not wanted.HasField("resources"):
        raise validate.invalid_field(
            "requirements.resources", "must be set", "say what the machine needs"
        )
    if wanted.rtt_ms_max:
        raise validate.invalid_field(
            "requirements.rtt_ms_max",
            "there is no source cloud to measure from",
            "leave it out, or call Migrate, which knows the source",
        )
    count = validate.require_range(request.candidates_max, "candidates_max", 0, CANDIDATES_MAX)
    return _criteria(
        wanted,
        request.weights,
        request.preferred_regions,
        needed=_needed(wanted.resources),
        source_cloud=None,
        candidates_max=count or CANDIDATES_DEFAULT,
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
        request.weights,
        request.preferred_regions,
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
        request.weights,
        request.preferred_regions,
        needed=_needed(wanted.resources),
        source_cloud=current_cloud or None,
        candidates_max=CANDIDATES_DEFAULT,
    )


def _criteria(
    wanted: broker_pb2.Requirements,
    weights: broker_pb2.Weights,
    preferred_regions: Iterable[str],
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
        weights=_weights(weights),
        preferred_regions=_texts(preferred_regions, "preferred_regions"),
        candidates_max=candidates_max,
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


def _rtt(value: float) -> float | None:
    if not (math.isfinite(value) and value >= 0):
        raise validate.invalid_field(
            "requirements.rtt_ms_max", f"{value} is no limit", "milliseconds; 0 is no limit"
        )
    return value or None


def _weights(weights: broker_pb2.Weights) -> Weights:
    parts = []
    for name in ("price", "region", "free_capacity"):
        value = getattr(weights, name)
        if not (math.isfinite(value) and 0 <= value <= WEIGHT_MAX):
            raise validate.invalid_field(
                f"weights.{name}", f"{value} is out of bounds", f"0 to {WEIGHT_MAX}"
            )
        # By way of decimal text, so that 0.1 is a tenth.
        parts.append(Fraction(Decimal(repr(value))))
    total = sum(parts)
    return Weights(*(part / total for part in parts)) if total else WEIGHTS_DEFAULT
