"""Sizes that both sides of a transfer agree on (docs/wire-format.md, "Geometry")."""

LEAF_BYTES = 64 * 1024
"""What is hashed and compared with zeros as one. The last of a disk may be short."""

BLOCK_BYTES = 4096
"""What is looked for at any offset: the block that file systems align files to."""

BLOCKS_PER_LEAF = LEAF_BYTES // BLOCK_BYTES

WHOLE_LEAF = (1 << BLOCKS_PER_LEAF) - 1
"""The mask of a full leaf of which every block is meant."""

PARENT_LEAVES = 64
"""Leaves under one parent of the Merkle tree."""

PARENT_BYTES = PARENT_LEAVES * LEAF_BYTES
"""Content under one parent: 4 MiB. What is scanned, offered and answered as one."""

FRAME_CONTENT_BYTES_MAX = 2 * 1024 * 1024
"""Content in one data frame."""

DIGEST_BYTES = 32
"""A BLAKE3 digest."""

DISKS_MAX = 64
"""Disks of one machine."""

DISK_BYTES_MAX = 1 << 44
"""Guest-visible size of one disk: 16 TiB, so that the parents of its tree fit in memory."""

STREAMS_MAX = 16
"""Parallel data connections of one session, numbered from 1."""

OFFER_STREAM = 0
"""The stream on which digests are offered and answered; it carries no content."""

OFFERS_PENDING_MAX = 256
"""Parents that are offered and not yet answered: 1 GiB of content looked at ahead."""

ZERO_LEAF = bytes(LEAF_BYTES)


def leaf_count(length: int) -> int:
    """Leaves that cover `length` bytes."""
    return -(-length // LEAF_BYTES)


def parent_leaves(disk_bytes: int, offset: int) -> int:
    """Leaves of the parent that starts at `offset` of a disk."""
    return min(PARENT_LEAVES, leaf_count(disk_bytes - offset))


def leaf_bytes(disk_bytes: int, offset: int) -> int:
    """Bytes of the leaf that starts at `offset` of a disk."""
    return min(LEAF_BYTES, disk_bytes - offset)


def whole_mask(length: int) -> int:
    """The mask of all blocks of a leaf of `length` bytes."""
    return (1 << -(-length // BLOCK_BYTES)) - 1


def masked_bytes(mask: int, length: int) -> int:
    """Bytes of the blocks in `mask` of a leaf of `length` bytes; the last block may be short."""
    short = -length % BLOCK_BYTES
    last = 1 << ((length - 1) // BLOCK_BYTES)
    return mask.bit_count() * BLOCK_BYTES - (short if mask & last else 0)
