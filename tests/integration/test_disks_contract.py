"""What every disk format owes, on a real file, a real qcow2 image and a real block device."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.disks import Extent
from tests.support.disks import KIB, MIB, Place, loop_device, noise, servers_of, whole

ODD = 5 * MIB + 12_345
GRANULARITY = 64 * KIB


@pytest.fixture(params=["raw", "qcow2", "device"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "device":
        with loop_device(tmp_path / "behind", 8 * MIB) as device:
            yield Place(device, "raw", 8 * MIB)
    else:
        multiple = 1 if request.param == "raw" else 512
        yield Place(tmp_path / f"disk.{request.param}", request.param, multiple)


def check_extents(found: list[Extent], content: bytes) -> None:
    """They cover the disk in order, on multiples, and every hole is one."""
    at = 0
    for each in found:
        assert each.start == at < each.end
        assert each.start % GRANULARITY == 0
        at = each.end
        if each.hole:
            assert not any(content[each.start : each.end])
    assert at == len(content)


def test_what_is_written_is_read_back_exactly(place: Place) -> None:
    parts = [(0, noise(1)), (4095, noise(2)), (MIB - 7, noise(70_000)), (ODD - 333, noise(333))]
    expected = bytearray(ODD)
    writer = place.writer(ODD)
    try:
        assert writer.size == ODD
        assert not writer.kept
        for offset, content in parts:
            writer.write(offset, content)
            expected[offset : offset + len(content)] = content
        assert whole(writer) == expected
        writer.flush()
    finally:
        writer.close()
    with place.reader() as reader:
        assert reader.size == -(-ODD // place.multiple) * place.multiple
        assert whole(reader) == expected.ljust(reader.size, b"\0")
        for offset, content in parts:
            assert reader.read(offset, len(content)) == content
        assert reader.read(7, 0) == b""


@pytest.mark.parametrize("size", [1, 511, 512, 4097, 65_536, ODD])
def test_a_disk_of_any_size_keeps_its_last_byte(place: Place, size: int) -> None:
    writer = place.writer(size)
    try:
        writer.write(size - 1, b"\xff")
        writer.flush()
        assert writer.read(size - 1, 1) == b"\xff"
        check_extents(list(writer.extents(GRANULARITY)), whole(writer))
    finally:
        writer.close()
    with place.reader() as reader:
        assert reader.read(size - 1, 1) == b"\xff"


def test_ranges_outside_the_disk_are_a_fault_of_the_program(place: Place) -> None:
    writer = place.writer(4096)
    try:
        for call in (
            lambda: writer.write(4000, bytes(97)),
            lambda: writer.zero(-1, 5),
            lambda: writer.read(4096, 1),
        ):
            with pytest.raises(ValueError, match="of a disk of 4096"):
                call()
    finally:
        writer.close()


def test_zeros_that_are_written_take_no_room(place: Place) -> None:
    writer = place.writer(8 * MIB)
    try:
        writer.flush()
        before = place.allocated()
        writer.write(0, bytes(4 * MIB) + noise(4096) + bytes(4 * MIB - 4096))
        writer.flush()
        assert 4096 <= place.allocated() - before <= 256 * KIB
        assert whole(writer) == bytes(4 * MIB) + noise(4096) + bytes(4 * MIB - 4096)
    finally:
        writer.close()


def test_zeroing_gives_blocks_back_and_leaves_the_neighbours(place: Place) -> None:
    content = noise(ODD)
    writer = place.writer(ODD)
    try:
        writer.write(0, content)
        writer.flush()
        full = place.allocated()
        expected = bytearray(content)
        for start, end in [(MIB - 100, 3 * MIB + 100), (4 * MIB, 4 * MIB), (5 * MIB, ODD), (9, 12)]:
            writer.zero(start, end - start)
            expected[start:end] = bytes(end - start)
        writer.flush()
        assert full - place.allocated() >= 2 * MIB - 128 * KIB
        assert whole(writer) == expected
        check_extents(list(writer.extents(GRANULARITY)), bytes(expected))
    finally:
        writer.close()


def test_a_disk_that_is_zeroed_throughout_takes_no_more_than_an_empty_one(place: Place) -> None:
    writer = place.writer(ODD)
    try:
        writer.flush()
        # Tables for the clusters of an image are made once and kept.
        empty = place.allocated() + (128 * KIB if place.format == "qcow2" else 0)
        writer.write(0, noise(ODD))
        writer.zero(0, ODD)
        writer.flush()
        assert place.allocated() <= empty
        assert not any(whole(writer))
    finally:
        writer.close()


def test_extents_tell_holes_that_are_holes_and_leave_out_most_of_what_is_empty(
    place: Place,
) -> None:
    writer = place.writer(8 * MIB)
    try:
        writer.write(MIB + 5, noise(100_000))
        writer.write(6 * MIB, noise(1))
        writer.flush()
    finally:
        writer.close()
    with place.reader() as reader:
        content = whole(reader)
        found = list(reader.extents(GRANULARITY, full_read=False))
        check_extents(found, content)
        data = sum(each.end - each.start for each in found if not each.hole)
        if place.path.is_block_device():  # a device does not tell
            assert data == len(content)
        else:
            assert data <= 320 * KIB
        assert list(reader.extents(GRANULARITY, full_read=True)) == [Extent(0, 8 * MIB, hole=False)]


def test_several_threads_write_and_read_one_disk(place: Place) -> None:
    step = 128 * KIB
    parts = {at: noise(step, seed=at + 1) for at in range(0, 8 * MIB, step)}
    writer = place.writer(8 * MIB)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(writer.write, parts.keys(), parts.values()))
        writer.flush()
    finally:
        writer.close()
    with place.reader() as reader, ThreadPoolExecutor(8) as pool:
        many = list(parts) * 3
        walk = pool.submit(lambda: list(reader.extents(GRANULARITY, full_read=False)))
        read = pool.map(lambda at: reader.read(at, step), many)
        assert all(content == parts[at] for at, content in zip(many, read, strict=True))
        check_extents(walk.result(), b"".join(parts.values()))


def test_what_an_interrupted_try_left_is_kept_when_it_fits(place: Place) -> None:
    first = place.writer(ODD)
    first.write(MIB, b"kept")
    first.flush()
    first.close()
    again = place.writer(ODD, keep=True)
    try:
        assert again.kept
        assert again.read(MIB, 4) == b"kept"
        data = [each for each in again.extents(GRANULARITY) if not each.hole]
        assert any(each.start <= MIB < each.end for each in data)
        again.write(2 * MIB, b"more")
        again.flush()
    finally:
        again.close()
    fresh = place.writer(ODD, keep=False)
    try:
        assert not fresh.kept
        assert not any(whole(fresh))
    finally:
        fresh.close()


def test_closing_twice_is_harmless_and_leaves_no_process(place: Place, tmp_path: Path) -> None:
    writer = place.writer(4096)
    writer.close()
    writer.close()
    with place.reader() as reader:
        reader.close()
    assert servers_of(os.getpid()) == []
