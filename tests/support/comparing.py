"""An arriving disk with what it is compared with, and a sender's offers by hand."""

import os
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import zstandard

from agent.disks import open_reader
from agent.hypervisors import Disk
from agent.seeds.fingerprints import BLOCKS_PER_LEAF, pack
from agent.seeds.images import Identity, Image
from agent.seeds.index import BlockIndex
from agent.seeds.sources import Seed, SeedSources
from agent.transfer import frames
from agent.transfer.arriving import Known, open_disks
from agent.transfer.comparing import Comparing
from agent.transfer.frames import Answer, LeavesOffer, ParentOffer, Verdict
from agent.transfer.geometry import BLOCK_BYTES, LEAF_BYTES, PARENT_BYTES, leaf_bytes, whole_mask
from agent.transfer.merkle import DigestKeys, DiskTree
from agent.transfer.target import Record
from tests.support.arriving import place
from tests.support.seed_images import PRINTS, build
from watari.v1 import common_pb2

KEY = b"k" * 32
"""Of `PRINTS`."""
KEYS = DigestKeys(KEY)
SIZE = PARENT_BYTES + 3 * LEAF_BYTES + 5000
CONTENT = random.Random(1).randbytes(SIZE)
SHIFTED = random.Random(3).randbytes(3 * BLOCK_BYTES)
"""Three blocks, that move what follows to where no leaf begins."""
LAST = PARENT_BYTES
"""The offset of the parent that has four leaves, the last one short."""


def changed(content: bytes, at: int) -> bytes:
    """Another one at one byte."""
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def parent(content: bytes, offset: int = 0) -> ParentOffer:
    """The offer of a parent."""
    digests = KEYS.leaves(content[offset : offset + PARENT_BYTES])
    return ParentOffer(0, offset, KEYS.parent(b"".join(digests)))


def leaves(content: bytes, offset: int = 0, *, blocks: bool = False) -> LeavesOffer:
    """The offer of its leaves."""
    of = content[offset : offset + PARENT_BYTES]
    each = [of[at : at + LEAF_BYTES] for at in range(0, len(of), LEAF_BYTES)]
    zeros = sum(1 << index for index, leaf in enumerate(each) if not any(leaf))
    there = [leaf for leaf in each if any(leaf)]
    prints: list[bytes] = []
    for leaf in there if blocks else []:
        found = PRINTS.of(leaf)
        prints.append(pack([*found, *[0] * (BLOCKS_PER_LEAF - len(found))]))
    return LeavesOffer(0, offset, zeros, tuple(map(KEYS.leaf, there)), tuple(prints))


def wanted(content: bytes, at: int, mask: int) -> frames.Data:
    """The frame with these blocks of the leaf at `at`."""
    leaf = content[at : at + LEAF_BYTES]
    starts = [
        start for start in range(0, len(leaf), BLOCK_BYTES) if mask >> start // BLOCK_BYTES & 1
    ]
    body = b"".join(leaf[start : start + BLOCK_BYTES] for start in starts)
    return frames.Data(0, at, len(body), (mask,), KEYS.leaf(leaf), body, compressed=False)


def root(content: bytes) -> bytes:
    """Of the tree of a disk."""
    tree = DiskTree(KEYS, len(content))
    tree.put_leaves(0, KEYS.leaves(content))
    return tree.root()


