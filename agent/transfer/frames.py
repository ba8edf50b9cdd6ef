"""The frame codec: bytes to values and back (docs/wire-format.md, "Frames"). Pure; no keys, no I/O.

```
 0       2   3    4     5   6      8         16        24       28       32
 | magic |ver|type|flags| 0 | disk | counter | offset  | length | sealed | sealed bytes ...
```

All integers are little-endian. The 32 bytes of the header are the associated data of the seal.
"""

import enum
import struct
from dataclasses import dataclass

from agent.transfer.geometry import (
    BLOCKS_PER_LEAF,
    DIGEST_BYTES,
    FRAME_CONTENT_BYTES_MAX,
    LEAF_BYTES,
    PARENT_BYTES,
    PARENT_LEAVES,
)
from watari import errors

MAGIC = 0x5754
VERSION = 2
TAG_BYTES = 16
"""AES-GCM tag at the end of the sealed bytes."""

FINGERPRINT_BYTES = 6
LEAF_FINGERPRINTS_BYTES = BLOCKS_PER_LEAF * FINGERPRINT_BYTES

_HEADER = struct.Struct("<HBBBBHQQII")
HEADER_BYTES = _HEADER.size

_RANGE = struct.Struct("<Q")
_ACK = struct.Struct("<QQI")
_REJECT = struct.Struct("<HQ")
_MASKS = [struct.Struct(f"<{count}H") for count in range(PARENT_LEAVES + 1)]

REJECTS_MAX = 4096
"""Rejected leaves that one acknowledgement names."""

_DATA_ENTRY_BYTES = 2 + DIGEST_BYTES
SEALED_BYTES_MAX = 1 + PARENT_LEAVES * _DATA_ENTRY_BYTES + FRAME_CONTENT_BYTES_MAX + TAG_BYTES
"""Sealed bytes of the largest frame: masks, digests, raw content, tag."""

MESSAGE_BYTES_MAX = HEADER_BYTES + SEALED_BYTES_MAX
"""A whole frame; the limit of a gRPC message on the data port."""


class FrameType(enum.IntEnum):
    """What a frame carries."""

    DATA = 1
    """Masks and digests of leaves of one parent, then content, compressed or not."""
    ZERO = 2
    """A range of zeros: 8 bytes of length."""
    END = 3
    """The sender's last frame of a stream. Always final."""
    ACK = 4
    """From the receiver: frames and bytes of this stream that are on stable storage."""
    PARENT = 5
    """An offer: the digest of a parent."""
    LEAVES = 6
    """An offer: the digests of a parent's leaves, and of their blocks if asked for."""
    ANSWER = 7
    """From the receiver: what it lacks of an offered parent."""


class Flags(enum.IntFlag):
    """Bits of the flags byte; unknown bits are refused."""

    NONE = 0
    FINAL = 1
    """No frame follows on this stream in this direction."""
    ZSTD = 2
    """The content is one zstd frame with its content size."""
    BLOCKS = 4
    """Each digest of LEAVES is followed by the fingerprints of the leaf's blocks."""


_FLAGS_ALLOWED = {
    FrameType.DATA: Flags.ZSTD,
    FrameType.ZERO: Flags.NONE,
    FrameType.END: Flags.FINAL,
    FrameType.ACK: Flags.FINAL,
    FrameType.PARENT: Flags.NONE,
    FrameType.LEAVES: Flags.BLOCKS,
    FrameType.ANSWER: Flags.NONE,
}


@dataclass(frozen=True)
class Header:
    """A frame's header."""

    type: FrameType
    flags: Flags
    disk: int
    counter: int
    offset: int
    length: int
    sealed_bytes: int

    def pack(self) -> bytes:
        """The 32 bytes."""
        return _HEADER.pack(
            MAGIC,
            VERSION,
            self.type,
            self.flags,
            0,
            self.disk,
            self.counter,
            self.offset,
            self.length,
            self.sealed_bytes,
        )


def parse(message: bytes) -> Header:
    """The header of a frame, every field in bounds. Raises DataLoss FRAME_INVALID."""
    if not HEADER_BYTES + TAG_BYTES <= len(message) <= MESSAGE_BYTES_MAX:
        raise invalid(f"a frame of {len(message)} bytes")
    magic, version, kind, flags, zero, disk, counter, offset, length, sealed = _HEADER.unpack_from(
        message
    )
    if magic != MAGIC or version != VERSION or zero != 0:
        raise invalid(f"magic {magic:#06x}, version {version}")
    if kind not in _FLAGS_ALLOWED or flags & ~int(_FLAGS_ALLOWED[kind]):
        raise invalid(f"type {kind}, flags {flags:#04x}")
    if sealed != len(message) - HEADER_BYTES:
        raise invalid(f"{sealed} sealed bytes announced, {len(message) - HEADER_BYTES} here")
    if length > FRAME_CONTENT_BYTES_MAX:
        raise invalid(f"content of {length} bytes")
    return Header(FrameType(kind), Flags(flags), disk, counter, offset, length, sealed)


