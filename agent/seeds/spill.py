"""Sorts more (fingerprint, block) pairs than memory should hold, by way of one unnamed file.

Pairs are dealt to partitions by the fingerprint's highest bits, 10 bytes each, and a partition that
has a few kilobytes is appended to the file. As fingerprints are spread evenly, reading partition
after partition and sorting each gives the whole in order.
"""

import errno
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.seeds.fingerprints import FINGERPRINT_BYTES

PARTITIONS = 256
"""More would sort faster in less memory, and write smaller pieces."""

PIECE_BYTES_MAX = 8000
"""Written at once; all partitions together hold 2 MB while pairs come in."""

_FINGERPRINT_BITS = 8 * FINGERPRINT_BYTES
_PAIR_BYTES = FINGERPRINT_BYTES + 4
_SHIFT = _FINGERPRINT_BITS - 8
_BLOCK_BITS = 32


class Spill:
    """Takes pairs in any order, then gives them sorted, once. A context manager; not for threads.

    The file is in `folder`, has no name and goes away with the process. OSError comes through.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed below
        self._buffers = [bytearray() for _ in range(PARTITIONS)]
        self._pieces = [array("Q") for _ in range(PARTITIONS)]
        self._end = 0

    def add(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Takes (fingerprint, block number) pairs; block numbers have at most 32 bits."""
        buffers = self._buffers
        for fingerprint, block in pairs:
            buffer = buffers[fingerprint >> _SHIFT]
            buffer += (fingerprint << _BLOCK_BITS | block).to_bytes(_PAIR_BYTES, "big")
            if len(buffer) >= PIECE_BYTES_MAX:
                self._write(fingerprint >> _SHIFT)

    def partitions(self) -> Iterator[list[tuple[int, int]]]:
        """The pairs in order of fingerprint, then of block, a list for each partition."""
        for number in range(PARTITIONS):
            packed = self._read(number)
            keys = sorted(
                [packed[at : at + _PAIR_BYTES] for at in range(0, len(packed), _PAIR_BYTES)]
            )
            yield [
                (
                    int.from_bytes(key[:FINGERPRINT_BYTES], "big"),
                    int.from_bytes(key[FINGERPRINT_BYTES:], "big"),
                )
                for key in keys
            ]

    def _write(self, number: int) -> None:
        # All pieces have one length, so that a piece is known by where it starts.
        buffer = self._buffers[number]
        if os.pwrite(self._file.fileno(), buffer, self._end) < len(buffer):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._pieces[number].append(self._end)
        self._end += len(buffer)
        buffer.clear()

    def _read(self, number: int) -> bytes:
        descriptor = self._file.fileno()
        pieces = [os.pread(descriptor, PIECE_BYTES_MAX, at) for at in self._pieces[number]]
        return b"".join([*pieces, self._buffers[number]])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
