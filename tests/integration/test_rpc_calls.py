"""Calls between real servers and clients over mutual TLS."""

import gc
import queue
import threading
import time
from concurrent import futures

import grpc
import psutil
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from watari import errors, logs, retry, rpc
from watari.clock import FakeClock
from watari.v1 import directory_pb2, directory_pb2_grpc

DIRECTORY = "spiffe://tokyo.example/directory/main"
ALICE = "spiffe://osaka.example/user/alice"
ERRORS = errors.WatariError.__subclasses__()


class Catalogue(directory_pb2_grpc.DirectoryServiceServicer):
    """Answers what the test put into it."""

    def __init__(self):
        self.behaviour = lambda: directory_pb2.GetRecordResponse(revision=7)
        self.peers, self.contexts, self.calls = [], [], 0
        self.ended = threading.Event()

    def GetRecord(self, request, context):
        self.calls += 1
        self.peers.append(rpc.current_peer())
        self.contexts.append(context.time_remaining())
        return self.behaviour()

    def WatchRecords(self, request, context):
        try:
            for revision in range(1, request.after_revision + 1):
                self.peers.append((rpc.current_peer(), logs.bound("migration_id")))
                yield directory_pb2.WatchRecordsResponse(revision=revision)
            if request.cloud_id == "broken":
                raise errors.OutOfRange("REVISION_COMPACTED", "gone", hint="list again")
            while context.is_active() and request.cloud_id == "endless":
                yield directory_pb2.WatchRecordsResponse()
        finally:
            self.ended.set()


@pytest.fixture
def catalogue():
    return Catalogue()


@pytest.fixture
def target(serve, catalogue):
    return serve(
        DIRECTORY,
        lambda server: directory_pb2_grpc.add_DirectoryServiceServicer_to_server(catalogue, server),
    )


@pytest.fixture
def channel(federation, target):
    with rpc.connect(federation.party(ALICE), target) as channel:
        yield channel


@pytest.fixture
def stub(channel):
    return directory_pb2_grpc.DirectoryServiceStub(channel)


def get(stub, **how):
    return rpc.call(stub.GetRecord, directory_pb2.GetRecordRequest(), **how)


def test_a_call_is_answered_and_the_servicer_knows_who_asked(federation, stub, catalogue):
    assert get(stub).revision == 7
    assert catalogue.peers == [federation.party(ALICE).spiffe_id]


@pytest.mark.parametrize("cls", ERRORS)
def test_every_error_reaches_the_caller_as_it_was_raised(stub, catalogue, cls):
    def fail():
        raise cls("VM_NOT_FOUND", "no VM wéb-1", hint="watari vm list", vm="web-1")

    catalogue.behaviour = fail
    with pytest.raises(cls) as caught:
        get(stub)
    expected = cls("VM_NOT_FOUND", "no VM wéb-1", hint="watari vm list", vm="web-1")
    assert vars(caught.value) == vars(expected)


def test_an_unexpected_exception_tells_the_caller_an_incident_and_nothing_else(stub, catalogue):
    catalogue.behaviour = lambda: {}["/etc/secret-path"]
    with pytest.raises(errors.Internal) as caught:
        get(stub)
    assert caught.value.reason == "INTERNAL"
    assert caught.value.metadata["incident"] in caught.value.message
    assert "secret" not in str(vars(caught.value))


def test_the_longest_error_still_arrives(stub, catalogue):
    def fail():
        raise errors.Internal(
            "INTERNAL", "é" * 100_000, hint="ü" * 100_000, **{"k" * 9: "ö" * 9999}
        )

    catalogue.behaviour = fail
    with pytest.raises(errors.Internal, match="ééé"):
        get(stub)


def test_a_method_without_servicer_is_unimplemented(stub):
    with pytest.raises(errors.Unimplemented):
        rpc.call(stub.QueryRecords, directory_pb2.QueryRecordsRequest())


def test_a_call_without_deadline_gets_the_default_one(stub, catalogue):
    stub.GetRecord(directory_pb2.GetRecordRequest())
    get(stub, timeout_seconds=100)
    default, explicit = catalogue.contexts
    # gRPC rounds what is left of a deadline up on the wire.
    assert default == pytest.approx(rpc.DEADLINE_SECONDS_DEFAULT, abs=2)
    assert explicit == pytest.approx(100, abs=2)


