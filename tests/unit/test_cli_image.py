"""watari.cli.image: images that other tools accept as disks."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from watari import errors
from watari.cli import image, sparse

MIB = 1024 * 1024
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def tool(name: str) -> str:
    found = shutil.which(name, path=SEARCH)
    assert found, f"{name} is part of e2fsprogs, which these tests need"
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files to put on a disk."""
    source = tmp_path / "usr"
    (source / "bin").mkdir(parents=True)
    (source / "lib").mkdir()
    (source / "bin" / "one").write_bytes(b"1" * 100_000)
    (source / "bin" / "two").write_bytes(os.urandom(200_000))
    (source / "lib" / "three").write_bytes(os.urandom(300_000))
    (source / "lib" / "link").symlink_to("three")
    (source / "lib" / "empty").write_bytes(b"")
    return source


def test_the_disk_holds_a_clean_file_system_with_the_files(tree: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    content = image.make_system_disk(disk, 96 * MIB, 4 * MIB, tree)
    assert content == image.Content(files=3, data_bytes=600_000)
    partition = f"{disk}?offset={image.PARTITION_OFFSET_BYTES}"
    check = subprocess.run([tool("e2fsck"), "-fn", partition], capture_output=True, check=False)
    assert check.returncode == 0, check.stdout
    dump = subprocess.run(
        [tool("debugfs"), "-R", "cat /usr/bin/two", partition], capture_output=True, check=True
    )
    assert dump.stdout == (tree / "bin" / "two").read_bytes()


def test_the_disk_is_sparse_and_of_the_size_asked_for(tree: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    image.make_system_disk(disk, 512 * MIB + 512, 4 * MIB, tree)
    assert disk.stat().st_size == 512 * MIB + 512
    assert sparse.allocated_bytes(disk) < 40 * MIB
    assert not list(tmp_path.glob(".tree-*"))


def test_the_partition_table_names_one_active_linux_partition_up_to_the_end() -> None:
    table = image.partition_table(3 * 1024 * MIB)
    assert len(table) == 512
    assert table[510:] == b"\x55\xaa"
    status, kind, first, count = struct.unpack("<B3xB3xII", table[446:462])
    assert (status, kind, first) == (0x80, 0x83, 2048)
    assert (first + count) * 512 == 3 * 1024 * MIB
    assert table[462:510] == bytes(48)


def test_the_choice_of_files_is_always_the_same_and_within_the_amount(tree: Path) -> None:
    chosen = list(image.choose_files(tree, 350_000))
    assert [(path.name, size) for path, size in chosen] == [("one", 100_000), ("two", 200_000)]
    assert chosen == list(image.choose_files(tree, 350_000))


def test_a_file_that_is_too_large_gives_way_to_smaller_ones(tree: Path) -> None:
    assert [path.name for path, _ in image.choose_files(tree, 150_000)] == ["one"]
    (tree / "bin" / "one").unlink()
    assert [path.name for path, _ in image.choose_files(tree, 320_000)] == ["two"]


def test_more_data_than_fits_is_refused_before_anything_is_made(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgument, match="INVALID_FIELD"):
        image.make_system_disk(tmp_path / "disk.raw", 100 * MIB, 90 * MIB, tree)
    assert not (tmp_path / "disk.raw").exists()


def test_a_machine_without_the_tool_is_told_how_to_get_it(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(image, "_SBIN", str(tmp_path))
    with pytest.raises(errors.FailedPrecondition, match="TOOL_MISSING") as caught:
        image.make_system_disk(tmp_path / "disk.raw", 96 * MIB, 4 * MIB, tree)
    assert "apt-get install e2fsprogs" in caught.value.hint


def test_a_tool_that_fails_is_reported_with_what_it_said(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bin" / "mkfs.ext4"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'the disk is made of cheese' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:/bin:/usr/bin")
    with pytest.raises(errors.Internal, match="made of cheese"):
        image.make_system_disk(tmp_path / "disk.raw", 96 * MIB, 4 * MIB, tree)


def test_the_data_disk_has_content_at_both_ends_and_a_hole_between(tmp_path: Path) -> None:
    one, two = tmp_path / "one.raw", tmp_path / "two.raw"
    for path in (one, two):
        image.make_data_disk(path, 16 * MIB + 512, 2 * MIB)
    assert one.stat().st_size == 16 * MIB + 512
    assert one.read_bytes()[-1:] != b"\0"
    assert sparse.allocated_bytes(one) < 3 * MIB
    assert sparse.first_difference(one, two) is None
