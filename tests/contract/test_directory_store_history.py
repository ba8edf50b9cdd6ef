"""What every store must show of the past: snapshots, changes in order, and where history ends."""

import random

import pytest

from directory.records import Key
from directory.stores import FIRST_REVISION, DirectoryStore, Limits
from tests.support.directory_samples import capacity, cloud, offer, publication
from tests.support.directory_stores import TOKYO, Rig
from watari import errors
from watari.v1 import directory_pb2


def names(found: list[directory_pb2.Record]) -> list[str]:
    return [record.key.name for record in found]


def scan_all(store: DirectoryStore, revision: int) -> list[directory_pb2.Record]:
    return store.scan(revision, 0, "", None, 10_000)


def test_the_empty_catalogue_has_a_first_revision(rig: Rig) -> None:
    assert rig.store.revision() == FIRST_REVISION > 0
    assert scan_all(rig.store, FIRST_REVISION) == []
    assert rig.store.changes(FIRST_REVISION, 10) == []


def test_a_scan_shows_the_catalogue_of_its_revision(rig: Rig) -> None:
    lease = rig.lease()
    first = rig.store.publish(publication(lease, [cloud(), capacity(vcpus=1)]))
    second = rig.store.publish(publication(lease, [capacity(vcpus=2), offer()]))
    third = rig.store.publish(publication(lease, deletes=[Key.of(cloud().key)]))
    assert names(scan_all(rig.store, first)) == ["main", "jp-east"]
    assert scan_all(rig.store, first)[1].capacity.free.vcpus == 1
    assert names(scan_all(rig.store, second)) == ["main", "standard", "jp-east"]
    assert scan_all(rig.store, second)[2].capacity.free.vcpus == 2
    assert names(scan_all(rig.store, third)) == ["standard", "jp-east"]


def test_a_scan_goes_on_after_a_key_in_order_of_kind_cloud_and_name(rig: Rig) -> None:
    for cloud_id in ("osaka", "tokyo"):
        lease = rig.lease(cloud_id)
        rig.store.publish(publication(lease, [offer(cloud_id, name) for name in ("b", "a", "c")]))
        rig.store.publish(publication(lease, [cloud(cloud_id)]))
    revision, after, seen = rig.store.revision(), None, []
    while found := rig.store.scan(revision, 0, "", after, 3):
        assert len(found) <= 3
        after = Key.of(found[-1].key)
        seen += [Key.of(record.key) for record in found]
    assert len(seen) == 8
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("kind", "cloud_id", "count"),
    [
        (0, "", 5),
        (directory_pb2.RECORD_KIND_OFFER, "", 3),
        (0, "osaka", 2),
        (directory_pb2.RECORD_KIND_OFFER, "tokyo", 2),
        (directory_pb2.RECORD_KIND_LINK, "tokyo", 0),
        (0, "tok", 0),
    ],
)
def test_a_scan_is_limited_to_kind_and_cloud(
    rig: Rig, kind: int, cloud_id: str, count: int
) -> None:
    rig.store.publish(publication(rig.lease("tokyo"), [cloud(), offer(), offer(name="b")]))
    rig.store.publish(publication(rig.lease("osaka"), [cloud("osaka"), offer("osaka")]))
    found = rig.store.scan(rig.store.revision(), kind, cloud_id, None, 100)
    assert len(found) == count
    assert all(kind in {0, record.key.kind} for record in found)


def test_changes_come_in_order_and_whole_revisions(rig: Rig) -> None:
    lease = rig.lease()
    for size in (3, 1, 4, 2):
        rig.store.publish(publication(lease, [offer(name=f"o{at}") for at in range(size)]))
    whole = rig.store.changes(FIRST_REVISION, 100)
    assert len(whole) == 10
    for limit in range(1, 12):
        position, pieces = FIRST_REVISION, []
        while part := rig.store.changes(position, limit):
            revisions = {change.revision for change in part}
            assert len(part) <= limit or len(revisions) == 1
            position = part[-1].revision
            pieces += part
        assert pieces == whole


def test_history_older_than_the_limit_is_compacted(rig: Rig) -> None:
    kept = 20
    store = rig.reopen(Limits(kept, 3000, 3, 4, 600))
    lease = rig.lease(ttl_seconds=3600)
    first = store.publish(publication(lease, [cloud(), offer(name="gone")]))
    store.publish(publication(lease, deletes=[Key.of(offer(name="gone").key)]))
    for vcpus in range(60):
        store.publish(publication(lease, [capacity(vcpus=vcpus)]))
    last = store.revision()
    with pytest.raises(errors.OutOfRange, match="REVISION_COMPACTED"):
        store.changes(first, 100)
    with pytest.raises(errors.OutOfRange, match="REVISION_COMPACTED"):
        scan_all(store, first)
    left = [change.record.capacity.free.vcpus for change in store.changes(last - kept, 100)]
    assert left == list(range(60 - kept, 60))
    assert names(scan_all(store, last)) == ["main", "jp-east"]
    # What was written before history began is still part of a snapshot within it.
    assert names(scan_all(store, last - 10)) == ["main", "jp-east"]
    assert scan_all(store, last - 10)[1].capacity.free.vcpus == 49


def test_a_revision_of_the_future_is_refused(rig: Rig) -> None:
    with pytest.raises(errors.OutOfRange, match="REVISION_COMPACTED"):
        rig.store.changes(rig.store.revision() + 1, 10)
    with pytest.raises(errors.OutOfRange, match="REVISION_COMPACTED"):
        scan_all(rig.store, rig.store.revision() + 1)


def test_listeners_hear_of_every_change_and_of_nothing_else(rig: Rig) -> None:
    heard: list[int] = []
    rig.store.subscribe(lambda: heard.append(rig.store.revision()))
    lease = rig.lease(ttl_seconds=10)
    rig.store.renew_lease(lease, TOKYO)
    rig.store.sweep()
    assert heard == []
    revision = rig.store.publish(publication(lease, [cloud()]))
    rig.clock.advance(10)
    rig.store.sweep()
    rig.clock.advance(600)
    rig.store.sweep()
    gone_stale, gone = (change.revision for change in rig.store.changes(revision, 10))
    assert heard == [revision, gone_stale, gone]


def test_a_random_history_replays_to_every_snapshot(rig: Rig) -> None:
    """Changes after any revision, applied to the scan of that revision, give every later scan."""
    rng = random.Random(7)
    lease = rig.lease(ttl_seconds=3600)
    snapshots: dict[int, dict[Key, bytes]] = {}
    for _ in range(60):
        keys = rng.sample("abcdef", rng.randint(1, 3))
        puts = [offer(name=name) for name in keys[:-1]]
        rig.store.publish(publication(lease, puts, [Key.of(offer(name=keys[-1]).key)]))
        revision = rig.store.revision()
        snapshots[revision] = as_map(scan_all(rig.store, revision))
    for start in list(snapshots)[::7]:
        state = dict(snapshots[start])
        for change in rig.store.changes(start, 10_000):
            key = Key.of(change.record.key)
            if change.kind == directory_pb2.CHANGE_KIND_PUT:
                state[key] = change.record.SerializeToString(deterministic=True)
            else:
                del state[key]
        assert state == as_map(scan_all(rig.store, rig.store.revision()))
    for revision, snapshot in snapshots.items():
        assert as_map(scan_all(rig.store, revision)) == snapshot


def as_map(found: list[directory_pb2.Record]) -> dict[Key, bytes]:
    return {Key.of(each.key): each.SerializeToString(deterministic=True) for each in found}
