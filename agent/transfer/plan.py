"""What to look at, parent by parent, and how its leaves go into frames. Pure functions."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from agent.disks import Extent
from agent.transfer.geometry import (
    FRAME_CONTENT_BYTES_MAX,
    LEAF_BYTES,
    PARENT_BYTES,
    ZERO_LEAF,
    leaf_bytes,
    masked_bytes,
)


@dataclass(frozen=True)
class Hole:
    """A range without content: whole parents, any number of them."""

    disk: int
    offset: int
    length: int


@dataclass(frozen=True)
class Parent:
    """A parent with content somewhere: the ranges that have to be read, as (start, end)."""

    disk: int
    offset: int
    length: int
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Same:
    """A parent that is what it was in the round before: its digest is known without reading it."""

    disk: int
    offset: int
    length: int
    digest: bytes


Unit = Hole | Parent | Same


def units(disk: int, size: int, extents: Iterable[Extent]) -> Iterator[Hole | Parent]:
    """A disk of `size` bytes in order, without gap or overlap. Extents are cut on leaves."""
    done, ranges = 0, list[tuple[int, int]]()
    for start, end in _cut(extents):
        parent = start - start % PARENT_BYTES
        if ranges and parent >= done + PARENT_BYTES:
            yield _parent(disk, size, done, ranges)
            done, ranges = done + PARENT_BYTES, []
        if parent > done:
            yield Hole(disk, done, parent - done)
            done = parent
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
    if ranges:
        yield _parent(disk, size, done, ranges)
        done += PARENT_BYTES
    if done < size:
        yield Hole(disk, done, size - done)


def unchanged(
    found: Iterable[Hole | Parent], digest_of: Callable[[int], bytes | None]
) -> Iterator[Unit]:
    """The same units, less the reading of parents whose digest `digest_of` knows, by offset."""
    for unit in found:
        digest = digest_of(unit.offset) if isinstance(unit, Parent) else None
        yield unit if digest is None else Same(unit.disk, unit.offset, unit.length, digest)


def touched(changed: Iterable[Extent]) -> set[int]:
    """Numbers of the parents that ranges lie in."""
    parents = set[int]()
    for extent in changed:
        if extent.end > extent.start:
            parents.update(range(extent.start // PARENT_BYTES, -(-extent.end // PARENT_BYTES)))
    return parents


def _cut(extents: Iterable[Extent]) -> Iterator[tuple[int, int]]:
    """(start, end) of what may hold data, cut on parents."""
    for extent in extents:
        at = extent.start
        while at < extent.end and not extent.hole:
            end = min(extent.end, at - at % PARENT_BYTES + PARENT_BYTES)
            yield at, end
            at = end


def _parent(disk: int, size: int, offset: int, ranges: list[tuple[int, int]]) -> Parent:
    return Parent(disk, offset, min(PARENT_BYTES, size - offset), tuple(ranges))


def is_zero(leaf: bytes) -> bool:
    """Whether a leaf, whole or the short end of a disk, is all zeros."""
    return leaf == ZERO_LEAF if len(leaf) == LEAF_BYTES else not any(leaf)


def zero_runs(zeros: int, disk_bytes: int, parent: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of the runs of zero leaves, from a bit for each leaf of a parent."""
    index = 0
    while zeros >> index:
        if not zeros >> index & 1:
            index += 1
            continue
        first = index
        while zeros >> index & 1:
            index += 1
        offset = parent + first * LEAF_BYTES
        yield offset, min(parent + index * LEAF_BYTES, disk_bytes) - offset


def groups(
    disk_bytes: int,
    parent: int,
    masks: list[int],
    bytes_max: Callable[[], int] = lambda: FRAME_CONTENT_BYTES_MAX,
) -> Iterator[list[int]]:
    """Leaves of a parent that go into one frame each time: in order, with at most `bytes_max` of
    the blocks that their masks mean; it is asked again for each frame.
    """
    group, content, limit = list[int](), 0, bytes_max()
    for index, mask in enumerate(masks):
        if not mask:
            continue
        length = masked_bytes(mask, leaf_bytes(disk_bytes, parent + index * LEAF_BYTES))
        if group and content + length > limit:
            yield group
            group, content, limit = [], 0, bytes_max()
        group.append(index)
        content += length
    if group:
        yield group
