"""Leaves of one arriving disk, sent by hand, and the sessions that take them."""

import random
from contextlib import closing
from pathlib import Path

import zstandard

from agent.transfer import frames
from agent.transfer.arriving import Known, open_disks
from agent.transfer.geometry import BLOCK_BYTES, LEAF_BYTES
from agent.transfer.merkle import DigestKeys, DiskTree
from agent.transfer.target import Record, Target
from tests.support.arriving import DIGEST_KEY, data, place
from watari.v1 import common_pb2

KEYS = DigestKeys(DIGEST_KEY)
SIZE = 3 * LEAF_BYTES + 5000
CONTENT = random.Random(7).randbytes(SIZE)
OTHER = random.Random(8).randbytes(SIZE)
DECOMPRESSOR = zstandard.ZstdDecompressor()


def leaf(number: int, content: bytes = CONTENT) -> bytes:
    """Of a disk."""
    return content[number * LEAF_BYTES : (number + 1) * LEAF_BYTES]


def sent(target: Target, number: int, content: bytes = CONTENT) -> list[Record]:
    """One leaf that arrived whole."""
    frame = data(leaf(number, content), number * LEAF_BYTES)
    records, rejected = target.data(frame, DECOMPRESSOR)
    assert not rejected
    return records


def part(number: int, mask: int, content: bytes = CONTENT, of: bytes = CONTENT) -> frames.Data:
    """A frame with some blocks of a leaf."""
    whole = leaf(number, content)
    blocks = [whole[at : at + BLOCK_BYTES] for at in range(0, len(whole), BLOCK_BYTES)]
    body = b"".join(block for index, block in enumerate(blocks) if mask >> index & 1)
    digest = KEYS.leaf(leaf(number, of))
    return frames.Data(0, number * LEAF_BYTES, len(body), (mask,), digest, body, compressed=False)


def without(number: int, mask: int, content: bytes = CONTENT) -> bytes:
    """A leaf with zeros where the blocks of a mask lack."""
    whole = bytearray(leaf(number, content))
    for index in range(-(-len(whole) // BLOCK_BYTES)):
        if mask >> index & 1:
            end = min(len(whole), (index + 1) * BLOCK_BYTES)
            whole[index * BLOCK_BYTES : end] = bytes(end - index * BLOCK_BYTES)
    return bytes(whole)


def settle(target: Target, records: list[Record]) -> None:
    """What a settler does."""
    target.flush()
    for record in records:
        target.record(record)
    target.sync_journal()


def begun(folder: Path, size: int = SIZE, *, keep: bool = False) -> Target:
    """The disk of a session; with `keep` it is continued."""
    spec = common_pb2.DiskSpec(disk_id="vda", size_bytes=size)
    return open_disks([spec], DIGEST_KEY, place(folder, keep=keep), Known({}, None))[0].target


def interrupted(folder: Path, *recorded: int, written: tuple[int, ...] = ()) -> None:
    """A session that ended after these leaves."""
    with closing(begun(folder)) as target:
        for number in recorded:
            settle(target, sent(target, number))
        for number in written:
            sent(target, number)


def on_disk(folder: Path) -> bytes:
    """What is there now."""
    return (folder / "vda.raw").read_bytes()


def root(content: bytes) -> bytes:
    """Of the tree of a disk."""
    tree = DiskTree(KEYS, len(content))
    tree.put_leaves(0, KEYS.leaves(content))
    return tree.root()


def allocated(folder: Path) -> int:
    """Bytes that the disk takes."""
    return (folder / "vda.raw").stat().st_blocks * 512
