"""What libvirt's domains do is in the host's event log, once each, with why."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.events.log import EventLog
from agent.events.recorder import Recorder
from agent.settings import EventSettings
from tests.lab import drivers
from tests.lab.conftest import MakeGuest
from tests.lab.drivers import STOP_SECONDS_MAX, SUSPEND, Agent
from tests.lab.image import Image
from tests.lab.link import Lab
from tests.support.clouds import eventually
from watari.clock import SystemClock
from watari.v1 import agent_pb2

NO_LOOKS = 3600.0
"""What is recorded between two looks was told."""


@pytest.fixture
def tokyo(lab: Lab, lab_image: Image, tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(lab.tokyo, tmp_path / "agent-tokyo", lab_image)
    yield agent
    agent.driver.close()


@pytest.fixture
def osaka(lab: Lab, lab_image: Image, tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(lab.osaka, tmp_path / "agent-osaka", lab_image)
    yield agent
    agent.driver.close()


class Told:
    """An agent's log."""

    def __init__(self, agent: Agent, look_seconds: float) -> None:
        time = SystemClock()
        self.log = EventLog(agent.folder / "events", EventSettings(), time)
        self.recorder = Recorder(self.log, agent.driver, look_seconds, time)

    @property
    def events(self) -> list[agent_pb2.HostEvent]:
        """All of it."""
        return list(self.log.read("", 0, 0, 1000).events)

    @property
    def said(self) -> list[tuple[str, str]]:
        """What and why."""
        return [
            (
                agent_pb2.HostEventKind.Name(each.kind).removeprefix("HOST_EVENT_KIND_"),
                each.reason,
            )
            for each in self.events
        ]

    def wait(self, *expected: tuple[str, str]) -> None:
        """Until that much is there, and it is that."""
        eventually(lambda: len(self.said) >= len(expected), f"{expected} is recorded")
        assert self.said == list(expected)


@contextmanager
def recording(agent: Agent, look_seconds: float = NO_LOOKS) -> Iterator[Told]:
    """Within the block the agent records."""
    told = Told(agent, look_seconds)
    with told.recorder:
        yield told
    told.log.close()


def test_starts_and_stops_of_a_domain_are_recorded_once_each_with_why(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    with recording(tokyo) as told:
        guest = make_guest(lab.tokyo, tenant="acme")
        told.wait(("APPEARED", ""))
        guest.boot()
        told.wait(("APPEARED", ""), ("STARTED", "booted"))
        guest.shutdown()
        told.wait(("APPEARED", ""), ("STARTED", "booted"), ("STOPPED", "shut down"))
        tokyo.driver.start(guest.spec.vm_id)
        guest.destroy()
        expected = [
            ("APPEARED", ""),
            ("STARTED", "booted"),
            ("STOPPED", "shut down"),
            ("STARTED", "booted"),
            ("STOPPED", "forced off"),
        ]
        told.wait(*expected)
        told.recorder.look()
        lab.tokyo.virsh("undefine", guest.spec.name)
        told.wait(*expected, ("REMOVED", ""))
        told.recorder.look()
        assert len(told.said) == 6
        assert {(each.tenant, each.resources.vcpus > 0) for each in told.events} == {("acme", True)}
        assert not any(each.inferred for each in told.events)


def test_a_change_of_a_definition_is_recorded_as_a_resize(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    with recording(tokyo, 0.2) as told:  # libvirt does not tell of it
        guest = make_guest(lab.tokyo)
        told.wait(("APPEARED", ""))
        lab.tokyo.virsh("setvcpus", guest.spec.name, "3", "--config", "--maximum")
        lab.tokyo.virsh("setvcpus", guest.spec.name, "3", "--config")
        told.wait(("APPEARED", ""), ("RESIZED", ""))
        assert told.events[1].resources.vcpus == 3
        assert told.events[1].resources_before.vcpus == 1


def test_what_libvirt_did_not_tell_is_found_when_it_is_back(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo)
    guest.boot()
    with recording(tokyo, 0.2) as told:
        told.wait(("APPEARED", ""), ("STARTED", ""))
        assert all(each.inferred for each in told.events)
        lab.tokyo.kill_libvirtd()
        lab.tokyo.start_libvirtd()
        eventually(lambda: guest.state() == "running", "libvirtd knows it again")
        told.recorder.look()
        assert len(told.said) == 2
    guest.destroy()
    with recording(tokyo) as told:
        told.wait(("APPEARED", ""), ("STARTED", ""), ("STOPPED", ""))
        stop = told.events[-1]
        assert stop.inferred
        assert stop.looked_before_at.ToDatetime() < stop.occurred_at.ToDatetime()
        guest.boot()
        eventually(lambda: len(told.said) == 4, "it is told again")
        assert told.said[-1] == ("STARTED", "booted")


def test_a_machine_that_moves_with_its_memory_is_in_both_logs(
    tokyo: Agent, osaka: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest, migration = make_guest(lab.tokyo), drivers.new_id()
    vm_id = guest.spec.vm_id
    guest.boot()
    with recording(tokyo) as left, recording(osaka) as came:
        tokyo.driver.hold(vm_id, migration, SUSPEND)
        tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
        held = tokyo.driver.guest(vm_id)
        copies: dict[str, bytearray] = {}
        with tokyo.driver.still_view(vm_id, migration) as view:
            drivers.copy_round(view, copies)
        staging = osaka.stage(migration)
        drivers.stage_copies(staging, held.disks, copies)
        arrived = drivers.arrived(staging, vm_id, held.definition_xml)
        osaka.driver.activate(arrived, provisional=True)
        osaka.driver.prepare(vm_id)
        osaka.driver.start(vm_id, migration)
        tokyo.driver.retire(vm_id, migration)
        left.recorder.noticed(vm_id)
        left.wait(("APPEARED", ""), ("STARTED", ""), ("STOPPED", "memory saved"), ("DEPARTED", ""))
        came.wait(("ARRIVED", ""), ("STARTED", "restored from saved memory"))
        ids = [each.migration_id for each in (*left.events[2:], came.events[0])]
        assert ids == [migration] * 3
        for log in (left, came):
            log.recorder.look()
        assert len(left.said) == 4
        assert len(came.said) == 2
        disks = {each.resources.disk_bytes for each in (*left.events, *came.events)}
        assert disks == {sum(each.size_bytes for each in held.disks if not each.kind)}
