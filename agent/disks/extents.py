"""Which parts of a raw disk may hold data, by SEEK_DATA and SEEK_HOLE (lseek(2)).

A file system that does not know answers that everything is data, which costs time and nothing
else. One that reports data as a hole (some OpenZFS releases, on files still dirty in memory) would
lose content: the file is flushed first, and `full_read` asks nobody.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Extent:
    """A range of a disk, `start` to `end` in bytes, that is a hole or may hold data."""

    start: int
    end: int
    hole: bool


def extents(descriptor: int, size: int, granularity: int, *, full_read: bool) -> Iterator[Extent]:
    """The whole disk in order without gap or overlap, cut on multiples of `granularity`.

    Data grows outwards to the next multiple, so a hole is a hole throughout.
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


def _seek(descriptor: int, offset: int, whence: int, size: int) -> int:
    try:
        return min(size, os.lseek(descriptor, offset, whence))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        if error.errno == errno.EINVAL:  # no support, as on some block devices: all is data
            return offset if whence == os.SEEK_DATA else size
        raise
