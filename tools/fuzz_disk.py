"""A disk in memory for the fuzzer: strict where the contract allows, and guarded at its end.

What `agent.disks.contract` lets a writer do is done in the way that shows a caller's mistake: zeros
are left out of a write, so old content stays where the caller had not made room; a clone takes over
whatever the source holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from agent.disks import DiskReader, Extent
from agent.disks.sparse import nonzero_runs
from agent.transfer.geometry import LEAF_BYTES, ZERO_LEAF, leaf_bytes, leaf_count


class BrokenPromise(Exception):
    """Something that must hold does not: what the fuzzer looks for."""


def require(holds: bool, what: str) -> None:
    """Raises BrokenPromise unless it holds."""
    if not holds:
        raise BrokenPromise(what)


class MemoryDisk:
    """Reader and writer of `size` bytes; leaves that were never touched take no memory."""

    def __init__(self, size: int, *, kept: bool = False) -> None:
        self.size = size
        self.kept = kept
        self._leaves: dict[int, bytearray] = {}

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes."""
        found = [
            bytes(self._leaves[leaf][start:end]) if leaf in self._leaves else bytes(end - start)
            for leaf, start, end in self._pieces(offset, length)
        ]
        return b"".join(found)

    def write(self, offset: int, content: bytes) -> None:
        """Writes the blocks that are not zero."""
        self._check(offset, len(content))
        for start, end in nonzero_runs(content):
            self._put(offset + start, content[start:end])

    def zero(self, offset: int, length: int) -> None:
        """Makes a range zeros."""
        for leaf, start, end in self._pieces(offset, length):
            if end - start == leaf_bytes(self.size, leaf * LEAF_BYTES):
                self._leaves.pop(leaf, None)
            elif leaf in self._leaves:
                self._leaves[leaf][start:end] = bytes(end - start)

    def clone(self, source: DiskReader, source_offset: int, offset: int, length: int) -> bool:
        """Copies from another disk in memory."""
        self._check(offset, length)
        self._put(offset, source.read(source_offset, length))
        return True

    def extents(self, granularity: int, *, full_read: bool = False) -> Iterator[Extent]:
        """Holes are whole leaves that were never touched; neighbours of one kind are joined."""
        require(granularity == LEAF_BYTES, f"extents of {granularity} bytes")
        at = 0
        for leaf in sorted(self._leaves):
            start = leaf * LEAF_BYTES
            end = start + leaf_bytes(self.size, start)
            if start > at:
                yield Extent(at, start, hole=not full_read)
            yield Extent(start, end, hole=False)
            at = end
        if at < self.size:
            yield Extent(at, self.size, hole=not full_read)

    def leaf(self, number: int) -> bytes:
        """The content of a leaf; the shared one of zeros where there is none."""
        found = self._leaves.get(number)
        if found is not None:
            return bytes(found)
        length = leaf_bytes(self.size, number * LEAF_BYTES)
        return ZERO_LEAF if length == LEAF_BYTES else bytes(length)

    def flush(self) -> None:
        """Memory is as stable as it gets here."""

    def check_unchanged(self) -> None:
        """Nobody else writes."""

    def close(self) -> None:
        """Nothing to give back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self, offset: int, length: int) -> None:
        require(
            0 <= offset <= offset + length <= self.size,
            f"{length} bytes at {offset} of a disk of {self.size}",
        )

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(leaf, start, end) of the part of each leaf in a range."""
        self._check(offset, length)
        end = offset + length
        for leaf in range(offset // LEAF_BYTES, leaf_count(end)):
            first = leaf * LEAF_BYTES
            yield leaf, max(offset, first) - first, min(end - first, LEAF_BYTES)

    def _put(self, offset: int, content: bytes) -> None:
        taken = 0
        for leaf, start, end in self._pieces(offset, len(content)):
            if leaf not in self._leaves:
                self._leaves[leaf] = bytearray(leaf_bytes(self.size, leaf * LEAF_BYTES))
            self._leaves[leaf][start:end] = content[taken : taken + end - start]
            taken += end - start