def test_a_deadline_ends_a_call_that_hangs(stub, catalogue):
    release = threading.Event()
    catalogue.behaviour = lambda: release.wait(30) and directory_pb2.GetRecordResponse()
    with pytest.raises(errors.DeadlineExceeded) as caught:
        get(stub, timeout_seconds=0.1)
    release.set()
    assert caught.value.retryable


def test_an_idempotent_call_is_repeated_after_a_retryable_error_only(stub, catalogue):
    def fail():
        if catalogue.calls < 3:
            raise errors.Unavailable("SERVER_UNAVAILABLE", "busy")
        return directory_pb2.GetRecordResponse(revision=9)

    catalogue.behaviour = fail
    with pytest.raises(errors.Unavailable):
        get(stub)
    assert catalogue.calls == 1
    clock = FakeClock(auto_advance=True)
    assert get(stub, idempotent=True, clock=clock, backoff=retry.Backoff(jitter=0)).revision == 9
    assert catalogue.calls == 3
    assert clock.monotonic() == pytest.approx(0.1)


def test_ids_of_the_log_context_travel_with_the_call(stub, catalogue):
    seen = []

    def note():
        seen.append((logs.bound("request_id"), logs.bound("migration_id")))
        return directory_pb2.GetRecordResponse()

    catalogue.behaviour = note
    with logs.context(request_id="r-1", migration_id="m-1"):
        get(stub)
    get(stub)
    assert seen[0] == ("r-1", "m-1")
    assert len(seen[1][0]) == 32
    assert seen[1][1] is None


def test_what_a_servicer_binds_to_the_log_ends_with_its_call(stub, catalogue):
    seen = []

    def bind():
        seen.append(logs.bound("vm"))
        structlog.contextvars.bind_contextvars(vm="web-1")
        return directory_pb2.GetRecordResponse()

    catalogue.behaviour = bind
    for _ in range(100):
        get(stub)
    assert set(seen) == {None}


@pytest.mark.parametrize("forged", ["", "x" * 65, "two words", 'a"b', "a;b"])
def test_a_malformed_request_id_is_replaced(stub, catalogue, forged):
    seen = []

    def note():
        seen.append(logs.bound("request_id"))
        return directory_pb2.GetRecordResponse()

    catalogue.behaviour = note
    stub.GetRecord(directory_pb2.GetRecordRequest(), metadata=(("x-request-id", forged),))
    assert len(seen[0]) == 32


def test_a_stream_delivers_in_the_callers_name_and_then_its_error(federation, stub, catalogue):
    request = directory_pb2.WatchRecordsRequest(after_revision=3, cloud_id="broken")
    revisions = []
    with (
        pytest.raises(errors.OutOfRange) as caught,
        logs.context(migration_id="m-1"),
        rpc.stream(stub.WatchRecords, request, timeout_seconds=10) as responses,
    ):
        revisions.extend(response.revision for response in responses)
    assert revisions == [1, 2, 3]
    assert (caught.value.reason, caught.value.hint) == ("REVISION_COMPACTED", "list again")
    assert catalogue.peers == [(federation.party(ALICE).spiffe_id, "m-1")] * 3


def test_leaving_a_stream_ends_it_at_the_server(stub, catalogue):
    request = directory_pb2.WatchRecordsRequest(after_revision=1, cloud_id="endless")
    with rpc.stream(stub.WatchRecords, request, timeout_seconds=30) as responses:
        assert next(responses).revision == 1
    assert catalogue.ended.wait(5)


def test_a_stream_ends_at_its_deadline(stub):
    request = directory_pb2.WatchRecordsRequest(cloud_id="endless")
    with (
        pytest.raises(errors.DeadlineExceeded),
        rpc.stream(stub.WatchRecords, request, timeout_seconds=0.2) as responses,
    ):
        for _ in responses:
            pass


