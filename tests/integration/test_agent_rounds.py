"""A machine whose disks change while they are copied arrives as it was when it was stopped."""

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from agent.disks.view import OpenDisks
from agent.hypervisors import Guest
from agent.settings import Settings
from agent.transfer.jobs import Jobs
from tests.conftest import OSAKA, TOKYO, Federation
from tests.support import agents
from tests.support.disks import noise
from tests.support.running import Write, Written, no_hooks
from tests.support.shelves import MIB, Content, identical, put_machine
from watari import clock, errors
from watari.rpc import client
from watari.settings import IdentitySettings
from watari.v1 import agent_pb2, common_pb2

DISK = Content(48 * MIB, ((0, 20 * MIB), (30 * MIB, 10 * MIB)))
WRITES: dict[int, list[Write]] = {
    1: [(5 * MIB + 100, noise(3 * MIB, 1)), (46 * MIB, noise(4096, 2))],
    2: [(5 * MIB, bytes(MIB)), (25 * MIB, noise(200_000, 3))],
    3: [(0, noise(10, 4))],
}
"""Content in place of holes, zeros in place of content, and a few bytes at the very beginning."""


@pytest.fixture
def pair(federation: Federation, tmp_path: Path) -> Iterator[agents.Pair]:
    """The source's process is not used: its agent's parts run in the test's."""
    with ExitStack() as stack:
        hosts = agents.Pair(
            agents.AgentHost(federation, TOKYO, tmp_path / "tokyo"),
            agents.AgentHost(federation, OSAKA, tmp_path / "osaka"),
        )
        stack.callback(hosts.destination.close)
        stack.callback(hosts.source.channel.close)
        hosts.destination.process.start()
        yield hosts


class Sender:
    """The source's jobs over a shelf that changes."""

    def __init__(
        self,
        pair: agents.Pair,
        writes: dict[int, list[Write]],
        *,
        told: bool,
        kind: type[Written] = Written,
    ) -> None:
        self.pair = pair
        source = pair.source
        folder = source.federation.folder_of(source.spiffe_id)
        identity = IdentitySettings(folder / "cert.pem", folder / "key.pem", folder / "trust")
        settings = Settings(identity, "tokyo", "host1", source.manager_id, source.shelf)
        own = source.federation.party(source.spiffe_id)
        self.shelf = kind(source.shelf, writes, told=told)
        self.jobs = Jobs(self.shelf, no_hooks(), own, settings, clock.SystemClock())

    def migrate(self, vm_id: str, **options: int) -> agent_pb2.Transfer:
        """Holds, and sends until it has ended."""
        migration_id = str(uuid.uuid4())
        self.shelf.hold(vm_id, migration_id, common_pb2.MIGRATION_MODE_WARM)
        return self.attempt(vm_id, migration_id, **options)

    def attempt(self, vm_id: str, migration_id: str, **options: int) -> agent_pb2.Transfer:
        guest = agent_pb2.Guest(
            vm_id=vm_id,
            disks=[
                common_pb2.DiskSpec(
                    disk_id=disk.disk_id,
                    size_bytes=disk.size_bytes,
                    allocated_bytes=disk.allocated_bytes,
                )
                for disk in self.shelf.guest(vm_id).disks
            ],
        )
        request = agent_pb2.StartTransferRequest(
            migration_id=migration_id,
            vm_id=vm_id,
            grant=self.pair.grant(guest, migration_id),
            destination_control=self.pair.control,
            options=common_pb2.TransferOptions(**options),
            mode=common_pb2.MIGRATION_MODE_WARM,
        )
        self.jobs.start(request)
        deadline = time.monotonic() + 60
        while (transfer := self.jobs.get(migration_id).snapshot()).state not in agents.ENDED:
            assert time.monotonic() < deadline, transfer
            time.sleep(0.02)
        return transfer

    def close(self) -> None:
        self.jobs.close()
        self.shelf.close()


def disk_there(pair: agents.Pair, transfer: agent_pb2.Transfer) -> Path:
    """Where the disk is that arrived and is no machine yet."""
    return pair.destination.shelf / "incoming" / transfer.migration_id / "vda.raw"


@pytest.mark.parametrize("told", [True, False], ids=["changes are told", "changes are looked for"])
def test_a_disk_that_changes_meanwhile_arrives_as_it_is_at_the_end(
    pair: agents.Pair, told: bool
) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK, "vdb": Content(3 * MIB)})
    sender = Sender(pair, WRITES, told=told)
    try:
        transfer = sender.migrate(vm_id)
    finally:
        sender.close()
    assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem
    assert transfer.progress.last_round
    assert sender.shelf.views >= 2
    assert identical(pair.source.shelf / "vms" / "web" / "vda.raw", disk_there(pair, transfer))


