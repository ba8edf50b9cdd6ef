"""The shelf: machines are read as they are, change by whole steps, and never reach outside."""

import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path

import pytest

from agent import files
from agent.hypervisors import Arrived, domain
from agent.hypervisors.shelf import Shelf, staged_disk
from tests.support.shelves import MIB, Content, definition, put_machine, write_disk
from watari import errors
from watari.clock import FakeClock

MIGRATION = str(uuid.uuid4())
OTHER = str(uuid.uuid4())


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def shelf(tmp_path: Path, clock: FakeClock) -> Shelf:
    return Shelf(tmp_path, clock, retention_seconds=3600)


def machine(shelf_folder: Path, name: str = "web") -> str:
    return put_machine(shelf_folder, name, {"vda": Content(MIB, ((0, 5000),)), "vdb": Content(7)})


def test_machines_are_listed_by_name_with_what_their_definition_says(
    shelf: Shelf, tmp_path: Path
) -> None:
    machine(tmp_path, "zeta")
    vm_id = put_machine(tmp_path, "alpha", {"vda": Content(MIB)}, tenant="acme")
    first, second = shelf.guests()
    assert (first.name, second.name) == ("alpha", "zeta")
    assert first.vm_id == vm_id
    assert (first.vcpus, first.memory_bytes, first.tenant) == (2, 512 * MIB, "acme")
    assert [(disk.disk_id, disk.size_bytes) for disk in second.disks] == [("vda", MIB), ("vdb", 7)]
    assert first.problem is None


def test_a_machine_that_is_still_being_put_there_is_not_seen(shelf: Shelf, tmp_path: Path) -> None:
    machine(tmp_path, ".partial")
    assert shelf.guests() == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("/etc/passwd", "IMAGE_UNREADABLE"),
        ("../other/vda.raw", "IMAGE_UNREADABLE"),
        ("missing.raw", "IMAGE_UNREADABLE"),
        ("link.raw", "IMAGE_UNREADABLE"),
        ("closed.raw", "IMAGE_UNREADABLE"),
    ],
)
def test_a_disk_that_is_not_a_readable_file_of_the_machine_is_a_problem(
    shelf: Shelf, tmp_path: Path, source: str, reason: str
) -> None:
    machine(tmp_path, "other")
    folder = tmp_path / "vms" / "web"
    folder.mkdir()
    (folder / "link.raw").symlink_to("/etc/passwd")
    (folder / "closed.raw").mkdir()
    vm_id = str(uuid.uuid4())
    (folder / "domain.xml").write_text(definition(vm_id, "web", {"vda": source}))
    guest = shelf.guest(vm_id)
    assert guest.problem is not None
    assert guest.problem.reason == reason
    with pytest.raises(errors.FailedPrecondition) as caught:
        shelf.hold(vm_id, MIGRATION)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "text",
    [
        "not xml",
        "<domain/>",
        "<!DOCTYPE d [<!ENTITY a 'b'>]><domain/>",
        definition("no-uuid", "web", {}),
        definition(str(uuid.uuid4()), "a/b", {}),
        definition(str(uuid.uuid4()), "web", {"../x": "vda.raw"}),
        definition(str(uuid.uuid4()), "web", {}).replace("512", "lots"),
        "<domain>" + " " * domain.DEFINITION_BYTES_MAX + "</domain>",
        "\udcff",
    ],
)
def test_an_unreadable_definition_is_listed_with_its_problem(
    shelf: Shelf, tmp_path: Path, text: str
) -> None:
    machine(tmp_path, "good")
    folder = tmp_path / "vms" / "bad"
    folder.mkdir()
    (folder / "domain.xml").write_bytes(text.encode(errors="surrogateescape"))
    bad, good = shelf.guests()
    assert bad.name == "bad"
    assert bad.problem is not None
    assert bad.problem.reason == "VM_DEFINITION_INVALID"
    assert good.problem is None


