"""What the directory said at one revision: immutable, as values and as columns. Pure.

A `Store` is fed with records and changes, and makes a snapshot when asked: what did not change is
shared with the snapshot before, so that one change costs its own cloud and a copy of the columns.
Records of a cloud that has no cloud record are left out: without it nobody could reach its manager.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from types import MappingProxyType

from broker import laying, values
from broker.columns import Columns
from broker.laying import Block, Coder, Laid
from broker.values import EARLIEST, LATEST, Capacity, Cloud, Image, Link, Offer
from broker.ways import Neighbours, Ways
from watari.v1 import directory_pb2

__all__ = [
    "EARLIEST",
    "LATEST",
    "Capacity",
    "Cloud",
    "Image",
    "Link",
    "Offer",
    "Snapshot",
    "Store",
    "build",
]

CODES_SPARE = 4096
"""Words that the columns' dictionaries may hold beyond twice what is in use, before they are
made anew: texts that records no longer have would else stay for ever."""

WAYS_MAX = 256
"""Clouds whose links to all others a snapshot keeps as columns."""


@dataclass(frozen=True)
class Snapshot:
    """The catalogue at one revision."""

    revision: int
    taken_at: datetime
    clouds: Mapping[str, Cloud]
    """By cloud id, in its order."""
    links: Mapping[tuple[str, str], Link]
    """By the measuring cloud and the other one."""
    stale: bool = False
    """No directory can be heard: it may have changed, and leases may have run out, since."""
    ready: Columns | None = field(default=None, repr=False, compare=False)
    """The columns, where whoever made the snapshot had them."""
    neighbours: Neighbours | None = field(default=None, repr=False, compare=False)
    """The links by either end, likewise."""
    kept_ways: dict[str, Ways] = field(default_factory=dict, repr=False, compare=False)
    """What `ways` has made; filled by any thread, since one result is as good as another."""

    @cached_property
    def columns(self) -> Columns:
        """One row an offer, in the order of cloud and offer."""
        return laying.lay(self.clouds.values()) if self.ready is None else self.ready

    def with_room(self, changed: Mapping[str, Cloud]) -> "Snapshot":
        """The same, where some clouds have as much free and as large a largest fit as these say;
        all else of them is as it was. Costs as much as there are clouds and regions, not offers.
        """
        clouds = MappingProxyType({**self.clouds, **changed})
        return replace(self, clouds=clouds, ready=self.columns.with_room(changed))

    def ways(self, near: str) -> Ways:
        """The links between one cloud and all clouds; made when first asked for."""
        found = self.kept_ways.get(near)
        if found is None:
            neighbours = self.neighbours or Neighbours.of(self.links)
            found = neighbours.ways(near, self.columns.index)
            if len(self.kept_ways) < WAYS_MAX:
                self.kept_ways[near] = found
        return found


def build(records: Iterable[directory_pb2.Record], revision: int, taken_at: datetime) -> Snapshot:
    """The snapshot of `records`, in any order; kinds that placement does not need are ignored."""
    store = Store()
    for record in records:
        store.put(record)
    return store.snapshot(revision, taken_at)


@dataclass
class _Published:
    """What one cloud publishes, by record name."""

    head: Cloud | None = None
    offers: dict[str, Offer] = field(default_factory=dict)
    capacities: dict[str, Capacity] = field(default_factory=dict)
    images: dict[str, Image] = field(default_factory=dict)
    links: dict[str, tuple[str, Link]] = field(default_factory=dict)
    """The other cloud, and the link."""

    def whole(self) -> Cloud | None:
        """The cloud, unless it has no record of its own."""
        if self.head is None:
            return None
        return replace(
            self.head,
            offers=tuple(offer for _, offer in sorted(self.offers.items())),
            capacities=MappingProxyType(self._by_region()),
            images=tuple(image for _, image in sorted(self.images.items())),
        )

    def _by_region(self) -> dict[str, Capacity]:
        """One record a region counts: the first by name, a fresh one before a stale one."""
        found: dict[str, Capacity] = {}
        for _, capacity in sorted(self.capacities.items()):
            present = found.get(capacity.region)
            if present is None or (present.stale and not capacity.stale):
                found[capacity.region] = capacity
        return found

    @property
    def empty(self) -> bool:
        parts = (self.head, self.offers, self.capacities, self.images, self.links)
        return not any(parts)


class Store:
    """Records as they come. For one thread at a time."""

    def __init__(self) -> None:
        self._published: dict[str, _Published] = {}
        self._records = 0
        self._changed: set[str] = set()
        self._links_changed = True
        self._links: Mapping[tuple[str, str], Link] = MappingProxyType({})
        self._neighbours = Neighbours.of(self._links)
        self._coder = Coder()
        self._blocks: dict[str, Block] = {}
        self._laid: Laid | None = None
        self._last: Snapshot | None = None

    def __len__(self) -> int:
        """Records held; those of kinds that placement does not need are not."""
        return self._records

    def put(self, record: directory_pb2.Record) -> None:
        """Takes a record, in place of the one of its key."""
        self._records -= self._remove(record.key)
        cloud_id, name = record.key.cloud_id, record.key.name
        held = self._published.setdefault(cloud_id, _Published())
        self._records += 1
        match record.key.kind:
            case directory_pb2.RECORD_KIND_CLOUD:
                held.head = values.head(record)
            case directory_pb2.RECORD_KIND_OFFER:
                held.offers[name] = values.offer(record)
            case directory_pb2.RECORD_KIND_CAPACITY:
                held.capacities[name] = values.capacity(record)
            case directory_pb2.RECORD_KIND_IMAGE:
                held.images[name] = values.image(record)
            case directory_pb2.RECORD_KIND_LINK if values.measured(record.link):
                held.links[name] = (record.link.to_cloud_id, values.link(record))
            case _:
                self._records -= 1
                self._forget(cloud_id)

    def delete(self, key: directory_pb2.RecordKey) -> None:
        """Drops the record of this key, if there is one."""
        self._records -= self._remove(key)
        self._forget(key.cloud_id)

    def snapshot(self, revision: int, taken_at: datetime) -> Snapshot:
        """Everything that is held now. Cheap for clouds that did not change since the last time,
        and almost free when none did.
        """
        if self._last is not None and not self._changed and not self._links_changed:
            self._last = replace(self._last, revision=revision, taken_at=taken_at)
            return self._last
        for cloud_id in self._changed:
            held = self._published.get(cloud_id)
            cloud = held.whole() if held else None
            if cloud is None:
                self._blocks.pop(cloud_id, None)
            else:
                self._blocks[cloud_id] = self._coder.block(cloud, self._blocks.get(cloud_id))
        self._changed.clear()
        if self._links_changed:
            self._links = MappingProxyType(self._all_links())
            self._neighbours = Neighbours.of(self._links)
            self._links_changed = False
        blocks = [block for _, block in sorted(self._blocks.items())]
        if len(self._coder) > 2 * sum(block.codes for block in blocks) + CODES_SPARE:
            self._coder, self._laid = Coder(), None
            blocks = [self._coder.block(block.cloud) for block in blocks]
            self._blocks = {block.cloud.cloud_id: block for block in blocks}
        clouds = MappingProxyType({block.cloud.cloud_id: block.cloud for block in blocks})
        ready = self._coder.columns(blocks, self._laid)
        self._laid = Laid(blocks, ready)
        self._last = Snapshot(
            revision, taken_at, clouds, self._links, ready=ready, neighbours=self._neighbours
        )
        return self._last

    def _all_links(self) -> dict[tuple[str, str], Link]:
        return {
            (cloud_id, other): link
            for cloud_id, held in sorted(self._published.items())
            for _, (other, link) in sorted(held.links.items())
        }

    def _remove(self, key: directory_pb2.RecordKey) -> int:
        """How many records went: 0 or 1."""
        held = self._published.get(key.cloud_id)
        if key.kind == directory_pb2.RECORD_KIND_LINK:
            self._links_changed = True
            return int(held is not None and held.links.pop(key.name, None) is not None)
        self._changed.add(key.cloud_id)
        if held is None:
            return 0
        if key.kind == directory_pb2.RECORD_KIND_CLOUD:
            gone, held.head = held.head, None
            return int(gone is not None)
        by_name: Mapping[int, dict[str, Offer] | dict[str, Capacity] | dict[str, Image]] = {
            directory_pb2.RECORD_KIND_OFFER: held.offers,
            directory_pb2.RECORD_KIND_CAPACITY: held.capacities,
            directory_pb2.RECORD_KIND_IMAGE: held.images,
        }
        return int(by_name.get(key.kind, {}).pop(key.name, None) is not None)

    def _forget(self, cloud_id: str) -> None:
        held = self._published.get(cloud_id)
        if held is not None and held.empty:
            del self._published[cloud_id]
