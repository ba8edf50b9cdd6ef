"""What a host records of what it is told and what it finds, over a real shelf and a real log."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path

import pytest

from agent.events import recorder as recording
from agent.events.log import EventLog
from agent.events.recorder import Recorder
from agent.hypervisors import Arrived, Change, Guest
from agent.hypervisors.shelf import Shelf
from agent.settings import EventSettings
from tests.support.clouds import eventually
from tests.support.shelves import MIB, Content, put_machine
from watari import clock, errors
from watari.v1 import agent_pb2

MIGRATION = "6f1f2d2e-0000-4000-8000-00000000000a"
BACK = "6f1f2d2e-0000-4000-8000-00000000000b"
DISK = {"vda": Content(4 * MIB, ((0, MIB),))}


class Lively(Shelf):
    """Whose machines run when the test says so."""

    def __init__(self, folder: Path, time: clock.Clock) -> None:
        super().__init__(folder, time, 3600)
        self.running: set[str] = set()
        self.broken = False
        self.on_list: Callable[[], None] = lambda: None
        self.changed: Callable[[Change], None] = lambda _change: None

    def follow(self, changed: Callable[[Change], None]) -> None:
        self.changed = changed

    def guests(self) -> Sequence[Guest]:
        if self.broken:
            raise errors.Unavailable("HYPERVISOR_UNAVAILABLE", "away")
        found = [self._live(each) for each in super().guests()]
        self.on_list()
        return found

    def guest(self, vm_id: str) -> Guest:
        return self._live(super().guest(vm_id))

    def _live(self, guest: Guest) -> Guest:
        if guest.vm_id not in self.running:
            return guest
        return replace(guest, state=agent_pb2.GUEST_STATE_RUNNING)


class Host:
    """A shelf with its log, which can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = clock.FakeClock()
        self.shelf = Lively(folder, self.clock)
        self.start()

    def start(self) -> None:
        """As the agent does, without its thread."""
        self.log = EventLog(self.folder / "events", EventSettings(), self.clock)
        self.recorder = Recorder(self.log, self.shelf, 5.0, self.clock)
        self.shelf.follow(self.recorder.told)
        self.recorder.look()

    def restart(self) -> None:
        """Again."""
        self.log.close()
        self.start()

    @property
    def events(self) -> list[agent_pb2.HostEvent]:
        """All of the log."""
        return list(self.log.read("", 0, 0, 1000).events)

    @property
    def kinds(self) -> list[str]:
        """All of the log, by name."""
        return [
            agent_pb2.HostEventKind.Name(each.kind).removeprefix("HOST_EVENT_KIND_")
            for each in self.events
        ]

    def tell(self, vm_id: str, *, runs: bool | None = None, reason: str = "") -> None:
        """A change happens now, and is told."""
        if runs is not None:
            (self.shelf.running.add if runs else self.shelf.running.discard)(vm_id)
        self.shelf.changed(Change(vm_id, self.clock.now(), runs, reason))

    def put(self, name: str = "web") -> str:
        """A machine on the shelf."""
        return put_machine(self.folder, name, DISK)

    def arrive(self, vm_id: str, xml: str, migration_id: str, epoch: int) -> None:
        """A machine comes by migration."""
        staging = self.folder / "incoming" / migration_id
        staging.mkdir(parents=True)
        (staging / "vda.raw").write_bytes(bytes(MIB))
        self.shelf.activate(Arrived(staging, vm_id, xml, epoch, "tokyo"), provisional=False)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """An empty one."""
    yield (made := Host(tmp_path))
    made.log.close()
    made.shelf.close()


def test_what_is_found_is_recorded_once_with_when_it_was_looked_before(host: Host) -> None:
    before = host.clock.now()
    host.clock.advance(5)
    vm_id = host.put()
    host.recorder.look()
    host.recorder.look()
    host.restart()
    (event,) = host.events
    assert (event.kind, event.vm_id, event.vm_name) == (
        agent_pb2.HOST_EVENT_KIND_APPEARED,
        vm_id,
        "web",
    )
    assert event.inferred
    assert event.occurred_at.ToDatetime(UTC) == before + timedelta(seconds=5)
    assert event.looked_before_at.ToDatetime(UTC) == before
    assert event.resources.disk_bytes == DISK["vda"].size