def test_a_hold_is_one_migrations_own_and_survives_a_restart(
    shelf: Shelf, tmp_path: Path, clock: FakeClock
) -> None:
    vm_id = machine(tmp_path)
    assert shelf.hold(vm_id, MIGRATION).held_by == MIGRATION
    assert shelf.hold(vm_id, MIGRATION).held_by == MIGRATION
    for change in (shelf.hold, shelf.retire):
        with pytest.raises(errors.FailedPrecondition) as caught:
            change(vm_id, OTHER)
        assert caught.value.reason == "VM_BUSY"
    shelf.unhold(vm_id, OTHER)
    shelf.close()
    again = Shelf(tmp_path, clock, 3600)
    assert again.guest(vm_id).held_by == MIGRATION
    again.unhold(vm_id, MIGRATION)
    assert again.guest(vm_id).held_by == ""


def test_a_retired_machine_is_gone_and_kept_for_its_time(
    shelf: Shelf, tmp_path: Path, clock: FakeClock
) -> None:
    vm_id = machine(tmp_path)
    shelf.hold(vm_id, MIGRATION)
    kept = shelf.retire(vm_id, MIGRATION)
    assert shelf.retire(vm_id, MIGRATION) == kept
    assert shelf.guests() == []
    assert kept.expires_at_seconds == clock.now().timestamp() + 3600
    shelf.purge_expired()
    assert [each.vm_id for each in shelf.retained()] == [vm_id]
    clock.advance(timedelta(hours=1).total_seconds())
    shelf.purge_expired()
    assert shelf.retained() == []
    shelf.purge(MIGRATION)
    with pytest.raises(errors.NotFound):
        shelf.retire(vm_id, OTHER)


def test_a_retirement_that_comes_late_does_not_take_a_machine_that_came_back(
    shelf: Shelf, tmp_path: Path
) -> None:
    vm_id = machine(tmp_path)
    shelf.hold(vm_id, MIGRATION)
    shelf.retire(vm_id, MIGRATION)
    shelf.purge(MIGRATION)
    staging, xml = staged(tmp_path, vm_id)
    shelf.activate(Arrived(staging, vm_id, xml, 3, "elsewhere.example"), provisional=False)
    with pytest.raises(errors.NotFound) as caught:
        shelf.retire(vm_id, MIGRATION)
    assert caught.value.reason == "VM_NOT_FOUND"
    assert shelf.guest(vm_id).epoch == 3
    assert shelf.retained() == []


def staged(tmp_path: Path, vm_id: str) -> tuple[Path, str]:
    staging = files.ensure_folder(tmp_path / "incoming" / MIGRATION)
    (staging / staged_disk("vda")).write_bytes(b"content")
    xml = definition(vm_id, "web", {"vda": "/elsewhere/disk.img"})
    return staging, xml.replace("<os>", "<title>kept as it was</title><os>")


def test_an_arrival_becomes_a_machine_with_its_own_paths_and_nothing_else_changed(
    shelf: Shelf, tmp_path: Path
) -> None:
    vm_id = str(uuid.uuid4())
    staging, xml = staged(tmp_path, vm_id)
    guest = shelf.activate(Arrived(staging, vm_id, xml, 7, "elsewhere.example"), provisional=False)
    assert guest.problem is None
    assert guest.epoch == 7
    assert guest.disks[0].path == tmp_path / "vms" / vm_id / "vda.raw"
    assert "kept as it was" in guest.definition_xml
    assert "/elsewhere" not in guest.definition_xml
    assert not staging.exists()
    arrived = shelf.arrived_by(MIGRATION)
    assert arrived is not None
    assert arrived.vm_id == vm_id
    assert shelf.arrived_by(OTHER) is None


def test_a_machine_does_not_arrive_over_one_that_is_there(shelf: Shelf, tmp_path: Path) -> None:
    vm_id = machine(tmp_path)
    staging, xml = staged(tmp_path, vm_id)
    with pytest.raises(errors.FailedPrecondition) as caught:
        shelf.activate(Arrived(staging, vm_id, xml, 2, "elsewhere.example"), provisional=False)
    assert caught.value.reason == "VM_BUSY"
    assert staging.exists()


