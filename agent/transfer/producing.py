"""The workers of a sender: look, hash, offer, read what is wanted, compress.

Each worker holds one parent of 4 MiB and one frame. Every byte is hashed once, when it is looked
at; what a receiver with seeds turns out to lack is read again, mostly from the page cache, so that
no content waits in memory for a round trip.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.disks import DiskReader
from agent.seeds.fingerprints import Fingerprints, pack
from agent.transfer import frames, plan
from agent.transfer.board import Board, Look, Offered, Open, Send
from agent.transfer.content import block_runs
from agent.transfer.flow import Channel
from agent.transfer.geometry import (
    BLOCKS_PER_LEAF,
    LEAF_BYTES,
    leaf_bytes,
    masked_bytes,
    parent_leaves,
    whole_mask,
)
from agent.transfer.merkle import DigestKeys, DiskTree
from agent.transfer.meter import Meter
from agent.transfer.packing import Packer
from watari import clock, errors

READ_BYTES_MAX = 1024 * 1024
"""Bytes of one read."""


@dataclass(frozen=True)
class Absent:
    """A disk that is granted and not part of a session: nothing of it is looked at."""

    size: int


@dataclass(frozen=True)
class SourceDisk:
    """A disk that is sent, and what the receiver can compare it with."""

    reader: DiskReader | Absent
    tree: DiskTree
    same_offset: bool = False
    any_offset: bool = False
    live: bool = False
    """Whether it may change while it is read: what is read again is hashed again."""
    unchanged: Callable[[int], bytes | None] | None = None
    """The digest of the parent at an offset that is what it was in the round before, else None."""
    changed_bytes: int | None = None
    """What changed since; None where that is not known."""

    @property
    def compared(self) -> bool:
        """Whether digests go before content."""
        return self.same_offset or self.any_offset

    def read(self, offset: int, length: int) -> bytes:
        """Content. Raises as its reader does."""
        if isinstance(self.reader, Absent):
            raise errors.Internal("INTERNAL", "a disk is read that is not part of the session")
        return self.reader.read(offset, length)


class Sink(Protocol):
    """Where frames with content and zeros go."""

    def wants(self, length: int) -> bool:
        """Whether content of `length` bytes is to be packed, or only counted."""

    def put(self, frame: frames.Content) -> None:
        """Takes a frame; waits for room. Raises the transfer's first error."""


