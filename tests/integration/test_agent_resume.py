"""After a crash the next attempt goes on: what was acknowledged is never sent again."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Federation
from tests.support import agents
from tests.support.shelves import KIB, MIB, Content, identical, put_machine
from watari.v1 import agent_pb2, common_pb2

DATA = 20 * MIB
DISK = Content(DATA, ((0, DATA),))
SLOW = {"limit_bytes_per_second": 5 * MIB}
MIDDLE = 6 * MIB
OPTIONS = "[agent.transfer]\nstall_seconds_max = 2"


@pytest.fixture
def pair(federation: Federation, tmp_path: Path) -> Iterator[agents.Pair]:
    yield from agents.pair(federation, tmp_path, source=OPTIONS, destination=OPTIONS)


class Moving:
    """One machine, whose attempts are interrupted."""

    def __init__(self, pair: agents.Pair, content: Content = DISK) -> None:
        self.pair = pair
        self.vm_id = put_machine(pair.source.shelf, "web", {"vda": content})
        self.original = pair.source.shelf / "vms" / "web" / "vda.raw"
        self.migration_id = pair.start(self.vm_id, **SLOW)

    def wait_done(self, done_bytes: int) -> int:
        """Waits for the middle of an attempt; what has been acknowledged by then."""
        return self.pair.source.wait_done(self.migration_id, done_bytes).progress.done_bytes

    def wait_failed(self) -> int:
        """Waits until the source gives an attempt up; what was acknowledged in it."""
        failed = self.pair.source.wait_ended(self.migration_id, 60)
        assert failed.state == agent_pb2.TRANSFER_STATE_FAILED
        assert failed.problem.retryable, failed.problem
        return failed.progress.done_bytes

    def crash(self, victim: str, done_bytes: int = MIDDLE) -> int:
        """kill -9 in the middle of an attempt, and a start; what was acknowledged before."""
        done = self.wait_done(done_bytes)
        process = getattr(self.pair, victim).process
        process.kill()
        process.start()
        return self.wait_failed() if victim == "destination" else done

    def start_again(self, **options: int) -> None:
        guest = self.pair.source.guest(self.vm_id)
        grant = self.pair.grant(guest, self.migration_id)
        self.pair.start_again(self.migration_id, grant, **options)

    def finish(self) -> common_pb2.Progress:
        """Another attempt, to the end; the disk has to be right."""
        self.start_again()
        transfer = self.pair.source.wait_ended(self.migration_id)
        assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem
        self.pair.activate(self.migration_id)
        assert identical(self.original, self.pair.destination.disk(self.vm_id, "vda"))
        return transfer.progress


def check_rest(progress: common_pb2.Progress, done: int, total: int = DATA) -> None:
    """Nothing that was acknowledged was sent again, and what was sent is counted as it is."""
    assert MIDDLE <= done < total
    assert progress.sent_bytes <= total - done
    assert progress.sent_bytes == progress.needed_bytes
    assert progress.deduplicated_bytes == total - progress.sent_bytes
    assert progress.wire_bytes < progress.sent_bytes + MIB


@pytest.mark.parametrize("victim", ["source", "destination"])
def test_what_was_acknowledged_before_kill_9_is_not_sent_again(
    pair: agents.Pair, victim: str
) -> None:
    moving = Moving(pair)
    done = moving.crash(victim)
    check_rest(moving.finish(), done)


def test_two_crashes_in_a_row_cost_no_more_than_one(pair: agents.Pair) -> None:
    moving = Moving(pair)
    first = moving.crash("destination")
    moving.start_again(**SLOW)
    second = moving.crash("source", first + 5 * MIB)
    assert second > first
    check_rest(moving.finish(), second)


def test_a_destination_that_crashes_again_as_it_resumes_loses_nothing(pair: agents.Pair) -> None:
    moving = Moving(pair)
    first = moving.crash("destination")
    process = pair.destination.process
    process.stop()
    process.start({"WATARI_FAILPOINTS": "agent.settling.recorded=kill"})
    moving.start_again()
    process.wait_killed(60)
    process.start()
    moving.wait_failed()
    check_rest(moving.finish(), first)


def test_both_agents_may_crash_at_once(pair: agents.Pair) -> None:
    moving = Moving(pair)
    done = moving.wait_done(MIDDLE)
    for host in (pair.source, pair.destination):
        host.process.kill()
    for host in (pair.source, pair.destination):
        host.process.start()
    check_rest(moving.finish(), done)


def test_after_silence_an_attempt_goes_on_where_it_was(pair: agents.Pair) -> None:
    """As when the network is lost for longer than an attempt waits."""
    moving = Moving(pair)
    moving.wait_done(MIDDLE)
    os.kill(pair.destination.process.pid, signal.SIGSTOP)
    try:
        done = moving.wait_failed()
    finally:
        os.kill(pair.destination.process.pid, signal.SIGCONT)
    check_rest(moving.finish(), done)


def test_holes_and_the_odd_tail_of_a_disk_are_resumed_too(pair: agents.Pair) -> None:
    size = 64 * MIB + 12_345
    tail = 5 * MIB + 12_345
    content = Content(size, ((3 * MIB + 999, 15 * MIB), (size - tail, tail)))
    moving = Moving(pair, content)
    held_in_holes = size - 15 * MIB - tail
    done = moving.crash("source", held_in_holes + MIDDLE)
    progress = moving.finish()
    assert progress.sent_bytes <= size - done
    assert progress.deduplicated_bytes >= MIDDLE - 128 * KIB


@pytest.mark.parametrize("size", [DATA - 64 * KIB, DATA + 64 * KIB])
def test_a_disk_of_another_size_begins_anew(pair: agents.Pair, size: int) -> None:
    moving = Moving(pair)
    moving.crash("source")
    os.truncate(moving.original, size)
    progress = moving.finish()
    assert progress.total_bytes == size
    assert progress.sent_bytes == min(size, DATA)
    assert progress.deduplicated_bytes == 0


def test_digests_under_another_key_are_not_gone_by(pair: agents.Pair) -> None:
    moving = Moving(pair)
    moving.wait_done(MIDDLE)
    pair.destination.process.kill()
    moving.wait_failed()
    (pair.destination.shelf / "seeds" / "scope-secret").unlink()
    pair.destination.process.start()
    progress = moving.finish()
    assert progress.sent_bytes == DATA
    assert progress.deduplicated_bytes == 0


def test_content_that_changed_between_two_attempts_is_sent_again(pair: agents.Pair) -> None:
    moving = Moving(pair)
    done = moving.crash("source")
    with moving.original.open("r+b") as disk:
        disk.write(b"changed")
        disk.seek(MIB)
        disk.write(bytes(MIB))
    progress = moving.finish()
    assert 64 * KIB <= progress.sent_bytes <= DATA - done + 64 * KIB
    assert progress.zero_bytes == MIB


def test_a_journal_that_is_gone_or_torn_costs_only_what_it_said(pair: agents.Pair) -> None:
    moving = Moving(pair)
    moving.wait_done(MIDDLE)
    pair.destination.process.kill()
    done = moving.wait_failed()
    journal = pair.destination.shelf / "incoming/.journals" / moving.migration_id / "vda"
    with journal.open("r+b") as file:
        file.write(b"torn" * 8)  # an entry that equals no digest
        file.seek(3 * 32)
        file.write(bytes(5 * 32))  # nothing is known of these
    pair.destination.process.start()
    progress = moving.finish()
    assert 6 * 64 * KIB <= progress.sent_bytes <= DATA - done + 6 * 64 * KIB
