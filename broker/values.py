"""What clouds publish for placement, as immutable values, and how they are read from records. Pure.

A provider's record that makes no sense is left out or marked; it never keeps the other providers'
from being used.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType

from google.protobuf.timestamp_pb2 import Timestamp

from broker import amounts, pricing
from watari.v1 import directory_pb2

EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)

SHARED_MAX = 4096
"""Sets of traits, labels, scores and amounts, each, of which equal ones are one object: most offers
of a federation are alike in most of them."""


@dataclass(frozen=True)
class Offer:
    """Something that a cloud sells in one region."""

    name: str
    region: str
    prices: pricing.Sheet | None
    prices_problem: str
    """Why `prices` is None, in words; else empty."""
    vm_max: amounts.Amounts
    """A class that is 0 or absent is not limited."""
    traits: frozenset[str]
    labels: Mapping[str, str]
    valid_from: datetime | None
    valid_until: datetime | None
    stale: bool
    updated_at: datetime
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Capacity:
    """How much room a cloud has in one region."""

    region: str
    total: amounts.Amounts
    free: amounts.Amounts
    largest_fit: amounts.Amounts
    stale: bool
    updated_at: datetime


@dataclass(frozen=True)
class Image:
    """A disk image that a cloud holds."""

    name: str
    public_root: bytes
    stale: bool


@dataclass(frozen=True)
class Cloud:
    """A cloud with all that it publishes for placement."""

    cloud_id: str
    provider_domain: str
    manager_address: str
    manager_spiffe_id: str
    jurisdiction: str
    taints: tuple[str, ...]
    labels: Mapping[str, str]
    stale: bool
    updated_at: datetime
    offers: tuple[Offer, ...] = ()
    """By name."""
    capacities: Mapping[str, Capacity] = field(default_factory=dict)
    """By region."""
    scores: Mapping[str, float] = field(default_factory=dict)
    images: tuple[Image, ...] = ()
    """By name."""
    taint_ends: Mapping[str, datetime] = field(default_factory=dict)
    """When taints are expected to end; of one without nobody knows."""

    def score_of(self, offer: Offer, name: str) -> float | None:
        """A published score; an offer's own wins over its cloud's. None when there is none."""
        return offer.scores.get(name, self.scores.get(name))


@dataclass(frozen=True)
class Link:
    """A measured link between two clouds."""

    rtt_ms: float
    measured_at: datetime
    valid_until: datetime | None
    stale: bool
    throughput: int = 0
    """Bytes per second; 0 when it was not measured."""

    def usable(self, now: datetime) -> bool:
        """Whether the measurement still counts."""
        return not self.stale and (self.valid_until is None or now < self.valid_until)


def head(record: directory_pb2.Record) -> Cloud:
    """A cloud record, without what else the cloud publishes."""
    return Cloud(
        cloud_id=record.key.cloud_id,
        provider_domain=record.cloud.provider_domain,
        manager_address=record.cloud.manager.address,
        manager_spiffe_id=record.cloud.manager.spiffe_id,
        jurisdiction=record.cloud.jurisdiction.upper(),
        taints=tuple(record.cloud.taints),
        labels=_labels(record),
        stale=record.stale,
        updated_at=_moment(record.updated_at),
        scores=_scores(record),
        taint_ends={
            taint: _moment(record.cloud.taint_ends[taint])
            for taint in record.cloud.taints
            if taint in record.cloud.taint_ends
        },
    )


def offer(record: directory_pb2.Record) -> Offer:
    """An offer record."""
    body = record.offer
    sheet, problem = pricing.read(body.prices if body.HasField("prices") else None)
    return Offer(
        name=record.key.name,
        region=body.region,
        prices=sheet,
        prices_problem=problem,
        vm_max=_amounts(tuple(amounts.of(body.vm_max).items())),
        traits=_set(frozenset(body.traits)),
        labels=_labels(record),
        valid_from=_moment(body.valid_from) if body.HasField("valid_from") else None,
        valid_until=_moment(body.valid_until) if body.HasField("valid_until") else None,
        stale=record.stale,
        updated_at=_moment(record.updated_at),
        scores=_scores(record),
    )


def capacity(record: directory_pb2.Record) -> Capacity:
    """A capacity record."""
    return Capacity(
        region=record.capacity.region,
        total=amounts.of(record.capacity.total),
        free=amounts.of(record.capacity.free),
        largest_fit=amounts.of(record.capacity.largest_fit),
        stale=record.stale,
        updated_at=_moment(record.updated_at),
    )


def measured(link: directory_pb2.Link) -> bool:
    """Whether it has a round trip that means something."""
    return math.isfinite(link.rtt_ms) and link.rtt_ms > 0


def link(record: directory_pb2.Record) -> Link:
    """A link record."""
    body = record.link
    return Link(
        rtt_ms=body.rtt_ms,
        measured_at=_moment(body.measured_at),
        valid_until=_moment(body.valid_until) if body.HasField("valid_until") else None,
        stale=record.stale,
        throughput=body.throughput_bytes_per_second,
    )


def image(record: directory_pb2.Record) -> Image:
    """An image record."""
    return Image(record.key.name, record.image.public_root, record.stale)


def _labels(record: directory_pb2.Record) -> Mapping[str, str]:
    return _texts(tuple(sorted(record.labels.items())))


def _scores(record: directory_pb2.Record) -> Mapping[str, float]:
    return _numbers(tuple((k, v) for k, v in sorted(record.scores.items()) if math.isfinite(v)))


@lru_cache(SHARED_MAX)
def _set(values: frozenset[str]) -> frozenset[str]:
    return values


@lru_cache(SHARED_MAX)
def _texts(pairs: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return MappingProxyType(dict(pairs))


@lru_cache(SHARED_MAX)
def _numbers(pairs: tuple[tuple[str, float], ...]) -> Mapping[str, float]:
    return MappingProxyType(dict(pairs))


@lru_cache(SHARED_MAX)
def _amounts(pairs: tuple[tuple[str, int], ...]) -> amounts.Amounts:
    return MappingProxyType(dict(pairs))


def _moment(timestamp: Timestamp) -> datetime:
    """A timestamp beyond what dates can say becomes the nearest that they can."""
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return LATEST if timestamp.seconds > 0 else EARLIEST