class Producer:
    """One worker's view of a transfer. For one thread."""

    def __init__(
        self,
        disks: Sequence[SourceDisk],
        keys: tuple[DigestKeys, Fingerprints],
        board: Board,
        sink: Sink,
        offers: Channel[frames.Frame],
        packer: Packer,
        frame_bytes: Callable[[float], int],
        meter: Meter,
        time: clock.Clock,
    ) -> None:
        self._disks = disks
        self._digests, self._fingerprints = keys
        self._board = board
        self._sink = sink
        self._offers = offers
        self._packer = packer
        self._frame_bytes = frame_bytes
        self._meter = meter
        self._clock = time

    def run(self) -> None:
        """Works until nothing is left. Raises the first error."""
        while (task := self._board.next()) is not None:
            match task:
                case Look(plan.Hole() as hole):
                    self._zeros(hole.disk, hole.offset, hole.length)
                    self._meter.add(zero=hole.length)
                case Look(plan.Parent() as parent):
                    self._look(parent)
                case Look(plan.Same() as same):
                    self._same(same)
                case Open():
                    self._open(task.offered)
                case Send():
                    self._send(task.offered, task.masks)
            self._board.done()

    def _look(self, parent: plan.Parent) -> None:
        """Reads and hashes; then an offer, or frames when there is nothing to compare with."""
        disk = self._disks[parent.disk]
        began = self._clock.monotonic()
        leaves = self._read(parent)
        read = self._clock.monotonic()
        digests = tuple(None if leaf is None else self._digests.leaf(leaf) for leaf in leaves)
        offered = Offered(parent.disk, parent.offset, parent.length, digests)
        self._enter(disk.tree, offered)
        self._meter.add_busy(read=read - began, cpu=self._clock.monotonic() - read)
        if not disk.compared:
            self._send_all(offered, leaves)
            return
        self._board.offer(offered)
        if disk.same_offset:
            digest = disk.tree.parent(parent.offset)
            self._offers.put(frames.ParentOffer(parent.disk, parent.offset, digest))
        else:
            self._offers.put(self._leaves_offer(offered, leaves))

    def _same(self, same: plan.Same) -> None:
        """Offers what the receiver should have from the round before."""
        self._disks[same.disk].tree.put_parent(same.offset, same.digest)
        self._board.offer(Offered(same.disk, same.offset, same.length, ()))
        self._offers.put(frames.ParentOffer(same.disk, same.offset, same.digest))

    def _revealed(self, offered: Offered) -> Offered:
        """The leaves of a parent that was not read, as the receiver has not got it after all.
        Raises DataLoss SOURCE_CHANGED when it is not what it was.
        """
        end = offered.offset + offered.length
        whole = ((offered.offset, end),)
        leaves = self._read(plan.Parent(offered.disk, offered.offset, offered.length, whole))
        digests = tuple(None if leaf is None else self._digests.leaf(leaf) for leaf in leaves)
        tree = DiskTree(self._digests, end)
        seen = Offered(offered.disk, offered.offset, offered.length, digests)
        self._enter(tree, seen)
        if tree.parent(offered.offset) != self._disks[offered.disk].tree.parent(offered.offset):
            raise errors.DataLoss(
                "SOURCE_CHANGED",
                f"bytes {offered.offset} to {end} of disk {offered.disk} changed unnoticed",
                hint="start the migration again; it compares everything then",
                retryable=True,
            )
        self._board.reveal(seen)
        return seen

    def _read(self, parent: plan.Parent) -> list[bytes | None]:
        """The leaves of a parent, None for a zero one."""
        disk = self._disks[parent.disk]
        leaves: list[bytes | None] = [None] * parent_leaves(disk.reader.size, parent.offset)
        for start, end in parent.ranges:
            for at in range(start, end, READ_BYTES_MAX):
                content = disk.read(at, min(READ_BYTES_MAX, end - at))
                self._meter.add(read=len(content))
                for within in range(0, len(content), LEAF_BYTES):
                    leaf = content[within : within + LEAF_BYTES]
                    if not plan.is_zero(leaf):
                        leaves[(at + within - parent.offset) // LEAF_BYTES] = leaf
        return leaves

    def _enter(self, tree: DiskTree, offered: Offered) -> None:
        zeros = 0
        size = offered.offset + offered.length
        for offset, length in plan.zero_runs(offered.zeros, size, offered.offset):
            tree.put_zeros(offset, length)
            zeros += length
        for index, digest in enumerate(offered.digests):
            if digest is not None:
                tree.put_leaves(offered.offset + index * LEAF_BYTES, (digest,))
        self._meter.add(zero=zeros)

    def _send_all(self, offered: Offered, leaves: list[bytes | None]) -> None:
        """Frames of a parent that nobody has anything of."""
        end = offered.offset + offered.length
        for offset, length in plan.zero_runs(offered.zeros, end, offered.offset):
            self._sink.put(frames.Zeros(offered.disk, offset, length))
        masks = [0 if leaf is None else whole_mask(len(leaf)) for leaf in leaves]
        self._meter.add(needed=sum(len(leaf) for leaf in leaves if leaf is not None))
        for group in plan.groups(end, offered.offset, masks, self._frame_content):
            parts = [leaf for index in group if (leaf := leaves[index]) is not None]
            self._pack(offered, masks, group, b"".join(parts))

    def _open(self, offered: Offered) -> None:
        """Offers leaves; for fingerprints their content is read once more."""
        if not offered.digests:
            offered = self._revealed(offered)
        leaves: list[bytes | None] = [None] * len(offered.digests)
        if self._disks[offered.disk].any_offset:
            leaves = [
                None if digest is None else self._leaf(offered, index)
                for index, digest in enumerate(offered.digests)
            ]
        self._offers.put(self._leaves_offer(offered, leaves))

    def _leaves_offer(self, offered: Offered, leaves: list[bytes | None]) -> frames.LeavesOffer:
        prints: list[bytes] = []
        if self._disks[offered.disk].any_offset:
            began = self._clock.monotonic()
            for leaf in leaves:
                if leaf is not None:
                    found = self._fingerprints.of(leaf)
                    prints.append(pack(found + [0] * (BLOCKS_PER_LEAF - len(found))))
            self._meter.add_busy(cpu=self._clock.monotonic() - began)
        digests = tuple(digest for digest in offered.digests if digest is not None)
        return frames.LeavesOffer(
            offered.disk, offered.offset, offered.zeros, digests, tuple(prints)
        )

    def _send(self, offered: Offered, masks: Sequence[int]) -> None:
        """Frames of the blocks that are wanted."""
        end = offered.offset + offered.length
        for group in plan.groups(end, offered.offset, list(masks), self._frame_content):
            lengths = [self._leaf_bytes(offered, index) for index in group]
            sizes = [
                masked_bytes(masks[index], length)
                for index, length in zip(group, lengths, strict=True)
            ]
            if not self._sink.wants(sum(sizes)):
                continue
            began = self._clock.monotonic()
            content = self._read_group(offered, masks, group)
            self._meter.add_busy(read=self._clock.monotonic() - began)
            sent = offered
            if self._disks[offered.disk].live:
                sent = self._seen_again(offered, group, content)
            self._pack(sent, masks, group, content, asked=True)

    def _seen_again(self, offered: Offered, group: list[int], content: bytes) -> Offered:
        """The parent with the digests that whole leaves have now: they may have changed since."""
        digests, taken = list(offered.digests), 0
        for index in group:
            length = self._leaf_bytes(offered, index)
            digests[index] = self._digests.leaf(content[taken : taken + length])
            taken += length
        return Offered(offered.disk, offered.offset, offered.length, tuple(digests))

    def _read_group(self, offered: Offered, masks: Sequence[int], group: list[int]) -> bytes:
        """The wanted blocks of some leaves; neighbours are read at once."""
        runs: list[tuple[int, int]] = []
        for index in group:
            at = offered.offset + index * LEAF_BYTES
            for start, end in block_runs(masks[index], self._leaf_bytes(offered, index)):
                if runs and runs[-1][1] == at + start:
                    runs[-1] = (runs[-1][0], at + end)
                else:
                    runs.append((at + start, at + end))
        disk = self._disks[offered.disk]
        return b"".join([disk.read(start, end - start) for start, end in runs])

    def _pack(
        self,
        offered: Offered,
        masks: Sequence[int],
        group: list[int],
        content: bytes,
        *,
        asked: bool = False,
    ) -> None:
        if not asked and not self._sink.wants(len(content)):
            return
        began = self._clock.monotonic()
        first, last = group[0], group[-1]
        chosen = set(group)
        frame = self._packer.data(
            offered.disk,
            offered.offset + first * LEAF_BYTES,
            [masks[index] if index in chosen else 0 for index in range(first, last + 1)],
            [digest for index in group if (digest := offered.digests[index]) is not None],
            content,
        )
        self._meter.add_busy(cpu=self._clock.monotonic() - began)
        self._meter.add(sent=len(content))
        self._sink.put(frame)

    def _frame_content(self) -> int:
        """Bytes of blocks that go into the next frame."""
        return self._frame_bytes(self._packer.kept)

    def _zeros(self, disk: int, offset: int, length: int) -> None:
        self._disks[disk].tree.put_zeros(offset, length)
        self._sink.put(frames.Zeros(disk, offset, length))

    def _leaf(self, offered: Offered, index: int) -> bytes:
        at = offered.offset + index * LEAF_BYTES
        return self._disks[offered.disk].read(at, self._leaf_bytes(offered, index))

    def _leaf_bytes(self, offered: Offered, index: int) -> int:
        return leaf_bytes(offered.length, index * LEAF_BYTES)
