"""Blocks into data frames: zstd at the level of the moment, raw when that does not shrink them."""

from collections.abc import Callable, Sequence

import zstandard

from agent.transfer import frames

LEVEL_RAW = 1
"""Level that is tried after a frame that did not shrink: it soon finds that the next does not."""

KEPT_FIRST = 0.3
"""What is expected of the first frame: about what root file systems keep."""

SHRINK_MAX = 0.98
"""A frame that keeps more than this of its size did not shrink."""


class Packer:
    """Compresses for one worker. For one thread.

    It keeps two compressors, for content that shrinks and for what does not: one of level 9 takes
    some 20 MB.
    """

    def __init__(self, level: Callable[[], int]) -> None:
        self._level = level
        self.kept = KEPT_FIRST
        """Share of its size that the last frame kept: what to expect of the next."""
        self._compressors: dict[bool, tuple[int, zstandard.ZstdCompressor]] = {}

    def data(
        self,
        disk: int,
        offset: int,
        masks: Sequence[int],
        digests: Sequence[bytes],
        content: bytes,
    ) -> frames.Data:
        """A frame of leaves from byte `offset` on: the blocks in `masks`, joined in `content`."""
        packed = self._compressor(raw=self.kept > SHRINK_MAX).compress(content)
        compressed = len(packed) < len(content)
        self.kept = len(packed) / len(content)
        return frames.Data(
            disk,
            offset,
            len(content),
            tuple(masks),
            b"".join(digests),
            bytes(memoryview(packed)) if compressed else content,
            compressed,
        )

    def _compressor(self, *, raw: bool) -> zstandard.ZstdCompressor:
        level = min(self._level(), LEVEL_RAW) if raw else self._level()
        kept = self._compressors.get(raw)
        if kept is None or kept[0] != level:
            compressor = zstandard.ZstdCompressor(level=level, write_content_size=True)
            self._compressors[raw] = kept = level, compressor
        return kept[1]
