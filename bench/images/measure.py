"""What an image comes to: the bytes that any method would have to move. Reads only."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import blake3
import zstandard

from watari.cli import sparse

BLOCK_BYTES = 4096
"""Granularity at which content is looked for: the file system's block."""

LEVEL = 3
_CHUNK_BYTES = 1024 * 1024
_ZERO_BLOCK = bytes(BLOCK_BYTES)
_DIGEST_BYTES = 16


def compressed_bytes(image: Path) -> int:
    """Bytes of `zstd -3` over the whole image."""
    command = ["zstd", f"-{LEVEL}", "-q", "-c", str(image)]
    total = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        while chunk := process.stdout.read(_CHUNK_BYTES):
            total += len(chunk)
    if process.returncode:
        raise RuntimeError(f"zstd ended with {process.returncode}")
    return total


def unique_compressed_bytes(image: Path, known: Path) -> tuple[int, int]:
    """(bytes, compressed bytes) of the blocks of `image` that `known` has nowhere.

    Each such block counts once; they are compressed in disk order as one stream.
    """
    seen = {_digest(block) for block in blocks(known)}
    compressor = zstandard.ZstdCompressor(level=LEVEL).compressobj()
    unique = compressed = 0
    for block in blocks(image):
        digest = _digest(block)
        if digest in seen:
            continue
        seen.add(digest)
        unique += len(block)
        compressed += len(compressor.compress(block))
    return unique, compressed + len(compressor.flush())


def blocks(image: Path) -> Iterator[bytes]:
    """The blocks of an image in order, without those of zeros."""
    with image.open("rb", buffering=0) as file:
        for start, end in sparse.extents(file.fileno(), image.stat().st_size):
            first = start // BLOCK_BYTES * BLOCK_BYTES
            for at in range(first, end, _CHUNK_BYTES):
                file.seek(at)
                chunk = file.read(min(_CHUNK_BYTES, end - at))
                for offset in range(0, len(chunk), BLOCK_BYTES):
                    block = chunk[offset : offset + BLOCK_BYTES]
                    if block != _ZERO_BLOCK:
                        yield block


def _digest(block: bytes) -> bytes:
    return blake3.blake3(block).digest(length=_DIGEST_BYTES)