def test_two_agents_do_not_share_a_shelf(shelf: Shelf, tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(errors.FailedPrecondition) as caught:
        Shelf(tmp_path, clock, 3600)
    assert "another agent" in caught.value.message


def test_an_unknown_machine_is_not_found(shelf: Shelf) -> None:
    for call in (shelf.guest, lambda vm_id: shelf.hold(vm_id, MIGRATION)):
        with pytest.raises(errors.NotFound) as caught:
            call(OTHER)
        assert caught.value.reason == "VM_NOT_FOUND"
    shelf.unhold(OTHER, MIGRATION)


def test_a_folder_that_vanishes_is_no_machine(shelf: Shelf, tmp_path: Path) -> None:
    vm_id = machine(tmp_path)
    shutil.rmtree(tmp_path / "vms" / "web")
    assert shelf.guests() == []
    with pytest.raises(errors.NotFound):
        shelf.guest(vm_id)


def test_machines_are_not_read_in_the_middle_of_a_change(shelf: Shelf, tmp_path: Path) -> None:
    """A machine that is on its way to what is retained would be listed as an unreadable one."""
    vm_id = machine(tmp_path)
    with ThreadPoolExecutor(3) as pool:
        with shelf._lock:
            reads = [
                pool.submit(shelf.guests),
                pool.submit(shelf.guest, vm_id),
                pool.submit(shelf.arrived_by, MIGRATION),
            ]
            assert wait(reads, 0.1).done == set()
        assert wait(reads, 5).not_done == set()


def test_a_machine_that_is_to_run_is_not_kept_on_a_shelf(shelf: Shelf, tmp_path: Path) -> None:
    vm_id, staging = str(uuid.uuid4()), tmp_path / "shelf" / "incoming" / MIGRATION
    staging.mkdir(parents=True)
    write_disk(staging / staged_disk("vda"), Content(MIB, ((0, 4096),)))
    xml = definition(vm_id, "web", {"vda": "/elsewhere/vda.img"})
    shelf.activate(Arrived(staging, vm_id, xml, 2, "elsewhere.example"), provisional=True)
    with pytest.raises(errors.FailedPrecondition, match="VM_LIFECYCLE_FAILED"):
        shelf.prepare(vm_id)
    assert shelf.forget(MIGRATION)
    assert shelf.forget(MIGRATION), "and again"
    assert not shelf.guests()


def test_a_machine_that_arrived_for_good_is_never_forgotten(shelf: Shelf, tmp_path: Path) -> None:
    vm_id, staging = str(uuid.uuid4()), tmp_path / "shelf" / "incoming" / MIGRATION
    staging.mkdir(parents=True)
    write_disk(staging / staged_disk("vda"), Content(MIB, ((0, 4096),)))
    xml = definition(vm_id, "web", {"vda": "/elsewhere/vda.img"})
    shelf.activate(Arrived(staging, vm_id, xml, 2, "elsewhere.example"), provisional=False)
    assert not shelf.forget(MIGRATION)
    assert shelf.guest(vm_id).epoch == 2


def test_an_order_for_another_stay_of_a_machine_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    vm_id = str(uuid.uuid4())
    staging, xml = staged(tmp_path, vm_id)
    shelf.activate(Arrived(staging, vm_id, xml, 7, "elsewhere.example"), provisional=True)
    for migration, epoch, reason in (
        ("", 0, "VM_BUSY"),
        (OTHER, 7, "VM_BUSY"),
        (MIGRATION, 6, "EPOCH_MISMATCH"),
        ("", 9, "EPOCH_MISMATCH"),
    ):
        with pytest.raises(errors.FailedPrecondition) as caught:
            shelf.stop(vm_id, 0, migration, epoch)
        assert caught.value.reason == reason
    assert shelf.forget(MIGRATION), "and it is provisional still"


def test_who_stops_a_machine_owns_it_and_it_is_not_forgotten_any_more(
    shelf: Shelf, tmp_path: Path
) -> None:
    vm_id = str(uuid.uuid4())
    staging, xml = staged(tmp_path, vm_id)
    shelf.activate(Arrived(staging, vm_id, xml, 7, "elsewhere.example"), provisional=True)
    shelf.stop(vm_id, 0, epoch=7)
    assert not shelf.forget(MIGRATION)
    shelf.stop(vm_id, 0)


def test_a_machine_that_never_migrated_is_at_the_first_epoch(shelf: Shelf, tmp_path: Path) -> None:
    vm_id = machine(tmp_path)
    assert shelf.stop(vm_id, 0, epoch=1).vm_id == vm_id
    with pytest.raises(errors.FailedPrecondition, match="EPOCH_MISMATCH"):
        shelf.stop(vm_id, 0, epoch=2)
