"""The fixed part of a qcow2 header: the size that the guest sees, and what must not be opened.

Format: https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.txt

An image may come from a stranger. One with a backing file or an external data file would make the
tools read whatever file it names, so that is told here, before any tool is started on it.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from agent.disks.images import disk_error, unreadable

MAGIC = b"QFI\xfb"
SECTOR_BYTES = 512
"""The guest-visible size is a multiple of it."""

SIZE_BYTES_MAX = 1 << 56
"""More than QEMU can address with the largest clusters."""

_V2 = struct.Struct(">4sIQIIQI")
"""magic, version, backing file offset, its name's length, cluster bits, size, encryption"""
_V3 = struct.Struct(">Q")
"""incompatible features, at byte 72"""
_V3_OFFSET = 72
_CORRUPT, _EXTERNAL_DATA = 2, 4
_FLATTEN = "make one image of it: qemu-img convert -O qcow2 {name} flat.qcow2"


@dataclass(frozen=True)
class Header:
    """What the header says, and all of it that matters here."""

    size: int
    """Guest-visible bytes."""


def parse(content: bytes) -> Header:
    """Reads the first bytes of an image; 80 are enough. Raises ValueError saying why it is no image
    that can be used, with a second argument where there is something to be done about it.
    """
    if len(content) < _V2.size or not content.startswith(MAGIC):
        raise ValueError("it is no qcow2 image")
    _, version, backing_offset, _, _, size, encryption = _V2.unpack_from(content)
    if version not in {2, 3}:
        raise ValueError(f"it is qcow2 of the unknown version {version}")
    features = 0
    if version >= 3:
        if len(content) < _V3_OFFSET + _V3.size:
            raise ValueError("its header is cut short")
        (features,) = _V3.unpack_from(content, _V3_OFFSET)
    if backing_offset:
        raise ValueError("it is a difference to a backing file", _FLATTEN)
    if features & _EXTERNAL_DATA:
        raise ValueError("its data is in another file", _FLATTEN)
    if encryption:
        raise ValueError("it is encrypted", "give the machine a disk without encryption")
    if features & _CORRUPT:
        raise ValueError("it is marked as corrupt", "repair it: qemu-img check -r all {name}")
    if size % SECTOR_BYTES or size > SIZE_BYTES_MAX:
        raise ValueError(f"its size of {size} bytes is none that QEMU makes")
    return Header(size)


def read(descriptor: int, path: Path) -> Header:
    """The header of an open image. Raises FailedPrecondition IMAGE_UNREADABLE, DataLoss DISK_IO."""
    try:
        content = os.pread(descriptor, _V3_OFFSET + _V3.size, 0)
    except OSError as error:
        raise disk_error(error, path) from error
    try:
        return parse(content)
    except ValueError as error:
        why, *hints = error.args
        hint = hints[0] if hints else "give the disk's own format in the definition"
        raise unreadable(path, why, hint.format(name=path.name)) from error


def container_size(size: int) -> int:
    """The guest-visible size of an image that is made for `size` bytes: the next full sector."""
    return -(-size // SECTOR_BYTES) * SECTOR_BYTES
