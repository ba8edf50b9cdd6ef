"""What to read, in which pieces, and what of it to send. Pure functions of extents and content."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent.disks.extents import Extent
from agent.transfer.geometry import FRAME_CONTENT_BYTES_MAX, LEAF_BYTES, ZERO_LEAF


@dataclass(frozen=True)
class Piece:
    """A hole of any length, or at most 1 MiB that one worker reads at once."""

    disk: int
    offset: int
    length: int
    hole: bool


def pieces(disk: int, extents: Iterable[Extent]) -> Iterator[Piece]:
    """The extents of a disk cut into pieces: holes whole, data on multiples of 1 MiB."""
    for extent in extents:
        if extent.hole:
            yield Piece(disk, extent.start, extent.end - extent.start, hole=True)
            continue
        at = extent.start
        while at < extent.end:
            step = FRAME_CONTENT_BYTES_MAX - at % FRAME_CONTENT_BYTES_MAX
            end = min(extent.end, at + step)
            yield Piece(disk, at, end - at, hole=False)
            at = end


@dataclass(frozen=True)
class Run:
    """Leaves of a piece, `start` to `end` in bytes, that are all zero or all not."""

    start: int
    end: int
    zero: bool


def runs(content: bytes) -> Iterator[Run]:
    """The content of a piece as runs of zero and of other leaves in turn."""
    start, was_zero = 0, False
    for at in range(0, len(content), LEAF_BYTES):
        leaf = content[at : at + LEAF_BYTES]
        zero = leaf == ZERO_LEAF or (len(leaf) < LEAF_BYTES and not any(leaf))
        if at and zero != was_zero:
            yield Run(start, at, was_zero)
            start = at
        was_zero = zero
    if content:
        yield Run(start, len(content), was_zero)
