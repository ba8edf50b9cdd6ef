"""Two agents far apart: losses and outages cost time, and never content."""

from collections.abc import Callable
from pathlib import Path

from agent.transfer.geometry import LEAF_BYTES
from bench.link import Link, Shape
from bench.methods import watari
from bench.methods.result import same
from bench.migration import Migration, new_machine
from tests.support.shelves import MIB, Content, write_disk
from watari.v1 import agent_pb2, common_pb2

MBIT = 1e6
SHAPE = Shape(60 * MBIT, 0.02)
DATA = 18 * MIB
SECONDS_MAX = 24.0
PATIENT = "[agent.transfer]\nstall_seconds_max = 20"
IMPATIENT = "[agent.transfer]\nstall_seconds_max = 1.5\nconnect_seconds_max = 1"


def machine(pair: watari.Hosts) -> tuple[Migration, Path]:
    """A machine at the source that is held, and its disk."""
    vm_id, disk = new_machine(pair[0], "web")
    write_disk(disk, Content(DATA + 2 * MIB, ((MIB, DATA),)))
    migration = Migration(*pair, vm_id)
    migration.hold()
    return migration, disk


def attempt(
    migration: Migration, seen: Callable[[common_pb2.Progress], None] = lambda _progress: None
) -> agent_pb2.Transfer:
    """One attempt to its end; `seen` is told of all progress on the way."""
    migration.start()
    last = agent_pb2.Transfer()
    for last in migration.watch(SECONDS_MAX):
        seen(last.progress)
    return last


class Outage:
    """Cuts a link once, as soon as a third has been settled."""

    def __init__(self, link: Link, seconds: float) -> None:
        self._link, self._seconds = link, seconds
        self.done_bytes = 0

    def __call__(self, progress: common_pb2.Progress) -> None:
        if not self.done_bytes and progress.done_bytes >= DATA // 3:
            self.done_bytes = progress.done_bytes
            self._link.outage(0, self._seconds)


def test_an_outage_of_seconds_is_waited_for_in_one_attempt(tmp_path: Path) -> None:
    with Link(SHAPE) as link, watari.hosts(link, tmp_path, PATIENT) as pair:
        migration, disk = machine(pair)
        outage = Outage(link, 3)
        transfer = attempt(migration, outage)
        assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem
        assert 0 < outage.done_bytes < DATA
        assert transfer.progress.attempt == 1
        assert transfer.progress.sent_bytes == DATA
        assert link.counters()["there"]["outage_dropped_segments"] > 0
        assert same(disk, migration.activate())


def test_an_outage_longer_than_an_attempt_waits_costs_nothing_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    with Link(SHAPE) as link, watari.hosts(link, tmp_path, IMPATIENT) as pair:
        migration, disk = machine(pair)
        failed = attempt(migration, Outage(link, 4))
        assert failed.state == agent_pb2.TRANSFER_STATE_FAILED
        assert failed.problem.retryable, failed.problem
        acknowledged = failed.progress.done_bytes
        assert DATA // 3 <= acknowledged < DATA + 2 * MIB
        while (transfer := attempt(migration)).state == agent_pb2.TRANSFER_STATE_FAILED:
            assert transfer.problem.retryable, transfer.problem
            assert transfer.progress.attempt < 12
        assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED
        assert transfer.progress.attempt > 1
        # Holes of whole parents are acknowledged too, those within one are told with its offer.
        assert transfer.progress.sent_bytes <= DATA + 2 * MIB - acknowledged
        assert same(disk, migration.activate())


def test_losses_are_survived(tmp_path: Path) -> None:
    with (
        Link(Shape(200 * MBIT, 0.02, loss=0.01)) as link,
        watari.hosts(link, tmp_path, PATIENT) as pair,
    ):
        migration, disk = machine(pair)
        transfer = attempt(migration)
        assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem
        assert link.counters()["there"]["lost_segments"] > 50
        assert transfer.progress.sent_bytes == DATA
        assert same(disk, migration.activate())


def test_losses_and_short_outages_together_are_survived(tmp_path: Path) -> None:
    with (
        Link(Shape(60 * MBIT, 0.02, loss=0.005)) as link,
        watari.hosts(link, tmp_path, PATIENT) as pair,
    ):
        migration, disk = machine(pair)
        for number in range(4):
            link.outage(0.6 * number + 0.3, 0.3)
        transfer = attempt(migration)
        assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem
        assert transfer.progress.attempt == 1
        assert same(disk, migration.activate())


def test_a_machine_that_comes_back_over_a_long_way_is_soon_there(tmp_path: Path) -> None:
    with Link(SHAPE) as link, watari.hosts(link, tmp_path, PATIENT) as pair:
        there, _ = machine(pair)
        assert attempt(there).state == agent_pb2.TRANSFER_STATE_SUCCEEDED
        arrived = there.activate()
        there.retire()
        with arrived.open("r+b") as disk:
            disk.seek(9 * MIB)
            disk.write(b"changed while it was away")
        back = Migration(pair[1], pair[0], there.vm_id, epoch=2)
        result = watari.measure(link, (pair[1], pair[0]), back, arrived)
    assert result.identical
    assert result.further["told_sent_bytes"] == LEAF_BYTES
    assert result.wire_bytes + result.back_bytes < DATA // 20
