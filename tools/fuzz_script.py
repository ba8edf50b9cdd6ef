"""Frames out of bytes: arbitrary ones, and ones that a sender with the keys could have made.

A coverage-guided fuzzer finds its way through a codec alone, but it does not find BLAKE3 digests.
So most steps of a script are built: content is one of a few patterns, its digests are right unless
the input says otherwise, and the input chooses everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import zstandard

from agent.seeds.fingerprints import Fingerprints, pack
from agent.transfer import frames
from agent.transfer.content import block_runs
from agent.transfer.geometry import (
    BLOCK_BYTES,
    BLOCKS_PER_LEAF,
    LEAF_BYTES,
    PARENT_BYTES,
    leaf_bytes,
    leaf_count,
    parent_leaves,
    whole_mask,
)
from agent.transfer.merkle import DigestKeys
from tools.fuzz_disk import require

DIGEST_KEY = bytes(range(32))
_DIGESTS = DigestKeys(DIGEST_KEY)
_PRINTS = Fingerprints(DIGEST_KEY)

PATTERNS = (
    bytes(LEAF_BYTES),
    b"a" * LEAF_BYTES,
    b"".join(bytes([65 + block]) * BLOCK_BYTES for block in range(BLOCKS_PER_LEAF)),
    b"z" * (3 * BLOCK_BYTES) + bytes(LEAF_BYTES - 3 * BLOCK_BYTES),
    bytes(LEAF_BYTES - 10) + b"0123456789",
)
"""What leaves hold: zeros, one block again and again, all different, mostly zeros, nearly zeros."""

PLAIN_BYTES_MAX = 2048
SHORT_FROM = 190
"""From here on the byte with the number of leaves of an offered parent cuts the last one short."""

UNKNOWN = (1).to_bytes(6, "little")
"""A fingerprint that nothing has."""

LEAVES_MAX = 4
"""Leaves of a data frame that is built; a frame of 2 MiB has 32."""

STEPS = ("data", "leaves", "parent", "zeros", "bytes", "message", "settle", "restart")


@dataclass(frozen=True)
class Piece:
    """A leaf of a pattern, cut to what the disk has there."""

    content: bytes
    digest: bytes
    fingerprints: bytes

    @property
    def zero(self) -> bool:
        """Whether it is nothing but zeros."""
        return self.digest == _zero_digest(len(self.content))


@cache
def piece(pattern: int, length: int) -> Piece:
    """The first `length` bytes of a pattern, by any number."""
    content = PATTERNS[pattern % len(PATTERNS)][:length]
    found = _PRINTS.of(content)
    prints = pack(found + [0] * (BLOCKS_PER_LEAF - len(found)))
    return Piece(content, _DIGESTS.leaf(content), prints)


@cache
def _zero_digest(length: int) -> bytes:
    return _DIGESTS.leaf(bytes(length))


class Input:
    """Bytes that are read to their end, and then zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def over(self) -> bool:
        """Whether all has been read."""
        return self._at >= len(self._data)

    def take(self, count: int) -> bytes:
        """`count` bytes, fewer at the end."""
        found = self._data[self._at : self._at + count]
        self._at += count
        return found

    def number(self, width: int) -> int:
        """An integer of `width` bytes."""
        return int.from_bytes(self.take(width), "little")

    def byte(self) -> int:
        """One byte."""
        return self.number(1)


