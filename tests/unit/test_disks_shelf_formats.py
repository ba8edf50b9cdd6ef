"""The shelf's machines have disks of either format; what arrives has the host's own."""

import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import files
from agent.disks import DiskFormat, open_writer
from agent.hypervisors import Arrived, domain
from agent.hypervisors.shelf import Shelf, staged_disk
from tests.support.disks import run
from tests.support.shelves import MIB, definition
from watari import errors
from watari.clock import FakeClock

MIGRATION = str(uuid.uuid4())


@pytest.fixture(params=["raw", "qcow2"])
def disk_format(request: pytest.FixtureRequest) -> DiskFormat:
    chosen: DiskFormat = request.param
    return chosen


@pytest.fixture
def shelf(tmp_path: Path, disk_format: DiskFormat) -> Iterator[Shelf]:
    opened = Shelf(tmp_path, FakeClock(), 3600, disk_format)
    yield opened
    opened.close()


def put(folder: Path, disk_format: str, image: Path | None = None) -> str:
    """A machine with one disk of 3 MiB, or with `image`; returns its UUID."""
    vm_id = str(uuid.uuid4())
    name = staged_disk("vda", disk_format)
    machine = files.ensure_folder(folder / "vms" / vm_id)
    if image:
        image.rename(machine / name)
    else:
        open_writer(machine / name, disk_format, 3 * MIB, keep=False).close()
    xml = definition(vm_id, "web", {"vda": name}).replace("type='raw'", f"type='{disk_format}'")
    (machine / "domain.xml").write_text(xml)
    return vm_id


def test_a_disk_is_listed_with_the_size_that_the_guest_sees(
    shelf: Shelf, tmp_path: Path, disk_format: DiskFormat
) -> None:
    vm_id = put(tmp_path, disk_format)
    (disk,) = shelf.guest(vm_id).disks
    assert (disk.format, disk.size_bytes) == (disk_format, 3 * MIB)
    assert disk.allocated_bytes == disk.path.stat().st_blocks * 512 < MIB
    assert shelf.guest(vm_id).problem is None


def test_an_image_that_needs_another_file_is_a_problem(shelf: Shelf, tmp_path: Path) -> None:
    secret, image = tmp_path / "secret", tmp_path / "image"
    secret.write_bytes(bytes(MIB))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", image)
    vm_id = put(tmp_path, "qcow2", image)
    problem = shelf.guest(vm_id).problem
    assert problem is not None
    assert problem.reason == "IMAGE_UNREADABLE"
    with pytest.raises(errors.FailedPrecondition):
        shelf.hold(vm_id, MIGRATION)


def test_a_format_that_nothing_here_reads_is_a_problem(shelf: Shelf, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(MIB))
    problem = shelf.guest(put(tmp_path, "vmdk", image)).problem
    assert problem is not None
    assert problem.reason == "VM_DEFINITION_INVALID"
    assert "raw and qcow2" in problem.message


@pytest.mark.parametrize("named", ["raw", "qcow2"])
def test_an_arrival_gets_the_format_of_this_host_whatever_its_definition_names(
    shelf: Shelf, tmp_path: Path, disk_format: DiskFormat, named: str
) -> None:
    vm_id = str(uuid.uuid4())
    staging = files.ensure_folder(tmp_path / "incoming" / MIGRATION)
    path = staging / staged_disk("vda", disk_format)
    open_writer(path, disk_format, 3 * MIB, keep=False).close()
    xml = definition(vm_id, "web", {"vda": "/elsewhere/disk.img"})
    xml = xml.replace("type='raw'", f"type='{named}'")
    (parsed,) = domain.parse(shelf.adapted(vm_id, xml)).disks
    assert parsed.format == disk_format
    guest = shelf.activate(Arrived(staging, vm_id, xml, 7, "osaka.example"), provisional=False)
    assert guest.problem is None
    (disk,) = guest.disks
    assert (disk.format, disk.size_bytes) == (disk_format, 3 * MIB)
    assert disk.path == tmp_path / "vms" / vm_id / f"vda.{disk_format}"


def test_a_disk_that_arrived_before_the_setting_changed_is_found(
    shelf: Shelf, tmp_path: Path, disk_format: DiskFormat
) -> None:
    other = "raw" if disk_format == "qcow2" else "qcow2"
    vm_id = str(uuid.uuid4())
    staging = files.ensure_folder(tmp_path / "incoming" / MIGRATION)
    open_writer(staging / staged_disk("vda", other), other, 3 * MIB, keep=False).close()
    xml = definition(vm_id, "web", {"vda": "/elsewhere/disk.img"})
    guest = shelf.activate(Arrived(staging, vm_id, xml, 7, "osaka.example"), provisional=False)
    assert [(disk.format, disk.size_bytes) for disk in guest.disks] == [(other, 3 * MIB)]
    assert guest.problem is None


def test_a_host_without_the_tools_does_not_start_with_the_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.FailedPrecondition) as caught:
        Shelf(tmp_path, FakeClock(), 3600, "qcow2")
    assert caught.value.reason == "CONFIG_INVALID"
    Shelf(tmp_path, FakeClock(), 3600, "raw").close()


DISK = """
<disk type='block' device='disk'>{driver}
  <source dev='/dev/secret' index='1'>
    <slices><slice type='storage' offset='0' size='5'/></slices>
    <dataStore type='file'><source file='/etc/secret'/></dataStore>
    <encryption format='luks'><secret type='passphrase' usage='key'/></encryption>
  </source>
  <backingStore type='file'><format type='raw'/><source file='/etc/secret'/></backingStore>
  <mirror type='file' file='/etc/secret'/>
  <target dev='vda' bus='virtio'/><serial>kept</serial>
</disk>"""


@pytest.mark.parametrize("driver", ["", "<driver name='qemu' type='qcow2' discard='unmap'/>"])
def test_a_definition_from_elsewhere_names_no_further_file_of_this_host(
    disk_format: DiskFormat, driver: str
) -> None:
    xml = definition(str(uuid.uuid4()), "web", {}).replace(
        "<devices>", "<devices>" + DISK.format(driver=driver)
    )
    place = domain.DiskFile(Path("/shelf/vda.img"), disk_format)
    adapted = domain.with_disks(xml, {"vda": place})
    assert "/etc/secret" not in adapted
    assert "/dev/secret" not in adapted
    (disk,) = ET.fromstring(adapted).findall("devices/disk")  # noqa: S314 - our own text
    assert disk.get("type") == "file"
    source = disk.find("source")
    assert source is not None
    assert source.attrib == {"file": "/shelf/vda.img"}
    assert [child.tag for child in source] == ["encryption"]
    assert disk.find("backingStore") is None
    assert disk.find("mirror") is None
    made = disk.find("driver")
    assert made is not None
    assert made.get("type") == disk_format
    assert made.get("discard") == ("unmap" if driver else None)
    assert disk.findtext("serial") == "kept"


def test_settings_of_qcow2_do_not_stay_on_a_raw_disk(disk_format: DiskFormat) -> None:
    driver = (
        "<driver name='qemu' type='qcow2' discard_no_unref='on'>"
        "<metadata_cache><max_size>5</max_size></metadata_cache></driver>"
    )
    xml = definition(str(uuid.uuid4()), "web", {}).replace(
        "<devices>", "<devices>" + DISK.format(driver=driver)
    )
    adapted = domain.with_disks(xml, {"vda": domain.DiskFile(Path("/x"), disk_format)})
    for word in ("metadata_cache", "discard_no_unref"):
        assert (word in adapted) == (disk_format == "qcow2")
