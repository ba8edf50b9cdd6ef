"""Builds the index of one image: reads it once, sorts what it found, writes the file in order.

Memory does not grow with the image. The file gets its name only when it is whole and on stable
storage, and only when nobody wrote to the image meanwhile.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent import files
from agent.disks import DiskReader, raw
from agent.seeds import index
from agent.seeds.fingerprints import BLOCK_BYTES, BLOCKS_PER_LEAF, Fingerprints
from agent.seeds.images import Identity, OpenReader
from agent.seeds.spill import Spill
from watari import errors, logs

INDEX_BLOCKS_MAX = 1 << 26
"""Blocks in one index: 256 GiB of content, about 1 GB of index. What lies behind is not indexed."""

CHUNK_BYTES = 1024 * 1024
"""Read at once, and the longest work between two looks at whether to go on."""

IMAGE_BYTES_MAX = BLOCK_BYTES << 32
"""16 TiB: block numbers have 32 bits while they are sorted. What lies behind is not indexed."""

PARTIAL_SUFFIX = ".partial"

_CACHE_BYTES_MAX = 8 * 1024 * 1024
_LEAF_BYTES = BLOCK_BYTES * BLOCKS_PER_LEAF
_ZERO_LEAF = bytes(_LEAF_BYTES)

_log = logs.get(__name__)


@dataclass(frozen=True)
class Built:
    """What a build made."""

    blocks: int
    """Blocks that were indexed, repeated ones counted each time."""

    complete: bool
    """Whether all of the image is in the index; else the limit was reached."""


def build(
    target: Path,
    image: Path,
    format: str,  # noqa: A002 - the word that disks use
    open_reader: OpenReader,
    fingerprints: Fingerprints,
    *,
    pace: Callable[[], None],
    blocks_max: int = INDEX_BLOCKS_MAX,
) -> Built:
    """Makes the index of `image` at `target`, in place of an earlier one.

    `pace` is called after every chunk: it may wait, and what it raises ends the build. Raises
    DataLoss SOURCE_CHANGED when the image changes meanwhile, and what the reader raises; Exhausted
    DISK_FULL or DataLoss DISK_IO when the index cannot be written. Leaves nothing behind then.
    """
    identity = Identity.of(image)
    if identity is None:
        raise raw.unreadable(image, "it is not there")
    partial = target.with_name(f".{target.name}{PARTIAL_SUFFIX}")

    def check() -> None:
        pace()
        if Identity.of(image) != identity:
            raise _changed(image)

    try:
        with Spill(target.parent) as spill:
            with contextlib.closing(open_reader(image, format)) as reader:
                built = _scan(reader, fingerprints, spill, check, blocks_max)
                reader.check_unchanged()
            _write(partial, spill, fingerprints.check_value, image, identity, pace)
        check()
        files.rename(partial, target)
    except sqlite3.Error as error:
        raise errors.Exhausted(
            "DISK_FULL",
            f"the index of {image.name} cannot be written: {error}",
            hint="free space where the agent keeps its indexes",
        ) from error
    except OSError as error:
        raise raw.disk_error(error, target) from error
    finally:
        partial.unlink(missing_ok=True)
    if not built.complete:
        _log.warning(
            "image is indexed in part: it has more blocks than an index may have",
            image=str(image),
            blocks_max=blocks_max,
        )
    return built


def _scan(
    reader: DiskReader,
    fingerprints: Fingerprints,
    spill: Spill,
    check: Callable[[], None],
    blocks_max: int,
) -> Built:
    blocks = 0
    for offset, content in _chunks(reader):
        pairs = list(_pairs(offset, content, fingerprints))
        spill.add(pairs[: blocks_max - blocks])
        blocks += len(pairs)
        if blocks > blocks_max:
            return Built(blocks_max, complete=False)
        check()
    return Built(blocks, complete=reader.size <= IMAGE_BYTES_MAX)


def _chunks(reader: DiskReader) -> Iterator[tuple[int, bytes]]:
    """(offset, content) of what may be data, in order."""
    for extent in reader.extents(_LEAF_BYTES, full_read=False):
        if extent.hole:
            continue
        end = min(extent.end, IMAGE_BYTES_MAX)
        for offset in range(extent.start, end, CHUNK_BYTES):
            yield offset, reader.read(offset, min(CHUNK_BYTES, end - offset))


def _pairs(offset: int, content: bytes, fingerprints: Fingerprints) -> Iterator[tuple[int, int]]:
    """(fingerprint, block number) of the blocks that are not zero."""
    for start in range(0, len(content), _LEAF_BYTES):
        leaf = content[start : start + _LEAF_BYTES]
        if leaf == _ZERO_LEAF:  # much cheaper than sixteen fingerprints
            continue
        first = (offset + start) // BLOCK_BYTES
        for block, fingerprint in enumerate(fingerprints.of(leaf), first):
            if fingerprint != fingerprints.zero:
                yield fingerprint, block


def _write(
    partial: Path,
    spill: Spill,
    check_value: bytes,
    image: Path,
    identity: Identity,
    pace: Callable[[], None],
) -> None:
    partial.unlink(missing_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(partial, flags, files.FILE_MODE)
    try:
        with contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as connection:
            # A crash leaves a partial file that nobody opens: no journal, one flush at the end.
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(f"PRAGMA cache_size = {-(_CACHE_BYTES_MAX // 1024)}")
            connection.execute("BEGIN")
            for statement in index.SCHEMA:
                connection.execute(statement)
            rows = index.meta_rows(check_value, image, identity)
            connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)
            for pairs in spill.partitions():
                # Sorted: the first of equal fingerprints has the lowest block number and stays.
                connection.executemany("INSERT OR IGNORE INTO blocks VALUES (?, ?)", pairs)
                pace()
            connection.execute("COMMIT")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _changed(image: Path) -> errors.DataLoss:
    return errors.DataLoss(
        "SOURCE_CHANGED", f"{image.name} changed while it was indexed", disk=image.name
    )
