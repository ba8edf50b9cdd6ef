"""The directory over mutual TLS: publish, query, pages, leases, watches, and who may do what."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from directory import queries
from directory.__main__ import assemble
from directory.settings import Settings
from tests.conftest import Federation
from tests.support.directory_samples import capacity, cloud, key, new_id, offer
from watari import errors, rpc, service
from watari.clock import FakeClock
from watari.settings import IdentitySettings
from watari.v1 import directory_pb2, directory_pb2_grpc

DIRECTORY = "spiffe://hub.example/directory/main"
TOKYO = "spiffe://tokyo.example/manager/main"
OSAKA = "spiffe://osaka.example/manager/main"
USER = "spiffe://osaka.example/user/alice"
BROKER = "spiffe://hub.example/broker/main"


class Client:
    """One party's calls to the directory."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.stub = directory_pb2_grpc.DirectoryServiceStub(channel)

    def lease(self, cloud_id: str, ttl_seconds: int = 30, lease_id: str = "") -> str:
        request = directory_pb2.GrantLeaseRequest(
            lease_id=lease_id or new_id(), cloud_id=cloud_id, ttl_seconds=ttl_seconds
        )
        return rpc.call(self.stub.GrantLease, request).lease.lease_id

    def publish(self, lease_id: str, *records: directory_pb2.Record) -> int:
        request = directory_pb2.PublishRequest(
            request_id=new_id(),
            lease_id=lease_id,
            puts=[directory_pb2.RecordPut(record=record) for record in records],
        )
        return rpc.call(self.stub.Publish, request).revision

    def query(
        self, expression: str = "", *, page_size: int = 0, page_token: str = "", kind: int = 0
    ) -> directory_pb2.QueryRecordsResponse:
        request = directory_pb2.QueryRecordsRequest(
            filter=expression,
            page_size=page_size,
            page_token=page_token,
            kind=directory_pb2.RecordKind.ValueType(kind),
        )
        return rpc.call(self.stub.QueryRecords, request)

    @contextmanager
    def watch(
        self, after_revision: int = 0, expression: str = "", timeout_seconds: float = 20
    ) -> Iterator[Iterator[directory_pb2.WatchRecordsResponse]]:
        request = directory_pb2.WatchRecordsRequest(
            after_revision=after_revision, filter=expression
        )
        with rpc.stream(
            self.stub.WatchRecords, request, timeout_seconds=timeout_seconds
        ) as messages:
            yield messages


@dataclass
class Running:
    """A directory in this process."""

    federation: Federation
    target: rpc.Target
    clock: FakeClock
    server: rpc.Server
    channels: ExitStack

    def client(self, spiffe_id: str) -> Client:
        channel = rpc.connect(self.federation.party(spiffe_id), self.target)
        self.channels.callback(channel.close)
        return Client(channel)


Start = Callable[..., Running]