class Script:
    """The steps of an input, for a disk of `disk_bytes`."""

    def __init__(self, source: Input, disk_bytes: int) -> None:
        self.input = source
        self._size = disk_bytes

    @property
    def over(self) -> bool:
        """Whether no step is left."""
        return self.input.over

    def choose(self) -> str:
        """The next step."""
        return STEPS[self.input.byte() % len(STEPS)]

    def frame(self, step: str) -> frames.Frame:
        """A frame. Raises WatariError when the bytes are none."""
        match step:
            case "data":
                return self._data()
            case "leaves":
                return self._leaves()
            case "parent":
                return self._parent()
            case "zeros":
                return self._zeros()
            case "bytes":
                return self._decoded()
            case _:
                return self._parsed(self.input.take(PLAIN_BYTES_MAX))

    def _parsed(self, message: bytes) -> frames.Frame:
        """A whole message of arbitrary bytes, as if its seal had opened."""
        header = frames.parse(message)
        return decoded(header, message[frames.HEADER_BYTES : -frames.TAG_BYTES])

    def _decoded(self) -> frames.Frame:
        """A header in bounds with an arbitrary plaintext."""
        kind = frames.FrameType(self.input.byte() % len(frames.FrameType) + 1)
        flags = frames.Flags(self.input.byte() & 7)
        offset, length = self._offset(), self.input.number(3)
        plain = self.input.take(self.input.number(2) % PLAIN_BYTES_MAX)
        sealed = len(plain) + frames.TAG_BYTES
        header = frames.Header(kind, flags, self.input.byte() & 1, 0, offset, length, sealed)
        return decoded(frames.parse(header.pack() + plain + bytes(frames.TAG_BYTES)), plain)

    def _data(self) -> frames.Frame:
        offset = self._offset()
        masks, digests, body = list[int](), list[bytes](), list[bytes]()
        for index in range(self.input.byte() % LEAVES_MAX + 1):
            at = offset + index * LEAF_BYTES
            length = max(1, min(LEAF_BYTES, self._size - at))
            leaf = piece(self.input.byte(), length)
            mask = self._mask(length)
            masks.append(mask)
            if mask:
                digests.append(leaf.digest)
                body += [leaf.content[start:end] for start, end in block_runs(mask, length)]
        joined = b"".join(body)
        return self._packed(offset, tuple(masks), b"".join(digests), joined)

    def _packed(
        self, offset: int, masks: tuple[int, ...], digests: bytes, content: bytes
    ) -> frames.Frame:
        """As the sender packs it, or with one thing off; then through the codec."""
        off, length, body = self.input.byte() % 16, len(content), content
        compressed = bool(self.input.byte() & 1) and length > BLOCK_BYTES
        if compressed:
            body = zstandard.ZstdCompressor(level=1).compress(content)
        if off == 1:
            length += self.input.byte() - 128
        elif off == 2:
            body = body[: self.input.number(2)]
        elif off == 3:
            digests = b"?" * len(digests)
        elif off == 4:
            body = body[:4] + self.input.take(16) + body[20:]
        frame = frames.Data(0, offset, max(0, length), masks, digests, body, compressed)
        return coded(frame)

    def _leaves(self) -> frames.Frame:
        parent = self.input.byte() % 3 * PARENT_BYTES
        if parent >= self._size:
            parent = 0
        first, step, off = self.input.byte(), self.input.byte(), self.input.byte() % 8
        zeros, leaves = 0, list[Piece]()
        for index in range(parent_leaves(self._size, parent)):
            length = leaf_bytes(self._size, parent + index * LEAF_BYTES)
            leaf = piece((first + index * step) % len(PATTERNS), length)
            if leaf.zero:
                zeros |= 1 << index
            else:
                leaves.append(leaf)
        if off & 3 == 1:
            zeros = self.input.number(8)
        elif off & 3 == 2:
            leaves = leaves[: self.input.byte()]
        digests = tuple(leaf.digest for leaf in leaves)
        prints = tuple(leaf.fingerprints for leaf in leaves) if off & 4 else ()
        if off == 7:
            half = UNKNOWN * (BLOCKS_PER_LEAF // 2)
            prints = tuple(half + each[len(half) :] for each in prints)
        return coded(frames.LeavesOffer(0, parent, zeros, digests, prints))

    def _parent(self) -> frames.Frame:
        parent = self.input.byte() % 2 * PARENT_BYTES
        first, step = self.input.byte(), self.input.byte()
        count = self.input.byte()
        digests = []
        for index in range(min(parent_leaves(self._size, parent), count % 65 or 64)):
            length = leaf_bytes(self._size, parent + index * LEAF_BYTES)
            digests.append(piece((first + index * step) % len(PATTERNS), length).digest)
        if count >= SHORT_FROM:  # a last leaf that is short, as an earlier copy may have it
            digests[-1] = piece(first % len(PATTERNS), 77).digest
        return coded(frames.ParentOffer(0, parent, _DIGESTS.parent(b"".join(digests))))

    def _zeros(self) -> frames.Frame:
        offset = self._offset()
        leaves = self.input.byte()
        length = min(leaves * LEAF_BYTES, max(0, self._size - offset))
        if leaves == 255:
            length = self.input.number(8)
        return coded(frames.Zeros(0, offset, length))

    def _offset(self) -> int:
        """A leaf of the disk or shortly behind it; sometimes anything."""
        leaf = self.input.byte()
        if leaf == 255:
            return self.input.number(8)
        return leaf % (leaf_count(self._size) + 2) * LEAF_BYTES

    def _mask(self, length: int) -> int:
        choice = self.input.byte() % 4
        if choice == 0:
            return self.input.number(2)
        return (whole_mask(length), whole_mask(length) & 0xFF, 0)[choice - 1]


def decoded(header: frames.Header, plain: bytes) -> frames.Frame:
    """The frame, which is encoded as what it was decoded from. Raises WatariError."""
    frame = frames.decode(header, plain)
    _, flags, _, _, length, again = frames.encode(frame)
    kind = header.type.name
    require(again == plain, f"{kind} is encoded as other bytes")
    require(length == header.length, f"{kind} is encoded with another length")
    # An offer without leaves has nothing to flag.
    empty = isinstance(frame, frames.LeavesOffer) and not frame.digests
    require(flags == header.flags or empty, f"{kind} is encoded with other flags")
    return frame


def coded(frame: frames.Frame) -> frames.Frame:
    """A frame through the codec. Raises WatariError."""
    try:
        kind, flags, disk, offset, length, plain = frames.encode(frame)
        sealed = len(plain) + frames.TAG_BYTES
        header = frames.Header(kind, flags, disk, 0, offset, length, sealed).pack()
    except OverflowError:
        raise frames.invalid("a number that the header has no room for") from None
    return decoded(frames.parse(header + plain + bytes(frames.TAG_BYTES)), plain)
