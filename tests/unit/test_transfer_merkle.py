"""The tree of a disk: the same root in whatever order it was filled, another for other content."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.transfer.geometry import LEAF_BYTES, PARENT_BYTES
from agent.transfer.merkle import DigestKeys, DiskTree, receipt_root
from watari import errors

KEYS = DigestKeys(b"k" * 32)


def fill(tree: DiskTree, content: bytes, order: random.Random) -> None:
    """Puts every leaf in some order; zero leaves sometimes as zeros."""
    offsets = list(range(0, len(content), LEAF_BYTES))
    order.shuffle(offsets)
    for offset in offsets:
        leaf = content[offset : offset + LEAF_BYTES]
        if not any(leaf) and order.random() < 0.5:
            tree.put_zeros(offset, len(leaf))
        else:
            tree.put_leaves(offset, [KEYS.leaf(leaf)])


def content(size: int, seed: int) -> bytes:
    """Random and zero leaves."""
    rng = random.Random(seed)
    leaves = [
        rng.randbytes(LEAF_BYTES) if rng.random() < 0.5 else bytes(LEAF_BYTES)
        for _ in range(size // LEAF_BYTES + 1)
    ]
    return b"".join(leaves)[:size]


@given(st.integers(1, 2 * PARENT_BYTES + 3), st.integers(0, 2**32))
def test_the_root_does_not_depend_on_the_order(size: int, seed: int) -> None:
    disk = content(size, seed)
    first, second = DiskTree(KEYS, size), DiskTree(KEYS, size)
    fill(first, disk, random.Random(1))
    second.put_leaves(0, KEYS.leaves(disk))
    assert first.complete
    assert second.complete
    assert first.root() == second.root()


@given(st.integers(1, 3 * PARENT_BYTES), st.integers(0, 2**32))
def test_another_byte_is_another_root(size: int, seed: int) -> None:
    disk = bytearray(content(size, seed))
    roots = []
    for _ in range(2):
        tree = DiskTree(KEYS, size)
        tree.put_leaves(0, KEYS.leaves(bytes(disk)))
        roots.append(tree.root())
        disk[random.Random(seed).randrange(size)] ^= 1
    assert roots[0] != roots[1]


@pytest.mark.parametrize(
    "size", [0, 1, LEAF_BYTES, PARENT_BYTES, PARENT_BYTES + 1, 3 * PARENT_BYTES - 5]
)
def test_a_range_of_zeros_is_the_leaves_of_zeros(size: int) -> None:
    ranges, leaves = DiskTree(KEYS, size), DiskTree(KEYS, size)
    if size:
        ranges.put_zeros(0, size)
    leaves.put_leaves(0, KEYS.leaves(bytes(size)))
    assert ranges.root() == leaves.root()


def test_sizes_key_and_missing_leaves_count() -> None:
    roots = set()
    for keys, size in ((KEYS, 10), (KEYS, 11), (DigestKeys(b"x" * 32), 10)):
        tree = DiskTree(keys, size)
        tree.put_zeros(0, size)
        roots.add(tree.root())
    assert len(roots) == 3
    incomplete = DiskTree(KEYS, 2 * LEAF_BYTES)
    incomplete.put_zeros(0, LEAF_BYTES)
    assert not incomplete.complete
    with pytest.raises(errors.DataLoss):
        incomplete.root()


@pytest.mark.parametrize(("offset", "length"), [(0, LEAF_BYTES), (0, PARENT_BYTES)])
def test_content_that_comes_twice_is_refused(offset: int, length: int) -> None:
    tree = DiskTree(KEYS, 2 * PARENT_BYTES)
    tree.put_leaves(0, [KEYS.leaf(b"x" * LEAF_BYTES)])
    with pytest.raises(errors.DataLoss):
        tree.put_zeros(offset, length)


def test_a_64_gib_hole_takes_no_memory_to_speak_of() -> None:
    tree = DiskTree(KEYS, 1 << 36)
    tree.put_zeros(0, 1 << 36)
    assert tree.complete
    assert len(tree.root()) == 32


def test_the_receipt_root_covers_every_part() -> None:
    base = [("vda", 10, b"r" * 32)]
    roots = {
        receipt_root(KEYS, base, b"d" * 32),
        receipt_root(KEYS, base, b"e" * 32),
        receipt_root(KEYS, [("vdb", 10, b"r" * 32)], b"d" * 32),
        receipt_root(KEYS, [("vda", 11, b"r" * 32)], b"d" * 32),
        receipt_root(KEYS, [*base, *base], b"d" * 32),
    }
    assert len(roots) == 5
