"""Which parts of a disk may hold data.

Raw disks tell by SEEK_DATA and SEEK_HOLE (lseek(2)). A file system that does not know answers that
everything is data, which costs time and nothing else. One that reports data as a hole (some OpenZFS
releases, on files still dirty in memory) would lose content: the file is flushed first, and
`full_read` asks nobody.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Extent:
    """A range of a disk, `start` to `end` in bytes, that is a hole or may hold data."""

    start: int
    end: int
    hole: bool


def extents(descriptor: int, size: int, granularity: int, *, full_read: bool) -> Iterator[Extent]:
    """The whole disk in order without gap or overlap, cut on multiples of `granularity`.

    Data grows outwards to the next multiple, so a hole is a hole throughout. Raises OSError.
    """
    if full_read and size:
        yield Extent(0, size, hole=False)
        return
    at = 0
    while at < size:
        data = _seek(descriptor, at, os.SEEK_DATA, size)
        start = max(at, data - data % granularity) if data < size else size
        if start > at:
            yield Extent(at, start, hole=True)
        if start == size:
            return
        hole = _seek(descriptor, data, os.SEEK_HOLE, size)
        at = min(size, -(-hole // granularity) * granularity)
        yield Extent(start, at, hole=False)


def aligned(found: Iterable[Extent], size: int, granularity: int) -> Iterator[Extent]:
    """The same for extents that begin and end anywhere: data grows outwards, holes shrink.

    `found` is in order without gap or overlap, from 0 to `size` or further; what is further is cut.
    Data is passed on as soon as it is known, so neighbours may both be data.
    """
    at = 0
    for each in _merged_holes(found):
        if each.hole:
            start = max(at, -(-each.start // granularity) * granularity)
            end = size if each.end >= size else each.end - each.end % granularity
        else:
            start = end = min(size, each.end - each.end % granularity)
        if start > size:
            break
        if at < start:
            yield Extent(at, start, hole=False)
            at = start
        if start < end:
            yield Extent(start, end, hole=True)
            at = end
    if at < size:
        yield Extent(at, size, hole=False)


def check_range(size: int, offset: int, length: int) -> None:
    """Raises ValueError, a fault of the program, unless a range lies within a disk of `size`."""
    if offset < 0 or length < 0 or offset + length > size:
        raise ValueError(f"bytes {offset} to {offset + length} of a disk of {size}")


def _merged_holes(found: Iterable[Extent]) -> Iterator[Extent]:
    """Joins holes that touch: a multiple of the granularity may lie across their border."""
    hole: Extent | None = None
    for each in found:
        if each.hole:
            hole = Extent(hole.start if hole else each.start, each.end, hole=True)
            continue
        if hole:
            yield hole
            hole = None
        yield each
    if hole:
        yield hole


def _seek(descriptor: int, offset: int, whence: int, size: int) -> int:
    try:
        return min(size, os.lseek(descriptor, offset, whence))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        if error.errno == errno.EINVAL:  # no support, as on some block devices: all is data
            return offset if whence == os.SEEK_DATA else size
        raise
