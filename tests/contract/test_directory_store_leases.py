"""What every store must do with leases: who may use them, and what becomes of their records."""

import pytest

from directory.records import Key
from directory.stores import CHANGE_BYTES_MAX, CHANGES_PER_REVISION_MAX
from tests.support.directory_samples import capacity, cloud, offer, publication
from tests.support.directory_stores import OSAKA, TOKYO, Rig
from watari import errors
from watari.v1 import directory_pb2


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


def test_a_census_counts_records_by_kind_and_staleness_and_leases(rig: Rig) -> None:
    first, second = rig.lease(ttl_seconds=10), rig.lease(ttl_seconds=60)
    rig.store.publish(publication(first, [offer(), offer(name="b")]))
    revision = rig.store.publish(publication(second, [cloud(), offer(name="c")]))
    kinds = (directory_pb2.RECORD_KIND_CLOUD, directory_pb2.RECORD_KIND_OFFER)
    census = rig.store.census()
    assert (census.revision, census.leases) == (revision, 2)
    assert census.records == {(kinds[0], False): 1, (kinds[1], False): 3}
    rig.clock.advance(10)
    rig.store.sweep()
    census = rig.store.census()
    assert census.leases == 1
    assert census.records == {(kinds[0], False): 1, (kinds[1], False): 1, (kinds[1], True): 2}
