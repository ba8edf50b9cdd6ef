"""The libvirt driver against real libvirtds: machines stop, move, run on, and come back."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.disks import open_reader
from agent.hypervisors import Guest as Machine
from tests.lab import console, drivers
from tests.lab.conftest import MakeGuest
from tests.lab.drivers import COLD, STOP_SECONDS_MAX, SUSPEND, WARM, Agent
from tests.lab.guests import Guest
from tests.lab.image import Image
from tests.lab.link import Lab
from watari import errors
from watari.v1 import agent_pb2, common_pb2

RUNNING = agent_pb2.GUEST_STATE_RUNNING
PAUSED = agent_pb2.GUEST_STATE_PAUSED
OFF = agent_pb2.GUEST_STATE_SHUT_OFF


@pytest.fixture
def tokyo(lab: Lab, lab_image: Image, tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(lab.tokyo, tmp_path / "agent-tokyo", lab_image)
    yield agent
    agent.driver.close()


@pytest.fixture(params=["raw", "qcow2"])
def osaka(
    lab: Lab, lab_image: Image, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Agent]:
    agent = Agent(lab.osaka, tmp_path / "agent-osaka", lab_image, request.param)
    yield agent
    agent.driver.close()


def move(source: Agent, target: Agent, vm_id: str, migration: str) -> Machine:
    """Copies a machine that stands still, and activates it provisionally."""
    guest = source.driver.guest(vm_id)
    copies: dict[str, bytearray] = {}
    with source.driver.still_view(vm_id, migration) as view:
        drivers.copy_round(view, copies)
    staging = target.stage(migration)
    drivers.stage_copies(staging, guest.disks, copies, target.options.disk_format)
    arrived = drivers.arrived(staging, vm_id, guest.definition_xml)
    return target.driver.activate(arrived, provisional=True)


@pytest.mark.parametrize("mode", [COLD, SUSPEND])
def test_a_machine_goes_on_at_the_other_host_and_loses_nothing(
    tokyo: Agent, osaka: Agent, lab: Lab, make_guest: MakeGuest, mode: int
) -> None:
    guest, migration = make_guest(lab.tokyo), drivers.new_id()
    vm_id = guest.spec.vm_id
    guest.boot()
    held = tokyo.driver.hold(vm_id, migration, mode)
    assert held.state == RUNNING
    assert tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX).stopped_by_hold
    assert lab.tokyo.virsh("list", "--all", "--name").split() == []
    assert [each.vm_id for each in tokyo.driver.guests()] == [vm_id]
    assert [d.size_bytes for d in tokyo.driver.guest(vm_id).disks] == [
        d.size_bytes for d in held.disks
    ]
    specs = [
        common_pb2.DiskSpec(disk_id=each.disk_id, size_bytes=each.size_bytes, kind=each.kind)
        for each in held.disks
    ]
    fatal = [
        each
        for each in osaka.driver.findings(held.definition_xml, specs, mode)
        if each.severity == agent_pb2.SEVERITY_ERROR
    ]
    assert fatal == []
    assert move(tokyo, osaka, vm_id, migration).state == OFF
    assert osaka.driver.prepare(vm_id).state == PAUSED
    assert osaka.driver.prepare(vm_id).state == PAUSED
    there = osaka.console(migration)
    assert there.events() == []
    assert osaka.driver.start(vm_id, migration).state == RUNNING
    there.wait_ack()
    assert not osaka.driver.forget(migration)
    assert not list((osaka.folder / "machines" / migration).glob("memory*"))
    before = guest.console.events()
    said = [*before, *there.events()]
    assert console.problems(said) == []
    assert len([e for e in said if isinstance(e, console.Boot)]) == (1 if mode == SUSPEND else 2)
    kept = tokyo.driver.retire(vm_id, migration)
    assert tokyo.driver.retire(vm_id, migration) == kept
    assert tokyo.driver.guests() == []
    assert set(tokyo.driver.earlier(vm_id)) == {"vda", "vdb"}
    assert not list((tokyo.folder / "held").iterdir())
    # And back, while the earlier copy is still there.
    back = drivers.new_id()
    assert osaka.driver.guest(vm_id).epoch == 2
    osaka.driver.hold(vm_id, back, COLD)
    osaka.driver.quiesce(vm_id, back, STOP_SECONDS_MAX)
    move(osaka, tokyo, vm_id, back)
    tokyo.driver.purge(migration)
    assert not guest.disk("vda").exists()
    tokyo.driver.prepare(vm_id)
    tokyo.driver.start(vm_id, back)
    tokyo.console(back).wait_ack()
    assert console.problems([*before, *there.events(), *tokyo.console(back).events()]) == []
    osaka.driver.retire(vm_id, back)
    osaka.driver.purge(back)
    assert not list((osaka.folder / "machines").iterdir())
    assert tokyo.driver.stop(vm_id, STOP_SECONDS_MAX).state == OFF


@pytest.mark.parametrize("mode", [COLD, SUSPEND, WARM])
def test_a_machine_whose_migration_is_called_off_is_as_before(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest, mode: int
) -> None:
    guest, migration = make_guest(lab.tokyo), drivers.new_id()
    vm_id = guest.spec.vm_id
    guest.boot()
    lab.tokyo.virsh("autostart", guest.spec.name)
    before = lab.tokyo.virsh("dumpxml", "--inactive", guest.spec.name)
    tokyo.driver.hold(vm_id, migration, mode)
    tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
    at = time.time()
    assert abs(tokyo.driver.guest(vm_id).stopped_at_seconds - at) < STOP_SECONDS_MAX
    tokyo.driver.unhold(vm_id, migration, epoch=5)
    guest.console.wait_ack()
    assert console.problems(guest.console.events()) == []
    assert len(guest.console.boots()) == (1 if mode == SUSPEND else 2)
    assert lab.tokyo.virsh("dumpxml", "--inactive", guest.spec.name) == before
    assert "Autostart: enable" in " ".join(lab.tokyo.virsh("dominfo", guest.spec.name).split())
    found = tokyo.driver.guest(vm_id)
    assert (found.held_by, found.epoch, found.state) == ("", 5, RUNNING)
    assert not list((tokyo.folder / "held").iterdir())
    tokyo.driver.unhold(vm_id, migration)


def test_a_machine_that_is_off_stays_off(tokyo: Agent, lab: Lab, make_guest: MakeGuest) -> None:
    guest, migration = make_guest(lab.tokyo, disks={"vda": "raw"}), drivers.new_id()
    vm_id = guest.spec.vm_id
    with pytest.raises(errors.FailedPrecondition) as caught:
        tokyo.driver.hold(vm_id, migration, SUSPEND)
    assert caught.value.reason == "VM_NOT_RUNNING"
    tokyo.driver.hold(vm_id, migration, COLD)
    for again in (tokyo.driver.hold, tokyo.driver.retire):
        with pytest.raises(errors.FailedPrecondition) as caught:
            again(vm_id, drivers.new_id())
        assert caught.value.reason == "VM_BUSY"
    assert tokyo.driver.running_view(vm_id, migration, 1) is None
    assert not tokyo.driver.quiesce(vm_id, migration, 0).stopped_by_hold
    with pytest.raises(errors.FailedPrecondition) as caught:
        tokyo.driver.start(vm_id)
    assert caught.value.reason == "VM_BUSY"
    tokyo.driver.unhold(vm_id, migration)
    assert tokyo.driver.guest(vm_id).state == OFF


def test_a_guest_that_does_not_listen_is_forced(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest, migration = make_guest(lab.tokyo, disks={"vda": "qcow2"}), drivers.new_id()
    vm_id = guest.spec.vm_id
    guest.start()  # its firmware does not know the power button
    tokyo.driver.hold(vm_id, migration, COLD)
    began = time.monotonic()
    assert tokyo.driver.quiesce(vm_id, migration, 0.2).stopped_by_hold
    assert time.monotonic() - began < STOP_SECONDS_MAX


def test_what_never_ran_is_forgotten_and_the_source_goes_on(
    tokyo: Agent, osaka: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest, migration = make_guest(lab.tokyo), drivers.new_id()
    vm_id = guest.spec.vm_id
    guest.boot()
    tokyo.driver.hold(vm_id, migration, SUSPEND)
    tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
    move(tokyo, osaka, vm_id, migration)
    osaka.driver.prepare(vm_id)
    with pytest.raises(errors.FailedPrecondition) as caught:
        osaka.driver.hold(vm_id, drivers.new_id(), COLD)
    assert caught.value.reason == "VM_BUSY"
    assert osaka.driver.forget(migration)
    assert osaka.driver.forget(migration)
    assert osaka.driver.arrived_by(migration) is None
    assert osaka.driver.guests() == []
    assert not list((osaka.folder / "machines").iterdir())
    tokyo.driver.unhold(vm_id, migration)
    guest.console.wait_ack()
    assert console.problems(guest.console.events()) == []
    assert len(guest.console.boots()) == 1


def test_a_memory_that_cannot_be_loaded_is_told_and_can_be_forgotten(
    tokyo: Agent, osaka: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest, migration = make_guest(lab.tokyo, disks={"vda": "raw"}), drivers.new_id()
    vm_id = guest.spec.vm_id
    guest.boot()
    tokyo.driver.hold(vm_id, migration, SUSPEND)
    tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
    move(tokyo, osaka, vm_id, migration)
    with (osaka.folder / "machines" / migration / "memory.raw").open("r+b") as file:
        file.seek(64 * 1024)
        file.write(b"\xff" * 65536)
    with pytest.raises(errors.FailedPrecondition) as caught:
        osaka.driver.prepare(vm_id)
    assert caught.value.reason == "VM_LIFECYCLE_FAILED"
    assert not caught.value.retryable
    assert osaka.driver.forget(migration)
    assert lab.osaka.virsh("list", "--all", "--name") == ""


def test_disks_are_kept_for_their_time_and_devices_for_ever(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest, migration = make_guest(lab.tokyo), drivers.new_id()
    vm_id = guest.spec.vm_id
    linked = guest.disk("vda").with_name("elsewhere.img")
    guest.disk("vda").rename(linked)
    guest.disk("vda").symlink_to(linked)
    tokyo.driver.hold(vm_id, migration, COLD)
    tokyo.driver.quiesce(vm_id, migration, 0)
    tokyo.driver.retire(vm_id, migration)
    tokyo.driver.purge_expired()
    assert [each.migration_id for each in tokyo.driver.retained()] == [migration]
    assert {each.disk.path for each in tokyo.driver.stored()} == {linked, guest.disk("vdb")}
    guest.define()  # somebody gives the files to a machine again
    tokyo.driver.purge(migration)
    assert linked.exists()
    assert guest.disk("vdb").exists()
    assert tokyo.driver.retained() == []


def test_a_disk_reads_the_same_by_the_driver_and_by_itself(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo)
    view = tokyo.driver.glimpse(guest.spec.vm_id)
    assert view is not None
    with view, open_reader(guest.disk("vdb"), "qcow2") as reader:
        assert view.disks["vdb"].reader.read(0, reader.size) == reader.read(0, reader.size)
    assert isinstance(guest, Guest)