@pytest.fixture
def start(federation: Federation, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def run(**changed: object) -> Running:
            return _run(federation, tmp_path / "state" / "directory.db", stack, changed)

        yield run


def _run(
    federation: Federation, state_path: Path, stack: ExitStack, changed: dict[str, object]
) -> Running:
    folder = federation.folder_of(DIRECTORY)
    settings = Settings(
        address="127.0.0.1:0",
        state_path=state_path,
        identity=IdentitySettings(folder / "cert.pem", folder / "key.pem", folder / "trust"),
        **changed,  # type: ignore[arg-type]
    )
    clock = FakeClock(datetime.now(UTC))
    party = federation.party(DIRECTORY)
    server = assemble(settings, service.Context(clock, party, stack))
    port = server.start()
    stack.callback(lambda: server.stop(0).wait(10))
    channels = stack.enter_context(ExitStack())
    target = rpc.Target(f"127.0.0.1:{port}", party.spiffe_id)
    return Running(federation, target, clock, server, channels)


@pytest.fixture
def running(start: Start) -> Running:
    return start()


@pytest.fixture
def tokyo(running: Running) -> Client:
    return running.client(TOKYO)


def eventually(holds: Callable[[], bool], what: str, seconds_max: float = 10) -> None:
    deadline = time.monotonic() + seconds_max
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_a_published_record_is_read_by_any_party(running: Running, tokyo: Client) -> None:
    revision = tokyo.publish(tokyo.lease("tokyo"), cloud(), capacity())
    for spiffe_id in (TOKYO, OSAKA, USER, BROKER):
        stub = running.client(spiffe_id).stub
        answer = rpc.call(stub.GetRecord, directory_pb2.GetRecordRequest(key=cloud().key))
        assert answer.record.cloud == cloud().cloud
        assert answer.revision == answer.record.revision == revision


def test_a_record_that_is_not_there_is_not_found(tokyo: Client) -> None:
    with pytest.raises(errors.NotFound) as caught:
        rpc.call(tokyo.stub.GetRecord, directory_pb2.GetRecordRequest(key=cloud().key))
    assert caught.value.reason == "RECORD_NOT_FOUND"
    assert caught.value.metadata["record"] == "CLOUD tokyo/main"


def test_only_managers_write(running: Running) -> None:
    for spiffe_id in (USER, BROKER):
        with pytest.raises(errors.Denied, match="NOT_ALLOWED"):
            running.client(spiffe_id).lease("tokyo")


def test_a_manager_cannot_write_another_providers_cloud(running: Running, tokyo: Client) -> None:
    lease, osaka = tokyo.lease("tokyo"), running.client(OSAKA)
    with pytest.raises(errors.Denied, match="NOT_RECORD_OWNER"):
        osaka.lease("tokyo")
    with pytest.raises(errors.Denied, match="NOT_RECORD_OWNER"):
        osaka.publish(lease, capacity())
    with pytest.raises(errors.Denied, match="NOT_RECORD_OWNER"):
        osaka.publish(osaka.lease("osaka"), capacity("tokyo"))
    with pytest.raises(errors.Denied, match="NOT_RECORD_OWNER"):
        rpc.call(osaka.stub.RevokeLease, directory_pb2.RevokeLeaseRequest(lease_id=lease))


def test_a_cloud_record_must_name_its_publisher_as_provider(tokyo: Client) -> None:
    lease = tokyo.lease("tokyo")
    with pytest.raises(errors.InvalidArgument) as caught:
        tokyo.publish(lease, cloud("tokyo", "osaka.example"))
    assert caught.value.metadata["field"] == "puts[0].record.cloud.provider_domain"


def test_a_query_filters_and_shows_its_revision(running: Running, tokyo: Client) -> None:
    revision = tokyo.publish(
        tokyo.lease("tokyo"),
        cloud(),
        capacity(name="east", vcpus=8),
        capacity(name="west", vcpus=2, region="jp-west"),
        offer(),
    )
    broker = running.client(BROKER)
    answer = broker.query('region = "jp-east" AND free.vcpus >= 4')
    assert [record.key.name for record in answer.records] == ["east"]
    assert answer.revision == revision
    assert answer.next_page_token == ""
    assert len(broker.query().records) == 4
    assert len(broker.query(kind=directory_pb2.RECORD_KIND_CAPACITY).records) == 2
    with pytest.raises(errors.InvalidArgument) as caught:
        broker.query("region ~ x")
    assert (caught.value.reason, caught.value.metadata["position"]) == ("FILTER_INVALID", "7")


def test_all_pages_of_a_query_show_one_revision(tokyo: Client) -> None:
    lease = tokyo.lease("tokyo")
    revision = tokyo.publish(lease, *(offer(name=f"o{at:02}") for at in range(25)))
    seen, token = [], ""
    while True:
        page = tokyo.query("kind = OFFER", page_size=10, page_token=token)
        assert page.revision == revision
        seen += [record.key.name for record in page.records]
        # In the middle of it the catalogue changes: before, within and after what was seen.
        tokyo.publish(lease, *(offer(name=name) for name in ("a", f"o{len(seen):02}x", "z")))
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"o{at:02}" for at in range(25)]


def test_a_page_token_is_good_for_its_own_query_only(tokyo: Client) -> None:
    tokyo.publish(tokyo.lease("tokyo"), cloud(), offer())
    token = tokyo.query(page_size=1).next_page_token
    with pytest.raises(errors.InvalidArgument, match="PAGE_TOKEN_INVALID"):
        tokyo.query("stale = false", page_token=token)
    with pytest.raises(errors.InvalidArgument, match="PAGE_TOKEN_INVALID"):
        tokyo.query(page_token=token[:-2])


def test_a_page_of_a_compacted_revision_is_out_of_range(start: Start) -> None:
    running = start(changes_kept_max=1000)
    tokyo = running.client(TOKYO)
    lease = tokyo.lease("tokyo")
    tokyo.publish(lease, cloud(), offer())
    token = tokyo.query(page_size=1).next_page_token
    for _ in range(2):
        tokyo.publish(lease, *(capacity(name=f"c{at}") for at in range(999)))
    with pytest.raises(errors.OutOfRange, match="REVISION_COMPACTED"):
        tokyo.query(page_size=1, page_token=token)


