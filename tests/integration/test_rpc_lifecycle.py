"""How a server starts, drains and ends: in a process of its own, with real signals."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from watari import errors, rpc
from watari.identity import SpiffeId
from watari.v1 import directory_pb2, directory_pb2_grpc

ROOT = Path(__file__).parents[2]
DIRECTORY = "spiffe://tokyo.example/directory/main"
ALICE = "spiffe://tokyo.example/user/alice"

PROGRAM = """
import sys, time
from pathlib import Path
from watari import clock, identity, logs, rpc
from watari.v1 import directory_pb2, directory_pb2_grpc

logs.configure("directory", "info", json=True)  # to stderr; stdout is the test's

class Catalogue(directory_pb2_grpc.DirectoryServiceServicer):
    def GetRecord(self, request, context):
        print("called", flush=True)
        time.sleep(float(request.key.name))
        return directory_pb2.GetRecordResponse(revision=1)

    def WatchRecords(self, request, context):
        print("called", flush=True)
        while not server.stopping.wait(0.01):
            yield directory_pb2.WatchRecordsResponse()
        yield directory_pb2.WatchRecordsResponse(revision=99)

server = rpc.Server(
    "directory", identity.Identity.load_folder(Path(sys.argv[1])), "127.0.0.1:0",
    clock=clock.SystemClock(), settings=rpc.RpcSettings(grace_seconds=20),
    servicers=lambda g: directory_pb2_grpc.add_DirectoryServiceServicer_to_server(Catalogue(), g),
)
print(server.start(), flush=True)
server.serve_forever()
print("drained", flush=True)
"""


@pytest.fixture
def process(federation):
    """A server process; its first line of output is its port."""
    started = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(federation.folder_of(DIRECTORY))],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with started:
        yield started
        if started.poll() is None:
            started.kill()


def line(process) -> str:
    """The program's next line."""
    return process.stdout.readline().strip()


@pytest.fixture
def channel(federation, process):
    target = rpc.Target(f"127.0.0.1:{line(process)}", SpiffeId.parse(DIRECTORY))
    with rpc.connect(federation.party(ALICE), target) as channel:
        yield channel


@pytest.fixture
def stub(channel):
    return directory_pb2_grpc.DirectoryServiceStub(channel)


def lasting(seconds: float) -> directory_pb2.GetRecordRequest:
    return directory_pb2.GetRecordRequest(key=directory_pb2.RecordKey(name=str(seconds)))


def rejected(stub) -> bool:
    try:
        rpc.call(stub.GetRecord, lasting(0), timeout_seconds=2)
    except errors.Unavailable:
        return True
    return False


def eventually(condition) -> bool:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_calls_end_refuses_new_ones_and_then_ends_the_process(process, stub, kind):
    running = stub.GetRecord.future(lasting(1.0), timeout=60)
    assert line(process) == "called"
    process.send_signal(kind)
    assert eventually(lambda: rejected(stub))
    assert running.result(timeout=30).revision == 1
    assert process.stdout.read().endswith("drained\n")
    assert process.wait(30) == 0


def test_a_second_signal_ends_the_process_at_once(process, stub):
    running = stub.GetRecord.future(lasting(30), timeout=60)
    assert line(process) == "called"
    process.send_signal(signal.SIGTERM)
    assert eventually(lambda: rejected(stub))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    assert running.exception(timeout=30).code() is grpc.StatusCode.UNAVAILABLE


def test_streams_that_heed_stopping_end_with_their_last_word(process, stub):
    request = directory_pb2.WatchRecordsRequest()
    with rpc.stream(stub.WatchRecords, request, timeout_seconds=30) as responses:
        next(responses)
        process.send_signal(signal.SIGTERM)
        *_, last = responses
    assert last.revision == 99
    assert process.wait(30) == 0


def test_health_watchers_learn_that_the_server_stops(process, channel, stub):
    request = health_pb2.HealthCheckRequest(service="watari.v1.DirectoryService")
    health = health_pb2_grpc.HealthStub(channel)
    with rpc.stream(health.Watch, request, timeout_seconds=30) as responses:
        assert next(responses).status == health_pb2.HealthCheckResponse.SERVING
        running = stub.GetRecord.future(lasting(0.5), timeout=60)
        assert line(process) == "called"
        process.send_signal(signal.SIGTERM)
        assert next(responses).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert running.result(timeout=30).revision == 1
    assert process.wait(30) == 0


def test_a_port_in_use_is_refused_with_what_to_do(federation, serve):
    target = serve(DIRECTORY, lambda _server: None)
    second = rpc.Server(
        "directory",
        federation.party(DIRECTORY),
        target.address,
        clock=federation.clock,
        servicers=lambda _server: None,
    )
    with pytest.raises(errors.Unavailable) as caught:
        second.start()
    second.stop(0)
    assert (caught.value.reason, caught.value.retryable) == ("SERVER_UNAVAILABLE", False)
    assert "another process" in caught.value.hint
