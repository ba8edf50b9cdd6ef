"""What one session may read: the indexed images of its scope, and the blocks in them.

Nothing that comes out is verified here; the caller checks the digest of the leaf that it assembles.
"""

import threading
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from agent.disks import DiskReader
from agent.seeds.fingerprints import BLOCK_BYTES, ZERO_BLOCK
from agent.seeds.images import Identity, Image, OpenReader
from agent.seeds.index import BlockIndex
from watari import errors, logs

RUN_BLOCKS_MAX = 256
"""Longest read: 1 MiB."""

GAP_BLOCKS_MAX = 3
"""Blocks that nobody asked for and that are read to make one read of two: cheaper than another."""

_log = logs.get(__name__)


class Seed:
    """One image with its index. The image is opened when something is found in it.

    Safe to share between threads. Once anything fails it is dropped, logged, and finds nothing.
    """

    def __init__(self, image: Image, index: BlockIndex, open_reader: OpenReader) -> None:
        self._image = image
        self._index = index
        self._open_reader = open_reader
        self._reader: DiskReader | None = None
        self._dropped = False
        self._lock = threading.Lock()

    def blocks(self, fingerprints: Sequence[int]) -> list[bytes | None]:
        """The content of each block that the index knows; None for the others."""
        with self._lock:
            if self._dropped:
                return [None] * len(fingerprints)
            try:
                numbers = self._index.find(fingerprints)
                contents = self._read({each for each in numbers if each is not None})
            except (errors.WatariError, OSError) as error:
                self._drop(str(error))
                return [None] * len(fingerprints)
        return [None if each is None else contents.get(each) for each in numbers]

    def close(self) -> None:
        """Closes image and index; nothing is found afterwards."""
        with self._lock:
            self._dropped = True
            self._close()

    def _read(self, numbers: set[int]) -> dict[int, bytes]:
        contents: dict[int, bytes] = {}
        if not numbers:
            return contents
        reader = self._opened()
        end = -(-reader.size // BLOCK_BYTES)
        # A damaged index may say anything.
        for first, count in runs(n for n in numbers if isinstance(n, int) and 0 <= n < end):
            at = first * BLOCK_BYTES
            content = reader.read(at, min(count * BLOCK_BYTES, reader.size - at))
            for start in range(0, len(content), BLOCK_BYTES):
                contents[first + start // BLOCK_BYTES] = content[start : start + BLOCK_BYTES]
        return contents

    def _opened(self) -> DiskReader:
        """The reader, when the image is still the one that was indexed."""
        if self._reader is None:
            self._reader = self._open_reader(self._image.path, self._image.format)
        if Identity.of(self._image.path) != self._index.identity:
            raise errors.DataLoss("SOURCE_CHANGED", "the image has changed since it was indexed")
        return self._reader

    def _drop(self, why: str) -> None:
        _log.warning("image no longer used as a seed", image=str(self._image.path), why=why)
        self._dropped = True
        self._close()

    def _close(self) -> None:
        self._index.close()
        reader, self._reader = self._reader, None
        if reader is not None:
            try:
                reader.close()
            except (errors.WatariError, OSError) as error:
                _log.warning("seed not closed", image=str(self._image.path), error=str(error))


class SeedSources:
    """One session's view: a context manager that closes what it opened. Safe to share."""

    def __init__(self, seeds: Sequence[Seed], zero: int) -> None:
        self._seeds = list(seeds)
        self._zero = zero
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Images in the view."""
        return len(self._seeds)

    def blocks(self, fingerprints: Sequence[int]) -> list[bytes | None]:
        """What may be the block of each fingerprint; None where no image has one.

        Not verified. A block has 4 KiB, or less where it ends an image; the fingerprint of a block
        of zeros gives zeros. Holds all the answer in memory, so ask for a leaf or a few at a time.
        """
        found: list[bytes | None] = [
            ZERO_BLOCK if each == self._zero else None for each in fingerprints
        ]
        missing = [at for at, block in enumerate(found) if block is None]
        most, best = 0, None
        for seed in self._order():
            if not missing:
                break
            blocks = seed.blocks([fingerprints[at] for at in missing])
            for at, block in zip(missing, blocks, strict=True):
                found[at] = block
            left = [at for at in missing if found[at] is None]
            if len(missing) - len(left) > most:
                most, best = len(missing) - len(left), seed
            missing = left
        if best is not None:
            self._prefer(best)
        return found

    def close(self) -> None:
        """Closes every image and index; nothing is found afterwards."""
        for seed in self._order():
            seed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _order(self) -> list[Seed]:
        with self._lock:
            return list(self._seeds)

    def _prefer(self, seed: Seed) -> None:
        """Asks this one first from now on: what follows in a disk follows in its copy too."""
        with self._lock:
            self._seeds.sort(key=lambda each: each is not seed)


def runs(blocks: Iterable[int]) -> list[tuple[int, int]]:
    """(first block, count) of the reads that cover all of `blocks`, in order."""
    found: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if found:
            first, count = found[-1]
            near = block - (first + count) <= GAP_BLOCKS_MAX
            if near and block - first < RUN_BLOCKS_MAX:
                found[-1] = first, block - first + 1
                continue
        found.append((block, 1))
    return found
