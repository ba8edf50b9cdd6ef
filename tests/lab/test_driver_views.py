"""Views of disks in use: rounds and the changes that they tell are the stopped disk."""

import time
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from agent.disks.view import DiskView
from tests.lab import console, drivers
from tests.lab.conftest import MakeGuest
from tests.lab.drivers import STOP_SECONDS_MAX, WARM, Agent
from tests.lab.guests import Guest
from tests.lab.image import Image
from tests.lab.link import Lab
from watari import errors

BUSY = {"dirty_mbps": 4, "dirty_mb": 32, "dirty_disk": "vdb"}
SECOND = 1.0


@pytest.fixture
def tokyo(lab: Lab, lab_image: Image, tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(lab.tokyo, tmp_path / "agent-tokyo", lab_image)
    yield agent
    agent.driver.close()


def view(agent: Agent, vm_id: str, migration: str, number: int) -> DiskView:
    found = agent.driver.running_view(vm_id, migration, number)
    assert found is not None
    return found


def round_of(
    agent: Agent, vm_id: str, migration: str, number: int, copies: dict[str, bytearray]
) -> dict[str, bool]:
    """Copies one round; tells of which disks the changes were told."""
    with view(agent, vm_id, migration, number) as found:
        told = {key: each.changed is not None for key, each in found.disks.items()}
        drivers.copy_round(found, copies)
    return told


def check_still(
    agent: Agent, vm_id: str, migration: str, copies: dict[str, bytearray]
) -> dict[str, bool]:
    """With the last changes the copies are the disks."""
    with agent.driver.still_view(vm_id, migration) as found:
        told = {key: each.changed is not None for key, each in found.disks.items()}
        drivers.copy_round(found, copies)
        whole: dict[str, bytearray] = {}
        drivers.copy_round(found, whole, whole=True)
    assert {key for key in whole if copies[key] != whole[key]} == set()
    return told


def busy_guest(make_guest: MakeGuest, lab: Lab) -> Guest:
    guest = make_guest(lab.tokyo, parameters=BUSY)
    guest.boot()
    return guest


def test_rounds_and_the_last_changes_are_the_stopped_disk(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest, migration = busy_guest(make_guest, lab), drivers.new_id()
    vm_id, copies = guest.spec.vm_id, dict[str, bytearray]()
    tokyo.driver.hold(vm_id, migration, WARM)
    assert round_of(tokyo, vm_id, migration, 1, copies) == {"vda": False, "vdb": False}
    for number in (2, 3):
        time.sleep(SECOND)
        assert round_of(tokyo, vm_id, migration, number, copies) == {"vda": False, "vdb": True}
    time.sleep(SECOND)
    tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
    assert check_still(tokyo, vm_id, migration, copies) == {"vda": False, "vdb": True}
    tokyo.driver.unhold(vm_id, migration)
    guest.console.wait_ack()
    assert console.problems(guest.console.events()) == []
    assert no_marks(lab, guest)


def no_marks(lab: Lab, guest: Guest) -> bool:
    """Whether nothing of our bitmaps and checkpoints is left."""
    said = lab.tokyo.run(["qemu-img", "info", "-U", guest.disk("vdb")]).stdout
    listed = lab.tokyo.virsh("checkpoint-list", "--name", guest.spec.name)
    return "watari-" not in said + listed


def test_a_round_is_one_moment_while_the_guest_writes_on(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest, migration = busy_guest(make_guest, lab), drivers.new_id()
    vm_id = guest.spec.vm_id
    tokyo.driver.hold(vm_id, migration, WARM)
    with view(tokyo, vm_id, migration, 1) as found:
        first: dict[str, bytearray] = {}
        drivers.copy_round(found, first)
        guest.console.wait_ack()
        time.sleep(SECOND)
        second: dict[str, bytearray] = {}
        drivers.copy_round(found, second)
        assert first == second
        assert not any(each.live for each in found.disks.values())
    assert not list((tokyo.folder / "views").iterdir())
    tokyo.driver.unhold(vm_id, migration)
    assert no_marks(lab, guest)


def test_a_glimpse_changes_nothing_of_what_rounds_tell(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest, migration = busy_guest(make_guest, lab), drivers.new_id()
    vm_id, copies = guest.spec.vm_id, dict[str, bytearray]()
    tokyo.driver.hold(vm_id, migration, WARM)
    round_of(tokyo, vm_id, migration, 1, copies)
    time.sleep(SECOND)
    glimpse = tokyo.driver.glimpse(vm_id)
    assert glimpse is not None
    with glimpse:
        assert glimpse.disks["vdb"].reader.read(0, 4096)
    with view(tokyo, vm_id, migration, 2) as found:
        assert tokyo.driver.glimpse(vm_id) is None
        drivers.copy_round(found, copies)
    tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
    check_still(tokyo, vm_id, migration, copies)


def test_an_agent_that_was_killed_with_a_view_open_goes_on_with_the_next(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest, migration = busy_guest(make_guest, lab), drivers.new_id()
    vm_id, copies = guest.spec.vm_id, dict[str, bytearray]()
    tokyo.driver.hold(vm_id, migration, WARM)
    left = view(tokyo, vm_id, migration, 1)
    drivers.copy_round(left, copies)
    driver = tokyo.crash()
    time.sleep(SECOND)
    assert round_of(tokyo, vm_id, migration, 2, copies) == {"vda": False, "vdb": True}
    left.close()
    left = view(tokyo, vm_id, migration, 3)
    drivers.copy_round(left, copies)
    driver = tokyo.crash()
    driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
    assert check_still(tokyo, vm_id, migration, copies) == {"vda": False, "vdb": True}
    left.close()


def test_libvirtd_killed_during_a_view_takes_nothing_with_it(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest, migration = busy_guest(make_guest, lab), drivers.new_id()
    vm_id, copies = guest.spec.vm_id, dict[str, bytearray]()
    tokyo.driver.hold(vm_id, migration, WARM)
    with view(tokyo, vm_id, migration, 1) as found:
        lab.tokyo.kill_libvirtd()
        drivers.copy_round(found, copies)  # QEMU serves it, and runs on
        with pytest.raises(errors.Unavailable) as caught:
            tokyo.driver.guest(vm_id)
        assert caught.value.reason == "HYPERVISOR_UNAVAILABLE"
        assert caught.value.retryable
    lab.tokyo.start_libvirtd()
    guest.console.wait_ack()
    time.sleep(SECOND)
    round_of(tokyo, vm_id, migration, 2, copies)
    time.sleep(SECOND)
    tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
    check_still(tokyo, vm_id, migration, copies)
    lab.tokyo.kill_libvirtd()
    lab.tokyo.start_libvirtd()
    assert tokyo.driver.guest(vm_id).stopped_by_hold
    tokyo.driver.unhold(vm_id, migration)
    guest.console.wait_ack()
    assert console.problems(guest.console.events()) == []


def test_changes_are_not_known_when_qemu_was_killed(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest, migration = busy_guest(make_guest, lab), drivers.new_id()
    vm_id, copies = guest.spec.vm_id, dict[str, bytearray]()
    tokyo.driver.hold(vm_id, migration, WARM)
    round_of(tokyo, vm_id, migration, 1, copies)
    time.sleep(SECOND)
    lab.tokyo.run(["pkill", "-KILL", "-f", f"guest={guest.spec.name},"])
    guest.wait_state("shut off", STOP_SECONDS_MAX)
    tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
    assert check_still(tokyo, vm_id, migration, copies) == {"vda": False, "vdb": False}


def await_no_backup(domain: libvirt.virDomain) -> None:
    """A job that was aborted ends a moment later."""
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while time.monotonic() < deadline:
        try:
            domain.backupGetXMLDesc(0)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_BACKUP:
                return
            raise
        time.sleep(0.1)
    raise AssertionError("the backup goes on")


def test_another_programs_backup_is_left_alone(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest, tmp_path: Path
) -> None:
    guest, migration = busy_guest(make_guest, lab), drivers.new_id()
    vm_id = guest.spec.vm_id
    connection = libvirt.open(lab.tokyo.uri)
    try:
        domain = connection.lookupByUUIDString(vm_id)
        mark = "<domaincheckpoint><name>nightly</name></domaincheckpoint>"
        job = (
            f"<domainbackup mode='pull'><server transport='unix' socket='{tmp_path}/s'/><disks>"
            f"<disk name='vda' backup='no'/><disk name='vdb' backup='yes' type='file'>"
            f"<scratch file='{tmp_path}/scratch'/></disk></disks></domainbackup>"
        )
        mark = (
            "<domaincheckpoint><name>nightly</name><disks><disk name='vda' checkpoint='no'/>"
            "<disk name='vdb' checkpoint='bitmap'/></disks></domaincheckpoint>"
        )
        domain.backupBegin(job, mark)
        tokyo.driver.hold(vm_id, migration, WARM)
        with pytest.raises(errors.FailedPrecondition) as caught:
            tokyo.driver.running_view(vm_id, migration, 1)
        assert caught.value.reason == "VM_BUSY"
        domain.abortJob()
        await_no_backup(domain)
    finally:
        connection.close()
    copies: dict[str, bytearray] = {}
    round_of(tokyo, vm_id, migration, 1, copies)
    tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
    check_still(tokyo, vm_id, migration, copies)
    tokyo.driver.unhold(vm_id, migration)
    assert lab.tokyo.virsh("checkpoint-list", "--name", guest.spec.name).split() == ["nightly"]
    assert no_marks(lab, guest)
