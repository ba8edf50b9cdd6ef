"""One arriving disk: content is verified, written once, and recorded.

What holds at every moment, and makes resuming and the skipping of zeros right:

* a leaf enters the tree when its content was verified against its digest, once;
* outside of leaves that are in the tree or in the journal the disk reads as zeros, except for the
  few *loose* leaves: blocks that were found on this host and wait for the rest of their leaf.

Without a writer it is a dry run: content is verified, and nothing is kept.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import zstandard

from agent.disks import DiskReader, DiskWriter
from agent.transfer import frames
from agent.transfer.content import block_runs, decompressed, each_digest, leaf_spans
from agent.transfer.geometry import (
    LEAF_BYTES,
    OFFERS_PENDING_MAX,
    PARENT_LEAVES,
    leaf_bytes,
    leaf_count,
    parent_leaves,
    whole_mask,
)
from agent.transfer.journal import Journal
from agent.transfer.merkle import DigestKeys, DiskTree
from watari import errors

LOOSE_LEAVES_MAX = OFFERS_PENDING_MAX * PARENT_LEAVES
"""Leaves of which blocks were found and others were asked for."""

_SCAN_LEAVES = 1 << 15


@dataclass(frozen=True)
class Record:
    """Leaves that were written and belong into the journal once the disk is synced."""

    target: "Target"
    leaf: int
    digests: bytes


class Target:
    """Different leaves may be settled from different threads."""

    def __init__(
        self,
        number: int,
        size: int,
        keys: DigestKeys,
        storage: tuple[DiskWriter, Journal] | None,
        *,
        resumed: bool,
    ) -> None:
        self.number = number
        self.size = size
        self.tree = DiskTree(keys, size)
        self.resumed = resumed
        self._keys = keys
        self._writer: DiskWriter | None = storage[0] if storage else None
        self._journal: Journal | None = storage[1] if storage else None
        self._loose: set[int] = set()
        self._lock = threading.Lock()
        if resumed:
            self._drop_unrecorded()

    def data(
        self, frame: frames.Data, decompressor: zstandard.ZstdDecompressor
    ) -> tuple[list[Record], list[int]]:
        """Verifies and writes. Returns what belongs into the journal, and the numbers of leaves
        that do not come out right with the blocks that were found here. Raises DataLoss
        FRAME_INVALID, DIGEST_MISMATCH, DISK_IO; Exhausted DISK_FULL.
        """
        spans = leaf_spans(frame, self.size)
        content = decompressed(frame, decompressor)
        if all(mask == whole_mask(leaf_bytes(self.size, at)) for at, mask, _ in spans):
            return self.whole(frame.offset, content, frame.digests), []
        records: list[Record] = []
        rejected: list[int] = []
        digests = iter(each_digest(frame.digests))
        taken = 0
        for at, mask, length in spans:
            if not mask:
                continue
            part, digest = content[taken : taken + length], next(digests)
            taken += length
            if mask == whole_mask(leaf_bytes(self.size, at)):
                records += self.whole(at, part, digest)
            elif self._completed(at, mask, part, digest):
                if self._writer is not None:
                    records.append(Record(self, at // LEAF_BYTES, digest))
            else:
                rejected.append(at // LEAF_BYTES)
        return records, rejected

    def zeros(self, offset: int, length: int) -> None:
        """Takes a range of zeros. Raises DataLoss FRAME_INVALID, DISK_IO."""
        end = offset + length
        if not 0 < length <= end <= self.size or (end % LEAF_BYTES and end != self.size):
            raise frames.invalid(f"{length} zeros at {offset} of {self.size} bytes")
        if self._writer is not None:
            self.tree.put_zeros(offset, length)
            self._make_room(offset, length)

    def whole(self, offset: int, content: bytes, digests: bytes) -> list[Record]:
        """Takes whole leaves. Raises as `data` does."""
        if b"".join(self._keys.leaves(content)) != digests:
            raise _mismatch(self.number, offset)
        return self.place(offset, content, digests)

    def place(self, offset: int, content: bytes, digests: bytes) -> list[Record]:
        """Writes whole leaves that were verified just now. Raises as `data` does."""
        if self._writer is None:
            return []
        self.tree.put_leaves(offset, each_digest(digests))
        self._make_room(offset, len(content))
        self._writer.write(offset, content)
        return [Record(self, offset // LEAF_BYTES, digests)]

    def loose(self, offset: int, content: bytes) -> bool:
        """Puts blocks of a leaf in place that others are still to come for; False when there are
        too many such leaves already. In a dry run there is nothing to put. Raises DataLoss
        FRAME_INVALID for a leaf that is complete.
        """
        if self._writer is None:
            return True
        if self.tree.has(offset):
            raise frames.invalid(f"an offer of the leaf at {offset}, which is complete")
        if len(self._loose) >= LOOSE_LEAVES_MAX:
            return False
        self._make_room(offset, len(content))
        with self._lock:
            self._loose.add(offset)
        self._writer.write(offset, content)
        return True

    def shared(self, offset: int, length: int, source: DiskReader) -> bytes | None:
        """Shares a range's blocks with `source` at the same offset, where the file system can, and
        returns what is there then: it is the caller who verifies it. None where it cannot, or where
        a leaf is complete already.
        """
        leaves = range(offset, offset + length, LEAF_BYTES)
        if self._writer is None or any(self.tree.has(leaf) for leaf in leaves):
            return None
        self._make_room(offset, length)
        if not self._writer.clone(source, offset, offset, length):
            return None
        return self._writer.read(offset, length)

    def adopt(self, offset: int, digests: Sequence[bytes]) -> list[Record]:
        """Enters leaves into the tree that are in place and verified."""
        if self._writer is None:
            return []
        self.tree.put_leaves(offset, digests)
        self._drop_loose(offset, len(digests) * LEAF_BYTES)
        return [Record(self, offset // LEAF_BYTES, b"".join(digests))]

    def recorded(self, offset: int, count: int) -> list[bytes | None]:
        """What an earlier try left of `count` leaves from byte `offset` on: their digests."""
        if not self.resumed or self._journal is None:
            return [None] * count
        return self._journal.read(offset // LEAF_BYTES, count)

    def clear(self, offset: int, length: int) -> None:
        """Gives back what is in a range that is in no tree."""
        if self._writer is not None:
            self._writer.zero(offset, length)

    def flush(self) -> None:
        """Returns once everything written is on stable storage."""
        if self._writer is not None:
            self._writer.flush()

    def record(self, record: Record) -> None:
        """Writes a record into the journal."""
        if self._journal is not None:
            self._journal.record(record.leaf, record.digests)

    def sync_journal(self) -> None:
        """Returns once the records are on stable storage."""
        if self._journal is not None:
            self._journal.sync()

    def close(self) -> None:
        """Closes the files."""
        if self._writer is not None and self._journal is not None:
            self._writer.close()
            self._journal.close()

    def _completed(self, offset: int, mask: int, part: bytes, digest: bytes) -> bool:
        """Whether a leaf becomes what it should be with blocks that came and blocks found here."""
        if self._writer is None:
            return True
        if self.tree.has(offset):
            raise frames.invalid(f"blocks of the leaf at {offset}, which is complete")
        length = leaf_bytes(self.size, offset)
        with self._lock:
            known = offset in self._loose
            self._loose.discard(offset)
        if not known:
            self._make_room(offset, length)
        taken = 0
        for start, end in block_runs(mask, length):
            self._writer.write(offset + start, part[taken : taken + end - start])
            taken += end - start
        if self._keys.leaf(self._writer.read(offset, length)) != digest:
            self._writer.zero(offset, length)
            return False
        self.tree.put_leaves(offset, (digest,))
        return True

    def _make_room(self, offset: int, length: int) -> None:
        """What an earlier try recorded, or blocks that came to nothing, become zeros."""
        self._drop_loose(offset, length)
        if self.resumed:
            first, count = offset // LEAF_BYTES, leaf_count(length)
            for at in range(first, first + count, _SCAN_LEAVES):
                self._forget(at, min(_SCAN_LEAVES, first + count - at))

    def _drop_loose(self, offset: int, length: int) -> None:
        if not self._loose:
            return
        with self._lock:
            gone = [at for at in self._loose if offset <= at < offset + length]
            self._loose.difference_update(gone)
        for at in gone:
            self.clear(at, leaf_bytes(self.size, at))

    def _forget(self, first: int, count: int) -> None:
        entries = self.recorded(first * LEAF_BYTES, count)
        if self._journal is None or not any(entries):
            return
        self._journal.clear(first, count)
        for leaf, entry in enumerate(entries, first):
            if entry is not None:
                self.clear(leaf * LEAF_BYTES, leaf_bytes(self.size, leaf * LEAF_BYTES))

    def _drop_unrecorded(self) -> None:
        """Gives back what an interrupted try wrote and did not record: it may be torn."""
        if self._writer is None or self._journal is None:
            return
        unknown = self._journal.unknown()
        first, end = next(unknown, (0, 0))
        for extent in self._writer.extents(LEAF_BYTES):
            while not extent.hole and first * LEAF_BYTES < extent.end and end:
                start = max(first * LEAF_BYTES, extent.start)
                stop = min(end * LEAF_BYTES, extent.end)
                if start < stop:
                    self._writer.zero(start, stop - start)
                if end * LEAF_BYTES >= extent.end:
                    break
                first, end = next(unknown, (0, 0))


def zero_digest(keys: DigestKeys, disk_bytes: int, offset: int) -> bytes:
    """The digest that the leaf at `offset` has when it is zero."""
    length = leaf_bytes(disk_bytes, offset)
    return keys.zero_leaf if length == LEAF_BYTES else keys.leaf(bytes(length))


def check_parent(disk_bytes: int, offset: int) -> int:
    """Leaves of an offered parent. Raises DataLoss FRAME_INVALID when the disk has no such one."""
    if offset >= disk_bytes:
        raise frames.invalid(f"a parent at {offset} of {disk_bytes} bytes")
    return parent_leaves(disk_bytes, offset)


def _mismatch(disk: int, offset: int) -> errors.DataLoss:
    return errors.DataLoss(
        "DIGEST_MISMATCH",
        f"a leaf of disk {disk} near {offset} is not what the sender read",
        hint="check the memory and the storage of both hosts",
    )
