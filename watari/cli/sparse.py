"""Files with holes: copying, comparing and measuring them without filling the holes.

Holes are found with SEEK_DATA and SEEK_HOLE; a file system without them reports one extent of
data, and everything here still holds.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

CHUNK_BYTES = 1024 * 1024
"""Compared and copied at a time: bounds memory."""

_BLOCK_BYTES = 512  # st_blocks counts these, whatever the file system's block size


def allocated_bytes(path: Path) -> int:
    """What the file takes on its file system."""
    return path.stat().st_blocks * _BLOCK_BYTES


def extents(descriptor: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """The (start, end) of every stretch of data, in order."""
    position = 0
    while position < size_bytes:
        start = _next_data(descriptor, position, size_bytes)
        if start >= size_bytes:
            return
        end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size_bytes)
        yield start, end
        position = end


def copy(source: Path, target: Path) -> None:
    """Copies a file to a new one with the same content and holes, and flushes it to the disk.

    Raises OSError.
    """
    with source.open("rb", buffering=0) as reader, target.open("xb", buffering=0) as writer:
        size_bytes = os.fstat(reader.fileno()).st_size
        writer.truncate(size_bytes)
        for start, end in extents(reader.fileno(), size_bytes):
            _copy_extent(reader.fileno(), writer.fileno(), start, end)
        os.fsync(writer.fileno())


def first_difference(left: Path, right: Path) -> int | None:
    """Offset of the first byte in which two files differ, None when they are identical.

    Files of unequal size differ at the end of the shorter one, if nowhere before. Every byte is
    compared, except where both files have a hole and so read as zeros.
    """
    with left.open("rb", buffering=0) as one, right.open("rb", buffering=0) as other:
        sizes = [os.fstat(file.fileno()).st_size for file in (one, other)]
        common, position = min(sizes), 0
        while position < common:
            position = min(_next_data(file.fileno(), position, common) for file in (one, other))
            count = min(CHUNK_BYTES, common - position)
            a = os.pread(one.fileno(), count, position)
            b = os.pread(other.fileno(), count, position)
            if a != b:
                return position + _first_unequal(a, b)
            position += count
        return None if sizes[0] == sizes[1] else common


def _copy_extent(reader: int, writer: int, start: int, end: int) -> None:
    os.lseek(writer, start, os.SEEK_SET)
    position = start
    while position < end:
        copied = os.sendfile(writer, reader, position, min(CHUNK_BYTES, end - position))
        if copied == 0:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        position += copied


def _first_unequal(a: bytes, b: bytes) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((at for at, (x, y) in pairs if x != y), min(len(a), len(b)))


def _next_data(descriptor: int, position: int, size_bytes: int) -> int:
    try:
        return min(os.lseek(descriptor, position, os.SEEK_DATA), size_bytes)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but a hole up to the end
            return size_bytes
        raise
