"""TLS on the data port, for operators who want it on top of the sealing."""

import contextlib
import itertools
import socket
import ssl
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from agent.transfer import dataplane
from tests.conftest import HUB, STRANGER, Federation
from tests.support import agents
from tests.support.shelves import MIB, Content, identical, put_machine
from watari.identity import Identity, SpiffeId
from watari.rpc import client
from watari.v1 import agent_pb2, common_pb2

TLS = "[agent.transfer]\ndata_tls = true"
DATA = 6 * MIB
DISK = Content(8 * MIB, ((MIB, DATA),))
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
"""A client's preface and its settings."""
TLS_ALERT = 0x15


@pytest.fixture
def both(federation: Federation, tmp_path: Path) -> Iterator[agents.Pair]:
    """Agents that both take data under TLS only."""
    yield from agents.pair(federation, tmp_path, source=TLS, destination=TLS)


@pytest.fixture
def insisting(federation: Federation, tmp_path: Path) -> Iterator[agents.Pair]:
    """A source that wants TLS, and a destination that has none."""
    yield from agents.pair(federation, tmp_path, source=TLS)


@pytest.fixture(scope="module")
def taking(
    federation: Federation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[agents.Pair]:
    """A source that does not care, and a destination that wants TLS."""
    yield from agents.pair(federation, tmp_path_factory.mktemp("taking"), destination=TLS)


def data_port(host: agents.AgentHost) -> common_pb2.Endpoint:
    return client.call(host.stub.GetHost, agent_pb2.GetHostRequest()).host.data


def check_crosses(pair: agents.Pair, name: str = "web") -> agent_pb2.Transfer:
    vm_id = put_machine(pair.source.shelf, name, {"vda": DISK})
    transfer = pair.migrate(vm_id)
    kept = pair.source.shelf / "retained" / transfer.migration_id / "vda.raw"
    assert identical(kept, pair.destination.disk(vm_id, "vda"))
    return transfer


def test_a_machine_crosses_when_both_ask_for_tls(both: agents.Pair) -> None:
    transfer = check_crosses(both)
    assert transfer.progress.sent_bytes == DATA
    assert data_port(both.destination).spiffe_id == both.destination.spiffe_id


def test_several_disks_with_content_to_compare_cross_under_tls(both: agents.Pair) -> None:
    check_crosses(both)
    vm_id = put_machine(both.source.shelf, "again", {"vda": DISK, "vdb": DISK})
    transfer = both.migrate(vm_id, streams=4)
    for disk in ("vda", "vdb"):
        kept = both.source.shelf / "retained" / transfer.migration_id / f"{disk}.raw"
        assert identical(kept, both.destination.disk(vm_id, disk))
    assert transfer.progress.deduplicated_bytes == transfer.progress.sent_bytes == DATA


def test_a_destination_alone_may_ask_for_it(taking: agents.Pair) -> None:
    assert data_port(taking.destination).spiffe_id == taking.destination.spiffe_id
    assert not data_port(taking.source).spiffe_id
    check_crosses(taking)


def test_what_the_destination_wants_may_be_known_before(taking: agents.Pair) -> None:
    """The manager passes the data port on, so that connections are made ahead."""
    vm_id = put_machine(taking.source.shelf, "ahead", {"vda": DISK})
    migration_id = str(uuid.uuid4())
    hold = agent_pb2.HoldGuestRequest(vm_id=vm_id, migration_id=migration_id)
    guest = client.call(taking.source.stub.HoldGuest, hold).guest
    request = agent_pb2.StartTransferRequest(
        migration_id=migration_id,
        vm_id=vm_id,
        grant=taking.grant(guest, migration_id),
        destination_control=taking.control,
        destination_data=data_port(taking.destination),
    )
    client.call(taking.source.stub.StartTransfer, request)
    transfer = taking.source.wait_ended(migration_id)
    assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem


def test_a_source_that_insists_sends_nothing_without_it(insisting: agents.Pair) -> None:
    vm_id = put_machine(insisting.source.shelf, "web", {"vda": DISK})
    migration_id = insisting.start(vm_id)
    failed = insisting.source.wait_ended(migration_id)
    assert failed.state == agent_pb2.TRANSFER_STATE_FAILED
    assert failed.problem.reason == "CONFIG_INVALID"
    assert not failed.problem.retryable
    assert "data_tls" in failed.problem.hint
    assert failed.progress.wire_bytes == 0


def test_a_machine_that_was_refused_stays_usable(insisting: agents.Pair) -> None:
    vm_id = put_machine(insisting.source.shelf, "web", {"vda": DISK})
    migration_id = insisting.start(vm_id)
    insisting.source.wait_ended(migration_id)
    discard = agent_pb2.DiscardIncomingRequest(migration_id=migration_id)
    client.call(insisting.destination.stub.DiscardIncoming, discard)
    unhold = agent_pb2.UnholdGuestRequest(vm_id=vm_id, migration_id=migration_id)
    client.call(insisting.source.stub.UnholdGuest, unhold)
    guest = insisting.source.guest(vm_id)
    assert not guest.held_by
    assert not guest.HasField("problem")
    listed = client.call(insisting.destination.stub.ListIncoming, agent_pb2.ListIncomingRequest())
    assert not listed.incoming
    check_crosses(insisting.back(), "the-other-way")  # where the destination has it


@pytest.mark.parametrize("message", [b"", b"x" * 4096])
def test_a_plain_text_client_gets_nothing(taking: agents.Pair, message: bytes) -> None:
    with dataplane.connect(f"127.0.0.1:{taking.destination.data_port}") as channel:
        stream = dataplane.StreamId(str(uuid.uuid4()), 1)
        call = dataplane.open_stream(channel, stream, itertools.repeat(message, 3), 5)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    check_crosses(taking)


def answer(connection: socket.socket) -> bytes:
    """What a server says to the beginning of HTTP/2 until it closes."""
    heard = b""
    with contextlib.suppress(ConnectionResetError, ssl.SSLError):
        connection.sendall(HTTP2)
        while part := connection.recv(4096):
            heard += part
    return heard


def test_a_plain_text_client_hears_no_http(taking: agents.Pair) -> None:
    address = ("127.0.0.1", taking.destination.data_port)
    with socket.create_connection(address, timeout=30) as connection:
        heard = answer(connection)
    assert heard == b"" or heard[0] == TLS_ALERT, heard


def test_a_client_without_a_certificate_hears_nothing(taking: agents.Pair) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    address = ("127.0.0.1", taking.destination.data_port)
    with (
        socket.create_connection(address, timeout=30) as connection,
        context.wrap_socket(connection) as secured,
    ):
        assert answer(secured) == b""


def refused(taking: agents.Pair, own: Identity, expected: str) -> grpc.StatusCode:
    """The status of a stream that is opened as `own` to who is expected there; one that is never
    let in waits until its deadline.
    """
    address = f"127.0.0.1:{taking.destination.data_port}"
    with dataplane.connect(address, (own, SpiffeId.parse(expected))) as channel:
        stream = dataplane.StreamId(str(uuid.uuid4()), 1)
        call = dataplane.open_stream(channel, stream, iter([b"x"]), 2)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
    return caught.value.code()


def test_only_accepted_providers_are_let_in(taking: agents.Pair, federation: Federation) -> None:
    there = taking.destination.spiffe_id
    known = federation.party(f"spiffe://{HUB}/agent/host1")
    # The port lets it in, and a session is what it lacks.
    assert refused(taking, known, there) == grpc.StatusCode.UNIMPLEMENTED
    parsed = SpiffeId.parse(f"spiffe://{STRANGER}/agent/host1")
    stranger = federation.issue(parsed, federation.authorities[STRANGER])
    assert refused(taking, stranger, there) == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_source_gives_nothing_to_another_than_it_was_told(
    taking: agents.Pair, federation: Federation
) -> None:
    own = federation.party(taking.source.spiffe_id)
    other = taking.destination.spiffe_id.replace("host1", "host2")
    assert refused(taking, own, other) == grpc.StatusCode.DEADLINE_EXCEEDED
