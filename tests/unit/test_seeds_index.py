"""The index of one image: what it finds, what it leaves out, and that damage only costs a build."""

import os
import random
import sqlite3
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.disks import DiskReader, open_reader
from agent.seeds import building
from agent.seeds.fingerprints import Fingerprints
from agent.seeds.images import Identity
from agent.seeds.index import BlockIndex
from agent.seeds.spill import PARTITIONS, PIECE_BYTES_MAX, Spill
from tests.support.seed_images import PRINTS, block, build, content, fingerprint, image
from watari import errors


def opened(path: Path) -> BlockIndex:
    """The index at `path`, which must be usable."""
    index = BlockIndex.open(path, PRINTS.check_value)
    assert index is not None
    return index


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where the index goes."""
    return tmp_path / "one.sqlite"


def test_every_block_is_found_where_it_first_is(tmp_path: Path, target: Path) -> None:
    disk = image(tmp_path / "disk", [5, 6, 0, 5, 7, 6])
    assert build(target, disk.path).blocks == 5
    index = opened(target)
    asked = [fingerprint(each) for each in (5, 6, 7, 8, 5)]
    assert index.find(asked) == [0, 1, 4, None, 0]
    assert index.identity == Identity.of(disk.path)
    index.close()


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 256, 257, 1000])
def test_any_number_of_fingerprints_is_looked_up_in_order(
    tmp_path: Path, target: Path, count: int
) -> None:
    disk = image(tmp_path / "disk", range(1, 1001))
    build(target, disk.path)
    numbers = random.Random(count).sample(range(1, 2001), count)
    index = opened(target)
    expected = [each - 1 if each <= 1000 else None for each in numbers]
    assert index.find([fingerprint(each) for each in numbers]) == expected
    index.close()


def test_zeros_and_holes_are_not_indexed(tmp_path: Path, target: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(content([0, 9]))
    assert build(target, disk).blocks == 1
    index = opened(target)
    assert index.find([PRINTS.zero, fingerprint(9)]) == [None, (32 << 20) // 4096 + 1]
    index.close()


def test_what_is_over_the_limit_is_left_out_and_the_rest_is_found(
    tmp_path: Path, target: Path
) -> None:
    disk = image(tmp_path / "disk", range(1, 601))
    built = build(target, disk.path, blocks_max=300)
    assert (built.blocks, built.complete) == (300, False)
    index = opened(target)
    assert index.find([fingerprint(300), fingerprint(301)]) == [299, None]
    index.close()
    assert build(target, disk.path, blocks_max=600).complete


def test_only_the_agent_may_read_an_index_and_nothing_else_is_left(
    tmp_path: Path, target: Path
) -> None:
    disk = image(tmp_path / "disk", [1, 2])
    build(target, disk.path)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert {each.name for each in tmp_path.iterdir()} == {"disk", "one.sqlite"}


def test_an_index_of_another_key_is_not_used_and_goes(tmp_path: Path, target: Path) -> None:
    build(target, image(tmp_path / "disk", [1]).path)
    assert BlockIndex.open(target, Fingerprints(b"o" * 32).check_value) is None
    assert not target.exists()


def test_an_index_of_another_version_is_not_used_and_goes(tmp_path: Path, target: Path) -> None:
    build(target, image(tmp_path / "disk", [1]).path)
    with sqlite3.connect(target) as connection:
        connection.execute("UPDATE meta SET value = 0 WHERE name = 'version'")
    connection.close()
    assert BlockIndex.open(target, PRINTS.check_value) is None
    assert not target.exists()


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 500])
def test_a_file_that_is_no_index_counts_as_missing_and_goes(target: Path, damage: bytes) -> None:
    target.write_bytes(damage)
    assert BlockIndex.open(target, PRINTS.check_value) is None
    assert not target.exists()


def test_damage_found_while_looking_up_deletes_the_index(tmp_path: Path, target: Path) -> None:
    build(target, image(tmp_path / "disk", range(1, 2001)).path)
    with target.open("r+b") as file:  # the schema and the meta table are in the first pages
        file.seek(2 * 4096)
        file.write(b"\xff" * (target.stat().st_size - 2 * 4096))
    index = opened(target)
    with pytest.raises(errors.DataLoss) as damaged:
        index.find([fingerprint(each) for each in range(1, 2001)])
    assert damaged.value.reason == "DISK_IO"
    assert not target.exists()
    index.close()


def test_a_closed_index_says_so(tmp_path: Path, target: Path) -> None:
    build(target, image(tmp_path / "disk", [1]).path)
    index = opened(target)
    index.close()
    index.close()
    with pytest.raises(errors.DataLoss):
        index.find([1])


def test_an_image_that_changes_while_it_is_read_gets_no_index(tmp_path: Path, target: Path) -> None:
    disk = image(tmp_path / "disk", range(1, 1001))

    def write_to_it() -> None:
        with disk.path.open("r+b") as file:
            file.write(os.urandom(8))

    with pytest.raises(errors.DataLoss) as refused:
        building.build(target, disk.path, "raw", open_reader, PRINTS, pace=write_to_it)
    assert refused.value.reason == "SOURCE_CHANGED"
    assert {each.name for each in tmp_path.iterdir()} == {"disk"}


def test_an_image_that_is_replaced_before_it_is_opened_gets_no_index(
    tmp_path: Path, target: Path
) -> None:
    disk = image(tmp_path / "disk", [1, 2, 3])
    other = image(tmp_path / "other", [4, 5, 6])

    def open_other(path: Path, disk_format: str) -> DiskReader:
        other.path.replace(path)
        return open_reader(path, disk_format)

    with pytest.raises(errors.DataLoss):
        building.build(target, disk.path, "raw", open_other, PRINTS, pace=lambda: None)
    assert not target.exists()


@pytest.mark.parametrize("calls", [1, 100, PARTITIONS + 2])
def test_a_build_that_is_stopped_anywhere_leaves_the_earlier_index(
    tmp_path: Path, target: Path, calls: int
) -> None:
    disk = image(tmp_path / "disk", [1])
    build(target, disk.path)
    before = target.read_bytes()
    left = iter(range(calls - 1))

    def stop() -> None:
        if next(left, None) is None:
            raise errors.Cancelled("CANCELLED", "stopped")

    with pytest.raises(errors.Cancelled):
        building.build(target, disk.path, "raw", open_reader, PRINTS, pace=stop)
    assert target.read_bytes() == before
    assert {each.name for each in tmp_path.iterdir()} == {"disk", "one.sqlite"}


def test_an_image_that_is_not_there_is_unreadable(tmp_path: Path, target: Path) -> None:
    with pytest.raises(errors.FailedPrecondition) as refused:
        build(target, tmp_path / "gone")
    assert refused.value.reason == "IMAGE_UNREADABLE"


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", [1])
    with pytest.raises(errors.WatariError):
        build(tmp_path / "missing" / "one.sqlite", disk.path)


def test_an_image_may_move_with_its_folder_and_stay_the_same(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    image(tmp_path / "here" / "disk", [1])
    before = Identity.of(tmp_path / "here" / "disk")
    (tmp_path / "here").rename(tmp_path / "there")
    assert before is not None
    assert Identity.of(tmp_path / "there" / "disk") == before
    assert Identity.of(tmp_path / "here" / "disk") is None


@given(
    st.lists(st.tuples(st.integers(0, 2**48 - 1), st.integers(0, 2**32 - 1)), max_size=50),
    st.integers(0, 3 * PIECE_BYTES_MAX // 10),
)
def test_pairs_come_back_sorted_and_whole(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[int, int]], many: int
) -> None:
    # `many` pairs of one partition, so that pieces reach the file.
    pairs = pairs + [(many - each, each) for each in range(many)]
    with Spill(tmp_path_factory.getbasetemp()) as spill:
        spill.add(pairs)
        assert [pair for part in spill.partitions() for pair in part] == sorted(pairs)


def test_a_short_end_of_an_image_is_found_as_it_is(tmp_path: Path, target: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(block(1) + b"end")
    build(target, disk)
    index = opened(target)
    assert index.find(PRINTS.of(b"end")) == [1]
    index.close()
