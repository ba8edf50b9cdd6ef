"""Disks that are files: what is there already, who else writes, and where there is no room."""

from pathlib import Path

import pytest

from agent.disks import DiskWriter, open_reader, open_writer
from tests.support.disks import KIB, MIB, mounted, noise, whole
from watari import errors


def fill(writer: DiskWriter) -> None:
    """Writes more than there is room for."""
    for at in range(MIB, 16 * MIB, MIB):
        writer.write(at, noise(MIB))


def make(path: Path, disk_format: str) -> None:
    """A new disk with one block of content."""
    writer = open_writer(path, disk_format, MIB, keep=False)
    try:
        writer.write(0, noise(4096))
    finally:
        writer.close()


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
@pytest.mark.parametrize("left", ["other size", "other thing", "link", "nothing"])
def test_what_does_not_fit_is_replaced_and_links_are_not_followed(
    tmp_path: Path, disk_format: str, left: str
) -> None:
    path, outside = tmp_path / "disk", tmp_path / "outside"
    outside.write_bytes(b"untouched")
    if left == "other size":
        open_writer(path, disk_format, 2 * MIB, keep=False).close()
    elif left == "other thing":
        path.write_bytes(b"QFI\xfb" + noise(100))
    elif left == "link":
        path.symlink_to(outside)
    writer = open_writer(path, disk_format, MIB, keep=True)
    try:
        assert not writer.kept
        assert not any(whole(writer))
        writer.write(0, b"new")
        writer.flush()
    finally:
        writer.close()
    assert outside.read_bytes() == b"untouched"
    assert not path.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_a_disk_that_somebody_writes_to_has_changed(tmp_path: Path, disk_format: str) -> None:
    path = tmp_path / "disk"
    writer = open_writer(path, disk_format, MIB, keep=False)
    writer.write(0, noise(MIB))
    writer.flush()
    writer.close()
    with open_reader(path, disk_format) as reader:
        reader.check_unchanged()
        with path.open("r+b") as file:
            file.seek(300_000)
            file.write(b"x")
        with pytest.raises(errors.DataLoss) as caught:
            reader.check_unchanged()
    assert caught.value.reason == "SOURCE_CHANGED"


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_a_file_system_without_room_is_told_as_such_and_what_was_flushed_stays(
    tmp_path: Path, disk_format: str
) -> None:
    with mounted(tmp_path / "small", "tmpfs", "watari-test", "size=4m") as folder:
        writer = open_writer(folder / "disk", disk_format, 64 * MIB, keep=False)
        try:
            writer.write(0, noise(MIB))
            writer.flush()
            with pytest.raises(errors.Exhausted) as caught:
                fill(writer)
            assert caught.value.reason == "DISK_FULL"
            assert writer.read(0, MIB) == noise(MIB)
        finally:
            writer.close()


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_a_new_disk_that_has_no_room_at_all_is_told_as_such(
    tmp_path: Path, disk_format: str
) -> None:
    with mounted(tmp_path / "small", "tmpfs", "watari-test", "size=64k") as folder:
        (folder / "filler").write_bytes(bytes(64 * KIB))
        with pytest.raises(errors.Exhausted) as caught:
            make(folder / "disk", disk_format)
        assert caught.value.reason == "DISK_FULL"


def test_an_unknown_format_names_those_that_are_known(tmp_path: Path) -> None:
    for call in (
        lambda: open_reader(tmp_path / "disk", "vmdk"),
        lambda: open_writer(tmp_path / "disk", "vmdk", 1, keep=False),
    ):
        with pytest.raises(errors.Unimplemented) as caught:
            call()
        assert "raw and qcow2" in caught.value.message