@dataclass(frozen=True)
class Data:
    """Content of consecutive leaves of one parent, the first at `offset`.

    `masks` says which blocks of each leaf are here, `digests` has 32 bytes for each leaf whose mask
    is not 0, and the body is `length` bytes of blocks one after another, before compression.
    """

    disk: int
    offset: int
    length: int
    masks: tuple[int, ...]
    digests: bytes
    body: bytes
    compressed: bool


@dataclass(frozen=True)
class Zeros:
    """A range of zeros that starts on a leaf boundary."""

    disk: int
    offset: int
    length: int


@dataclass(frozen=True)
class End:
    """The sender's last frame."""


@dataclass(frozen=True)
class Ack:
    """Frames and bytes of a stream that the receiver has on stable storage, since its start.

    `rejected` names leaves, by (disk, leaf number), of which blocks came that did not fit what the
    receiver had; they are to be sent whole. `held_microseconds` is how long the last of these
    frames was at the receiver before it was stable: the rest of the time it was on its way.
    """

    frames: int
    sealed_bytes: int
    final: bool = False
    rejected: tuple[tuple[int, int], ...] = ()
    held_microseconds: int = 0


@dataclass(frozen=True)
class ParentOffer:
    """The digest of the parent at `offset`."""

    disk: int
    offset: int
    digest: bytes


@dataclass(frozen=True)
class LeavesOffer:
    """The leaves of the parent at `offset`: bit i of `zeros` says that leaf i is zero; each other
    has a digest and, if they were asked for, 16 fingerprints of 6 bytes (0 beyond a disk's end).
    """

    disk: int
    offset: int
    zeros: int
    digests: tuple[bytes, ...]
    fingerprints: tuple[bytes, ...] = ()


class Verdict(enum.IntEnum):
    """The receiver's answer to an offer."""

    HAVE = 0
    """Everything under the parent is there."""
    OPEN = 1
    """The parent differs: offer its leaves."""
    WANT = 2
    """The blocks that are to be sent, by leaf."""


@dataclass(frozen=True)
class Answer:
    """What the receiver says to an offer; `masks` has one entry for each leaf with WANT."""

    disk: int
    offset: int
    verdict: Verdict
    masks: tuple[int, ...] = ()


Content = Data | Zeros
"""What fills a disk."""

Frame = Data | Zeros | End | Ack | ParentOffer | LeavesOffer | Answer


def encode(frame: Frame) -> tuple[FrameType, Flags, int, int, int, bytes]:
    """(type, flags, disk, offset, length, plaintext) of a frame."""
    match frame:
        case Data():
            flags = Flags.ZSTD if frame.compressed else Flags.NONE
            count = len(frame.masks)
            head = bytes((count,)) + _MASKS[count].pack(*frame.masks)
            plain = b"".join((head, frame.digests, frame.body))
            return FrameType.DATA, flags, frame.disk, frame.offset, frame.length, plain
        case Zeros():
            plain = _RANGE.pack(frame.length)
            return FrameType.ZERO, Flags.NONE, frame.disk, frame.offset, 0, plain
        case End():
            return FrameType.END, Flags.FINAL, 0, 0, 0, b""
        case Ack():
            flags = Flags.FINAL if frame.final else Flags.NONE
            plain = _ACK.pack(frame.frames, frame.sealed_bytes, frame.held_microseconds)
            plain += b"".join(_REJECT.pack(*each) for each in frame.rejected)
            return FrameType.ACK, flags, 0, 0, 0, plain
        case ParentOffer():
            return FrameType.PARENT, Flags.NONE, frame.disk, frame.offset, 0, frame.digest
        case LeavesOffer():
            flags = Flags.BLOCKS if frame.fingerprints else Flags.NONE
            prints = frame.fingerprints or (b"",) * len(frame.digests)
            parts = [part for pair in zip(frame.digests, prints, strict=True) for part in pair]
            plain = _RANGE.pack(frame.zeros) + b"".join(parts)
            return FrameType.LEAVES, flags, frame.disk, frame.offset, 0, plain
        case Answer():
            plain = bytes((frame.verdict,)) + _MASKS[len(frame.masks)].pack(*frame.masks)
            return FrameType.ANSWER, Flags.NONE, frame.disk, frame.offset, 0, plain


def message_bytes(frame: Content) -> int:
    """Bytes of the message that a frame becomes."""
    if isinstance(frame, Zeros):
        return HEADER_BYTES + _RANGE.size + TAG_BYTES
    entries = 1 + 2 * len(frame.masks) + len(frame.digests)
    return HEADER_BYTES + entries + len(frame.body) + TAG_BYTES


