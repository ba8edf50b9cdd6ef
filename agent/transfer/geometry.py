"""Sizes that both sides of a transfer agree on (docs/wire-format.md, "Geometry")."""

LEAF_BYTES = 64 * 1024
"""What is hashed, compared with zeros and, later, deduplicated as one. The last may be short."""

PARENT_LEAVES = 64
"""Leaves under one parent of the Merkle tree."""

PARENT_BYTES = PARENT_LEAVES * LEAF_BYTES
"""Content under one parent: 4 MiB."""

FRAME_CONTENT_BYTES_MAX = 1024 * 1024
"""Content in one data frame."""

DIGEST_BYTES = 32
"""A BLAKE3 digest."""

DISKS_MAX = 64
"""Disks of one machine."""

DISK_BYTES_MAX = 1 << 44
"""Guest-visible size of one disk: 16 TiB, so that the parents of its tree fit in memory."""

STREAMS_MAX = 16
"""Parallel data connections of one session."""

ZERO_LEAF = bytes(LEAF_BYTES)


def leaf_count(length: int) -> int:
    """Leaves that cover `length` bytes."""
    return -(-length // LEAF_BYTES)
