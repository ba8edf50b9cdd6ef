"""Calls between real servers and clients over mutual TLS."""

import queue
import threading
from concurrent import futures

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support.rpc_catalogue import ALICE, DIRECTORY, get
from watari import errors, logs, retry, rpc
from watari.clock import FakeClock
from watari.v1 import directory_pb2, directory_pb2_grpc

ERRORS = errors.WatariError.__subclasses__()


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
    catalogue.behaviour = lambda: release.wait(60) and directory_pb2.GetRecordResponse()
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
    catalogue.behaviour = lambda: release.wait(60) and directory_pb2.GetRecordResponse()
    target = serve(
        DIRECTORY,
        lambda server: directory_pb2_grpc.add_DirectoryServiceServicer_to_server(catalogue, server),
        settings=rpc.RpcSettings(workers_max=2, queued_calls_max=1),
    )
    with rpc.connect(federation.party(ALICE), target) as channel:
        stub = directory_pb2_grpc.DirectoryServiceStub(channel)
        request = directory_pb2.GetRecordRequest()
        asked = [stub.GetRecord.future(request, timeout=60) for _ in range(6)]
        answered = queue.SimpleQueue()
        for call in asked:
            call.add_done_callback(answered.put)
        refused = [answered.get(timeout=30) for _ in range(3)]
        assert all(call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED for call in refused)
        release.set()
        assert all(answered.get(timeout=30).code() is grpc.StatusCode.OK for _ in range(3))


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
