"""Extents and units cover a disk without gap or overlap, and holes are only what is zero."""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.disks import Extent
from agent.disks.extents import extents
from agent.disks.raw import RawReader, RawWriter
from agent.transfer import plan
from agent.transfer.geometry import (
    FRAME_CONTENT_BYTES_MAX,
    LEAF_BYTES,
    PARENT_BYTES,
    WHOLE_LEAF,
    leaf_bytes,
    leaf_count,
    masked_bytes,
    whole_mask,
)
from watari import errors

MIB = 1024 * 1024

WRITES = st.lists(st.tuples(st.integers(0, 4 * MIB), st.integers(1, 300_000)), max_size=6)
ON_TMP_PATH = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=40,
    deadline=None,
)


def sparse_file(path: Path, size: int, writes: list[tuple[int, int]]) -> bytes:
    """Writes a file and returns its content."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset, length in writes:
            file.seek(min(offset, size))
            file.write(b"\xa5" * max(0, min(length, size - offset)))
    return path.read_bytes()


@ON_TMP_PATH
@given(size=st.integers(0, 5 * MIB), writes=WRITES, full_read=st.booleans())
def test_extents_cover_the_disk_and_holes_are_zero(
    tmp_path: Path, size: int, writes: list[tuple[int, int]], full_read: bool
) -> None:
    content = sparse_file(tmp_path / "disk", size, writes)
    with RawReader(tmp_path / "disk") as reader:
        found = list(extents(reader.descriptor, size, LEAF_BYTES, full_read=full_read))
    assert [extent.start for extent in found] == [0, *[e.end for e in found[:-1]]][: len(found)]
    assert (found[-1].end if found else 0) == size
    for extent in found:
        assert extent.start < extent.end
        assert extent.start % LEAF_BYTES == 0
        assert not extent.hole or not any(content[extent.start : extent.end])
        assert not (extent.hole and full_read)


@st.composite
def disks(draw: st.DrawFn) -> tuple[int, list[Extent]]:
    """A disk's size and its extents, cut on leaves: data and holes in turn."""
    size = draw(st.integers(0, 40 * MIB))
    cuts = draw(st.sets(st.integers(1, max(1, size // LEAF_BYTES)), max_size=12))
    edges = sorted({0, size, *(cut * LEAF_BYTES for cut in cuts if cut * LEAF_BYTES < size)})
    hole = draw(st.booleans())
    found = []
    for start, end in itertools.pairwise(edges):
        found.append(Extent(start, end, hole))
        hole = not hole
    return size, found


@given(disks())
def test_units_cover_a_disk_in_order_and_read_all_of_its_data_once(
    disk: tuple[int, list[Extent]],
) -> None:
    size, found = disk
    at, read = 0, list[tuple[int, int]]()
    for unit in plan.units(7, size, found):
        assert (unit.disk, unit.offset) == (7, at)
        at += unit.length
        assert unit.offset % PARENT_BYTES == 0
        assert at % PARENT_BYTES == 0 or at == size
        if isinstance(unit, plan.Parent):
            assert unit.length <= PARENT_BYTES
            assert unit.ranges
            assert unit.offset <= unit.ranges[0][0] < unit.ranges[-1][1] <= at
            read += unit.ranges
    assert at == size
    merged = [extent for extent in found if not extent.hole]
    assert sum(end - start for start, end in read) == sum(e.end - e.start for e in merged)
    assert all(any(e.start <= start and end <= e.end for e in merged) for start, end in read)


@given(zeros=st.integers(0, (1 << 64) - 1), short=st.integers(0, LEAF_BYTES - 1))
def test_zero_runs_are_the_bits_of_their_leaves(zeros: int, short: int) -> None:
    size = 3 * PARENT_BYTES - short
    parent = 2 * PARENT_BYTES
    told = 0
    for offset, length in plan.zero_runs(zeros, size, parent):
        first = (offset - parent) // LEAF_BYTES
        leaves = leaf_count(length)
        assert length == min(leaves * LEAF_BYTES, size - offset)
        run = ((1 << leaves) - 1) << first
        assert not told & run
        assert not zeros >> (first + leaves) & 1  # a run ends only where zeros do
        told |= run
    assert told == zeros


@given(masks=st.lists(st.integers(0, WHOLE_LEAF), min_size=64, max_size=64))
def test_groups_have_every_wanted_leaf_once_and_fit_a_frame(masks: list[int]) -> None:
    size = 2 * PARENT_BYTES - 100
    masks[-1] &= whole_mask(LEAF_BYTES - 100)
    groups = list(plan.groups(size, PARENT_BYTES, masks))
    assert [leaf for group in groups for leaf in group] == [
        i for i, mask in enumerate(masks) if mask
    ]

    def content(leaves: list[int]) -> int:
        lengths = [leaf_bytes(size, PARENT_BYTES + leaf * LEAF_BYTES) for leaf in leaves]
        return sum(
            masked_bytes(masks[leaf], length) for leaf, length in zip(leaves, lengths, strict=True)
        )

    assert all(0 < content(group) <= FRAME_CONTENT_BYTES_MAX for group in groups)
    for group, following in itertools.pairwise(groups):
        assert content([*group, following[0]]) > FRAME_CONTENT_BYTES_MAX


@pytest.mark.parametrize("length", [1, 100, LEAF_BYTES - 1, LEAF_BYTES])
def test_one_byte_makes_a_leaf_no_zero_leaf(length: int) -> None:
    assert plan.is_zero(bytes(length))
    assert not plan.is_zero(bytes(length - 1) + b"x")


@ON_TMP_PATH
@given(
    blocks=st.lists(st.sampled_from([b"\0", b"\0", b"x"]), min_size=1, max_size=40),
    tail=st.integers(0, 4095),
)
def test_a_writer_allocates_no_block_for_zeros(
    tmp_path: Path, blocks: list[bytes], tail: int
) -> None:
    content = b"".join(block * 4096 for block in blocks) + b"\0" * tail
    writer = RawWriter(tmp_path / "out", len(content))
    writer.write(0, content)
    writer.flush()
    writer.close()
    assert (tmp_path / "out").read_bytes() == content
    written = sum(block != b"\0" for block in blocks)
    assert (tmp_path / "out").stat().st_blocks * 512 <= (written + 1) * 4096


def test_a_disk_that_is_shorter_than_it_was_gives_no_content(tmp_path: Path) -> None:
    sparse_file(tmp_path / "disk", MIB, [])
    with RawReader(tmp_path / "disk") as reader:
        os.truncate(tmp_path / "disk", 1000)
        with pytest.raises(errors.DataLoss) as caught:
            reader.read(0, MIB)
        assert caught.value.reason == "SOURCE_CHANGED"
