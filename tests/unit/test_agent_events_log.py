"""The host's event log: durable at every kill, bounded, and never silently less than it was."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.events.comparing import OFF, Machine
from agent.events.log import ASIDE, FILE, EventLog
from agent.settings import EventSettings
from watari import clock, errors
from watari.v1 import agent_pb2

NOW = datetime(2026, 1, 1, tzinfo=UTC)
VM = "6f1f2d2e-0000-4000-8000-000000000001"
WEB = Machine(VM, "web", "acme", OFF, 2, 1 << 30, 4 << 30)
LIMIT = 1000

APPENDING = """
import sys
from pathlib import Path
from datetime import UTC, datetime
from agent.events.log import EventLog
from agent.settings import EventSettings
from watari import clock
from watari.v1 import agent_pb2
log = EventLog(Path(sys.argv[1]), EventSettings(), clock.SystemClock())
while True:
    event = agent_pb2.HostEvent(kind=agent_pb2.HOST_EVENT_KIND_STARTED, vm_id="x")
    event.occurred_at.FromDatetime(datetime.now(UTC))
    log.append([event], {})
    print(event.sequence, flush=True)
"""


def opened(folder: Path, time: clock.Clock | None = None, **values: int) -> EventLog:
    """A log."""
    return EventLog(folder, EventSettings(**values), time or clock.FakeClock())


def event(name: str = "", at: datetime = NOW) -> agent_pb2.HostEvent:
    """One that can be told from others."""
    made = agent_pb2.HostEvent(kind=agent_pb2.HOST_EVENT_KIND_STARTED, vm_id=VM, reason=name)
    made.occurred_at.FromDatetime(at)
    return made


def sequences(log: EventLog, log_id: str = "", after: int = 0) -> list[int]:
    """The numbers of what is there."""
    return [each.sequence for each in log.read(log_id, after, 0, LIMIT).events]


def test_entries_and_machines_are_there_after_a_restart(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append([event("a"), event("b")], {VM: WEB}, NOW)
    before = log.read("", 0, 0, LIMIT)
    log.close()
    again = opened(tmp_path)
    assert again.read("", 0, 0, LIMIT) == before
    assert [each.reason for each in before.events] == ["a", "b"]
    assert (before.first, before.last) == (1, 2)
    assert dict(again.machines) == {VM: WEB}
    assert again.looked_at == NOW
    again.append([event()], {VM: None})
    assert sequences(again) == [1, 2, 3]
    assert not again.machines


def test_a_reader_goes_on_where_it_was_and_gets_pages(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append([event() for _ in range(5)], {})
    log_id = log.read("", 0, 0, 1).log_id
    assert [each.sequence for each in log.read(log_id, 2, 0, 2).events] == [3, 4]
    assert sequences(log, log_id, 5) == []


def test_what_is_acknowledged_is_kept_for_its_time_and_then_dropped(tmp_path: Path) -> None:
    time = clock.FakeClock(NOW)
    log = opened(tmp_path, time, kept_seconds=60)
    log.append([event(at=NOW), event(at=NOW), event(at=NOW)], {})
    log_id = log.read("", 0, 0, 1).log_id
    assert log.read(log_id, 1, 1, LIMIT).first == 1
    time.advance(61)
    page = log.read(log_id, 2, 2, LIMIT)
    assert (page.first, page.last, [each.sequence for each in page.events]) == (3, 3, [3])
    page = log.read(log_id, 3, 3, LIMIT)
    assert (page.first, page.last, list(page.events)) == (4, 3, [])
    log.append([event()], {})
    assert sequences(log, log_id, 3) == [4]


def test_what_is_not_acknowledged_stays_however_old_it_is(tmp_path: Path) -> None:
    time = clock.FakeClock(NOW)
    log = opened(tmp_path, time, kept_seconds=0)
    log.append([event(), event()], {})
    time.advance(10**9)
    log_id = log.read("", 0, 0, 1).log_id
    assert log.read(log_id, 0, 1, LIMIT).first == 2


def test_beyond_the_limit_the_oldest_go_and_the_reader_can_tell(tmp_path: Path) -> None:
    log = opened(tmp_path, entries_max=1000)
    for _ in range(3):
        log.append([event() for _ in range(500)], {})
    page = log.read("", 0, 0, LIMIT)
    assert (page.first, page.last) == (501, 1500)
    assert page.events[0].sequence == 501


def test_another_log_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append([event(), event()], {})
    other = "6f1f2d2e-0000-4000-8000-00000000000b"
    assert sequences(log, other, 2) == [1, 2]


@pytest.mark.parametrize("seen", ["read", "acknowledged"])
def test_a_log_that_was_set_back_begins_anew_under_another_identity(
    tmp_path: Path, seen: str
) -> None:
    log = opened(tmp_path / "now")
    log.append([event("kept")], {VM: WEB}, NOW)
    log.close()
    shutil.copytree(tmp_path / "now", tmp_path / "backup")
    log = opened(tmp_path / "now")
    log_id = log.read("", 0, 0, 1).log_id
    log.append([event("lost")], {})
    log.close()
    log = opened(tmp_path / "backup")
    position = (2, 0) if seen == "read" else (0, 2)
    page = log.read(log_id, *position, LIMIT)
    assert page.log_id != log_id
    assert (page.first, page.last, list(page.events)) == (1, 0, [])
    assert not log.machines
    assert log.looked_at is None
    assert (tmp_path / "backup" / ASIDE).is_file()


@pytest.mark.parametrize("damage", [b"not a database at all", b""])
def test_a_log_that_cannot_be_read_is_put_aside_and_another_begun(
    tmp_path: Path, damage: bytes
) -> None:
    log = opened(tmp_path)
    log.append([event()], {VM: WEB})
    log_id = log.read("", 0, 0, 1).log_id
    log.close()
    (tmp_path / FILE).write_bytes(damage)
    again = opened(tmp_path)
    page = again.read(log_id, 1, 1, LIMIT)
    assert page.log_id != log_id
    assert not again.machines
    assert page.last == 0


def test_a_log_whose_storage_fails_is_put_aside_and_another_begun(tmp_path: Path) -> None:
    # The kernel answers EIO to whoever reads or writes there: there is no memory at address 0.
    (tmp_path / FILE).symlink_to("/proc/self/mem")
    log = opened(tmp_path)
    log.append([event()], {})
    assert sequences(log) == [1]
    assert (tmp_path / ASIDE).is_symlink()
    assert not (tmp_path / FILE).is_symlink()


def test_a_log_that_cannot_be_put_aside_says_that_the_storage_is_at_fault(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database at all")
    (tmp_path / ASIDE / "in the way").mkdir(parents=True)
    with pytest.raises(errors.DataLoss) as caught:
        opened(tmp_path)
    assert caught.value.reason == "DISK_IO"


def test_a_reader_waits_for_an_entry_and_gets_it_at_once(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append([event()], {})
    log_id = log.read("", 0, 0, 1).log_id
    threading.Timer(0.1, lambda: log.append([event()], {})).start()
    page = log.read(log_id, 1, 1, LIMIT, wait_seconds_max=30.0)
    assert [each.sequence for each in page.events] == [2]
    assert not log.read(log_id, 2, 2, LIMIT, wait_seconds_max=0.01).events


def test_a_reader_that_waits_is_let_go_when_the_agent_stops(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log_id = log.read("", 0, 0, 1).log_id
    threading.Timer(0.1, log.close).start()
    with pytest.raises(errors.Unavailable):
        log.read(log_id, 0, 0, LIMIT, wait_seconds_max=60.0)


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append([event("a")], {VM: WEB})
    (pages,) = log._database.execute("PRAGMA page_count").fetchone()
    log._database.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(errors.Exhausted) as caught:
        log.append([event("x" * 10_000)], {VM: None})
    assert caught.value.reason == "DISK_FULL"
    assert dict(log.machines) == {VM: WEB}
    log._database.execute("PRAGMA max_page_count=1000000")
    log.append([event("b")], {VM: None})
    assert [each.reason for each in log.read("", 0, 0, LIMIT).events] == ["a", "b"]


@pytest.fixture(scope="module")
def journalled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 20 entries, most of them in its journal, as a killed process leaves it."""
    folder, copy = tmp_path_factory.mktemp("log"), tmp_path_factory.mktemp("copy") / "log"
    log = opened(folder)
    for number in range(20):
        log.append([event(str(number))], {VM: WEB})
    shutil.copytree(folder, copy)
    log.close()
    (copy / f"{FILE}-shm").unlink()
    return copy


