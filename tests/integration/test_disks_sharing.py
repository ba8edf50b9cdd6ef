"""Raw disks on real file systems: shared blocks, and file systems without holes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.disks import open_reader, open_writer, sparse
from agent.disks.raw import RawReader, RawWriter
from tests.support.disks import MIB, loop_device, xfs
from watari import errors


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[Path]:
    with xfs(tmp_path) as folder:
        yield folder


def used(folder: Path) -> int:
    os.sync()
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_a_clone_has_the_sources_content_and_takes_no_room(sharing: Path) -> None:
    content = os.urandom(8 * MIB)
    (sharing / "source").write_bytes(content)
    writer = open_writer(sharing / "target", "raw", 8 * MIB, keep=False)
    with open_reader(sharing / "source", "raw") as source:
        writer.write(5 * MIB, b"old" * 1000)
        writer.flush()
        before = used(sharing)
        assert writer.clone(source, 0, 4 * MIB, 4 * MIB)
        writer.flush()
        assert used(sharing) - before < MIB
        assert writer.read(4 * MIB, 4 * MIB) == content[: 4 * MIB]
        assert writer.read(0, 4 * MIB) == bytes(4 * MIB)
        writer.zero(4 * MIB, MIB)
        writer.write(4 * MIB, b"own")
        assert source.read(0, 8 * MIB) == content
        source.check_unchanged()
    writer.close()


def test_what_cannot_be_shared_by_its_offsets_is_refused_each_time_anew(sharing: Path) -> None:
    (sharing / "source").write_bytes(os.urandom(MIB))
    writer = open_writer(sharing / "target", "raw", MIB, keep=False)
    with open_reader(sharing / "source", "raw") as source:
        assert not writer.clone(source, 100, 0, 4096)
        assert not writer.clone(source, 0, 100, 4096)
        assert not writer.clone(source, 0, 0, 0)
        assert not writer.clone(source, 2 * MIB, 0, 4096)
        assert writer.read(0, MIB) == bytes(MIB)
        assert writer.clone(source, 0, 0, MIB)
        assert writer.read(0, MIB) == source.read(0, MIB)
    writer.close()


def test_another_file_system_is_asked_once(
    sharing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").write_bytes(os.urandom(MIB))
    (sharing / "here").write_bytes(os.urandom(MIB))
    asked = []
    clone = sparse.clone
    monkeypatch.setattr(sparse, "clone", lambda *range_: (asked.append(1), clone(*range_)))
    writer = RawWriter(sharing / "target", MIB)
    with RawReader(tmp_path / "elsewhere") as other, RawReader(sharing / "here") as here:
        for _ in range(3):
            assert not writer.clone(other, 0, 0, 4096)
        assert len(asked) == 1
        assert writer.clone(here, 0, 0, 4096)
    writer.close()


def test_other_formats_share_nothing(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "a.qcow2", "qcow2", MIB, keep=False)
    writer.write(0, b"x" * 4096)
    writer.flush()
    writer.close()
    target = open_writer(tmp_path / "b.qcow2", "qcow2", MIB, keep=False)
    raw = open_writer(tmp_path / "c.raw", "raw", MIB, keep=False)
    with open_reader(tmp_path / "a.qcow2", "qcow2") as source:
        assert not target.clone(source, 0, 0, 4096)
        assert not raw.clone(source, 0, 0, 4096)
    target.close()
    raw.close()


def test_zeroing_writes_zeros_where_there_are_no_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(*_range: int) -> None:
        asked.append(1)
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(sparse, "punch", refuse)
    content = os.urandom(3 * MIB + 77)
    writer = RawWriter(tmp_path / "disk", len(content))
    writer.write(0, content)
    writer.zero(100, 2 * MIB)
    writer.zero(3 * MIB, 77)
    expected = content[:100] + bytes(2 * MIB) + content[100 + 2 * MIB : 3 * MIB] + bytes(77)
    assert writer.read(0, len(content)) == expected
    assert len(asked) == 1
    writer.close()
    assert (tmp_path / "disk").stat().st_size == len(content)


def test_a_device_that_is_too_small_is_full_and_one_that_is_larger_will_do(tmp_path: Path) -> None:
    with loop_device(tmp_path / "behind", MIB) as device:
        with pytest.raises(errors.Exhausted) as caught:
            open_writer(device, "raw", MIB + 1, keep=False)
        assert caught.value.reason == "DISK_FULL"
        device.write_bytes(b"old content")
        writer = open_writer(device, "raw", MIB - 512, keep=False)
        assert writer.read(0, 11) == bytes(11)
        writer.write(0, b"new")
        writer.flush()
        writer.close()
        assert device.is_block_device()
        with open_reader(device, "raw") as reader:
            assert reader.read(0, 3) == b"new"
