"""Blocks into data frames: zstd at the level of the moment, raw when that does not shrink them."""

from collections.abc import Callable, Sequence

import zstandard

from agent.transfer import frames
from agent.transfer.geometry import FRAME_CONTENT_BYTES_MAX

LEVEL_RAW = 1
"""Level that is tried after a frame that did not shrink: it soon finds that the next does not."""

FRAME_BYTES_RAW = 1024 * 1024
"""Content of frames while they do not shrink."""

SHRINK_MAX = 0.98
"""A frame that keeps more than this of its size did not shrink."""


class Packer:
    """Compressors of one worker, one for each level that it was asked for. For one thread."""

    def __init__(self, level: Callable[[], int]) -> None:
        self._level = level
        self._raw = False
        self._compressors: dict[int, zstandard.ZstdCompressor] = {}

    @property
    def frame_bytes_max(self) -> int:
        """Content of a frame that is worth its size: large ones only pay where they shrink."""
        return FRAME_BYTES_RAW if self._raw else FRAME_CONTENT_BYTES_MAX

    def data(
        self,
        disk: int,
        offset: int,
        masks: Sequence[int],
        digests: Sequence[bytes],
        content: bytes,
    ) -> frames.Data:
        """A frame of leaves from byte `offset` on: the blocks in `masks`, joined in `content`."""
        level = min(self._level(), LEVEL_RAW) if self._raw else self._level()
        packed = self._compressor(level).compress(content)
        compressed = len(packed) < len(content)
        self._raw = len(packed) > SHRINK_MAX * len(content)
        return frames.Data(
            disk,
            offset,
            len(content),
            tuple(masks),
            b"".join(digests),
            packed if compressed else content,
            compressed,
        )

    def _compressor(self, level: int) -> zstandard.ZstdCompressor:
        if level not in self._compressors:
            compressor = zstandard.ZstdCompressor(level=level, write_content_size=True)
            self._compressors[level] = compressor
        return self._compressors[level]
