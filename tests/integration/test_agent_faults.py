"""What goes wrong between two real agents ends clearly, and leaves the machine where it was."""

import contextlib
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from agent.transfer import dataplane, frames
from tests.conftest import OSAKA, TOKYO, Federation
from tests.support import agents
from tests.support.shelves import KIB, MIB, Content, identical, put_machine
from watari import errors
from watari.rpc import client
from watari.v1 import agent_pb2

SLOW = {"limit_bytes_per_second": 4 * MIB}
"""Slow enough that a transfer of DISK is still running when a test acts on it."""

WAIT_SECONDS_MAX = 60.0
DISK = Content(24 * MIB, ((0, 24 * MIB),))


@pytest.fixture
def pair(federation: Federation, tmp_path: Path) -> Iterator[agents.Pair]:
    yield from agents.pair(federation, tmp_path)


@pytest.fixture
def impatient(federation: Federation, tmp_path: Path) -> Iterator[agents.Pair]:
    """Two that give up soon who does not go on."""
    options = "[agent.transfer]\nstall_seconds_max = 3\n"
    yield from agents.pair(federation, tmp_path, source=options, destination=options)


def wait_for_progress(pair: agents.Pair, migration_id: str) -> None:
    """Until some content has been settled at the destination."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not pair.source.transfer(migration_id).progress.done_bytes:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def check_usable(pair: agents.Pair, vm_id: str, migration_id: str) -> None:
    """The machine can be used again at the source, and nothing stays at the destination."""
    discard = agent_pb2.DiscardIncomingRequest(migration_id=migration_id)
    client.call(pair.destination.stub.DiscardIncoming, discard)
    unhold = agent_pb2.UnholdGuestRequest(vm_id=vm_id, migration_id=migration_id)
    client.call(pair.source.stub.UnholdGuest, unhold)
    guest = client.call(pair.source.stub.GetGuest, agent_pb2.GetGuestRequest(vm_id=vm_id)).guest
    assert not guest.held_by
    assert not guest.HasField("problem")
    incoming = pair.destination.shelf / "incoming"
    assert [each for each in incoming.iterdir() if not each.name.startswith(".")] == []
    assert list((incoming / ".journals").iterdir()) == []
    assert list((pair.destination.shelf / "vms").iterdir()) == []


def test_a_cancelled_transfer_ends_at_once(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    migration_id = pair.start(vm_id, **SLOW)
    wait_for_progress(pair, migration_id)
    cancel = agent_pb2.CancelTransferRequest(migration_id=migration_id)
    client.call(pair.source.stub.CancelTransfer, cancel)
    assert pair.source.wait_ended(migration_id, 30).state == agent_pb2.TRANSFER_STATE_CANCELLED
    check_usable(pair, vm_id, migration_id)


@pytest.mark.parametrize("victim", ["source", "destination"])
def test_after_kill_9_of_an_agent_another_attempt_succeeds(pair: agents.Pair, victim: str) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    original = pair.source.shelf / "vms" / "web" / "vda.raw"
    guest = client.call(pair.source.stub.GetGuest, agent_pb2.GetGuestRequest(vm_id=vm_id)).guest
    migration_id = pair.start(vm_id, **SLOW)
    wait_for_progress(pair, migration_id)
    process = getattr(pair, victim).process
    process.kill()
    process.start()
    if victim == "destination":
        failed = pair.source.wait_ended(migration_id)
        assert failed.state == agent_pb2.TRANSFER_STATE_FAILED
        assert failed.problem.retryable, failed.problem
    else:
        with pytest.raises(errors.NotFound) as caught:
            pair.source.transfer(migration_id)
        assert caught.value.reason == "TRANSFER_NOT_FOUND"
    pair.start_again(migration_id, pair.grant(guest, migration_id))
    transfer = pair.source.wait_ended(migration_id)
    assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem
    pair.activate(migration_id)
    assert identical(original, pair.destination.disk(vm_id, "vda"))


def small_disk(shelf: Path, size: str) -> tuple[str, ...]:
    """Command that gives a process a small file system for its shelf: a tmpfs in a mount namespace
    of its own; where none may be made, a limit on the size of a file, which fails the same way.
    """
    users = () if os.geteuid() == 0 else ("--map-root-user", "--user")
    unshare = ("unshare", *users, "--mount", "sh", "-c")
    mount = f'mount -t tmpfs -o size={size} watari-test "$1"'
    may = subprocess.run([*unshare, mount, "sh", "/mnt"], check=False, capture_output=True)
    if may.returncode != 0:
        return ("prlimit", f"--fsize={6 * MIB}")
    return (*unshare, f'{mount} && shift && exec "$@"', "sh", str(shelf))


def test_a_destination_that_fills_up_says_so_and_the_machine_stays(
    federation: Federation, tmp_path: Path
) -> None:
    small = small_disk(tmp_path / "osaka" / "shelf", "6m")
    source = agents.AgentHost(federation, TOKYO, tmp_path / "tokyo")
    destination = agents.AgentHost(federation, OSAKA, tmp_path / "osaka", prefix=small)
    with contextlib.closing(source), contextlib.closing(destination):
        source.process.start()
        destination.process.start()
        pair = agents.Pair(source, destination)
        vm_id = put_machine(source.shelf, "web", {"vda": DISK})
        migration_id = pair.start(vm_id)
        transfer = source.wait_ended(migration_id)
        assert transfer.state == agent_pb2.TRANSFER_STATE_FAILED
        assert transfer.problem.reason == "DISK_FULL"
        assert "vda" in transfer.problem.message
        discard = agent_pb2.DiscardIncomingRequest(migration_id=migration_id)
        client.call(destination.stub.DiscardIncoming, discard)
        listed = client.call(destination.stub.ListIncoming, agent_pb2.ListIncomingRequest())
        assert not listed.incoming


def test_a_disk_that_changes_while_it_is_read_is_an_error_and_no_corrupt_copy(
    pair: agents.Pair,
) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    migration_id = pair.start(vm_id, **SLOW)
    wait_for_progress(pair, migration_id)
    with (pair.source.shelf / "vms" / "web" / "vda.raw").open("r+b") as disk:
        disk.write(b"written by somebody else")
    limit = agent_pb2.SetTransferLimitRequest(migration_id=migration_id)
    client.call(pair.source.stub.SetTransferLimit, limit)
    transfer = pair.source.wait_ended(migration_id)
    assert transfer.problem.reason == "SOURCE_CHANGED"
    check_usable(pair, vm_id, migration_id)


def test_a_disk_that_shrinks_while_it_is_read_is_an_error(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    migration_id = pair.start(vm_id, **SLOW)
    wait_for_progress(pair, migration_id)
    os.truncate(pair.source.shelf / "vms" / "web" / "vda.raw", MIB)
    assert pair.source.wait_ended(migration_id).problem.reason == "SOURCE_CHANGED"


def test_more_bytes_than_granted_end_the_session(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    guest = client.call(pair.source.stub.GetGuest, agent_pb2.GetGuestRequest(vm_id=vm_id)).guest
    migration_id = str(uuid.uuid4())
    hold = agent_pb2.HoldGuestRequest(vm_id=vm_id, migration_id=migration_id)
    client.call(pair.source.stub.HoldGuest, hold)
    pair.start_again(migration_id, pair.grant(guest, migration_id, bytes_max=2 * MIB))
    transfer = pair.source.wait_ended(migration_id)
    assert transfer.problem.reason == "GRANT_EXCEEDED"


def test_a_limit_holds_and_can_be_lifted_while_it_runs(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    began = time.monotonic()
    migration_id = pair.start(vm_id, **SLOW)
    wait_for_progress(pair, migration_id)
    time.sleep(2)
    slow = pair.source.transfer(migration_id).progress
    seconds = time.monotonic() - began
    assert 0 < slow.wire_bytes < SLOW["limit_bytes_per_second"] * seconds + 4 * MIB
    limit = agent_pb2.SetTransferLimitRequest(migration_id=migration_id)
    client.call(pair.source.stub.SetTransferLimit, limit)
    assert pair.source.wait_ended(migration_id).state == agent_pb2.TRANSFER_STATE_SUCCEEDED


@pytest.fixture
def completing(pair: agents.Pair) -> Iterator[str]:
    """A migration whose destination takes a minute to flush."""
    pair.destination.process.stop()
    pair.destination.process.start({"WATARI_FAILPOINTS": "agent.receiving.flushed=sleep(60000)"})
    vm_id = put_machine(pair.source.shelf, "web", {"vda": Content(MIB, ((0, MIB),))})
    migration_id = pair.start(vm_id)
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while pair.source.transfer(migration_id).state != agent_pb2.TRANSFER_STATE_COMPLETING:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield migration_id
    pair.destination.process.kill()


def test_a_transfer_is_cancelled_at_once_while_the_destination_flushes(
    pair: agents.Pair, completing: str
) -> None:
    cancel = agent_pb2.CancelTransferRequest(migration_id=completing)
    client.call(pair.source.stub.CancelTransfer, cancel)
    ended = pair.source.wait_ended(completing, 30)
    assert ended.state == agent_pb2.TRANSFER_STATE_CANCELLED


def test_an_agent_stops_at_once_while_the_destination_flushes(
    pair: agents.Pair, completing: str
) -> None:
    assert pair.source.process.stop() == 0


def test_garbage_on_both_ports_changes_nothing(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    migration_id = pair.start(vm_id, **SLOW)
    for port in (pair.destination.port, pair.destination.data_port, pair.source.port):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as connection,
            contextlib.suppress(BrokenPipeError, ConnectionResetError),
        ):
            for _ in range(16):
                connection.sendall(os.urandom(64 * KIB))
    transfer = pair.source.wait_ended(migration_id)
    assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem


@pytest.mark.parametrize("message", [b"", b"x", os.urandom(4096), bytes(frames.MESSAGE_BYTES_MAX)])
def test_a_data_stream_without_a_session_is_refused(pair: agents.Pair, message: bytes) -> None:
    with dataplane.connect(f"127.0.0.1:{pair.destination.data_port}") as channel:
        stream = dataplane.StreamId(str(uuid.uuid4()), 0)
        call = dataplane.open_stream(channel, stream, iter([message]), 30)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_an_oversized_message_on_the_data_port_is_refused(pair: agents.Pair) -> None:
    options = [("grpc.max_send_message_length", 64 * MIB)]
    with grpc.insecure_channel(f"127.0.0.1:{pair.destination.data_port}", options) as channel:
        call = channel.stream_stream(dataplane.METHOD)(
            iter([bytes(16 * MIB)]),
            timeout=30,
            metadata=(("watari-session", str(uuid.uuid4())), ("watari-stream", "0")),
        )
        with pytest.raises(grpc.RpcError):
            list(call)
    assert pair.destination.process.peak_rss_bytes() < 256 * MIB


def test_a_sender_that_falls_silent_is_given_up(impatient: agents.Pair) -> None:
    pair = impatient
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    migration_id = pair.start(vm_id, **SLOW)
    wait_for_progress(pair, migration_id)
    os.kill(pair.source.process.pid, 19)  # SIGSTOP
    try:
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while True:
            request = agent_pb2.GetTransferRequest(migration_id=migration_id)
            with contextlib.suppress(errors.NotFound):
                client.call(pair.destination.stub.GetTransfer, request)
                assert time.monotonic() < deadline
                time.sleep(0.1)
                continue
            break
    finally:
        os.kill(pair.source.process.pid, 18)  # SIGCONT
    failed = pair.source.wait_ended(migration_id)
    assert failed.state == agent_pb2.TRANSFER_STATE_FAILED
    assert failed.problem.retryable
    check_usable(pair, vm_id, migration_id)


def test_what_was_discarded_is_refused_from_then_on(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": Content(MIB, ((0, MIB),))})
    migration_id = str(uuid.uuid4())
    guest = client.call(
        pair.source.stub.HoldGuest,
        agent_pb2.HoldGuestRequest(vm_id=vm_id, migration_id=migration_id),
    ).guest
    discard = agent_pb2.DiscardIncomingRequest(migration_id=migration_id)
    client.call(pair.destination.stub.DiscardIncoming, discard)
    pair.start_again(migration_id, pair.grant(guest, migration_id))
    assert pair.source.wait_ended(migration_id).problem.reason == "MIGRATION_STATE"


def test_memory_stays_small_while_a_large_disk_crosses(pair: agents.Pair) -> None:
    """600 MiB of random data: far more than an agent may hold."""
    data = tuple((offset * 64 * MIB, 50 * MIB) for offset in range(12))
    vm_id = put_machine(pair.source.shelf, "large", {"vda": Content(12 * 64 * MIB, data)})
    pair.migrate(vm_id)
    for host in (pair.source, pair.destination):
        assert host.process.peak_rss_bytes() < 256 * MIB
