"""Directories over an etcd of three nodes: one directory, also when parts of it are gone."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from directory.__main__ import STORE_HEALTH
from directory.etcd_settings import EtcdSettings
from directory.records import Key
from directory.stores import etcd_store, etcd_write
from directory.stores.etcd_follow import Follower
from directory.stores.etcd_store import EtcdStore
from tests.conftest import Federation
from tests.support import directory_server, etcd_cluster, processes
from tests.support.directory_samples import capacity, cloud, new_id, offer, publication
from tests.support.directory_server import TOKYO, Client, Running, eventually
from tests.support.directory_stores import LIMITS
from tests.support.directory_stores import TOKYO as TOKYO_DOMAIN
from tests.support.processes import Process
from watari import errors, rpc
from watari.clock import FakeClock, SystemClock
from watari.v1 import directory_pb2, directory_pb2_grpc

Open = Callable[..., Running]
HEALTH = health_pb2.HealthCheckResponse


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[etcd_cluster.Cluster]:
    """To break at will."""
    with etcd_cluster.cluster(tmp_path / "etcd") as cluster:
        yield cluster


@pytest.fixture
def start(federation: Federation, etcd: etcd_cluster.Cluster) -> Iterator[Open]:
    """Starts a directory on the cluster, until `stop` or the end."""
    with ExitStack() as stack:

        def run(settings: EtcdSettings | None = None, **changed: object) -> Running:
            changed |= {"etcd": settings or etcd.settings()}
            return directory_server.run(federation, None, stack, changed)

        yield run


def watched(client: Client, after: int, count: int) -> list[int]:
    """The revisions of so many messages with changes."""
    with client.watch(after_revision=after) as messages:
        next(messages)
        return [next(messages).revision for _ in range(count)]


def health(running: Running, name: str) -> "HEALTH.ServingStatus.ValueType":
    channel = rpc.connect(running.federation.party(TOKYO), running.target)
    with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status


def test_directories_on_one_etcd_are_one_directory(start: Open) -> None:
    one, other = start().client(TOKYO), start().client(TOKYO)
    lease = one.lease("tokyo")
    before = other.query().revision
    written = [
        one.publish(lease, cloud()),
        other.publish(lease, capacity()),
        one.publish(lease, offer()),
    ]
    assert written == sorted(set(written))
    rpc.call(other.stub.RenewLease, directory_pb2.RenewLeaseRequest(lease_id=lease))
    assert watched(other, before, 3) == watched(one, before, 3) == written
    # A position that one has answered with is never "compacted" at the other.
    for _ in range(20):
        revision = one.publish(lease, capacity())
        assert watched(other, revision - 1, 1) == [revision]


def test_of_writers_at_several_directories_that_expect_one_generation_one_wins(
    start: Open,
) -> None:
    clients = [start().client(TOKYO) for _ in range(3)]
    lease = clients[0].lease("tokyo")
    for client in clients:
        rpc.call(client.stub.RenewLease, directory_pb2.RenewLeaseRequest(lease_id=lease))

    def write(client: Client, generation: int) -> bool:
        request = directory_pb2.PublishRequest(request_id=new_id(), lease_id=lease)
        request.puts.add(record=cloud(), expected_generation=generation or -1)
        try:
            rpc.call(client.stub.Publish, request)
        except errors.Conflict:
            return False
        return True

    with ThreadPoolExecutor(len(clients)) as pool:
        for generation in range(30):
            assert sum(pool.map(write, clients, [generation] * len(clients))) == 1
    (record,) = clients[1].query().records
    assert record.generation == 30


def test_a_directory_that_lags_publishes_nothing_under_a_lease_that_another_one_ended(
    etcd: etcd_cluster.Cluster,
) -> None:
    one, other = (EtcdStore(etcd.settings(), LIMITS, FakeClock()) for _ in range(2))
    with contextlib.closing(one), contextlib.closing(other):
        lease = one.grant_lease(new_id(), "tokyo", TOKYO_DOMAIN, 30).lease_id
        other.renew_lease(lease, TOKYO_DOMAIN)
        other._follower.stop()
        one.revoke_lease(lease, TOKYO_DOMAIN)
        with pytest.raises(errors.Unavailable, match="STORE_UNAVAILABLE"):
            other.publish(publication(lease, [cloud()]))
        assert one.get(Key.of(cloud().key))[0] is None


def test_a_directory_that_lags_does_not_refuse_what_it_has_yet_to_learn(
    etcd: etcd_cluster.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_write, "CATCH_UP_SECONDS_MAX", 0.5)
    one, other = (EtcdStore(etcd.settings(), LIMITS, FakeClock()) for _ in range(2))
    with contextlib.closing(one), contextlib.closing(other):
        other._follower.stop()
        lease = one.grant_lease(new_id(), "tokyo", TOKYO_DOMAIN, 30).lease_id
        with pytest.raises(errors.Unavailable, match="has not arrived"):
            other.publish(publication(lease, [cloud()]))


def test_a_position_that_has_yet_to_arrive_is_not_called_compacted(
    etcd: etcd_cluster.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_write, "CATCH_UP_SECONDS_MAX", 0.5)
    one, other = (EtcdStore(etcd.settings(), LIMITS, FakeClock()) for _ in range(2))
    with contextlib.closing(one), contextlib.closing(other):
        lease = one.grant_lease(new_id(), "tokyo", TOKYO_DOMAIN, 30).lease_id
        other.renew_lease(lease, TOKYO_DOMAIN)
        other._follower.stop()
        revision = one.publish(publication(lease, [cloud()]))
        with pytest.raises(errors.Unavailable, match="has not arrived"):
            other.changes(revision, 10)
        with pytest.raises(errors.OutOfRange, match="REVISION_COMPACTED"):
            other.changes(revision + 1000, 10)


def test_the_loss_of_the_node_in_use_is_not_noticed(
    start: Open, etcd: etcd_cluster.Cluster
) -> None:
    tokyo = start().client(TOKYO)
    lease = tokyo.lease("tokyo")
    written = [tokyo.publish(lease, capacity(vcpus=0))]
    # Whichever the directory uses, it loses it once.
    for node in etcd.nodes:
        node.kill()
        written += [tokyo.publish(lease, capacity(vcpus=vcpus)) for vcpus in range(3)]
        etcd.restart(node)
        etcd.await_leader()
    assert watched(tokyo, written[0], 9) == written[1:]
    assert not tokyo.query().HasField("snapshot_age")


def test_a_directory_that_lags_ends_no_lease_that_was_renewed_at_another_one(
    etcd: etcd_cluster.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    one, other = (EtcdStore(etcd.settings(), LIMITS, clock) for _ in range(2))
    with contextlib.closing(one), contextlib.closing(other):
        lease = one.grant_lease(new_id(), "tokyo", TOKYO_DOMAIN, 30).lease_id
        other.renew_lease(lease, TOKYO_DOMAIN)
        other._follower.stop()
        # It does not know yet that it lags.
        monkeypatch.setattr(Follower, "live", True)
        clock.advance(29)
        one.renew_lease(lease, TOKYO_DOMAIN)
        clock.advance(2)
        other.sweep()
        one.renew_lease(lease, TOKYO_DOMAIN)
        assert one.census().leases == 1


def test_a_watch_goes_on_at_a_directory_that_was_started_later(start: Open) -> None:
    first = start().client(TOKYO)
    lease = first.lease("tokyo")
    position = first.publish(lease, cloud())
    written = [first.publish(lease, capacity(vcpus=vcpus)) for vcpus in range(5)]
    assert watched(start().client(TOKYO), position, 5) == written


def test_what_etcd_has_compacted_is_listed_again(start: Open, etcd: etcd_cluster.Cluster) -> None:
    first = start().client(TOKYO)
    lease = first.lease("tokyo")
    position = first.publish(lease, cloud())
    last = [first.publish(lease, capacity(vcpus=vcpus)) for vcpus in range(5)][-1]
    etcd.etcdctl("compact", str(last))
    assert len(watched(first, position, 5)) == 5, "who runs has a history of its own"
    later = start().client(TOKYO)
    with pytest.raises(errors.OutOfRange, match="REVISION_COMPACTED"):
        watched(later, position, 1)
    page = later.query()
    assert page.revision == last
    assert [record.generation for record in page.records] == [1, 5]


def test_an_etcd_that_was_put_back_to_a_snapshot_is_noticed(
    start: Open, etcd: etcd_cluster.Cluster, tmp_path: Path
) -> None:
    tokyo = start().client(TOKYO)
    lease = tokyo.lease("tokyo")
    before = tokyo.publish(lease, cloud())
    etcd.etcdctl("snapshot", "save", str(tmp_path / "snapshot"), endpoints=etcd.nodes[0].client)
    for vcpus in range(20):
        tokyo.publish(lease, capacity(vcpus=vcpus))
    etcd.restore(tmp_path / "snapshot")

    def names() -> list[str]:
        return [record.key.name for record in tokyo.query().records]

    eventually(lambda: names() == ["main"], "the state of the snapshot", 30)
    assert tokyo.query().revision == before
    assert tokyo.publish(lease, offer()) > before
    assert names() == ["main", "standard"]


def test_without_a_majority_reads_tell_their_age_and_writes_are_refused(
    start: Open, etcd: etcd_cluster.Cluster
) -> None:
    running = start()
    tokyo = running.client(TOKYO)
    lease = tokyo.lease("tokyo", ttl_seconds=5)
    revision = tokyo.publish(lease, cloud())
    assert not tokyo.query().HasField("snapshot_age")
    assert health(running, STORE_HEALTH) == HEALTH.SERVING
    gone = etcd.nodes[:2]
    for node in gone:
        node.kill()
    eventually(lambda: tokyo.query().HasField("snapshot_age"), "an answer of the past", 20)
    page = tokyo.query()
    assert page.snapshot_age.ToTimedelta() > timedelta(0)
    assert [record.key.name for record in page.records] == ["main"]
    got = rpc.call(tokyo.stub.GetRecord, directory_pb2.GetRecordRequest(key=cloud().key))
    assert got.HasField("snapshot_age")
    assert got.revision == revision
    with pytest.raises(errors.Unavailable, match="STORE_UNAVAILABLE") as caught:
        tokyo.publish(lease, capacity())
    assert "the directory runs" in str(caught.value)
    eventually(lambda: health(running, STORE_HEALTH) == HEALTH.NOT_SERVING, "told by its health")
    assert health(running, "") == HEALTH.SERVING, "the directory itself is well"
    for node in gone:
        etcd.restart(node)
    eventually(lambda: not tokyo.query().HasField("snapshot_age"), "etcd is back", 30)
    assert tokyo.publish(lease, capacity()) > revision, "and the lease has outlived it"
    eventually(lambda: health(running, STORE_HEALTH) == HEALTH.SERVING, "told by its health")


def test_a_lease_that_ran_out_while_etcd_was_away_has_that_time_more(
    etcd: etcd_cluster.Cluster,
) -> None:
    with contextlib.closing(EtcdStore(etcd.settings(), LIMITS, SystemClock())) as store:
        lease = store.grant_lease(new_id(), "tokyo", TOKYO_DOMAIN, 8).lease_id
        gone = etcd.nodes[:2]
        for node in gone:
            node.kill()
        time.sleep(9)
        with pytest.raises(errors.Unavailable, match="STORE_UNAVAILABLE"):
            store.renew_lease(lease, TOKYO_DOMAIN)
        for node in gone:
            etcd.restart(node)
        eventually(lambda: store.age() is None, "etcd is back", 30)
        store.sweep()
        store.renew_lease(lease, TOKYO_DOMAIN)


def test_a_lease_that_is_renewed_at_any_directory_lives_and_another_one_goes_stale(
    start: Open,
) -> None:
    running, other = start(), start()
    tokyo = running.client(TOKYO)
    kept, lost = tokyo.lease("tokyo", ttl_seconds=10), tokyo.lease("osaka", ttl_seconds=10)
    tokyo.publish(kept, cloud())
    revision = tokyo.publish(lost, capacity("osaka"))
    for server in (running, other):
        server.clock.advance(9)
    renew = directory_pb2.RenewLeaseRequest(lease_id=kept)
    rpc.call(other.client(TOKYO).stub.RenewLease, renew)
    assert watched(tokyo, revision - 1, 1) == [revision]
    for server in (running, other):
        server.clock.advance(5)
    eventually(lambda: tokyo.query().revision > revision, "the sweep of either")
    stale = {record.key.cloud_id: record.stale for record in tokyo.query().records}
    assert stale == {"tokyo": False, "osaka": True}


def test_a_publish_whose_directory_died_after_it_is_answered_once_by_another_one(
    federation: Federation, etcd: etcd_cluster.Cluster, start: Open, tmp_path: Path
) -> None:
    party = federation.party(TOKYO)
    target = processes.target(processes.free_port(), directory_server.DIRECTORY)
    config = tmp_path / "directory.toml"
    config.write_text(directory_server.etcd_config(federation, etcd, target.address))
    dying = Process("directory", config, target, party)
    other = start().client(TOKYO)
    lease = other.lease("tokyo")
    request = directory_pb2.PublishRequest(request_id=new_id(), lease_id=lease)
    request.puts.add(record=cloud())
    dying.start({"WATARI_FAILPOINTS": "directory.etcd.after_commit=1*kill"})
    try:
        with rpc.connect(party, target) as channel:
            stub = directory_pb2_grpc.DirectoryServiceStub(channel)
            with pytest.raises(errors.Unavailable):
                rpc.call(stub.Publish, request)
        dying.wait_killed(10)
    finally:
        dying.stop()
    revision = rpc.call(other.stub.Publish, request).revision
    (record,) = other.query().records
    assert (record.generation, record.revision) == (1, revision)
    request.puts.add(record=offer())
    with pytest.raises(errors.AlreadyExists, match="ID_REUSED"):
        rpc.call(other.stub.Publish, request)


def test_etcdctl_shows_keys_that_people_can_read(start: Open, etcd: etcd_cluster.Cluster) -> None:
    tokyo = start().client(TOKYO)
    lease = tokyo.lease("tokyo")
    tokyo.publish(lease, cloud(), offer())
    keys = etcd.etcdctl("get", "--prefix", "--keys-only", "/watari/").split()
    requests = [key for key in keys if key.startswith("/watari/requests/")]
    assert len(requests) == 1
    assert sorted(set(keys) - set(requests)) == [
        "/watari/clouds/tokyo",
        "/watari/head",
        f"/watari/leases/{lease}",
        "/watari/mark",
        "/watari/providers/tokyo.example",
        "/watari/records/tokyo/cloud/main",
        "/watari/records/tokyo/offer/standard",
    ]
    value = etcd.etcdctl("get", "--print-value-only", "/watari/clouds/tokyo")
    assert json.loads(value) == {"owner": "tokyo.example", "records": 2}
    head = etcd.etcdctl("get", "--print-value-only", "/watari/records/tokyo/offer/standard")
    assert json.loads(head.partition("\n")[0]) == {"lease": lease, "stale_since": None}


def test_what_people_write_into_etcd_or_delete_from_it_breaks_nothing(
    start: Open, etcd: etcd_cluster.Cluster
) -> None:
    tokyo = start().client(TOKYO)
    lease = tokyo.lease("tokyo")
    revision = tokyo.publish(lease, cloud(), capacity())
    for key in ("records/tokyo/offer/x", "records/odd", "clouds/kyoto", "leases/x", "other"):
        etcd.etcdctl("put", f"/watari/{key}", "no value of ours")
    etcd.etcdctl("del", "/watari/records/tokyo/capacity/jp-east")
    with tokyo.watch(after_revision=revision) as messages:
        next(messages)
        (change,) = next(messages).changes
    assert change.kind == directory_pb2.CHANGE_KIND_DELETE
    assert Key.of(change.record.key) == Key.of(capacity().key)
    assert [record.key.name for record in start().client(TOKYO).query().records] == ["main"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that opens without its catalogue soon, and refuses everything."""
    monkeypatch.setattr(etcd_store, "START_SECONDS_MAX", 2.0)


