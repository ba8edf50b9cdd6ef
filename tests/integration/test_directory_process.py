"""A directory process: started, killed, started again, and shown what is not gRPC."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.conftest import STRANGER, Federation
from tests.support import processes
from tests.support.directory_samples import capacity, cloud, new_id, offer
from tests.support.processes import Process
from watari import errors, identity, rpc
from watari.identity import SpiffeId
from watari.v1 import directory_pb2
from watari.v1.directory_pb2_grpc import DirectoryServiceStub as Stub

DIRECTORY = "spiffe://hub.example/directory/main"
TOKYO = "spiffe://tokyo.example/manager/main"


@pytest.fixture
def target() -> rpc.Target:
    return processes.target(processes.free_port(), DIRECTORY)


@pytest.fixture
def config(federation: Federation, target: rpc.Target, tmp_path: Path) -> Path:
    path, files = tmp_path / "directory.toml", federation.folder_of(DIRECTORY)
    path.write_text(
        f"""
        [directory]
        address = "{target.address}"
        state_path = "state/directory.db"
        # So that no commit of a sweep reaches an armed fail point first.
        sweep_interval_seconds = "60s"
        [directory.identity]
        certificate = "{files}/cert.pem"
        key = "{files}/key.pem"
        trust = "{files}/trust"
        """
    )
    return path


@pytest.fixture
def process(federation: Federation, target: rpc.Target, config: Path) -> Iterator[Process]:
    process = Process("directory", config, target, federation.party(TOKYO))
    process.start()
    yield process
    process.stop()


@pytest.fixture
def channel(federation: Federation, target: rpc.Target, process: Process) -> Iterator[grpc.Channel]:
    with rpc.connect(federation.party(TOKYO), target) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> Stub:
    return Stub(channel)


def grant(stub: Stub) -> str:
    request = directory_pb2.GrantLeaseRequest(lease_id=new_id(), cloud_id="tokyo", ttl_seconds=3600)
    return rpc.call(stub.GrantLease, request).lease.lease_id


def request_of(lease_id: str, *records: directory_pb2.Record) -> directory_pb2.PublishRequest:
    puts = [directory_pb2.RecordPut(record=record) for record in records]
    return directory_pb2.PublishRequest(request_id=new_id(), lease_id=lease_id, puts=puts)


def all_records(stub: Stub) -> list[directory_pb2.Record]:
    request = directory_pb2.QueryRecordsRequest()
    return list(rpc.call(stub.QueryRecords, request, idempotent=True).records)


def test_what_was_acknowledged_survives_kill_9(process: Process, stub: Stub) -> None:
    lease = grant(stub)
    request = request_of(lease, cloud(), capacity())
    revision = rpc.call(stub.Publish, request).revision
    process.kill()
    process.start()
    assert [record.revision for record in all_records(stub)] == [revision] * 2
    assert rpc.call(stub.Publish, request, idempotent=True).revision == revision
    rpc.call(stub.RenewLease, directory_pb2.RenewLeaseRequest(lease_id=lease))


@pytest.mark.parametrize(("point", "records_after"), [("before_commit", 0), ("after_commit", 3)])
def test_a_publish_cut_by_a_crash_is_whole_or_absent_and_repeating_it_settles(
    process: Process, stub: Stub, point: str, records_after: int
) -> None:
    lease = grant(stub)
    process.kill()
    process.start({"WATARI_FAILPOINTS": f"directory.store.{point}=1*kill"})
    request = request_of(lease, cloud(), capacity(), offer())
    with pytest.raises(errors.Unavailable):
        rpc.call(stub.Publish, request)
    process.wait_killed(20)
    process.start()
    assert len(all_records(stub)) == records_after
    revision = rpc.call(stub.Publish, request, idempotent=True).revision
    assert [record.revision for record in all_records(stub)] == [revision] * 3
    assert [record.generation for record in all_records(stub)] == [1] * 3


def test_a_watch_resumes_without_gap_or_repeat_across_kill_9(process: Process, stub: Stub) -> None:
    lease = grant(stub)
    position = rpc.call(stub.Publish, request_of(lease, cloud())).revision
    written, received = [], []
    for _ in range(3):
        publish = request_of(lease, capacity())
        written.append(rpc.call(stub.Publish, publish, idempotent=True).revision)
        watch = directory_pb2.WatchRecordsRequest(after_revision=position)
        with rpc.stream(stub.WatchRecords, watch, timeout_seconds=20) as messages:
            assert next(messages).revision == position
            position = next(messages).revision
            received.append(position)
            process.kill()
            with pytest.raises(errors.Unavailable):
                next(messages)
        process.start()
    assert received == written


def test_sigterm_ends_watches_and_the_process_in_order(process: Process, stub: Stub) -> None:
    watch = directory_pb2.WatchRecordsRequest()
    with rpc.stream(stub.WatchRecords, watch, timeout_seconds=20) as messages:
        next(messages)
        began = time.monotonic()
        assert process.stop() == 0
        assert time.monotonic() - began < rpc.RpcSettings().grace_seconds, "no call was waited for"
        with pytest.raises(errors.Unavailable, match="SERVER_UNAVAILABLE"):
            next(messages)


def test_a_second_process_on_the_same_state_is_refused(process: Process, config: Path) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "directory", "--config", str(config)],
        env={**os.environ, "WATARI_DIRECTORY_ADDRESS": "127.0.0.1:0"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 2
    assert "CONFIG_INVALID" in second.stderr
    assert "another process uses it" in second.stderr


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"\x00" * 1000,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 4096,
        b"\x16\x03\x01\x40\x00" + b"\x01" * 16384,
    ],
)
def test_garbage_on_the_port_harms_nobody_else(
    target: rpc.Target, stub: Stub, bytes_sent: bytes
) -> None:
    host, _, port = target.address.partition(":")
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(bytes_sent)
    assert all_records(stub) == []


def test_garbage_inside_a_call_is_refused(channel: grpc.Channel, stub: Stub) -> None:
    raw: Any = channel.unary_unary("/watari.v1.DirectoryService/Publish")
    with pytest.raises(grpc.RpcError) as caught:
        raw(b"\xff" * 100, timeout=30)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert all_records(stub) == []


def test_a_client_without_a_certificate_is_refused(
    federation: Federation, target: rpc.Target, process: Process
) -> None:
    roots = federation.party(TOKYO).trust.roots_for("hub.example")
    refused_by_tls(target, grpc.ssl_channel_credentials(roots))


def test_a_client_of_a_provider_that_nobody_accepted_is_refused(
    federation: Federation, target: rpc.Target, process: Process
) -> None:
    manager = SpiffeId(STRANGER, identity.Role.MANAGER, "main")
    stranger = federation.issue(manager, federation.authorities[STRANGER])
    roots = stranger.trust.roots_for("hub.example")
    refused_by_tls(target, grpc.ssl_channel_credentials(roots, stranger.key_pem, stranger.cert_pem))


def refused_by_tls(target: rpc.Target, credentials: grpc.ChannelCredentials) -> None:
    options = [("grpc.ssl_target_name_override", target.spiffe_id.dns_name)]
    with grpc.secure_channel(target.address, credentials, options) as channel:
        request = directory_pb2.QueryRecordsRequest()
        with pytest.raises(errors.Unavailable):
            rpc.call(Stub(channel).QueryRecords, request, timeout_seconds=30)
