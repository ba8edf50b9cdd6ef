"""What a data frame holds, in bounds: leaf by leaf, and decompressed. Pure; no I/O."""

from collections.abc import Iterator

import zstandard

from agent.transfer import frames
from agent.transfer.geometry import (
    BLOCK_BYTES,
    DIGEST_BYTES,
    LEAF_BYTES,
    leaf_bytes,
    masked_bytes,
    whole_mask,
)


def leaf_spans(frame: frames.Data, disk_bytes: int) -> list[tuple[int, int, int]]:
    """(offset, mask, bytes in the body) of each leaf of a frame. Raises DataLoss FRAME_INVALID when
    it does not lie within a disk of `disk_bytes`, or announces another length than its masks say.
    """
    spans = []
    for index, mask in enumerate(frame.masks):
        offset = frame.offset + index * LEAF_BYTES
        length = leaf_bytes(disk_bytes, offset)
        if length <= 0 or mask & ~whole_mask(length):
            raise frames.invalid(f"blocks {mask:#06x} at {offset} of {disk_bytes} bytes")
        spans.append((offset, mask, masked_bytes(mask, length)))
    if sum(length for _, _, length in spans) != frame.length:
        raise frames.invalid(f"{frame.length} bytes for masks that mean another length")
    return spans


def decompressed(frame: frames.Data, decompressor: zstandard.ZstdDecompressor) -> bytes:
    """The content of a frame; its announced size is checked before memory is taken for it. Raises
    DataLoss FRAME_INVALID.
    """
    if not frame.compressed:
        return frame.body
    try:
        announced = zstandard.frame_content_size(frame.body)
        if announced != frame.length:
            raise frames.invalid(f"zstd announces {announced} bytes, the header {frame.length}")
        content = decompressor.decompress(frame.body, max_output_size=frame.length)
    except zstandard.ZstdError as error:
        raise frames.invalid(f"zstd: {error}") from error
    if len(content) != frame.length:
        raise frames.invalid(f"zstd gave {len(content)} bytes of {frame.length}")
    return content


def each_digest(joined: bytes) -> list[bytes]:
    """Digests that were joined."""
    return [joined[at : at + DIGEST_BYTES] for at in range(0, len(joined), DIGEST_BYTES)]


def block_runs(mask: int, length: int) -> Iterator[tuple[int, int]]:
    """(start, end) in bytes of the runs of blocks in a mask, of a leaf of `length` bytes."""
    at = 0
    while mask >> at:
        start = at
        while mask >> at & 1:
            at += 1
        if at > start:
            yield start * BLOCK_BYTES, min(at * BLOCK_BYTES, length)
        at += 1
