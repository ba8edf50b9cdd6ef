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

from agent.transfer.geometry import DIGEST_BYTES, FRAME_CONTENT_BYTES_MAX, LEAF_BYTES, leaf_count
from watari import errors

MAGIC = 0x5754
VERSION = 1
TAG_BYTES = 16
"""AES-GCM tag at the end of the sealed bytes."""

_HEADER = struct.Struct("<HBBBBHQQII")
HEADER_BYTES = _HEADER.size

_RANGE = struct.Struct("<Q")
_ACK = struct.Struct("<QQ")

SEALED_BYTES_MAX = (
    leaf_count(FRAME_CONTENT_BYTES_MAX) * DIGEST_BYTES + FRAME_CONTENT_BYTES_MAX + TAG_BYTES
)
"""Sealed bytes of the largest frame: digests, raw content, tag."""

MESSAGE_BYTES_MAX = HEADER_BYTES + SEALED_BYTES_MAX
"""A whole frame; the limit of a gRPC message on the data port."""


class FrameType(enum.IntEnum):
    """What a frame carries."""

    DATA = 1
    """Leaf digests, then content, compressed or not."""
    ZERO = 2
    """A range of zeros: 8 bytes of length."""
    END = 3
    """The sender's last frame of a stream. Always final."""
    ACK = 4
    """From the receiver: frames and sealed bytes of this stream that are settled."""


class Flags(enum.IntFlag):
    """Bits of the flags byte; unknown bits are refused."""

    NONE = 0
    FINAL = 1
    """No frame follows on this stream in this direction."""
    ZSTD = 2
    """The content is one zstd frame with its content size."""


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
    if kind not in FrameType.__members__.values() or flags & ~int(Flags.FINAL | Flags.ZSTD):
        raise invalid(f"type {kind}, flags {flags:#04x}")
    if sealed != len(message) - HEADER_BYTES:
        raise invalid(f"{sealed} sealed bytes announced, {len(message) - HEADER_BYTES} here")
    if length > FRAME_CONTENT_BYTES_MAX:
        raise invalid(f"content of {length} bytes")
    return Header(FrameType(kind), Flags(flags), disk, counter, offset, length, sealed)


@dataclass(frozen=True)
class Data:
    """A run of leaves: content that starts on a leaf boundary, 1 byte to 1 MiB."""

    disk: int
    offset: int
    length: int
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
    """Frames and sealed bytes of a stream that the receiver has settled, since its start."""

    frames: int
    sealed_bytes: int
    final: bool = False


Frame = Data | Zeros | End | Ack


def encode(frame: Frame) -> tuple[FrameType, Flags, int, int, int, bytes]:
    """(type, flags, disk, offset, length, plaintext) of a frame."""
    match frame:
        case Data():
            flags = Flags.ZSTD if frame.compressed else Flags.NONE
            return (
                FrameType.DATA,
                flags,
                frame.disk,
                frame.offset,
                frame.length,
                frame.digests + frame.body,
            )
        case Zeros():
            plain = _RANGE.pack(frame.length)
            return FrameType.ZERO, Flags.NONE, frame.disk, frame.offset, 0, plain
        case End():
            return FrameType.END, Flags.FINAL, 0, 0, 0, b""
        case Ack():
            flags = Flags.FINAL if frame.final else Flags.NONE
            return FrameType.ACK, flags, 0, 0, 0, _ACK.pack(frame.frames, frame.sealed_bytes)


def decode(header: Header, plain: bytes) -> Frame:
    """The frame behind an opened seal. Raises DataLoss FRAME_INVALID when it contradicts itself."""
    match header.type:
        case FrameType.DATA:
            return _decode_data(header, plain)
        case FrameType.ZERO if len(plain) == _RANGE.size and not header.flags:
            return Zeros(header.disk, _aligned(header.offset), _RANGE.unpack(plain)[0])
        case FrameType.END if header.flags == Flags.FINAL and not plain:
            return End()
        case FrameType.ACK if len(plain) == _ACK.size and not header.flags & Flags.ZSTD:
            settled, sealed = _ACK.unpack(plain)
            return Ack(settled, sealed, final=bool(header.flags))
        case _:
            raise invalid(f"{header.type.name} with {len(plain)} bytes, {header.flags!r}")


def _decode_data(header: Header, plain: bytes) -> Data:
    digests = leaf_count(header.length) * DIGEST_BYTES
    compressed = header.flags == Flags.ZSTD
    body = len(plain) - digests
    if header.length == 0 or header.flags & Flags.FINAL or body <= 0:
        raise invalid(f"DATA of {header.length} bytes with {len(plain)} inside")
    if body != header.length and not (compressed and body < header.length):
        raise invalid(f"DATA of {header.length} bytes with a body of {body}")
    return Data(
        header.disk,
        _aligned(header.offset),
        header.length,
        plain[:digests],
        plain[digests:],
        compressed,
    )


def _aligned(offset: int) -> int:
    if offset % LEAF_BYTES:
        raise invalid(f"offset {offset} is on no leaf boundary")
    return offset


def invalid(what: str) -> errors.DataLoss:
    """The error of a frame that breaks the format."""
    return errors.DataLoss(
        "FRAME_INVALID",
        f"invalid frame: {what}",
        hint="the path between the agents alters data, or the peer is no Watari agent",
    )