@settings(max_examples=150, deadline=None)
@given(share=st.floats(0, 1))
def test_a_journal_that_is_cut_at_any_byte_leaves_a_beginning_of_the_log(
    journalled: Path, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    folder = tmp_path_factory.mktemp("cut") / "log"
    shutil.copytree(journalled, folder)
    journal = folder / f"{FILE}-wal"
    content = journal.read_bytes()
    journal.write_bytes(content[: int(share * len(content))])
    log = opened(folder)
    found = log.read("", 0, 0, LIMIT)
    assert [each.reason for each in found.events] == [str(each) for each in range(found.last)]
    assert (found.last == 20) == (share == 1.0)
    log.append([event("next")], {})
    assert sequences(log)[-1] == found.last + 1
    log.close()


def test_no_entry_is_lost_or_numbered_twice_when_the_process_is_killed(tmp_path: Path) -> None:
    told = list[int]()
    for round_ in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", APPENDING, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        told += [int(child.stdout.readline()) for _ in range(1 + round_)]
        time.sleep(0.01 * round_)
        child.send_signal(signal.SIGKILL)
        told += [int(line) for line in child.stdout.read().split("\n")[:-1]]
        child.wait()
        child.stdout.close()
    assert told == sorted(set(told)), "a number was given out twice"
    log, found, log_id = opened(tmp_path), list[int](), ""
    while page := log.read(log_id, len(found), 0, LIMIT).events:
        log_id = log.read("", 0, 0, 1).log_id
        found += [each.sequence for each in page]
    assert found == list(range(1, len(found) + 1))
    assert set(told) <= set(found)
    assert len(told) > 8