def test_what_is_told_is_recorded_with_its_own_instant_and_reason(host: Host) -> None:
    vm_id = host.put()
    host.recorder.look()
    host.clock.advance(1)
    started = host.clock.now()
    host.tell(vm_id, runs=True, reason="booted")
    host.clock.advance(10)
    host.tell(vm_id, runs=False, reason="crashed")
    host.clock.advance(10)
    host.recorder.look()
    assert host.kinds == ["APPEARED", "STARTED", "STOPPED"]
    _, start, stop = host.events
    assert (start.reason, stop.reason) == ("booted", "crashed")
    assert start.occurred_at.ToDatetime(UTC) == started
    assert stop.occurred_at.ToDatetime(UTC) == started + timedelta(seconds=10)
    assert not start.inferred
    assert not start.HasField("looked_before_at")


def test_a_change_that_is_told_again_or_late_is_recorded_once(host: Host) -> None:
    vm_id = host.put()
    host.tell(vm_id, runs=True)
    host.recorder.look()
    host.tell(vm_id, runs=True)
    host.recorder.look()
    assert host.kinds == ["APPEARED", "STARTED"]


def test_a_look_leaves_to_the_hypervisor_what_it_tells_meanwhile(host: Host) -> None:
    vm_id = host.put()
    host.recorder.look()
    host.shelf.running.add(vm_id)
    host.shelf.on_list = lambda: host.tell(vm_id, runs=True, reason="booted")
    host.recorder.look()  # lists the machine as running
    host.shelf.on_list = lambda: None
    host.recorder.look()
    assert host.kinds == ["APPEARED", "STARTED"]
    assert host.events[-1].reason == "booted"
    assert not host.events[-1].inferred


def test_a_look_that_began_before_an_arrival_does_not_undo_it(host: Host) -> None:
    vm_id = host.put()
    xml = host.shelf.guest(vm_id).definition_xml
    host.shelf.hold(vm_id, MIGRATION)
    host.shelf.retire(vm_id, MIGRATION)

    def arrive() -> None:
        host.shelf.on_list = lambda: None
        host.arrive(vm_id, xml, BACK, 3)
        host.recorder.noticed(vm_id)

    host.shelf.on_list = arrive
    host.recorder.look()  # lists nothing
    host.recorder.look()
    assert host.kinds == ["ARRIVED"]


def test_a_restart_of_a_machine_is_told_in_full_although_it_looks_the_same(host: Host) -> None:
    vm_id = host.put()
    host.tell(vm_id, runs=True)
    host.recorder.look()
    host.tell(vm_id, runs=False)
    host.tell(vm_id, runs=True)
    host.recorder.look()
    assert host.kinds == ["APPEARED", "STARTED", "STOPPED", "STARTED"]


def test_what_happened_while_the_agent_was_away_is_inferred(host: Host) -> None:
    vm_id = host.put()
    host.tell(vm_id, runs=True)
    host.recorder.look()
    looked = host.clock.now()
    host.log.close()
    host.shelf.running.clear()
    host.clock.advance(3600)
    host.start()
    stop = host.events[-1]
    assert stop.kind == agent_pb2.HOST_EVENT_KIND_STOPPED
    assert stop.inferred
    assert stop.occurred_at.ToDatetime(UTC) == looked + timedelta(hours=1)
    assert stop.looked_before_at.ToDatetime(UTC) == looked


def test_how_long_nobody_looked_is_known_within_a_minute(host: Host) -> None:
    host.put()
    host.recorder.look()
    for _ in range(30):
        host.clock.advance(5)
        host.recorder.look()
    looked = host.clock.now()
    host.restart()
    assert host.log.looked_at is not None
    assert (looked - host.log.looked_at).total_seconds() < recording.LOOK_SAVED_SECONDS


def test_a_hypervisor_that_is_away_takes_no_machine_with_it(host: Host) -> None:
    vm_id = host.put()
    host.tell(vm_id, runs=True)
    host.recorder.look()
    host.shelf.broken = True
    host.recorder.look()
    host.restart()
    assert host.kinds == ["APPEARED", "STARTED"]


