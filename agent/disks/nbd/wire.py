"""The numbers and fixed layouts of the protocol, all big-endian. No I/O here."""

import struct
from enum import IntEnum, IntFlag

from watari import errors

GREETING = struct.Struct(">QQH")
"""magic, option magic, handshake flags"""
CLIENT_FLAGS = struct.Struct(">I")
OPTION = struct.Struct(">QII")
"""option magic, option, bytes of data"""
OPTION_REPLY = struct.Struct(">QIII")
"""reply magic, option, reply type, bytes of data"""
REQUEST = struct.Struct(">IHHQQI")
"""magic, command flags, command, cookie, offset, bytes"""
SIMPLE_REPLY = struct.Struct(">IQ")
"""error, cookie; the magic has been read"""
CHUNK = struct.Struct(">HHQI")
"""chunk flags, chunk type, cookie, bytes of payload; the magic has been read"""
U16, U32, U64 = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")
HOLE = struct.Struct(">QI")
"""offset, bytes"""
ERROR = struct.Struct(">IH")
"""error, bytes of its message"""
EXTENT = struct.Struct(">II")
"""bytes, status flags"""
EXPORT_INFO = struct.Struct(">HQH")
"""NBD_INFO_EXPORT: information type, bytes of the export, transmission flags"""

MAGIC = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
CHUNK_MAGIC = 0x668E33EF

FIXED_NEWSTYLE, NO_ZEROES = 1, 2
"""Handshake flags, the same numbers in both directions."""


class Option(IntEnum):
    """What a client may ask for in the handshake."""

    GO = 7
    STRUCTURED_REPLY = 8
    SET_META_CONTEXT = 10


class OptionReply(IntEnum):
    """What a server answers; `OPTION_ERROR` marks refusals."""

    ACK = 1
    INFO = 3
    META_CONTEXT = 4


OPTION_ERROR = 1 << 31
INFO_EXPORT = 0


class Export(IntFlag):
    """Transmission flags."""

    HAS_FLAGS = 1
    READ_ONLY = 2
    SEND_FLUSH = 4
    SEND_WRITE_ZEROES = 64
    CAN_MULTI_CONN = 256


class Command(IntEnum):
    """Requests."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class Chunk(IntEnum):
    """Types of structured reply chunks; those with bit 15 are errors."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = 0x8001
    ERROR_OFFSET = 0x8002


CHUNK_DONE = 1
"""Flag of the last chunk of a reply."""

BASE_ALLOCATION = "base:allocation"
STATE_HOLE, STATE_ZERO = 1, 2
"""Flags of `base:allocation`. A hole need not read as zeros; only STATE_ZERO says so."""
BITMAP_DIRTY = 1
"""Flag of `qemu:dirty-bitmap:...`: written since the bitmap began."""

NAME_BYTES_MAX = 4096
"""The protocol's own limit for strings."""


def dirty_bitmap(name: str) -> str:
    """The context of a dirty bitmap that QEMU exports."""
    return f"qemu:dirty-bitmap:{name}"


def violation(what: str) -> errors.DataLoss:
    """The error of an answer that is not as the protocol says; the connection is of no more use."""
    return errors.DataLoss(
        "DISK_IO",
        f"the disk's NBD server answered wrongly: {what}",
        hint="see whether the host's qemu-utils are complete and current, then try again",
    )