def test_a_page_ends_before_it_outgrows_a_message(tokyo: Client) -> None:
    lease = tokyo.lease("tokyo")
    large = {f"label-{at}": "x" * 128 for at in range(64)}
    for part in range(6):
        names = [f"p{part}-{at}" for at in range(60)]
        tokyo.publish(lease, *(with_labels(offer(name=name), large) for name in names))
    first = tokyo.query(page_size=1000)
    assert first.ByteSize() < rpc.MESSAGE_BYTES_MAX
    assert 0 < len(first.records) < 360
    rest = tokyo.query(page_size=1000, page_token=first.next_page_token)
    assert len(first.records) + len(rest.records) == 360
    assert rest.next_page_token == ""


def test_a_page_of_a_rare_match_may_be_short_but_leads_on(
    tokyo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "SCANNED_MAX", 10)
    monkeypatch.setattr(queries, "SCANNED_AT_ONCE_MAX", 5)
    tokyo.publish(tokyo.lease("tokyo"), *(offer(name=f"o{at:02}") for at in range(35)))
    found, token, pages = [], "", 0
    while pages == 0 or token:
        page = tokyo.query("name = o33", page_token=token)
        found += [record.key.name for record in page.records]
        token, pages = page.next_page_token, pages + 1
    assert (found, pages) == (["o33"], 4)


def with_labels(record: directory_pb2.Record, labels: dict[str, str]) -> directory_pb2.Record:
    record.labels.update(labels)
    return record


def test_stale_records_are_marked_and_can_be_left_out(running: Running, tokyo: Client) -> None:
    tokyo.publish(tokyo.lease("tokyo", ttl_seconds=10), cloud())
    running.clock.advance(11)
    eventually(lambda: len(tokyo.query("stale = true").records) == 1, "never went stale")
    request = directory_pb2.QueryRecordsRequest(fresh_only=True)
    assert len(rpc.call(tokyo.stub.QueryRecords, request).records) == 0
    tokyo.publish(tokyo.lease("tokyo"), cloud())
    assert len(rpc.call(tokyo.stub.QueryRecords, request).records) == 1


def test_a_lease_that_is_renewed_keeps_its_records_fresh(running: Running, tokyo: Client) -> None:
    lease = tokyo.lease("tokyo", ttl_seconds=10)
    revision = tokyo.publish(lease, cloud())
    for _ in range(3):
        running.clock.advance(8)
        request = directory_pb2.RenewLeaseRequest(lease_id=lease)
        renewed = rpc.call(tokyo.stub.RenewLease, request).lease
        assert (renewed.cloud_id, renewed.ttl_seconds) == ("tokyo", 10)
    assert tokyo.query().revision == revision
    rpc.call(tokyo.stub.RevokeLease, directory_pb2.RevokeLeaseRequest(lease_id=lease))
    assert len(tokyo.query().records) == 0


@pytest.mark.parametrize("ttl_seconds", [0, 4, 3601])
def test_a_ttl_out_of_bounds_is_refused(tokyo: Client, ttl_seconds: int) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        tokyo.lease("tokyo", ttl_seconds)
    assert caught.value.metadata["field"] == "ttl_seconds"


def test_a_publish_with_too_many_records_is_refused(tokyo: Client) -> None:
    lease = tokyo.lease("tokyo")
    tokyo.publish(lease, *(capacity(name=f"c{at}") for at in range(1000)))
    with pytest.raises(errors.Exhausted, match="PUBLISH_TOO_LARGE"):
        tokyo.publish(lease, *(capacity(name=f"c{at}") for at in range(1001)))


def test_a_publish_with_too_many_bytes_is_refused(tokyo: Client) -> None:
    large = {f"label-{at}": "x" * 128 for at in range(64)}
    found = [with_labels(offer(name=f"o{at}"), large) for at in range(130)]
    with pytest.raises(errors.Exhausted, match="PUBLISH_TOO_LARGE"):
        tokyo.publish(tokyo.lease("tokyo"), *found)


def test_a_message_beyond_the_transports_limit_is_refused_and_the_server_lives(
    tokyo: Client,
) -> None:
    lease = tokyo.lease("tokyo")
    vast = offer()
    vast.offer.region = "x" * (rpc.MESSAGE_BYTES_MAX + 1)
    with pytest.raises(errors.Exhausted):
        tokyo.publish(lease, vast)
    assert tokyo.publish(lease, offer()) > 0


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