@dataclass
class Host:
    """One arriving disk and what is compared with."""

    folder: Path
    size: int = SIZE
    earlier: bytes | None = None
    images: Sequence[bytes] = ()
    keep: bool = False
    dry_run: bool = False
    comparing: Comparing = field(init=False)

    def __post_init__(self) -> None:
        known = {}
        if self.earlier is not None:
            self.earlier_path.write_bytes(self.earlier)
            known["vda"] = Disk("vda", self.earlier_path, "raw", len(self.earlier), 0)
        for number, content in enumerate(self.images):
            self.image_path(number).write_bytes(content)
            os.utime(self.image_path(number), (1e9, 1e9))
            build(self.folder / f"image{number}.sqlite", self.image_path(number))
        spec = common_pb2.DiskSpec(disk_id="vda", size_bytes=self.size)
        where = None if self.dry_run else place(self.folder, keep=self.keep)
        sources = self.sources if self.images else None
        self.comparing = open_disks([spec], KEY, where, Known(known, sources))[0]

    @property
    def earlier_path(self) -> Path:
        return self.folder / "earlier.raw"

    def image_path(self, number: int) -> Path:
        return self.folder / f"image{number}"

    def sources(self) -> SeedSources:
        seeds = []
        for number in range(len(self.images)):
            path = self.image_path(number)
            index = BlockIndex.open(self.folder / f"{path.name}.sqlite", PRINTS.check_value)
            assert index is not None
            seeds.append(Seed(Image(path, "raw", "scope", path.name), index, open_reader))
        return SeedSources(seeds, PRINTS.zero)

    def unnoticed(self, number: int, content: bytes) -> None:
        """Writes to an image that was indexed, and its index does not tell: as within one step of
        the kernel's clock.
        """
        path = self.image_path(number)
        path.write_bytes(content)
        identity = Identity.of(path)
        assert identity is not None
        with closing(sqlite3.connect(f"{path}.sqlite", isolation_level=None)) as index:
            for name, value in asdict(identity).items():
                index.execute("UPDATE meta SET value = ? WHERE name = ?", (str(value), name))

    def settle(self, records: list[Record]) -> None:
        target = self.comparing.target
        target.flush()
        for record in records:
            target.record(record)
        target.sync_journal()

    def ask(self, offer: ParentOffer | LeavesOffer) -> Answer:
        """The answer, once what it says is stable."""
        if isinstance(offer, ParentOffer):
            answer, records = self.comparing.parent(offer)
        else:
            answer, records = self.comparing.leaves(offer)
        assert (answer.disk, answer.offset) == (0, offer.offset)
        self.settle(records)
        return answer

    def answer(self, offer: ParentOffer | LeavesOffer) -> Verdict | tuple[int, ...]:
        """The masks that it wants, or what else it says."""
        answer = self.ask(offer)
        return answer.masks if answer.verdict is Verdict.WANT else answer.verdict

    def send(self, content: bytes, offset: int, masks: Sequence[int]) -> list[int]:
        """Sends what is wanted of a parent, and whole what is rejected; returns those leaves."""
        again = []
        for at, mask in enumerate(masks):
            if mask and self._send(content, offset + at * LEAF_BYTES, mask):
                again.append(offset // LEAF_BYTES + at)
                whole = whole_mask(leaf_bytes(self.size, offset + at * LEAF_BYTES))
                assert not self._send(content, offset + at * LEAF_BYTES, whole)
        return again

    def transfer(self, content: bytes) -> int:
        """Offers all of it and sends what is wanted, as a sender does; returns blocks sent."""
        sent = 0
        for offset in range(0, self.size, PARENT_BYTES):
            if (
                self.comparing.same_offset
                and self.ask(parent(content, offset)).verdict is Verdict.HAVE
            ):
                continue
            masks = self.ask(leaves(content, offset, blocks=self.comparing.any_offset)).masks
            again = self.send(content, offset, masks)
            sent += sum(mask.bit_count() for mask in masks) + BLOCKS_PER_LEAF * len(again)
        return sent

    @property
    def disk(self) -> bytes:
        return (self.folder / "vda.raw").read_bytes()

    def _send(self, content: bytes, at: int, mask: int) -> list[int]:
        """Blocks of one leaf, settled; whether it was rejected, as the list that says so."""
        frame = wanted(content, at, mask)
        records, rejected = self.comparing.target.data(frame, zstandard.ZstdDecompressor())
        self.settle(records)
        return rejected

    def close(self) -> None:
        self.comparing.close()
        self.comparing.target.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
