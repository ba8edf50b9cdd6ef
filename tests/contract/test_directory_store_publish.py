"""What every store must do with a publish: all or nothing, at a generation, and once."""

import threading

import pytest

from directory.records import Key
from directory.stores import Limits
from tests.support.directory_samples import capacity, cloud, new_id, offer, publication
from tests.support.directory_stores import TOKYO, Rig
from watari import errors
from watari.v1 import directory_pb2


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
        barrier.wait(60)
        try:
            rig.store.publish(publication(lease, [cloud()], expected_generation=-1))
            outcomes.append("written")
        except errors.Conflict as error:
            outcomes.append(error.reason)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
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


def test_a_cloud_cannot_hold_more_records_than_its_share(rig: Rig) -> None:
    store = rig.reopen(Limits(5000, 3, 3, 4, 600))
    lease = rig.lease()
    store.publish(publication(lease, [offer(name=name) for name in "abc"]))
    before = store.revision()
    with pytest.raises(errors.Exhausted, match="QUOTA_EXCEEDED"):
        store.publish(publication(lease, [offer(name="d")]))
    assert store.revision() == before
    store.publish(publication(lease, [offer(name="d")], [Key.of(offer(name="a").key)]))
