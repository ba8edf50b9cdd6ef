"""What a session reads: true blocks, long reads, and no image that has changed or failed."""

import itertools
import random
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.disks import DiskReader, open_reader
from agent.disks.raw import RawReader
from agent.seeds.fingerprints import BLOCK_BYTES, ZERO_BLOCK
from agent.seeds.images import Image
from agent.seeds.index import BlockIndex
from agent.seeds.sources import GAP_BLOCKS_MAX, RUN_BLOCKS_MAX, Seed, SeedSources, runs
from tests.support.seed_images import PRINTS, block, build, content, fingerprint, image
from watari import errors


@dataclass
class Reads:
    """Opens real readers and keeps which reads were made of them, and which are still open."""

    made: list[tuple[str, int, int]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __call__(self, path: Path, disk_format: str) -> DiskReader:
        reads = self

        class Reader(RawReader):
            def read(self, offset: int, length: int) -> bytes:
                reads.made.append((path.name, offset // BLOCK_BYTES, -(-length // BLOCK_BYTES)))
                return super().read(offset, length)

            def close(self) -> None:
                super().close()
                reads.open.remove(path.name)

        reader = Reader(path)
        self.open.append(path.name)
        return reader


@pytest.fixture
def reads() -> Reads:
    """What was read."""
    return Reads()


def seed(disk: Image, opener: object = open_reader) -> Seed:
    """An indexed image."""
    target = disk.path.with_suffix(".sqlite")
    build(target, disk.path)
    index = BlockIndex.open(target, PRINTS.check_value)
    assert index is not None
    return Seed(disk, index, opener)  # type: ignore[arg-type]


def view(*seeds: Seed) -> SeedSources:
    """A session's view of these."""
    return SeedSources(seeds, PRINTS.zero)


def ask(sources: SeedSources, numbers: Sequence[int]) -> list[bytes | None]:
    """The blocks of these numbers."""
    return sources.blocks([fingerprint(each) for each in numbers])


@pytest.fixture
def one(tmp_path: Path, reads: Reads) -> Iterator[SeedSources]:
    """A view of one image, blocks 1 to 1000, whose reads are kept."""
    with view(seed(image(tmp_path / "one", range(1, 1001)), reads)) as sources:
        yield sources


@st.composite
def disks(draw: st.DrawFn) -> list[bytes]:
    """One to three disks of few distinct blocks; later ones hold shifted pieces of the first."""
    numbers = draw(st.lists(st.integers(0, 12), max_size=60))
    tail = draw(st.sampled_from([b"", b"end", bytes(100)]))
    made = [content(numbers, tail)]
    for _ in range(draw(st.integers(0, 2))):
        shift = draw(st.integers(0, max(0, len(numbers) - 1)))
        front = draw(st.lists(st.integers(0, 20), max_size=20))
        made.append(content([*front, *numbers[shift:]], draw(st.sampled_from([b"", b"x"]))))
    return made


@given(disks(), st.lists(st.integers(0, 30), max_size=40), st.randoms(use_true_random=False))
def test_every_block_of_an_indexed_image_is_found_and_is_the_one_asked_for(
    tmp_path_factory: pytest.TempPathFactory,
    made: list[bytes],
    others: list[int],
    order: random.Random,
) -> None:
    folder = tmp_path_factory.mktemp("property")
    seeds = []
    for number, disk in enumerate(made):
        path = folder / f"disk{number}"
        path.write_bytes(disk)
        seeds.append(seed(Image(path, "raw", "scope", path.name)))
    held = {
        found: disk[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES]
        for disk in made
        for at, found in enumerate(PRINTS.of(disk))
    }
    asked = [*held, *[fingerprint(each) for each in others]] * 2
    order.shuffle(asked)
    with view(*seeds) as sources:
        for start in range(0, len(asked), 16):
            part = asked[start : start + 16]
            for wanted, found in zip(part, sources.blocks(part), strict=True):
                if wanted == PRINTS.zero:
                    assert found == ZERO_BLOCK
                elif wanted in held and any(held[wanted]):
                    assert found == held[wanted]
                elif wanted not in held:
                    assert found is None
                if found is not None:
                    assert PRINTS.of(found) == [wanted]


def test_neighbours_are_read_at_once_whatever_their_order(one: SeedSources, reads: Reads) -> None:
    numbers = list(range(101, 117))
    random.Random(1).shuffle(numbers)
    assert ask(one, numbers) == [block(each) for each in numbers]
    assert reads.made == [("one", 100, 16)]


def test_an_image_in_which_nothing_is_found_is_not_opened(one: SeedSources, reads: Reads) -> None:
    assert ask(one, [5000, 5001]) == [None, None]
    assert reads.open == []
    assert ask(one, [1]) == [block(1)]
    assert reads.open == ["one"]


def test_the_zero_block_needs_no_image() -> None:
    assert view().blocks([PRINTS.zero, 5]) == [ZERO_BLOCK, None]


def test_what_gave_most_is_asked_first_for_what_follows(tmp_path: Path, reads: Reads) -> None:
    first = seed(image(tmp_path / "first", [*range(1, 3), 50, 60]), reads)
    second = seed(image(tmp_path / "second", range(1, 101)), reads)
    with view(first, second) as sources:
        assert ask(sources, range(1, 17)) == [block(each) for each in range(1, 17)]
        reads.made.clear()
        assert ask(sources, range(49, 65)) == [block(each) for each in range(49, 65)]
    assert reads.made == [("second", 48, 16)]


def test_an_image_that_was_written_to_is_left_out_and_the_others_stay(
    tmp_path: Path, reads: Reads
) -> None:
    changing = image(tmp_path / "changing", [1, 2, 3])
    with view(seed(changing, reads), seed(image(tmp_path / "still", [2, 9]), reads)) as sources:
        assert ask(sources, [1, 9]) == [block(1), block(9)]
        with changing.path.open("r+b") as file:
            file.write(block(4))
        assert ask(sources, [1, 2, 9]) == [None, block(2), block(9)]
        assert reads.open == ["still"]


@pytest.mark.parametrize("harm", ["gone", "shorter", "replaced"])
def test_an_image_that_went_away_finds_nothing(tmp_path: Path, harm: str) -> None:
    disk = image(tmp_path / "disk", range(1, 100))
    with view(seed(disk)) as sources:
        if harm == "gone":
            disk.path.unlink()
        elif harm == "shorter":
            disk.path.write_bytes(block(1))
        else:
            image(tmp_path / "other", range(1, 100)).path.replace(disk.path)
        assert ask(sources, [1, 99]) == [None, None]


def test_an_image_that_fails_to_be_read_is_left_out(tmp_path: Path) -> None:
    def fail(path: Path, disk_format: str) -> DiskReader:
        raise errors.FailedPrecondition("IMAGE_UNREADABLE", "no")

    broken = seed(image(tmp_path / "broken", [1, 2]), fail)
    with view(broken, seed(image(tmp_path / "good", [2]))) as sources:
        assert ask(sources, [1, 2]) == [None, block(2)]
        assert ask(sources, [1, 2]) == [None, block(2)]


@pytest.mark.parametrize("number", [-1, 3, 2**40, 2**62, "text", 1.5])
def test_a_block_number_that_the_image_does_not_have_is_no_find(
    tmp_path: Path, number: object
) -> None:
    disk = image(tmp_path / "disk", [1, 2, 3])
    opened = seed(disk)
    writable = sqlite3.connect(tmp_path / "disk.sqlite", isolation_level=None)
    writable.execute("UPDATE blocks SET block = ? WHERE block = 1", (number,))
    writable.close()
    with view(opened) as sources:
        assert ask(sources, [1, 2, 3]) == [block(1), None, block(3)]


def test_a_closed_view_finds_nothing_and_holds_nothing_open(tmp_path: Path, reads: Reads) -> None:
    sources = view(seed(image(tmp_path / "disk", [1]), reads))
    assert ask(sources, [1]) == [block(1)]
    sources.close()
    assert reads.open == []
    assert ask(sources, [1]) == [None]


@given(st.sets(st.integers(0, 3000), max_size=200))
def test_reads_cover_what_is_asked_in_order_and_keep_their_limits(blocks: set[int]) -> None:
    planned = runs(blocks)
    covered = [each for first, count in planned for each in range(first, first + count)]
    assert blocks <= set(covered)
    assert covered == sorted(set(covered))
    assert all(count <= RUN_BLOCKS_MAX for _, count in planned)
    for first, count in planned:
        inside = sorted(each for each in blocks if first <= each < first + count)
        assert (inside[0], inside[-1]) == (first, first + count - 1)
        gaps = [after - before - 1 for before, after in itertools.pairwise(inside)]
        assert all(gap <= GAP_BLOCKS_MAX for gap in gaps)


def test_every_block_of_a_full_run_is_one_read() -> None:
    assert runs(range(RUN_BLOCKS_MAX)) == [(0, RUN_BLOCKS_MAX)]
    assert len(runs(range(RUN_BLOCKS_MAX + 1))) == 2