def test_calls_at_a_time_keep_their_callers_apart(federation, serve, catalogue):
    target = serve(
        DIRECTORY,
        lambda server: directory_pb2_grpc.add_DirectoryServiceServicer_to_server(catalogue, server),
    )
    users = [federation.party(f"spiffe://osaka.example/user/u{n}") for n in range(8)]
    gate = threading.Barrier(len(users))

    def answer():
        gate.wait(10)
        record = directory_pb2.Record(labels={"peer": str(rpc.current_peer())})
        return directory_pb2.GetRecordResponse(record=record)

    catalogue.behaviour = answer

    def ask(user):
        with rpc.connect(user, target) as channel:
            return get(directory_pb2_grpc.DirectoryServiceStub(channel)).record.labels["peer"]

    with futures.ThreadPoolExecutor(len(users)) as pool:
        assert list(pool.map(ask, users)) == [str(user.spiffe_id) for user in users]


def test_outside_a_call_there_is_no_peer():
    with pytest.raises(LookupError):
        rpc.current_peer()


def test_a_message_beyond_the_limit_is_refused(stub, catalogue):
    catalogue.behaviour = lambda: directory_pb2.GetRecordResponse(
        record=directory_pb2.Record(labels={"x": "y" * rpc.MESSAGE_BYTES_MAX})
    )
    with pytest.raises(errors.Exhausted):
        get(stub)


def test_calls_beyond_workers_and_queue_are_refused_at_once(federation, serve, catalogue):
    release = threading.Event()
    catalogue.behaviour = lambda: release.wait(30) and directory_pb2.GetRecordResponse()
    target = serve(
        DIRECTORY,
        lambda server: directory_pb2_grpc.add_DirectoryServiceServicer_to_server(catalogue, server),
        settings=rpc.RpcSettings(workers_max=2, queued_calls_max=1),
    )
    with rpc.connect(federation.party(ALICE), target) as channel:
        stub = directory_pb2_grpc.DirectoryServiceStub(channel)
        request = directory_pb2.GetRecordRequest()
        asked = [stub.GetRecord.future(request, timeout=20) for _ in range(6)]
        answered = queue.SimpleQueue()
        for call in asked:
            call.add_done_callback(answered.put)
        refused = [answered.get(timeout=5) for _ in range(3)]
        assert all(call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED for call in refused)
        release.set()
        assert all(answered.get(timeout=5).code() is grpc.StatusCode.OK for _ in range(3))


def test_health_tells_of_every_service_and_reflection_lists_them(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "watari.v1.DirectoryService"):
        response = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert response.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nothing"))
    assert errors.from_rpc_error(caught.value).code is grpc.StatusCode.NOT_FOUND
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = reflection.ServerReflectionInfo(iter([request]))
    listed = {service.name for service in answer.list_services_response.service}
    assert {"watari.v1.DirectoryService", "grpc.health.v1.Health"} <= listed


def test_a_pool_keeps_one_channel_a_target_and_lets_the_oldest_go(federation, target):
    other = rpc.Target("127.0.0.1:1", target.spiffe_id)
    pool = rpc.ChannelPool(federation.party(ALICE), channels_max=1)
    first = pool.get(target)
    assert pool.get(target) is first
    pool.get(other)
    stub = directory_pb2_grpc.DirectoryServiceStub(first)
    assert get(stub).revision == 7, "a channel that was let go still serves who holds it"
    assert pool.get(target) is not first
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
        release.wait(10)
        return directory_pb2.GetRecordResponse(revision=3)

    catalogue.behaviour = answer
    stub = directory_pb2_grpc.DirectoryServiceStub(pool.get(target))
    with futures.ThreadPoolExecutor(1) as threads:
        running = threads.submit(get, stub)
        assert entered.wait(5)
        pool.close()
        release.set()
        assert running.result(5).revision == 3


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
    until = time.monotonic() + 10
    while connections(target) and time.monotonic() < until:
        gc.collect()
        time.sleep(0.02)
    assert connections(target) == 0


def test_a_stream_that_was_left_is_cancelled_for_who_still_reads_it(stub):
    request = directory_pb2.WatchRecordsRequest(after_revision=1, cloud_id="endless")
    with rpc.stream(stub.WatchRecords, request, timeout_seconds=30) as responses:
        next(responses)
    with pytest.raises(errors.Cancelled) as caught:
        for _ in responses:
            pass
    assert not caught.value.retryable


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
