"""Channels and their pool: which are kept, which are let go, and what their calls see of it."""

import gc
import threading
import time
from concurrent import futures

import psutil
import pytest

from tests.support.rpc_catalogue import ALICE, DIRECTORY, Ahead, Catalogue, get
from watari import errors, rpc
from watari.identity import SpiffeId
from watari.v1 import directory_pb2, directory_pb2_grpc

HOUR = 3600


def test_a_pool_keeps_one_connection_a_target_and_lets_the_oldest_go(federation, target):
    other = rpc.Target("127.0.0.1:1", target.spiffe_id)
    pool = rpc.ChannelPool(federation.party(ALICE), channels_max=1)
    before = connections(target)
    stubs = [directory_pb2_grpc.DirectoryServiceStub(pool.get(target)) for _ in range(2)]
    assert [get(stub).revision for stub in stubs] == [7, 7]
    assert connections(target) == before + 1
    pool.get(other)
    assert get(stubs[0]).revision == 7, "a target that was let go is connected to again"
    pool.close()


def test_closing_a_pool_cancels_its_streams_and_every_call_after(federation, target, catalogue):
    pool = rpc.ChannelPool(federation.party(ALICE))
    stub = directory_pb2_grpc.DirectoryServiceStub(pool.get(target))
    request = directory_pb2.WatchRecordsRequest(after_revision=1, cloud_id="endless")
    with rpc.stream(stub.WatchRecords, request, timeout_seconds=30) as responses:
        next(responses)
        pool.close()
        with pytest.raises(errors.Cancelled):
            for _ in responses:
                pass
    with pytest.raises(errors.Cancelled):
        get(stub, idempotent=True)
    with (
        pytest.raises(errors.Cancelled),
        rpc.stream(stub.WatchRecords, request, timeout_seconds=30) as responses,
    ):
        next(responses)


def test_a_call_that_runs_when_its_pool_is_closed_ends_by_itself(federation, target, catalogue):
    pool, entered, release = (
        rpc.ChannelPool(federation.party(ALICE)),
        threading.Event(),
        threading.Event(),
    )

    def answer():
        entered.set()
        release.wait(60)
        return directory_pb2.GetRecordResponse(revision=3)

    catalogue.behaviour = answer
    stub = directory_pb2_grpc.DirectoryServiceStub(pool.get(target))
    with futures.ThreadPoolExecutor(1) as threads:
        running = threads.submit(get, stub)
        assert entered.wait(30)
        pool.close()
        release.set()
        assert running.result(30).revision == 3


@pytest.mark.parametrize("streaming", [False, True])
def test_a_stub_shows_the_certificate_of_now(own_federation, serve, streaming):
    """Its first connection shows one that has run out meanwhile."""
    own_federation.clock = Ahead()
    party = SpiffeId.parse(ALICE)
    own = own_federation.issue(party, own_federation.authorities[party.domain], HOUR)
    add = directory_pb2_grpc.add_DirectoryServiceServicer_to_server
    target = serve(DIRECTORY, lambda server: add(Catalogue(), server), identities=own_federation)
    stub = directory_pb2_grpc.DirectoryServiceStub(rpc.ChannelPool(own).get(target))
    assert get(stub).revision == 7
    own_federation.clock.ahead_seconds = 2 * HOUR
    with pytest.raises(errors.Unauthenticated):
        get(stub)
    own.replace(*own_federation.authorities[party.domain].issue(party, 3 * HOUR))
    if not streaming:
        assert get(stub).revision == 7
        return
    request = directory_pb2.WatchRecordsRequest(after_revision=1)
    with rpc.stream(stub.WatchRecords, request, timeout_seconds=30) as responses:
        assert next(responses)


def connections(target) -> int:
    port = int(target.address.rpartition(":")[2])
    return sum(
        bool(link.raddr) and link.raddr.port == port
        for link in psutil.Process().net_connections("tcp")
        if link.status == psutil.CONN_ESTABLISHED
    )


def test_a_channel_that_was_let_go_disconnects_once_nobody_uses_it(federation, target):
    pool = rpc.ChannelPool(federation.party(ALICE))
    stub = directory_pb2_grpc.DirectoryServiceStub(pool.get(target))
    get(stub)
    assert connections(target) == 1
    pool.close()
    del stub
    until = time.monotonic() + 30
    while connections(target) and time.monotonic() < until:
        gc.collect()
        time.sleep(0.02)
    assert connections(target) == 0


def test_a_pool_makes_a_new_channel_when_the_targets_provider_changes_its_roots(
    own_federation, target
):
    party = own_federation.party(ALICE)
    pool = rpc.ChannelPool(party)
    first = pool.get(target)
    roots = own_federation.trust_folder / "tokyo.example.pem"
    roots.write_bytes(roots.read_bytes() * 2)
    assert pool.get(target) is not first
    pool.close()


def test_nobody_listening_is_a_retryable_error(federation):
    target = rpc.Target("127.0.0.1:1", federation.party(DIRECTORY).spiffe_id)
    with rpc.connect(federation.party(ALICE), target) as channel:
        stub = directory_pb2_grpc.DirectoryServiceStub(channel)
        with pytest.raises(errors.Unavailable) as caught:
            get(stub, timeout_seconds=5)
    assert (caught.value.reason, caught.value.retryable) == ("PEER_UNAVAILABLE", True)
