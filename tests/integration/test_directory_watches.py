"""Watches of the directory over mutual TLS: nothing missed, nothing twice, and how they end."""

import threading

import pytest

from tests.support.directory_samples import capacity, cloud, key, new_id, offer
from tests.support.directory_server import TOKYO, Client, Running, Start, eventually
from watari import errors, rpc
from watari.v1 import directory_pb2


def test_a_watch_begins_with_its_position_and_sends_what_follows(tokyo: Client) -> None:
    lease = tokyo.lease("tokyo")
    before = tokyo.publish(lease, cloud())
    with tokyo.watch() as messages:
        assert next(messages) == directory_pb2.WatchRecordsResponse(revision=before)
        revision = tokyo.publish(lease, offer(), capacity())
        message = next(messages)
    assert message.revision == revision
    assert {change.record.key.kind for change in message.changes} == {
        directory_pb2.RECORD_KIND_OFFER,
        directory_pb2.RECORD_KIND_CAPACITY,
    }
    assert all(change.record.revision == revision for change in message.changes)


def test_a_watch_sends_each_change_once_as_it_happens(tokyo: Client) -> None:
    lease = tokyo.lease("tokyo")
    with tokyo.watch() as messages:
        next(messages)
        for vcpus in range(10):
            revision = tokyo.publish(lease, capacity(vcpus=vcpus))
            message = next(messages)
            assert message.revision == revision
            assert [change.record.capacity.free.vcpus for change in message.changes] == [vcpus]


def test_a_query_and_a_watch_from_its_revision_miss_nothing(tokyo: Client) -> None:
    lease = tokyo.lease("tokyo")
    revision = tokyo.query().revision
    written = [tokyo.publish(lease, capacity(vcpus=vcpus)) for vcpus in range(5)]
    with tokyo.watch(after_revision=revision) as messages:
        next(messages)
        assert [next(messages).revision for _ in written] == written


def test_a_watch_resumes_after_the_client_broke_off(tokyo: Client) -> None:
    lease = tokyo.lease("tokyo")
    received: list[int] = []
    position = tokyo.publish(lease, cloud())
    written = []
    for round_number in range(4):
        written += [tokyo.publish(lease, capacity(vcpus=at)) for at in range(3)]
        with tokyo.watch(after_revision=position) as messages:
            next(messages)
            for _ in range(2 + round_number % 2):
                position = next(messages).revision
                received.append(position)
    with tokyo.watch(after_revision=position) as messages:
        next(messages)
        received += [next(messages).revision for _ in range(len(written) - len(received))]
    assert received == written


def test_a_watch_sends_matching_records_and_every_deletion(tokyo: Client) -> None:
    lease = tokyo.lease("tokyo")
    start = tokyo.publish(lease, offer(), capacity(vcpus=1))
    tokyo.publish(lease, capacity(vcpus=2))
    matching = tokyo.publish(lease, capacity(vcpus=16), offer())
    request = directory_pb2.PublishRequest(
        request_id=new_id(), lease_id=lease, deletes=[offer().key, key(4, name="nothing")]
    )
    deleted = rpc.call(tokyo.stub.Publish, request).revision
    with tokyo.watch(after_revision=start, expression="free.vcpus >= 16") as messages:
        next(messages)
        first, second = next(messages), next(messages)
    assert (first.revision, second.revision) == (matching, deleted)
    assert [change.record.key.kind for change in first.changes] == [4]
    assert [(c.kind, c.record.key) for c in second.changes] == [
        (directory_pb2.CHANGE_KIND_DELETE, offer().key)
    ]


def test_an_idle_watch_reports_progress_every_15_seconds(running: Running, tokyo: Client) -> None:
    lease = tokyo.lease("tokyo", ttl_seconds=3600)
    with tokyo.watch(expression="kind = LINK") as messages:
        began = next(messages).revision
        revision = tokyo.publish(lease, cloud())
        arrived: list[directory_pb2.WatchRecordsResponse] = []
        reader = threading.Thread(target=lambda: arrived.append(next(messages)))
        reader.start()
        running.clock.advance(14)
        reader.join(0.3)
        assert arrived == []
        running.clock.advance(1)
        reader.join(10)
    assert began < revision
    assert arrived == [directory_pb2.WatchRecordsResponse(revision=revision)]


def test_a_watch_from_a_compacted_revision_is_refused(start: Start) -> None:
    tokyo = start(changes_kept_max=1000).client(TOKYO)
    lease = tokyo.lease("tokyo")
    revision = tokyo.publish(lease, cloud())
    for _ in range(2):
        tokyo.publish(lease, *(capacity(name=f"c{at}") for at in range(999)))
    with (
        pytest.raises(errors.OutOfRange, match="REVISION_COMPACTED"),
        tokyo.watch(after_revision=revision) as messages,
    ):
        next(messages)


def test_a_watcher_that_does_not_read_is_told_to_start_over(start: Start) -> None:
    tokyo = start(changes_kept_max=100).client(TOKYO)
    lease = tokyo.lease("tokyo")
    large = [f"{at:03}".ljust(500, "x") for at in range(120)]
    with tokyo.watch(timeout_seconds=60) as messages:
        position = next(messages).revision
        # More than the connection's buffers take, then more than history keeps.
        for _ in range(60):
            found = [offer(name=f"o{at}") for at in range(12)]
            for record in found:
                record.offer.traits.extend(large)
            tokyo.publish(lease, *found)
        received: list[int] = []
        with pytest.raises(errors.OutOfRange, match="WATCHER_TOO_SLOW"):
            received.extend(message.revision for message in messages)
    assert received == list(range(position + 1, position + 1 + len(received)))


def test_only_so_many_watch_and_a_client_that_leaves_makes_room(start: Start) -> None:
    running = start(watchers_max=2)
    tokyo = running.client(TOKYO)
    with tokyo.watch() as first, tokyo.watch() as second:
        next(first)
        next(second)
        with (
            pytest.raises(errors.Exhausted, match="SERVER_UNAVAILABLE"),
            tokyo.watch() as third,
        ):
            next(third)

    def may_watch() -> bool:
        try:
            with tokyo.watch() as messages:
                next(messages)
        except errors.Exhausted:
            return False
        return True

    eventually(may_watch, "the watchers that left still count")


def test_watches_end_when_the_server_drains(running: Running, tokyo: Client) -> None:
    with tokyo.watch() as messages:
        next(messages)
        stopped = running.server.stop(grace_seconds=10)
        running.clock.advance(1)
        with pytest.raises(errors.Unavailable, match="SERVER_UNAVAILABLE"):
            next(messages)
    assert stopped.wait(5)