def decode(header: Header, plain: bytes) -> Frame:
    """The frame behind an opened seal. Raises DataLoss FRAME_INVALID when it contradicts itself."""
    if header.type is not FrameType.DATA and header.length:
        raise invalid(f"{header.type.name} with content")
    match header.type:
        case FrameType.DATA:
            return _decode_data(header, plain)
        case FrameType.ZERO if len(plain) == _RANGE.size:
            return Zeros(header.disk, _aligned(header.offset), _RANGE.unpack(plain)[0])
        case FrameType.END if header.flags and not plain:
            return End()
        case FrameType.ACK:
            return _decode_ack(header, plain)
        case FrameType.PARENT if len(plain) == DIGEST_BYTES:
            return ParentOffer(header.disk, _parent(header.offset), plain)
        case FrameType.LEAVES:
            return _decode_leaves(header, plain)
        case FrameType.ANSWER:
            return _decode_answer(header, plain)
        case _:
            raise invalid(f"{header.type.name} with {len(plain)} bytes, {header.flags!r}")


def _decode_data(header: Header, plain: bytes) -> Data:
    count = plain[0] if plain else 0
    within = header.offset % PARENT_BYTES // LEAF_BYTES
    if not 0 < count <= PARENT_LEAVES - within or len(plain) < 1 + 2 * count:
        raise invalid(f"DATA of {count} leaves, {len(plain)} bytes, at {header.offset}")
    masks: tuple[int, ...] = _MASKS[count].unpack_from(plain, 1)
    body_at = 1 + 2 * count + DIGEST_BYTES * (count - masks.count(0))
    compressed = header.flags == Flags.ZSTD
    body = len(plain) - body_at
    if header.length == 0 or body <= 0:
        raise invalid(f"DATA of {header.length} bytes with {len(plain)} inside")
    if body != header.length and not (compressed and body < header.length):
        raise invalid(f"DATA of {header.length} bytes with a body of {body}")
    return Data(
        header.disk,
        _aligned(header.offset),
        header.length,
        masks,
        plain[1 + 2 * count : body_at],
        plain[body_at:],
        compressed,
    )


def _decode_ack(header: Header, plain: bytes) -> Ack:
    rejects, rest = divmod(len(plain) - _ACK.size, _REJECT.size)
    if rest or not 0 <= rejects <= REJECTS_MAX:
        raise invalid(f"ACK with {len(plain)} bytes")
    settled, sealed, held = _ACK.unpack_from(plain)
    rejected = tuple(_REJECT.iter_unpack(plain[_ACK.size :]))
    return Ack(settled, sealed, bool(header.flags), rejected, held)


def _decode_leaves(header: Header, plain: bytes) -> LeavesOffer:
    blocks = bool(header.flags)
    each = DIGEST_BYTES + (LEAF_FINGERPRINTS_BYTES if blocks else 0)
    count, rest = divmod(len(plain) - _RANGE.size, each)
    if rest or not 0 <= count <= PARENT_LEAVES:
        raise invalid(f"LEAVES with {len(plain)} bytes")
    starts = range(_RANGE.size, len(plain), each)
    return LeavesOffer(
        header.disk,
        _parent(header.offset),
        _RANGE.unpack_from(plain)[0],
        tuple(plain[at : at + DIGEST_BYTES] for at in starts),
        tuple(plain[at + DIGEST_BYTES : at + each] for at in starts) if blocks else (),
    )


def _decode_answer(header: Header, plain: bytes) -> Answer:
    count, rest = divmod(len(plain) - 1, 2)
    known = bool(plain) and plain[0] in Verdict.__members__.values()
    if not known or rest or count > PARENT_LEAVES:
        raise invalid(f"ANSWER with {len(plain)} bytes")
    verdict = Verdict(plain[0])
    if bool(count) != (verdict is Verdict.WANT):
        raise invalid(f"ANSWER {verdict.name} with {count} masks")
    masks = _MASKS[count].unpack_from(plain, 1)
    return Answer(header.disk, _parent(header.offset), verdict, masks)


def _aligned(offset: int) -> int:
    if offset % LEAF_BYTES:
        raise invalid(f"offset {offset} is on no leaf boundary")
    return offset


def _parent(offset: int) -> int:
    if offset % PARENT_BYTES:
        raise invalid(f"offset {offset} is on no parent boundary")
    return offset


def invalid(what: str) -> errors.DataLoss:
    """The error of a frame that breaks the format."""
    return errors.DataLoss(
        "FRAME_INVALID",
        f"invalid frame: {what}",
        hint="the path between the agents alters data, or the peer is no Watari agent",
    )
