"""watari.cli.shelf: a machine appears whole or not at all, and the agent can read it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.hypervisors import domain
from watari import errors
from watari.cli import shelf, sparse

MIB = 1024 * 1024


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, ...]:
    """Two small raw images."""
    paths = (tmp_path / "system.raw", tmp_path / "data.raw")
    for at, path in enumerate(paths):
        with path.open("wb") as file:
            file.write(bytes([at + 1]) * 4096)
            file.truncate(4 * MIB + at)
    return paths


def machine(images: tuple[Path, ...], name: str = "web-1") -> shelf.Machine:
    return shelf.Machine(name, 2, 256 * MIB, "acme", images)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty shelf."""
    made = tmp_path / "shelf"
    made.mkdir()
    return made


def test_the_agent_reads_the_definition_as_it_was_meant(
    folder: Path, images: tuple[Path, ...]
) -> None:
    vm_id = shelf.put(folder, machine(images), move=False)
    read = domain.parse((folder / "vms" / vm_id / "domain.xml").read_text())
    assert (read.vm_id, read.name, read.tenant) == (vm_id, "web-1", "acme")
    assert (read.vcpus, read.memory_bytes) == (2, 256 * MIB)
    assert [(disk.disk_id, disk.source, disk.format) for disk in read.disks] == [
        ("vda", "vda.raw", "raw"),
        ("vdb", "vdb.raw", "raw"),
    ]


def test_names_with_xml_in_them_stay_names() -> None:
    text = shelf.definition("19870ff3-0ced-445a-a015-9f668f322995", machine((), name="a<b>&c"))
    assert domain.parse(text).name == "a<b>&c"


def test_copied_images_stay_and_are_the_same(folder: Path, images: tuple[Path, ...]) -> None:
    vm_id = shelf.put(folder, machine(images), move=False)
    for image, name in zip(images, ("vda.raw", "vdb.raw"), strict=True):
        copied = folder / "vms" / vm_id / name
        assert sparse.first_difference(image, copied) is None
        assert sparse.allocated_bytes(copied) < MIB


def test_moved_images_are_gone_from_where_they_were(folder: Path, images: tuple[Path, ...]) -> None:
    content = images[0].read_bytes()
    vm_id = shelf.put(folder, machine(images), move=True)
    assert not any(image.exists() for image in images)
    assert (folder / "vms" / vm_id / "vda.raw").read_bytes() == content


def test_a_failure_leaves_no_machine_and_every_image(
    folder: Path, images: tuple[Path, ...]
) -> None:
    missing = (*images, images[0].with_name("missing.raw"))
    with pytest.raises(FileNotFoundError):
        shelf.put(folder, machine(missing), move=True)
    assert not list((folder / "vms").iterdir())
    assert not list((folder / "importing").iterdir())
    assert all(image.exists() for image in images)


def test_what_a_killed_import_left_behind_goes_with_the_next_one(
    folder: Path, images: tuple[Path, ...]
) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from watari.cli import shelf, sparse\n"
        "sparse.copy = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "image = Path(sys.argv[2])\n"
        "shelf.put(Path(sys.argv[1]), shelf.Machine('a', 1, 2**30, 'b', (image,)), move=False)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, folder, images[0]], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((folder / "importing").iterdir())) == 1
    shelf.put(folder, machine(images), move=False)
    assert not list((folder / "importing").iterdir())


def test_an_import_at_work_is_not_taken_for_one_that_was_killed(folder: Path) -> None:
    with (
        shelf._staging(folder / "importing", "one") as first,
        shelf._staging(folder / "importing", "two"),
    ):
        assert first.is_dir()


def test_an_image_that_is_missing_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="IMAGE_UNREADABLE"):
        shelf.check_images([tmp_path / "none.raw"])


@pytest.mark.parametrize("start", [b"QFI\xfb", b"KDMV", b"vhdxfile", b"conectix"])
def test_an_image_in_a_container_format_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, start: bytes
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(start + bytes(512))
    with pytest.raises(errors.InvalidArgument, match="IMAGE_UNREADABLE") as caught:
        shelf.check_images([image])
    assert "qemu-img convert" in caught.value.hint


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgument, match="is not a file"):
        shelf.check_images([tmp_path])


def test_a_machine_has_at_most_as_many_disks_as_there_are_letters(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgument, match="INVALID_FIELD"):
        shelf.check_images([Path(os.devnull)] * (shelf.DISKS_MAX + 1))
    assert shelf.disk_id(shelf.DISKS_MAX - 1) == "vdz"