def test_a_machine_leaves_and_comes_back_by_migrations(host: Host) -> None:
    vm_id = host.put()
    host.recorder.look()
    xml = host.shelf.guest(vm_id).definition_xml
    host.shelf.hold(vm_id, MIGRATION)
    host.shelf.retire(vm_id, MIGRATION)
    host.recorder.noticed(vm_id)
    host.arrive(vm_id, xml, BACK, 3)
    host.recorder.noticed(vm_id)
    host.recorder.noticed(vm_id)
    host.recorder.look()
    assert host.kinds == ["APPEARED", "DEPARTED", "ARRIVED"]
    assert [each.migration_id for each in host.events] == ["", MIGRATION, BACK]
    assert [each.inferred for each in host.events] == [True, False, False]
    # What is retained of its first stay does not make a removal a departure.
    host.shelf.forget(BACK)
    (host.folder / "vms" / vm_id / "domain.xml").unlink()
    host.recorder.look()
    assert host.kinds[-1] == "REMOVED"


def test_a_departure_that_could_not_be_recorded_is_found_by_looking(host: Host) -> None:
    vm_id = host.put()
    host.recorder.look()
    host.shelf.hold(vm_id, MIGRATION)
    host.shelf.retire(vm_id, MIGRATION)
    host.restart()
    assert host.kinds == ["APPEARED", "DEPARTED"]
    assert host.events[-1].migration_id == MIGRATION
    assert host.events[-1].inferred


def test_a_definition_that_cannot_be_read_for_a_while_removes_nothing(host: Host) -> None:
    host.put()
    host.recorder.look()
    path = host.folder / "vms" / "web" / "domain.xml"
    good = path.read_text()
    path.write_text("<domain>")
    host.recorder.look()
    path.write_text(good)
    host.recorder.look()
    assert host.kinds == ["APPEARED"]


def test_more_disk_is_recorded_as_a_resize(host: Host) -> None:
    host.put()
    host.recorder.look()
    with (host.folder / "vms" / "web" / "vda.raw").open("r+b") as disk:
        disk.truncate(8 * MIB)
    host.recorder.look()
    assert host.kinds == ["APPEARED", "RESIZED"]
    event = host.events[-1]
    assert event.resources_before.disk_bytes == 4 * MIB
    assert event.resources.disk_bytes == 8 * MIB


def test_more_changes_than_fit_are_left_to_the_next_look(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = host.put("web"), host.put("db")
    host.recorder.look()
    monkeypatch.setattr(recording, "CHANGES_MAX", 1)
    host.tell(first, runs=True, reason="booted")
    host.tell(second, runs=True, reason="booted")
    host.recorder.look()
    host.recorder.look()
    starts = host.events[2:]
    assert {(each.vm_id, each.reason) for each in starts} == {(first, "booted"), (second, "")}


def test_what_a_transfer_moved_is_recorded_with_whose_machine_it_was(host: Host) -> None:
    vm_id = host.put()
    host.recorder.look()
    sent = agent_pb2.HostEvent(
        kind=agent_pb2.HOST_EVENT_KIND_SENT, vm_id=vm_id, raw_bytes=5, wire_bytes=3, reason="x" * 99
    )
    host.recorder.moved(sent)
    event = host.events[-1]
    assert (event.vm_name, event.tenant, event.raw_bytes, event.wire_bytes) == (
        "web",
        "default",
        5,
        3,
    )
    assert len(event.reason) == recording.REASON_CHARS_MAX


def test_a_log_that_cannot_be_written_keeps_nothing_from_going_on(host: Host) -> None:
    vm_id = host.put()
    host.log._database.execute("PRAGMA query_only=1")
    host.recorder.look()
    host.recorder.noticed(vm_id)
    host.recorder.moved(agent_pb2.HostEvent(kind=agent_pb2.HOST_EVENT_KIND_SENT, vm_id=vm_id))
    assert host.kinds == []
    host.log._database.execute("PRAGMA query_only=0")
    host.recorder.look()
    assert host.kinds == ["APPEARED"]


def test_its_thread_records_what_is_told_without_waiting_for_a_look(tmp_path: Path) -> None:
    time = clock.SystemClock()
    shelf = Lively(tmp_path, time)
    log = EventLog(tmp_path / "events", EventSettings(), time)
    vm_id = put_machine(tmp_path, "web", DISK)
    with Recorder(log, shelf, 3600.0, time):
        shelf.running.add(vm_id)
        shelf.changed(Change(vm_id, time.now(), runs=True, reason="booted"))
        eventually(lambda: log.read("", 0, 0, 9).last == 2, "it is recorded")
    with Recorder(log, shelf, 0.05, time):
        shelf.running.clear()
        eventually(lambda: log.read("", 0, 0, 9).last == 3, "a look finds it")
    log.close()
    shelf.close()
