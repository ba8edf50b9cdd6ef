"""What one machine of a host may not do to another, and an earlier copy not to a later one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import drivers
from tests.lab.conftest import MakeGuest
from tests.lab.drivers import COLD, STOP_SECONDS_MAX, Agent
from tests.lab.guests import Guest
from tests.lab.image import Image
from tests.lab.link import Lab
from tests.support.disks import run
from watari import errors
from watari.v1 import agent_pb2, common_pb2


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


def test_a_name_that_another_machine_has_is_refused_before_anything_moves(
    tokyo: Agent, osaka: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    here = make_guest(lab.osaka, name="db-1", disks={"vda": "raw"})
    coming = make_guest(lab.tokyo, name="db-1", disks={"vda": "raw"})
    definition = tokyo.driver.guest(coming.spec.vm_id).definition_xml
    disks = [common_pb2.DiskSpec(disk_id="vda", size_bytes=coming.spec.disk_bytes)]
    assert osaka.driver.version().startswith("QEMU ")
    found = osaka.driver.findings(definition, disks, COLD)
    assert [each.problem.metadata["requirement"] for each in found] == ["name"]
    assert found[0].severity == agent_pb2.SEVERITY_ERROR
    migration = drivers.new_id()
    tokyo.driver.hold(coming.spec.vm_id, migration, COLD)
    tokyo.driver.quiesce(coming.spec.vm_id, migration, 0)
    staging = osaka.stage(migration)
    copies: dict[str, bytearray] = {}
    with tokyo.driver.still_view(coming.spec.vm_id, migration) as view:
        drivers.copy_round(view, copies)
    guest = tokyo.driver.guest(coming.spec.vm_id)
    drivers.stage_copies(staging, guest.disks, copies)
    arrived = drivers.arrived(staging, coming.spec.vm_id, guest.definition_xml)
    with pytest.raises(errors.FailedPrecondition, match="HOST_INCOMPATIBLE"):
        osaka.driver.activate(arrived, provisional=True)
    assert osaka.driver.forget(migration)
    assert [each.vm_id for each in osaka.driver.guests()] == [here.spec.vm_id]


def test_a_retirement_that_is_repeated_leaves_alone_what_came_back(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest, migration = make_guest(lab.tokyo), drivers.new_id()
    vm_id = guest.spec.vm_id
    tokyo.driver.hold(vm_id, migration, COLD)
    tokyo.driver.quiesce(vm_id, migration, 0)
    first = tokyo.driver.retire(vm_id, migration)
    guest.define()
    assert tokyo.driver.retire(vm_id, migration) == first
    late = drivers.new_id()
    with pytest.raises(errors.NotFound, match="VM_NOT_FOUND"):
        tokyo.driver.retire(vm_id, late)
    assert [each.vm_id for each in tokyo.driver.guests()] == [vm_id]


def retired(agent: Agent, guest: Guest) -> str:
    """The migration that has taken a machine away, which was off."""
    migration = drivers.new_id()
    agent.driver.hold(guest.spec.vm_id, migration, COLD)
    agent.driver.quiesce(guest.spec.vm_id, migration, 0)
    agent.driver.retire(guest.spec.vm_id, migration)
    return migration


def test_a_machine_whose_disks_cannot_be_read_keeps_nothing_from_being_purged_but_its_own(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo)
    migration = retired(tokyo, guest)
    puzzling = make_guest(lab.tokyo, disks={"vda": "raw"})
    puzzling.disk("vda").unlink()
    puzzling.disk("vda").symlink_to(guest.disk("vda"))
    guest.disk("vda").rename(guest.disk("vda").with_suffix(".away"))
    assert tokyo.driver.guest(puzzling.spec.vm_id).problem is not None
    guest.disk("vda").with_suffix(".away").rename(guest.disk("vda"))
    broken = make_guest(lab.tokyo, disks={"vda": "raw"})
    broken.disk("vda").unlink()
    assert tokyo.driver.guest(broken.spec.vm_id).problem is not None
    tokyo.driver.purge(migration)
    assert guest.disk("vda").exists()
    assert not guest.disk("vdb").exists()


def test_what_lies_behind_a_disk_of_another_machine_is_not_purged(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo, disks={"vda": "raw", "vdb": "qcow2", "vdc": "raw"})
    other = make_guest(lab.tokyo, disks={"vda": "qcow2"})
    migration = retired(tokyo, guest)
    middle = other.disk("vda").with_name("middle.qcow2")
    create = ("qemu-img", "create", "-q", "-f", "qcow2")
    run(*create, "-F", "raw", "-b", guest.disk("vda"), middle)
    run(*create, "-F", "qcow2", "-b", "middle.qcow2", other.disk("vda"))
    tokyo.driver.purge(migration)
    assert guest.disk("vda").exists()
    assert not guest.disk("vdb").exists()


def test_nothing_is_purged_while_it_is_not_known_what_lies_behind_a_disk(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo)
    other = make_guest(lab.tokyo, disks={"vda": "qcow2"})
    migration = retired(tokyo, guest)
    good = other.disk("vda").rename(other.disk("vda").with_suffix(".good"))
    other.disk("vda").write_bytes(b"no image")
    with pytest.raises(errors.FailedPrecondition, match="VM_BUSY"):
        tokyo.driver.purge(migration)
    assert guest.disk("vda").exists()
    good.rename(other.disk("vda"))
    tokyo.driver.purge(migration)
    assert not guest.disk("vda").exists()


def test_a_disk_that_was_attached_to_a_machine_that_runs_keeps_it_here_and_is_not_purged(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest, other = make_guest(lab.tokyo), make_guest(lab.tokyo, disks={"vda": "raw"})
    migration = retired(tokyo, guest)
    vm_id, held = other.spec.vm_id, drivers.new_id()
    other.boot()
    tokyo.driver.hold(vm_id, held, COLD)
    attach = ("attach-disk", other.spec.name, guest.disk("vda"), "vdz", "--live")
    lab.tokyo.virsh(*attach, "--driver", "qemu", "--subdriver", "raw")
    with pytest.raises(errors.FailedPrecondition) as caught:
        tokyo.driver.quiesce(vm_id, held, STOP_SECONDS_MAX)
    assert caught.value.reason == "VM_NOT_MOVABLE"
    assert tokyo.driver.guest(vm_id).state == agent_pb2.GUEST_STATE_RUNNING
    tokyo.driver.unhold(vm_id, held)
    assert other.state() == "running"
    found = tokyo.driver.obstacles(vm_id, COLD)
    assert [each.problem.metadata["device"] for each in found] == ["disk vdz"]
    with pytest.raises(errors.FailedPrecondition, match="VM_NOT_MOVABLE"):
        tokyo.driver.hold(vm_id, drivers.new_id(), COLD)
    tokyo.driver.purge(migration)
    assert guest.disk("vda").exists()
    assert not guest.disk("vdb").exists()


def test_a_machine_that_something_starts_again_is_not_taken_for_one_that_stands_still(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest, migration = make_guest(lab.tokyo), drivers.new_id()
    vm_id = guest.spec.vm_id
    tokyo.driver.hold(vm_id, migration, COLD)
    tokyo.driver.quiesce(vm_id, migration, 0)
    guest.define()
    with pytest.raises(errors.FailedPrecondition, match="VM_RUNNING"):
        tokyo.driver.still_view(vm_id, migration)
