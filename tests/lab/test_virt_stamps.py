"""Whether saved memory still fits the disks: files, devices, and images that do not tell."""

import os
import struct
from pathlib import Path
from typing import cast

import pytest

from agent.hypervisors.virt import stamps
from agent.hypervisors.virt.machines import Machines
from agent.hypervisors.virt.records import Folder, Hold
from agent.hypervisors.virt.saving import Saving
from tests.support.disks import loop_device
from tests.support.shelves import definition
from watari import errors

VM_ID = "5c2f2a3e-4bb5-4a5e-8d38-0d7b45f0a6c1"
QEMU, PARTIAL, XEN = b"LibvirtQemudSave", b"LibvirtQemudPart", b"libvirt-xml\n \0 \r"
SECOND = 10**9


class Known:
    """Of `Machines` what choosing an image takes."""

    def __init__(self, folder: Path) -> None:
        self.folder = Folder(folder)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "vda.raw"
    path.write_bytes(b"as it was")
    return path


def image(folder: Path, name: str, magic: bytes, newer_than: Path) -> None:
    """A saved memory, written a second after the disk."""
    path = folder / "held" / name
    path.write_bytes(struct.pack("=16s5I", magic, 2, 100, 1, 0, 0).ljust(92, b"\0"))
    at = newer_than.stat().st_mtime_ns + SECOND
    os.utime(path, ns=(at, at))


def write_later(path: Path) -> None:
    at = path.stat().st_mtime_ns + 2 * SECOND
    path.write_bytes(b"as it is.")
    os.utime(path, ns=(at, at))


def test_a_file_that_was_written_to_is_told_though_it_is_as_long_as_before(disk: Path) -> None:
    taken = stamps.taken([disk])
    assert stamps.changed(taken) == []
    write_later(disk)
    assert stamps.changed(taken) == [str(disk)]


def test_a_disk_that_is_gone_counts_as_changed(disk: Path) -> None:
    taken = stamps.taken([disk])
    disk.unlink()
    assert stamps.changed(taken) == [str(disk)]
    assert stamps.changed(stamps.taken([disk])) == [str(disk)]


def test_a_device_that_was_written_to_is_told(tmp_path: Path) -> None:
    with loop_device(tmp_path / "image", 1 << 20) as device:
        taken = stamps.taken([device])
        with device.open("rb") as opened:
            opened.read(4096)
        assert stamps.changed(taken) == []
        with device.open("r+b") as opened:
            opened.write(b"x" * 4096)
        assert stamps.changed(taken) == [str(device)]
        assert stamps.newer(taken, tmp_path / "image") == [str(device)]


@pytest.mark.parametrize(
    ("magic", "heard", "written", "loaded"),
    [
        (QEMU, True, False, True),
        (QEMU, True, True, False),
        (QEMU, False, False, True),
        (QEMU, False, True, False),
        (PARTIAL, False, False, False),
        (XEN, True, False, True),
        (XEN, True, True, False),
        (XEN, False, False, False),
    ],
)
def test_memory_is_loaded_only_when_it_is_whole_and_fits_the_disks(
    tmp_path: Path, disk: Path, magic: bytes, heard: bool, written: bool, loaded: bool
) -> None:
    """`heard` is whether libvirt's answer to the save was noted."""
    known = Known(tmp_path / "a")
    image(known.folder.path, "one.memory", magic, disk)
    hold = Hold(
        migration_id="m",
        shown=definition(VM_ID, "web", {"vda": str(disk)}),
        saves=("one.memory",),
        saved="one.memory" if heard else "",
        stamps=stamps.taken([disk]) if heard else {},
    )
    if written:
        write_later(disk)
    found = Saving(cast("Machines", known)).loadable(hold)
    assert found == (known.folder.held / "one.memory" if loaded else None)


def test_memory_does_not_cross_with_other_disks(tmp_path: Path, disk: Path) -> None:
    saving = Saving(cast("Machines", Known(tmp_path / "a")))
    hold = Hold(migration_id="m", stamps=stamps.taken([disk]))
    saving.require_fit(hold)
    write_later(disk)
    with pytest.raises(errors.FailedPrecondition, match="VM_LIFECYCLE_FAILED"):
        saving.require_fit(hold)
