"""What the directory said at one revision, as immutable values. Pure.

A provider's record that makes no sense is left out or marked; it never keeps the other providers'
from being used. Records of a cloud that has no cloud record are left out: without it nobody could
reach its manager.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType

from google.protobuf.timestamp_pb2 import Timestamp

from broker import amounts, pricing
from watari.v1 import directory_pb2

EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)


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


@dataclass(frozen=True)
class Link:
    """A measured link between two clouds."""

    rtt_ms: float
    measured_at: datetime
    valid_until: datetime | None
    stale: bool

    def usable(self, now: datetime) -> bool:
        """Whether the measurement still counts."""
        return not self.stale and (self.valid_until is None or now < self.valid_until)


@dataclass(frozen=True)
class Snapshot:
    """The catalogue at one revision."""

    revision: int
    taken_at: datetime
    clouds: Mapping[str, Cloud]
    """By cloud id, in its order."""
    links: Mapping[tuple[str, str], Link]
    """By the measuring cloud and the other one."""


def build(records: Iterable[directory_pb2.Record], revision: int, taken_at: datetime) -> Snapshot:
    """The snapshot of `records`, in any order; kinds that placement does not need are ignored."""
    offers: dict[str, list[Offer]] = defaultdict(list)
    capacities: dict[str, dict[str, Capacity]] = defaultdict(dict)
    links: dict[tuple[str, str], Link] = {}
    heads = []
    for record in sorted(records, key=lambda record: (record.key.cloud_id, record.key.name)):
        cloud_id = record.key.cloud_id
        match record.key.kind:
            case directory_pb2.RECORD_KIND_CLOUD:
                heads.append(record)
            case directory_pb2.RECORD_KIND_OFFER:
                offers[cloud_id].append(_offer(record))
            case directory_pb2.RECORD_KIND_CAPACITY:
                _add_capacity(capacities[cloud_id], _capacity(record))
            case directory_pb2.RECORD_KIND_LINK if _measured(record.link):
                links[cloud_id, record.link.to_cloud_id] = _link(record)
    clouds = {
        head.key.cloud_id: _cloud(head, offers[head.key.cloud_id], capacities[head.key.cloud_id])
        for head in heads
    }
    return Snapshot(revision, taken_at, MappingProxyType(clouds), MappingProxyType(links))


def _cloud(
    record: directory_pb2.Record, offers: list[Offer], capacities: dict[str, Capacity]
) -> Cloud:
    return Cloud(
        cloud_id=record.key.cloud_id,
        provider_domain=record.cloud.provider_domain,
        manager_address=record.cloud.manager.address,
        manager_spiffe_id=record.cloud.manager.spiffe_id,
        jurisdiction=record.cloud.jurisdiction.upper(),
        taints=tuple(record.cloud.taints),
        labels=MappingProxyType(dict(record.labels)),
        stale=record.stale,
        updated_at=_moment(record.updated_at),
        offers=tuple(offers),
        capacities=MappingProxyType(capacities),
    )


def _offer(record: directory_pb2.Record) -> Offer:
    offer = record.offer
    sheet, problem = pricing.read(offer.prices if offer.HasField("prices") else None)
    return Offer(
        name=record.key.name,
        region=offer.region,
        prices=sheet,
        prices_problem=problem,
        vm_max=amounts.of(offer.vm_max),
        traits=frozenset(offer.traits),
        labels=MappingProxyType(dict(record.labels)),
        valid_from=_moment(offer.valid_from) if offer.HasField("valid_from") else None,
        valid_until=_moment(offer.valid_until) if offer.HasField("valid_until") else None,
        stale=record.stale,
        updated_at=_moment(record.updated_at),
    )


def _capacity(record: directory_pb2.Record) -> Capacity:
    return Capacity(
        region=record.capacity.region,
        total=amounts.of(record.capacity.total),
        free=amounts.of(record.capacity.free),
        largest_fit=amounts.of(record.capacity.largest_fit),
        stale=record.stale,
        updated_at=_moment(record.updated_at),
    )


def _add_capacity(capacities: dict[str, Capacity], capacity: Capacity) -> None:
    """One record per region counts: the first by name, a fresh one before a stale one."""
    present = capacities.get(capacity.region)
    if present is None or (present.stale and not capacity.stale):
        capacities[capacity.region] = capacity


def _measured(link: directory_pb2.Link) -> bool:
    return math.isfinite(link.rtt_ms) and link.rtt_ms > 0


def _link(record: directory_pb2.Record) -> Link:
    link = record.link
    return Link(
        rtt_ms=link.rtt_ms,
        measured_at=_moment(link.measured_at),
        valid_until=_moment(link.valid_until) if link.HasField("valid_until") else None,
        stale=record.stale,
    )


def _moment(timestamp: Timestamp) -> datetime:
    """A timestamp beyond what dates can say becomes the nearest that they can."""
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return LATEST if timestamp.seconds > 0 else EARLIEST
