"""Keyed BLAKE3 Merkle tree over one disk, filled in any order, complete or not complete.

Leaves of 64 KiB under parents of 4 MiB under one root. Only parents are kept (32 bytes per 4 MiB),
plus the leaves of parents that are not yet full, so memory stays small for a disk of any size.
docs/wire-format.md, "Digests", defines the bytes. No I/O here.
"""

import struct
import threading
from collections.abc import Iterable

from blake3 import blake3

from agent.transfer.geometry import (
    DIGEST_BYTES,
    LEAF_BYTES,
    PARENT_BYTES,
    PARENT_LEAVES,
    ZERO_LEAF,
    leaf_count,
)
from watari import errors

_LEAF_CONTEXT = "watari.dev 2026 v1 leaf"
_PARENT_CONTEXT = "watari.dev 2026 v1 parent"
_ROOT_CONTEXT = "watari.dev 2026 v1 disk root"
_RECEIPT_CONTEXT = "watari.dev 2026 v1 receipt root"
_FULL = (1 << PARENT_LEAVES) - 1


class DigestKeys:
    """The keys of one digest scope, each derived from the same 32 bytes for one kind of node."""

    def __init__(self, digest_key: bytes) -> None:
        if len(digest_key) != DIGEST_BYTES:
            raise errors.InvalidArgument(
                "INVALID_FIELD",
                f"a digest key has {DIGEST_BYTES} bytes, this one {len(digest_key)}",
                field="digest_key",
            )
        self._leaf = _derive(_LEAF_CONTEXT, digest_key)
        self._parent = _derive(_PARENT_CONTEXT, digest_key)
        self.root_key = _derive(_ROOT_CONTEXT, digest_key)
        self.receipt_key = _derive(_RECEIPT_CONTEXT, digest_key)
        self.zero_leaf = self.leaf(ZERO_LEAF)
        self.zero_parent = self.parent(self.zero_leaf * PARENT_LEAVES)

    def leaf(self, content: bytes) -> bytes:
        """Digest of one leaf: 64 KiB, or the short end of a disk."""
        return blake3(content, key=self._leaf).digest()

    def parent(self, digests: bytes | bytearray) -> bytes:
        """Digest over the digests of a parent's leaves, joined in order."""
        return blake3(digests, key=self._parent).digest()

    def leaves(self, content: bytes) -> list[bytes]:
        """Digests of the leaves of a run that starts on a leaf boundary."""
        return [
            self.leaf(content[at : at + LEAF_BYTES]) for at in range(0, len(content), LEAF_BYTES)
        ]