def test_what_did_not_change_is_not_even_read(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    sender = Sender(pair, {2: [(9 * MIB, noise(50_000, 1))]}, told=True)
    try:
        transfer = sender.migrate(vm_id)
    finally:
        sender.close()
    assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem
    assert sender.shelf.views == 2
    assert transfer.progress.changed_bytes == 50_000
    assert transfer.progress.read_bytes <= 2 * 4 * MIB, "one parent, and its leaves once more"
    assert transfer.progress.wire_bytes < 300_000
    assert identical(pair.source.shelf / "vms" / "web" / "vda.raw", disk_there(pair, transfer))


def test_a_change_that_was_not_told_never_arrives_unnoticed(pair: agents.Pair) -> None:
    """A hypervisor that forgets a write would leave two halves of a disk: it has to come out."""
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    sender = Sender(pair, {}, told=True)
    disk = pair.source.shelf / "vms" / "web" / "vda.raw"

    def forget() -> None:
        incoming = pair.destination.shelf / "incoming"
        for journal in (incoming / ".journals").rglob("vda"):
            journal.unlink()
        with disk.open("r+b") as file:
            file.write(noise(100, 9))

    sender.shelf.before_quiesce = forget
    try:
        transfer = sender.migrate(vm_id)
        assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem
        # The session was open before: what it had promised to have it had.
        assert not identical(disk, disk_there(pair, transfer))
    finally:
        sender.close()


def test_a_receiver_that_lost_what_it_had_gets_everything_again(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    sender = Sender(pair, WRITES, told=True)
    seen = sender.shelf.running_view

    def lose(vm: str, migration_id: str, number: int):
        view = seen(vm, migration_id, number)
        if number == 2:
            pair.destination.process.kill()
            for each in (pair.destination.shelf / "incoming" / ".journals").rglob("vda"):
                each.write_bytes(bytes(each.stat().st_size))
            pair.destination.process.start()
        return view

    sender.shelf.running_view = lose  # type: ignore[method-assign]
    try:
        transfer = sender.migrate(vm_id)
        if transfer.state == agent_pb2.TRANSFER_STATE_FAILED:  # its connection was cut by the kill
            assert transfer.problem.retryable
            sender.shelf.views = 0
            sender.shelf.running_view = seen  # type: ignore[method-assign]
            transfer = sender.attempt(vm_id, transfer.migration_id)
    finally:
        sender.close()
    assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem
    assert identical(pair.source.shelf / "vms" / "web" / "vda.raw", disk_there(pair, transfer))


def test_a_round_that_is_cancelled_leaves_a_machine_that_can_be_moved_again(
    pair: agents.Pair,
) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    sender = Sender(pair, WRITES, told=True)
    migration_id = str(uuid.uuid4())
    seen = sender.shelf.running_view

    def cancel(vm: str, migration: str, number: int):
        if number == 2:
            sender.jobs.cancel(migration)
        return seen(vm, migration, number)

    sender.shelf.running_view = cancel  # type: ignore[method-assign]
    try:
        sender.shelf.hold(vm_id, migration_id, common_pb2.MIGRATION_MODE_WARM)
        transfer = sender.attempt(vm_id, migration_id)
        assert transfer.state == agent_pb2.TRANSFER_STATE_CANCELLED
        assert errors.from_problem(transfer.problem).reason == "CANCELLED"
        sender.shelf.unhold(vm_id, migration_id)
        sender.shelf.views, sender.shelf.running_view = 0, seen  # type: ignore[method-assign]
        again = sender.migrate(vm_id)
    finally:
        sender.close()
    assert again.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, again.problem


class Off(Written):
    """A machine that runs, until it powers itself off in round 2: nothing can be read any more."""

    runs = True
    stays = False
    """Whether it runs on all the same, so that the disks are broken indeed."""
    reads = True
    """Whether the view of round 2 can be opened, and fails in the middle."""

    def guest(self, vm_id: str) -> Guest:
        on = agent_pb2.GUEST_STATE_RUNNING
        found = super().guest(vm_id)
        return replace(found, state=on) if self.runs else found

    def running_view(self, vm_id: str, migration_id: str, number: int) -> OpenDisks:
        if not self.runs:
            return None  # type: ignore[return-value]
        if number == 1:
            return super().running_view(vm_id, migration_id, number)
        if not self.reads:
            self.break_off()
        found = super().running_view(vm_id, migration_id, number)
        for each in found.disks.values():
            each.reader.read = self.break_off  # type: ignore[method-assign]
        return found

    def break_off(self, *_: object) -> bytes:
        self.runs = self.stays
        raise errors.DataLoss("DISK_IO", "the export is gone")


@pytest.fixture
def off(pair: agents.Pair) -> Iterator[Sender]:
    sender = Sender(pair, WRITES, told=True, kind=Off)
    yield sender
    sender.close()


def shelf_of(sender: Sender) -> Off:
    assert isinstance(sender.shelf, Off)
    return sender.shelf


def test_a_guest_that_powers_itself_off_in_a_round_is_moved_by_the_next_attempt(
    pair: agents.Pair, off: Sender
) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    failed = off.migrate(vm_id)
    assert failed.state == agent_pb2.TRANSFER_STATE_FAILED
    assert (failed.problem.reason, failed.problem.retryable) == ("VM_NOT_RUNNING", True)
    transfer = off.attempt(vm_id, failed.migration_id)
    assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem
    assert not transfer.HasField("stopped_at")
    assert identical(pair.source.shelf / "vms" / "web" / "vda.raw", disk_there(pair, transfer))


def test_a_guest_that_powers_itself_off_between_two_rounds_is_moved_at_once(
    pair: agents.Pair, off: Sender
) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    shelf_of(off).reads = False
    transfer = off.migrate(vm_id)
    assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem
    assert identical(pair.source.shelf / "vms" / "web" / "vda.raw", disk_there(pair, transfer))


@pytest.mark.parametrize("reads", [True, False])
def test_a_round_that_cannot_be_read_while_the_machine_runs_fails_and_leaves_no_session(
    pair: agents.Pair, off: Sender, reads: bool
) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    shelf_of(off).reads, shelf_of(off).stays = reads, True
    failed = off.migrate(vm_id)
    assert failed.state == agent_pb2.TRANSFER_STATE_FAILED
    assert (failed.problem.reason, failed.problem.retryable) == ("DISK_IO", False)
    request = agent_pb2.GetTransferRequest(migration_id=failed.migration_id)
    with pytest.raises(errors.NotFound):
        client.call(pair.destination.stub.GetTransfer, request)
