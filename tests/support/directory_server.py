"""A directory in the test's process, and calls to it over mutual TLS."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc

from directory.__main__ import assemble
from directory.settings import Settings
from tests.conftest import Federation
from tests.support import etcd_cluster
from tests.support.directory_samples import new_id
from watari import rpc, service
from watari.clock import FakeClock
from watari.settings import IdentitySettings
from watari.v1 import directory_pb2, directory_pb2_grpc

DIRECTORY = "spiffe://hub.example/directory/main"
TOKYO = "spiffe://tokyo.example/manager/main"


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


def run(
    federation: Federation,
    state_path: Path | None,
    stack: ExitStack,
    changed: dict[str, object],
) -> Running:
    """Starts a directory that ends, and whose clients hang up, when `stack` does."""
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


def etcd_config(federation: Federation, cluster: etcd_cluster.Cluster, address: str) -> str:
    """Settings of a directory on a cluster."""
    files, etcd = federation.folder_of(DIRECTORY), cluster.settings()
    endpoints = ", ".join(f'"{each}"' for each in etcd.endpoints)
    return f"""
[directory]
address = "{address}"
[directory.identity]
certificate = "{files}/cert.pem"
key = "{files}/key.pem"
trust = "{files}/trust"
[directory.etcd]
endpoints = [{endpoints}]
ca = "{etcd.ca}"
certificate = "{etcd.certificate}"
key = "{etcd.key}"
[directory.log]
level = "warning"
"""


def eventually(holds: Callable[[], bool], what: str, seconds_max: float = 60) -> None:
    """Waits until something holds that other threads bring about."""
    deadline = time.monotonic() + seconds_max
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def watched(client: Client, after: int, count: int) -> list[int]:
    """The revisions of so many messages with changes, watched from a revision on."""
    with client.watch(after_revision=after) as messages:
        next(messages)
        return [next(messages).revision for _ in range(count)]


def with_labels(record: directory_pb2.Record, labels: dict[str, str]) -> directory_pb2.Record:
    """The same record, with labels added."""
    record.labels.update(labels)
    return record
