"""Directories over an etcd of three nodes: one directory, also when parts of it are gone."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from directory.__main__ import STORE_HEALTH
from directory.records import Key
from directory.stores import etcd_write
from directory.stores.etcd_follow import Follower
from directory.stores.etcd_store import EtcdStore
from tests.conftest import Federation
from tests.support import directory_server, etcd_cluster, processes
from tests.support.directory_samples import capacity, cloud, new_id, offer, publication
from tests.support.directory_server import TOKYO, Client, Running, Start, eventually, watched
from tests.support.directory_stores import LIMITS
from tests.support.directory_stores import TOKYO as TOKYO_DOMAIN
from tests.support.processes import Process
from watari import errors, rpc
from watari.clock import FakeClock, SystemClock
from watari.v1 import directory_pb2, directory_pb2_grpc

HEALTH = health_pb2.HealthCheckResponse


def health(running: Running, name: str) -> "HEALTH.ServingStatus.ValueType":
    channel = rpc.connect(running.federation.party(TOKYO), running.target)
    with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status


def test_directories_on_one_etcd_are_one_directory(on_etcd: Start) -> None:
    one, other = on_etcd().client(TOKYO), on_etcd().client(TOKYO)
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
    # (Those in between are of etcd's leases; nobody was answered with them.)
    position = written[-1]
    for _ in range(20):
        revision = one.publish(lease, capacity())
        assert watched(other, position, 1) == [revision]
        position = revision


def test_of_writers_at_several_directories_that_expect_one_generation_one_wins(
    on_etcd: Start,
) -> None:
    clients = [on_etcd().client(TOKYO) for _ in range(3)]
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
    on_etcd: Start, etcd: etcd_cluster.Cluster
) -> None:
    tokyo = on_etcd().client(TOKYO)
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


def test_a_watch_goes_on_at_a_directory_that_was_started_later(on_etcd: Start) -> None:
    first = on_etcd().client(TOKYO)
    lease = first.lease("tokyo")
    position = first.publish(lease, cloud())
    written = [first.publish(lease, capacity(vcpus=vcpus)) for vcpus in range(5)]
    assert watched(on_etcd().client(TOKYO), position, 5) == written


def test_without_a_majority_reads_tell_their_age_and_writes_are_refused(
    on_etcd: Start, etcd: etcd_cluster.Cluster
) -> None:
    running = on_etcd()
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
    eventually(lambda: not tokyo.query().HasField("snapshot_age"), "etcd is back")
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
        eventually(lambda: store.age() is None, "etcd is back")
        store.sweep()
        store.renew_lease(lease, TOKYO_DOMAIN)


def test_a_lease_that_is_renewed_at_any_directory_lives_and_another_one_goes_stale(
    on_etcd: Start,
) -> None:
    running, other = on_etcd(), on_etcd()
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
    federation: Federation, etcd: etcd_cluster.Cluster, on_etcd: Start, tmp_path: Path
) -> None:
    party = federation.party(TOKYO)
    target = processes.target(processes.free_port(), directory_server.DIRECTORY)
    config = tmp_path / "directory.toml"
    config.write_text(directory_server.etcd_config(federation, etcd, target.address))
    dying = Process("directory", config, target, party)
    other = on_etcd().client(TOKYO)
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
