"""The libvirt driver where somebody else starts what a migration moves, or orders come late."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.hypervisors import Guest as Machine
from tests.lab import console, drivers
from tests.lab.conftest import MakeGuest
from tests.lab.drivers import COLD, STOP_SECONDS_MAX, SUSPEND, Agent
from tests.lab.guests import Guest
from tests.lab.image import Image
from tests.lab.kills import Killed, killed_at
from tests.lab.link import Lab
from watari import errors
from watari.v1 import agent_pb2

RUNNING = agent_pb2.GUEST_STATE_RUNNING
PAUSED = agent_pb2.GUEST_STATE_PAUSED
OFF = agent_pb2.GUEST_STATE_SHUT_OFF


@pytest.fixture
def tokyo(lab: Lab, lab_image: Image, tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(lab.tokyo, tmp_path / "agent-tokyo", lab_image)
    yield agent
    agent.driver.close()


@pytest.fixture
def osaka(
    lab: Lab, lab_image: Image, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Agent]:
    disk_format = getattr(request, "param", "raw")
    agent = Agent(lab.osaka, tmp_path / "agent-osaka", lab_image, disk_format)
    yield agent
    agent.driver.close()


def moved(
    source: Agent, target: Agent, guest: Guest, mode: int, *, provisional: bool = True
) -> tuple[str, Machine]:
    """A machine that ran, activated at the target; the migration that brought it."""
    vm_id, migration = guest.spec.vm_id, drivers.new_id()
    guest.boot()
    source.driver.hold(vm_id, migration, mode)
    found = source.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
    copies: dict[str, bytearray] = {}
    with source.driver.still_view(vm_id, migration) as view:
        drivers.copy_round(view, copies)
    staging = target.stage(migration)
    drivers.stage_copies(staging, found.disks, copies, target.options.disk_format)
    arrived = drivers.arrived(staging, vm_id, found.definition_xml)
    return migration, target.driver.activate(arrived, provisional=provisional)


def boots(*consoles: console.Console) -> int:
    """How often the machine booted, which must not have lost or repeated anything."""
    said = [event for each in consoles for event in each.events()]
    assert console.problems(said) == []
    return len([each for each in said if isinstance(each, console.Boot)])


@pytest.mark.parametrize("osaka", ["raw", "qcow2"], indirect=True)
def test_memory_that_arrived_is_not_loaded_over_disks_that_were_written_to_since(
    tokyo: Agent, osaka: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo)
    migration, machine = moved(tokyo, osaka, guest, SUSPEND)
    memory = osaka.folder / "machines" / migration / "memory.raw"
    there = osaka.console(migration)
    lab.osaka.virsh("start", guest.spec.name)
    there.wait_ack()
    lab.osaka.virsh("destroy", guest.spec.name)
    with pytest.raises(errors.FailedPrecondition) as caught:
        osaka.driver.prepare(machine.vm_id)
    assert caught.value.reason == "VM_LIFECYCLE_FAILED"
    assert memory.exists(), "its source can have it all back"
    osaka.driver.start(machine.vm_id, migration)
    assert not memory.exists()
    there.wait_ack()
    assert boots(guest.console, there) == 3


def test_memory_that_arrived_is_dropped_when_the_machine_is_seen_running(
    tokyo: Agent, osaka: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo, disks={"vda": "raw"})
    migration, machine = moved(tokyo, osaka, guest, SUSPEND)
    lab.osaka.virsh("start", guest.spec.name)
    assert osaka.driver.prepare(machine.vm_id).state == RUNNING
    assert not (osaka.folder / "machines" / migration / "memory.raw").exists()


@pytest.mark.parametrize("osaka", ["raw", "qcow2"], indirect=True)
def test_memory_is_loaded_once_more_when_the_host_lost_power_before_the_machine_ran(
    tokyo: Agent, osaka: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo)
    migration, machine = moved(tokyo, osaka, guest, SUSPEND)
    assert osaka.driver.prepare(machine.vm_id).state == PAUSED
    lab.osaka.virsh("destroy", guest.spec.name)
    osaka.crash()
    assert osaka.driver.prepare(machine.vm_id).state == PAUSED
    osaka.driver.start(machine.vm_id, migration)
    there = osaka.console(migration)
    there.wait_ack()
    assert boots(guest.console, there) == 1


@pytest.mark.parametrize("ended_by", ["unhold", "quiesce"])
def test_saved_memory_is_not_loaded_once_somebody_has_let_the_machine_run(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest, ended_by: str
) -> None:
    """The agent dies after the save and before libvirt does not know the machine any more."""
    guest, migration = make_guest(lab.tokyo), drivers.new_id()
    vm_id = guest.spec.vm_id
    guest.boot()
    tokyo.driver.hold(vm_id, migration, SUSPEND)
    number = 0
    while lab.tokyo.virsh("domstate", guest.spec.name).strip() == "running":
        with killed_at(number), pytest.raises(Killed):
            tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
        number += 1
        tokyo.crash()
    assert list((tokyo.folder / "held").glob("*.memory"))
    guest.boot()
    guest.destroy()
    if ended_by == "quiesce":
        with pytest.raises(errors.FailedPrecondition) as caught:
            tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
        assert caught.value.reason == "VM_LIFECYCLE_FAILED"
        assert tokyo.driver.guest(vm_id).state == RUNNING
    tokyo.driver.unhold(vm_id, migration)
    guest.console.wait_ack()
    assert boots(guest.console) == 3
    assert not list((tokyo.folder / "held").iterdir())


def test_saved_memory_does_not_cross_with_disks_that_were_written_to_since(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest, migration = make_guest(lab.tokyo), drivers.new_id()
    vm_id = guest.spec.vm_id
    guest.boot()
    tokyo.driver.hold(vm_id, migration, SUSPEND)
    tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
    guest.define()
    guest.boot()
    guest.destroy()
    lab.tokyo.virsh("undefine", guest.spec.name)
    with pytest.raises(errors.FailedPrecondition) as caught:
        tokyo.driver.still_view(vm_id, migration)
    assert caught.value.reason == "VM_LIFECYCLE_FAILED"
    tokyo.driver.unhold(vm_id, migration)
    guest.console.wait_ack()
    assert boots(guest.console) == 3


@pytest.mark.parametrize("prepared", [False, True])
def test_a_machine_that_was_given_back_is_deleted_though_somebody_has_started_it(
    tokyo: Agent, osaka: Agent, lab: Lab, make_guest: MakeGuest, prepared: bool
) -> None:
    guest = make_guest(lab.tokyo, disks={"vda": "raw"})
    migration, machine = moved(tokyo, osaka, guest, COLD)
    if prepared:
        osaka.driver.prepare(machine.vm_id)
    lab.osaka.virsh("resume" if prepared else "start", guest.spec.name)
    assert osaka.driver.guest(machine.vm_id).state == RUNNING
    assert osaka.driver.forget(migration)
    assert lab.osaka.virsh("list", "--all", "--name") == ""
    assert not list((osaka.folder / "machines").iterdir())
    tokyo.driver.unhold(machine.vm_id, migration)
    guest.console.wait_ack()
    assert boots(guest.console) == 2


def test_a_machine_that_libvirt_refuses_can_be_forgotten_though_it_was_to_stay(
    tokyo: Agent, osaka: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest, migration = make_guest(lab.tokyo, disks={"vda": "raw"}), drivers.new_id()
    vm_id = guest.spec.vm_id
    staging = osaka.stage(migration)
    shutil.copyfile(guest.disk("vda"), staging / f"vda.{osaka.options.disk_format}")
    xml = tokyo.driver.guest(vm_id).definition_xml
    strange = drivers.arrived(staging, vm_id, xml.replace("machine='pc", "machine='strange"))
    for _ in range(2):
        with pytest.raises(errors.FailedPrecondition) as caught:
            osaka.driver.activate(strange, provisional=False)
        assert caught.value.reason == "VM_LIFECYCLE_FAILED"
    assert osaka.driver.forget(migration)
    assert not list((osaka.folder / "machines").iterdir())
    staging = osaka.stage(migration)
    shutil.copyfile(guest.disk("vda"), staging / f"vda.{osaka.options.disk_format}")
    osaka.driver.activate(drivers.arrived(staging, vm_id, xml), provisional=False)
    assert not osaka.driver.forget(migration)


def test_a_machine_that_its_owner_stopped_is_not_forgotten_any_more(
    tokyo: Agent, osaka: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo, disks={"vda": "raw"})
    migration, machine = moved(tokyo, osaka, guest, COLD)
    osaka.driver.prepare(machine.vm_id)
    assert osaka.driver.stop(machine.vm_id, 0, epoch=2).state == OFF
    assert not osaka.driver.forget(migration)
    assert osaka.driver.prepare(machine.vm_id).state == OFF, "it is to be off"
    assert osaka.driver.start(machine.vm_id, migration, 2).state == OFF, "overruled"
    osaka.driver.start(machine.vm_id, epoch=2)
    osaka.console(migration).wait_ack()


def test_a_machine_that_is_provisional_is_started_by_those_alone_who_know_of_it(
    tokyo: Agent, osaka: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo, disks={"vda": "raw"})
    migration, machine = moved(tokyo, osaka, guest, COLD)
    for named, epoch, reason in (
        ("", 0, "VM_BUSY"),
        (drivers.new_id(), 0, "VM_BUSY"),
        (migration, 3, "EPOCH_MISMATCH"),
        ("", 1, "EPOCH_MISMATCH"),
    ):
        with pytest.raises(errors.FailedPrecondition) as caught:
            osaka.driver.start(machine.vm_id, named, epoch)
        assert caught.value.reason == reason
        assert osaka.driver.guest(machine.vm_id).state == OFF
    assert osaka.driver.start(machine.vm_id, migration, 2).state == RUNNING


def test_a_machine_that_was_put_back_by_hand_keeps_its_files_when_its_copy_expires(
    tokyo: Agent, lab: Lab, lab_image: Image, make_guest: MakeGuest, tmp_path: Path
) -> None:
    (tmp_path / "linked").symlink_to(tmp_path)
    osaka = Agent(lab.osaka, tmp_path / "linked" / "agent-osaka", lab_image)
    guest = make_guest(lab.tokyo, disks={"vda": "raw"})
    _brought, machine = moved(tokyo, osaka, guest, COLD, provisional=False)
    disk, vm_id = machine.disks[0].path, machine.vm_id
    definition = tmp_path / "definition.xml"
    definition.write_text(machine.definition_xml)
    taken = [drivers.new_id(), drivers.new_id()]
    for migration in taken:
        osaka.driver.hold(vm_id, migration, COLD)
        osaka.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
        osaka.driver.retire(vm_id, migration)
        lab.osaka.virsh("define", definition)
    for migration in taken:
        osaka.driver.purge(migration)
        assert disk.exists()
    lab.osaka.virsh("undefine", guest.spec.name, "--keep-nvram")
    osaka.driver.close()


def test_a_copy_that_expires_takes_no_file_of_a_later_one(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo, disks={"vda": "raw"})
    vm_id, first, second = guest.spec.vm_id, drivers.new_id(), drivers.new_id()
    for migration in (first, second):
        tokyo.driver.hold(vm_id, migration, COLD)
        tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
        tokyo.driver.retire(vm_id, migration)
        if migration == first:
            guest.define()
    tokyo.driver.purge(first)
    assert guest.disk("vda").exists()
    tokyo.driver.purge(second)
    assert not guest.disk("vda").exists()