@pytest.mark.usefixtures("impatient")
def test_a_user_of_etcd_needs_no_more_than_its_prefix(
    start: Open, etcd: etcd_cluster.Cluster, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("s3cret\n")
    for command in (
        "user add root:root",
        "user grant-role root root",
        "user add watari:s3cret",
        "role add directory",
        "role grant-permission directory readwrite --prefix=true /watari/",
        "user grant-role watari directory",
        "auth enable",
    ):
        etcd.etcdctl(*command.split())
    plain = etcd.settings()
    settings = EtcdSettings(
        plain.endpoints, plain.ca, plain.certificate, plain.key, "watari", password
    )
    tokyo = start(settings).client(TOKYO)
    lease = tokyo.lease("tokyo")
    revision = tokyo.publish(lease, cloud())
    assert tokyo.query().revision == revision
    password.write_text("wrong")
    with pytest.raises(errors.Unavailable, match="STORE_UNAVAILABLE"):
        start(settings).client(TOKYO).query()


@pytest.mark.usefixtures("impatient")
def test_a_certificate_of_another_authority_is_not_spoken_to(
    start: Open, etcd: etcd_cluster.Cluster, tmp_path: Path
) -> None:
    strangers = etcd_cluster.Certificates(tmp_path / "strangers", [])
    plain = etcd.settings()
    settings = EtcdSettings(plain.endpoints, strangers.path("ca.pem"), plain.certificate, plain.key)
    with pytest.raises(errors.Unavailable, match="STORE_UNAVAILABLE"):
        start(settings).client(TOKYO).query()


def test_the_settings_name_one_place_for_the_catalogue(federation: Federation) -> None:
    with pytest.raises(ValueError, match=r"either state_path or etcd\.endpoints"):
        directory_server.run(federation, None, ExitStack(), {})
