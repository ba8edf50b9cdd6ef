"""Extents and pieces cover a disk without gap or overlap, and holes are only what is zero."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.disks.extents import extents
from agent.disks.raw import RawReader, RawWriter
from agent.transfer import plan
from agent.transfer.geometry import FRAME_CONTENT_BYTES_MAX, LEAF_BYTES
from watari import errors

MIB = 1024 * 1024

WRITES = st.lists(st.tuples(st.integers(0, 4 * MIB), st.integers(1, 300_000)), max_size=6)
ON_TMP_PATH = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
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


@ON_TMP_PATH
@given(size=st.integers(0, 5 * MIB), writes=WRITES)
def test_pieces_are_small_and_their_runs_tell_zeros(
    tmp_path: Path, size: int, writes: list[tuple[int, int]]
) -> None:
    content = sparse_file(tmp_path / "disk", size, writes)
    with RawReader(tmp_path / "disk") as reader:
        found = extents(reader.descriptor, size, LEAF_BYTES, full_read=False)
        at = 0
        for piece in plan.pieces(0, found):
            assert piece.offset == at
            at += piece.length
            part = content[piece.offset : at]
            assert piece.hole or piece.length <= FRAME_CONTENT_BYTES_MAX
            if piece.hole:
                assert not any(part)
                continue
            assert b"".join(part[run.start : run.end] for run in plan.runs(part)) == part
            assert all(run.zero != any(part[run.start : run.end]) for run in plan.runs(part))
    assert at == size


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