class DiskTree:
    """The tree of one disk of `size_bytes`; leaves and zero ranges may come in any order, once.

    Safe to share between threads.
    """

    def __init__(self, keys: DigestKeys, size_bytes: int) -> None:
        self._keys = keys
        self._size = size_bytes
        self._leaves = leaf_count(size_bytes)
        self._parents: list[bytes | None] = [None] * (-(-size_bytes // PARENT_BYTES))
        self._partial: dict[int, tuple[bytearray, int]] = {}
        self._missing = len(self._parents)
        self._lock = threading.Lock()

    def put_leaves(self, offset: int, digests: Iterable[bytes]) -> None:
        """Records leaves from byte `offset` on. Raises DataLoss FRAME_INVALID for a repeat."""
        with self._lock:
            for index, digest in enumerate(digests, offset // LEAF_BYTES):
                self._put(index, digest)

    def put_zeros(self, offset: int, length: int) -> None:
        """Records that `length` bytes from `offset` are zero; ends on a leaf or the disk's end."""
        index = offset // LEAF_BYTES
        end = index + leaf_count(length)
        with self._lock:
            while index < end:
                parent, within = divmod(index, PARENT_LEAVES)
                if within == 0 and end - index >= PARENT_LEAVES and not self._is_short(parent):
                    self._put_zero_parent(parent)
                    index += PARENT_LEAVES
                else:
                    self._put(index, self._zero_leaf(index))
                    index += 1

    def put_parent(self, offset: int, digest: bytes) -> None:
        """Records the parent at byte `offset` as a whole. Raises DataLoss FRAME_INVALID for a
        repeat.
        """
        parent = offset // PARENT_BYTES
        with self._lock:
            if self._parents[parent] is not None or parent in self._partial:
                raise _repeated(offset)
            self._parents[parent] = digest
            self._missing -= 1

    def has(self, offset: int) -> bool:
        """Whether the leaf at byte `offset` has been recorded."""
        parent, within = divmod(offset // LEAF_BYTES, PARENT_LEAVES)
        with self._lock:
            if self._parents[parent] is not None:
                return True
            partial = self._partial.get(parent)
            return partial is not None and bool(partial[1] & 1 << within)

    @property
    def complete(self) -> bool:
        """Whether every leaf has been recorded."""
        return self._missing == 0

    def parent(self, offset: int) -> bytes:
        """The digest of the parent at byte `offset`. Raises DataLoss FRAME_INVALID while leaves of
        it are missing.
        """
        with self._lock:
            digest = self._parents[offset // PARENT_BYTES]
        if digest is None:
            raise errors.DataLoss("FRAME_INVALID", f"the parent at {offset} is incomplete")
        return digest

    def root(self) -> bytes:
        """The root. Raises DataLoss FRAME_INVALID while leaves are missing."""
        with self._lock:
            hasher = blake3(struct.pack("<Q", self._size), key=self._keys.root_key)
            for parent in self._parents:
                if parent is None:
                    raise errors.DataLoss(
                        "FRAME_INVALID",
                        f"{self._missing} of {len(self._parents)} parents are incomplete",
                    )
                hasher.update(parent)
            return hasher.digest()

    def _put(self, index: int, digest: bytes) -> None:
        parent, within = divmod(index, PARENT_LEAVES)
        bit = 1 << within
        digests, filled = self._partial.get(parent) or self._empty(parent)
        if self._parents[parent] is not None or filled & bit:
            raise _repeated(index * LEAF_BYTES)
        digests[within * DIGEST_BYTES : (within + 1) * DIGEST_BYTES] = digest
        filled |= bit
        if filled == _FULL:
            self._partial.pop(parent, None)
            self._parents[parent] = self._keys.parent(digests)
            self._missing -= 1
        else:
            self._partial[parent] = (digests, filled)

    def _empty(self, parent: int) -> tuple[bytearray, int]:
        """No digests yet; leaves that the last parent does not have count as filled."""
        width = min(PARENT_LEAVES, self._leaves - parent * PARENT_LEAVES)
        return bytearray(width * DIGEST_BYTES), _FULL & ~((1 << width) - 1)

    def _put_zero_parent(self, parent: int) -> None:
        if self._parents[parent] is not None or parent in self._partial:
            raise _repeated(parent * PARENT_BYTES)
        self._parents[parent] = self._keys.zero_parent
        self._missing -= 1

    def _zero_leaf(self, index: int) -> bytes:
        length = min(LEAF_BYTES, self._size - index * LEAF_BYTES)
        return self._keys.zero_leaf if length == LEAF_BYTES else self._keys.leaf(bytes(length))

    def _is_short(self, parent: int) -> bool:
        return (parent + 1) * PARENT_BYTES > self._size


def receipt_root(
    keys: DigestKeys, disks: Iterable[tuple[str, int, bytes]], definition_sha256: bytes
) -> bytes:
    """Root over (disk id, size, root) of every disk, in the order given, and the definition."""
    hasher = blake3(definition_sha256, key=keys.receipt_key)
    for disk_id, size_bytes, root in disks:
        name = disk_id.encode()
        hasher.update(struct.pack("<HQ", len(name), size_bytes) + name + root)
    return hasher.digest()


def _derive(context: str, key: bytes) -> bytes:
    return blake3(key, derive_key_context=context).digest()


def _repeated(offset: int) -> errors.DataLoss:
    return errors.DataLoss(
        "FRAME_INVALID", f"content at offset {offset} came twice", offset=str(offset)
    )
