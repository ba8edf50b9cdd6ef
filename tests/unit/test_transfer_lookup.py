"""Leaves from blocks that this host has: what is found is in its place, what is not is named."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.disks import open_reader
from agent.seeds.fingerprints import BLOCK_BYTES, BLOCKS_PER_LEAF, ZERO_BLOCK, pack
from agent.seeds.index import BlockIndex
from agent.seeds.sources import Seed, SeedSources
from agent.transfer.geometry import LEAF_BYTES, whole_mask
from agent.transfer.lookup import Blocks, Lookup
from tests.support.seed_images import PRINTS, block, build, content, fingerprint, image
from watari import errors

INDEXED = range(1, 40)


class View:
    """What a session opens, and how often it did."""

    def __init__(self, folder: Path) -> None:
        self.opened = 0
        self.disk = image(folder / "one", INDEXED)
        build(folder / "one.sqlite", self.disk.path)

    def __call__(self) -> SeedSources:
        self.opened += 1
        index = BlockIndex.open(self.disk.path.with_suffix(".sqlite"), PRINTS.check_value)
        assert index is not None
        self.sources = SeedSources([Seed(self.disk, index, open_reader)], PRINTS.zero)
        return self.sources


@pytest.fixture
def view(tmp_path: Path) -> View:
    return View(tmp_path)


@pytest.fixture
def lookup(view: View) -> Iterator[Lookup]:
    made = Lookup(view, PRINTS)
    yield made
    made.close()


def prints(*numbers: int) -> bytes:
    """The fingerprints of a leaf with these blocks."""
    of = [fingerprint(each) for each in numbers]
    return pack([*of, *[0] * (BLOCKS_PER_LEAF - len(of))])


def test_a_leaf_is_found_at_any_block_of_an_image_and_in_any_order(lookup: Lookup) -> None:
    numbers = [*range(6, 20), 3, 2]
    (found,) = lookup.leaves([prints(*numbers)])
    assert found.assembled(LEAF_BYTES) == (content(numbers), 0)


def test_blocks_that_nobody_has_are_zeros_and_named_in_the_mask(lookup: Lookup) -> None:
    numbers = [999, *range(2, 16), 998]
    (found,) = lookup.leaves([prints(*numbers)])
    assert found.assembled(LEAF_BYTES) == (content([0, *range(2, 16), 0]), 0x8001)


def test_each_leaf_of_many_gets_its_own_blocks(lookup: Lookup) -> None:
    leaves = [[(leaf * 7 + each) % 60 for each in range(16)] for leaf in range(64)]
    found = lookup.leaves([prints(*numbers) for numbers in leaves])
    assert len(found) == len(leaves)
    for numbers, blocks in zip(leaves, found, strict=True):
        known = [each if each in INDEXED else 0 for each in numbers]
        lacking = sum(1 << at for at, each in enumerate(numbers) if each > INDEXED[-1])
        assert blocks.assembled(LEAF_BYTES) == (content(known), lacking)


def test_blocks_of_zeros_need_no_image(tmp_path: Path) -> None:
    lookup = Lookup(lambda: SeedSources([], PRINTS.zero), PRINTS)
    (found,) = lookup.leaves([prints(0, 1, *[0] * 14)])
    assert found.assembled(LEAF_BYTES) == (bytes(LEAF_BYTES), 0x0002)


def test_images_are_opened_once_and_when_something_is_asked_for(view: View) -> None:
    lookup = Lookup(view, PRINTS)
    assert view.opened == 0
    lookup.leaves([prints(1)])
    lookup.leaves([prints(2)])
    assert view.opened == 1
    lookup.close()
    lookup.close()
    assert view.sources.blocks([fingerprint(1)]) == [None]


def test_closing_what_was_never_asked_opens_nothing(view: View) -> None:
    Lookup(view, PRINTS).close()
    assert view.opened == 0


def test_an_image_that_changed_after_it_was_indexed_finds_nothing(
    view: View, lookup: Lookup
) -> None:
    assert lookup.leaves([prints(1)])[0].blocks[0] == block(1)
    image(view.disk.path, [9] * len(INDEXED))
    (found,) = lookup.leaves([prints(*range(1, 17))])
    assert found.assembled(LEAF_BYTES) == (bytes(LEAF_BYTES), 0xFFFF)


def test_a_fingerprint_that_was_cut_off_is_refused(lookup: Lookup) -> None:
    with pytest.raises(errors.DataLoss) as caught:
        lookup.leaves([prints(1)[:-1]])
    assert caught.value.reason == "FRAME_INVALID"


FOUND = st.sampled_from([None, ZERO_BLOCK, block(5), block(6)[:100], b"x" * (BLOCK_BYTES - 1)])


@given(
    st.lists(FOUND, min_size=BLOCKS_PER_LEAF, max_size=BLOCKS_PER_LEAF),
    st.one_of(st.integers(1, LEAF_BYTES), st.sampled_from([100, BLOCK_BYTES + 100, LEAF_BYTES])),
)
def test_a_leaf_has_the_blocks_that_fit_and_zeros_where_the_mask_says(
    found: list[bytes | None], length: int
) -> None:
    """A block of another length than its place is no find."""
    assembled, missing = Blocks(tuple(found)).assembled(length)
    assert len(assembled) == length
    assert missing & ~whole_mask(length) == 0
    for index in range(-(-length // BLOCK_BYTES)):
        there = assembled[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
        each = found[index]
        fits = each is not None and len(each) == len(there)
        assert bool(missing >> index & 1) != fits
        assert there == (each if fits else bytes(len(there)))
