"""What every store of the directory must do (directory/stores/__init__.py)."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from directory.records import Key
from directory.stores import (
    CHANGE_BYTES_MAX,
    CHANGES_PER_REVISION_MAX,
    FIRST_REVISION,
    DirectoryStore,
    Limits,
)
from directory.stores.embedded import EmbeddedStore
from tests.support.directory_samples import capacity, cloud, new_id, offer, publication
from watari import errors
from watari.clock import FakeClock
from watari.v1 import directory_pb2

TOKYO, OSAKA = "tokyo.example", "osaka.example"
LIMITS = Limits(
    changes_kept_max=5000,
    records_per_cloud_max=3000,
    leases_per_cloud_max=3,
    clouds_per_provider_max=4,
    stale_retention_seconds=600,
)
Reopen = Callable[[], DirectoryStore]


class Rig:
    """A store, its time, and how to open it again."""

    def __init__(self, open_store: Callable[[Limits, FakeClock], DirectoryStore]) -> None:
        self.clock = FakeClock()
        self._open = open_store
        self._limits = LIMITS
        self.store = open_store(LIMITS, self.clock)

    def reopen(self, limits: Limits = LIMITS) -> DirectoryStore:
        self.store.close()
        self.store = self._open(limits, self.clock)
        return self.store

    def lease(self, cloud_id: str = "tokyo", owner: str = TOKYO, ttl_seconds: int = 30) -> str:
        return self.store.grant_lease(new_id(), cloud_id, owner, ttl_seconds).lease_id


@pytest.fixture(params=["embedded"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    openers: dict[str, Callable[[Limits, FakeClock], DirectoryStore]] = {
        "embedded": lambda limits, clock: EmbeddedStore(tmp_path / "directory.db", limits, clock)
    }
    rig = Rig(openers[request.param])
    yield rig
    rig.store.close()


def names(found: list[directory_pb2.Record]) -> list[str]:
    return [record.key.name for record in found]


def scan_all(store: DirectoryStore, revision: int) -> list[directory_pb2.Record]:
    return store.scan(revision, 0, "", None, 10_000)


def test_the_empty_catalogue_has_a_first_revision(rig: Rig) -> None:
    assert rig.store.revision() == FIRST_REVISION > 0
    assert scan_all(rig.store, FIRST_REVISION) == []
    assert rig.store.changes(FIRST_REVISION, 10) == []


def test_what_was_published_can_be_read(rig: Rig) -> None:
    revision = rig.store.publish(publication(rig.lease(), [cloud()]))
    record, read_at = rig.store.get(Key.of(cloud().key))
    assert record is not None
    assert (record.generation, record.revision, read_at) == (1, revision, revision)
    assert record.updated_at.ToDatetime() == rig.clock.now().replace(tzinfo=None)
    assert not record.stale
    assert record.cloud == cloud().cloud
    assert dict(record.labels) == {"tier": "gold"}


def test_fields_that_the_server_does_not_know_survive(rig: Rig) -> None:
    future = directory_pb2.Record.FromString(cloud().SerializeToString() + b"\xfa\x3e\x03new")
    rig.store.publish(publication(rig.lease(), [future]))
    record, _ = rig.store.get(Key.of(future.key))
    assert record is not None
    assert record.SerializeToString().count(b"\xfa\x3e\x03new") == 1


def test_all_changes_of_a_publish_share_one_revision(rig: Rig) -> None:
    lease = rig.lease()
    rig.store.publish(publication(lease, [offer(name="old")]))
    revision = rig.store.publish(
        publication(lease, [cloud(), offer()], [Key.of(offer(name="old").key)])
    )
    changes = rig.store.changes(revision - 1, 10)
    assert {change.revision for change in changes} == {revision}
    assert [(change.kind, change.record.key.name) for change in changes] == [
        (directory_pb2.CHANGE_KIND_PUT, "main"),
        (directory_pb2.CHANGE_KIND_DELETE, "old"),
        (directory_pb2.CHANGE_KIND_PUT, "standard"),
    ]


def test_a_deletion_carries_the_key_and_nothing_else(rig: Rig) -> None:
    lease = rig.lease()
    revision = rig.store.publish(publication(lease, [cloud()]))
    rig.store.publish(publication(lease, deletes=[Key.of(cloud().key)]))
    (change,) = rig.store.changes(revision, 10)
    assert change.record == directory_pb2.Record(key=cloud().key)
    assert rig.store.get(Key.of(cloud().key))[0] is None


def test_deleting_what_does_not_exist_changes_nothing(rig: Rig) -> None:
    lease = rig.lease()
    before = rig.store.revision()
    assert rig.store.publish(publication(lease, deletes=[Key.of(cloud().key)])) == before
    assert rig.store.revision() == before


def test_the_generation_counts_the_changes_of_a_record(rig: Rig) -> None:
    lease = rig.lease()
    for generation in (1, 2, 3):
        rig.store.publish(publication(lease, [capacity(vcpus=generation)]))
        record, _ = rig.store.get(Key.of(capacity().key))
        assert record is not None
        assert record.generation == generation


@pytest.mark.parametrize(
    ("exists", "expected", "accepted"),
    [
        (False, 0, True),
        (False, -1, True),
        (False, 1, False),
        (True, 0, True),
        (True, 1, True),
        (True, -1, False),
        (True, 2, False),
    ],
)
def test_a_put_happens_only_at_the_expected_generation(
    rig: Rig, exists: bool, expected: int, accepted: bool
) -> None:
    lease = rig.lease()
    if exists:
        rig.store.publish(publication(lease, [cloud()]))
    attempt = publication(lease, [cloud()], expected_generation=expected)
    if accepted:
        rig.store.publish(attempt)
        return
    with pytest.raises(errors.Conflict) as caught:
        rig.store.publish(attempt)
    assert caught.value.reason == "GENERATION_CONFLICT"
    assert caught.value.metadata == {
        "record": "CLOUD tokyo/main",
        "expected": str(max(expected, 0)),
        "actual": str(int(exists)),
    }


def test_a_publish_that_fails_in_one_record_writes_none(rig: Rig) -> None:
    lease = rig.lease()
    rig.store.publish(publication(lease, [cloud()]))
    before = rig.store.revision()
    with pytest.raises(errors.Conflict):
        rig.store.publish(publication(lease, [offer(), cloud()], expected_generation=-1))
    assert rig.store.revision() == before
    assert rig.store.get(Key.of(offer().key))[0] is None


def test_of_many_writers_that_expect_one_generation_one_wins(rig: Rig) -> None:
    lease = rig.lease()
    outcomes: list[str] = []
    barrier = threading.Barrier(8)

    def write() -> None:
        barrier.wait(10)
        try:
            rig.store.publish(publication(lease, [cloud()], expected_generation=-1))
            outcomes.append("written")
        except errors.Conflict as error:
            outcomes.append(error.reason)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["GENERATION_CONFLICT"] * 7 + ["written"]


def test_a_repeated_publish_has_its_first_answer(rig: Rig) -> None:
    lease, request_id = rig.lease(ttl_seconds=5), new_id()
    first = publication(lease, [cloud()], request_id=request_id)
    revision = rig.store.publish(first)
    rig.store.publish(publication(lease, [offer()]))
    rig.clock.advance(60)
    rig.store.sweep()
    assert rig.store.publish(first) == revision
    assert rig.reopen().publish(first) == revision


def test_a_request_id_with_other_content_is_refused(rig: Rig) -> None:
    lease, request_id = rig.lease(), new_id()
    rig.store.publish(publication(lease, [cloud()], request_id=request_id))
    with pytest.raises(errors.AlreadyExists, match="ID_REUSED"):
        rig.store.publish(publication(lease, [offer()], request_id=request_id, digest=b"other"))


def test_request_ids_are_forgotten_after_an_hour(rig: Rig) -> None:
    lease, request_id = rig.lease(ttl_seconds=3600), new_id()
    first = publication(lease, [cloud()], request_id=request_id)
    revision = rig.store.publish(first)
    rig.clock.advance(3599)
    rig.store.sweep()
    assert rig.store.publish(first) == revision
    rig.store.renew_lease(lease, TOKYO)
    rig.clock.advance(1)
    rig.store.sweep()
    assert rig.store.publish(first) > revision


def test_a_cloud_belongs_to_the_provider_that_came_first(rig: Rig) -> None:
    rig.lease("tokyo", TOKYO)
    with pytest.raises(errors.Denied, match="NOT_RECORD_OWNER"):
        rig.lease("tokyo", OSAKA)
    rig.reopen()
    with pytest.raises(errors.Denied, match="NOT_RECORD_OWNER"):
        rig.lease("tokyo", OSAKA)


def test_only_the_owner_uses_a_lease(rig: Rig) -> None:
    lease = rig.lease()
    with pytest.raises(errors.Denied, match="NOT_RECORD_OWNER"):
        rig.store.publish(publication(lease, [cloud()], owner=OSAKA))
    with pytest.raises(errors.Denied, match="NOT_RECORD_OWNER"):
        rig.store.renew_lease(lease, OSAKA)
    with pytest.raises(errors.Denied, match="NOT_RECORD_OWNER"):
        rig.store.revoke_lease(lease, OSAKA)


def test_a_lease_covers_its_own_cloud_only(rig: Rig) -> None:
    lease = rig.lease("tokyo", TOKYO)
    rig.lease("tokyo-2", TOKYO)
    with pytest.raises(errors.Denied) as caught:
        rig.store.publish(publication(lease, [cloud(), cloud("tokyo-2")]))
    assert caught.value.metadata == {"record": "CLOUD tokyo-2/main"}
    with pytest.raises(errors.Denied, match="NOT_RECORD_OWNER"):
        rig.store.publish(publication(lease, deletes=[Key.of(cloud("tokyo-2").key)]))


def test_granting_a_lease_again_renews_it_with_the_new_ttl(rig: Rig) -> None:
    lease = rig.lease(ttl_seconds=10)
    rig.clock.advance(8)
    granted = rig.store.grant_lease(lease, "tokyo", TOKYO, 20)
    assert granted.ttl_seconds == 20
    rig.clock.advance(19)
    expiry = granted.expires_at.ToDatetime() - rig.clock.now().replace(tzinfo=None)
    assert expiry.total_seconds() == 1
    rig.store.renew_lease(lease, TOKYO)


def test_a_lease_id_of_another_cloud_is_refused(rig: Rig) -> None:
    lease = rig.lease("tokyo")
    with pytest.raises(errors.AlreadyExists, match="ID_REUSED"):
        rig.store.grant_lease(lease, "tokyo-2", TOKYO, 30)


@pytest.mark.parametrize("swept", [False, True])
def test_an_expired_lease_is_gone_whether_swept_or_not(rig: Rig, swept: bool) -> None:
    lease = rig.lease(ttl_seconds=10)
    rig.clock.advance(10)
    if swept:
        rig.store.sweep()
    with pytest.raises(errors.NotFound, match="LEASE_NOT_FOUND"):
        rig.store.renew_lease(lease, TOKYO)
    with pytest.raises(errors.NotFound, match="LEASE_NOT_FOUND"):
        rig.store.publish(publication(lease, [cloud()]))
    rig.store.revoke_lease(lease, TOKYO)


def test_records_of_an_expired_lease_go_stale_as_a_change(rig: Rig) -> None:
    revision = rig.store.publish(publication(rig.lease(ttl_seconds=10), [cloud(), offer()]))
    rig.clock.advance(9)
    rig.store.sweep()
    assert rig.store.changes(revision, 10) == []
    rig.clock.advance(1)
    rig.store.sweep()
    changes = rig.store.changes(revision, 10)
    assert [change.kind for change in changes] == [directory_pb2.CHANGE_KIND_PUT] * 2
    assert all(change.record.stale and change.record.generation == 2 for change in changes)
    assert changes[0].record.cloud == cloud().cloud


def test_records_of_a_renewed_lease_stay_fresh(rig: Rig) -> None:
    lease = rig.lease(ttl_seconds=10)
    revision = rig.store.publish(publication(lease, [cloud()]))
    for _ in range(5):
        rig.clock.advance(9)
        rig.store.renew_lease(lease, TOKYO)
        rig.store.sweep()
    assert rig.store.revision() == revision


def test_a_stale_record_vanishes_after_its_retention(rig: Rig) -> None:
    rig.store.publish(publication(rig.lease(ttl_seconds=10), [cloud()]))
    rig.clock.advance(10)
    rig.store.sweep()
    went_stale = rig.store.revision()
    rig.clock.advance(599)
    rig.store.sweep()
    assert rig.store.revision() == went_stale
    rig.clock.advance(1)
    rig.reopen().sweep()
    (change,) = rig.store.changes(went_stale, 10)
    assert change.kind == directory_pb2.CHANGE_KIND_DELETE
    assert rig.store.get(Key.of(cloud().key))[0] is None


def test_publishing_a_stale_record_again_makes_it_fresh(rig: Rig) -> None:
    rig.store.publish(publication(rig.lease(ttl_seconds=10), [cloud()]))
    rig.clock.advance(10)
    rig.store.sweep()
    rig.store.publish(publication(rig.lease(ttl_seconds=3600), [cloud()]))
    rig.clock.advance(700)
    rig.store.sweep()
    record, _ = rig.store.get(Key.of(cloud().key))
    assert record is not None
    assert not record.stale


def test_a_record_follows_the_lease_that_it_was_last_published_under(rig: Rig) -> None:
    first, second = rig.lease(ttl_seconds=10), rig.lease(ttl_seconds=60)
    rig.store.publish(publication(first, [cloud()]))
    rig.store.publish(publication(second, [cloud()]))
    rig.clock.advance(10)
    rig.store.sweep()
    rig.store.revoke_lease(first, TOKYO)
    record, _ = rig.store.get(Key.of(cloud().key))
    assert record is not None
    assert not record.stale


def test_revoking_a_lease_deletes_its_records_now(rig: Rig) -> None:
    lease = rig.lease()
    revision = rig.store.publish(publication(lease, [cloud(), offer()]))
    rig.store.revoke_lease(lease, TOKYO)
    kinds = [change.kind for change in rig.store.changes(revision, 10)]
    assert kinds == [directory_pb2.CHANGE_KIND_DELETE] * 2
    rig.store.revoke_lease(lease, TOKYO)
    with pytest.raises(errors.NotFound, match="LEASE_NOT_FOUND"):
        rig.store.renew_lease(lease, TOKYO)


def test_work_on_a_large_lease_is_cut_into_revisions_of_bounded_size(rig: Rig) -> None:
    lease = rig.lease(ttl_seconds=10)
    for part in range(3):
        names = [f"r{part}-{at}" for at in range(900)]
        rig.store.publish(publication(lease, [capacity(name=name) for name in names]))
    before = rig.store.revision()
    rig.clock.advance(10)
    rig.store.sweep()
    counts: dict[int, int] = {}
    for change in rig.store.changes(before, 5000):
        counts[change.revision] = counts.get(change.revision, 0) + 1
    assert sum(counts.values()) == 2700
    assert max(counts.values()) <= CHANGES_PER_REVISION_MAX


def test_large_records_of_a_lease_are_cut_into_revisions_of_bounded_bytes(rig: Rig) -> None:
    lease = rig.lease(ttl_seconds=10)
    for part in range(4):
        found = [offer(name=f"{part}-{at}") for at in range(16)]
        for record in found:
            record.offer.traits.extend(f"{at:03}".ljust(500, "x") for at in range(120))
        rig.store.publish(publication(lease, found))
    before = rig.store.revision()
    rig.clock.advance(10)
    rig.store.sweep()
    sizes: dict[int, int] = {}
    for change in rig.store.changes(before, 5000):
        sizes[change.revision] = sizes.get(change.revision, 0) + change.ByteSize()
    assert len(sizes) >= 4
    # Some bytes more than was published: what the directory sets.
    assert max(sizes.values()) < 1.1 * CHANGE_BYTES_MAX


def test_a_reader_sees_one_state_while_others_write(rig: Rig) -> None:
    lease, stop = rig.lease(ttl_seconds=3600), threading.Event()
    rig.store.publish(publication(lease, [capacity()]))

    def write() -> None:
        while not stop.is_set():
            rig.store.publish(publication(lease, [capacity()]))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3000):
            record, read_at = rig.store.get(Key.of(capacity().key))
            assert record is not None
            # Every revision writes this record, so anything else is a mixture of two states.
            assert record.revision == read_at
    finally:
        stop.set()
        writer.join(30)


def test_records_and_leases_survive_reopening(rig: Rig) -> None:
    lease = rig.lease(ttl_seconds=10)
    revision = rig.store.publish(publication(lease, [cloud()]))
    store = rig.reopen()
    assert store.revision() == revision
    record, _ = store.get(Key.of(cloud().key))
    assert record is not None
    assert record.cloud == cloud().cloud
    store.renew_lease(lease, TOKYO)


def test_a_lease_has_its_whole_ttl_after_an_outage_of_the_directory(rig: Rig) -> None:
    lease = rig.lease(ttl_seconds=10)
    revision = rig.store.publish(publication(lease, [cloud()]))
    rig.clock.advance(9)
    store = rig.reopen()
    rig.clock.advance(9)
    store.sweep()
    assert store.revision() == revision
    rig.clock.advance(1)
    store.sweep()
    assert store.revision() > revision


def test_a_lease_that_ended_does_not_come_back_with_reopening(rig: Rig) -> None:
    revoked, expired = rig.lease(), rig.lease(ttl_seconds=10)
    rig.store.revoke_lease(revoked, TOKYO)
    rig.clock.advance(10)
    rig.store.sweep()
    store = rig.reopen()
    for lease in (revoked, expired):
        with pytest.raises(errors.NotFound, match="LEASE_NOT_FOUND"):
            store.renew_lease(lease, TOKYO)


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
    assert [c.revision for c in store.changes(last - kept, 100)] == list(
        range(last - kept + 1, last + 1)
    )
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
    assert heard == [revision, revision + 1, revision + 2]


def test_a_cloud_cannot_hold_more_records_than_its_share(rig: Rig) -> None:
    store = rig.reopen(Limits(5000, 3, 3, 4, 600))
    lease = rig.lease()
    store.publish(publication(lease, [offer(name=name) for name in "abc"]))
    before = store.revision()
    with pytest.raises(errors.Exhausted, match="QUOTA_EXCEEDED"):
        store.publish(publication(lease, [offer(name="d")]))
    assert store.revision() == before
    store.publish(publication(lease, [offer(name="d")], [Key.of(offer(name="a").key)]))


def test_leases_of_a_cloud_and_clouds_of_a_provider_are_limited(rig: Rig) -> None:
    leases = [rig.lease(ttl_seconds=10) for _ in range(3)]
    with pytest.raises(errors.Exhausted, match="3 leases of tokyo"):
        rig.lease()
    rig.store.grant_lease(leases[0], "tokyo", TOKYO, 10)
    for cloud_id in ("b", "c", "d"):
        rig.lease(cloud_id)
    with pytest.raises(errors.Exhausted, match="4 clouds of tokyo"):
        rig.lease("e")
    rig.lease("e", OSAKA)
    rig.clock.advance(10)
    rig.lease()


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
