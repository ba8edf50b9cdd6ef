"""Archives that the kernel unpacks as its first root: cpio, format "newc". Pure.

Format: https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
"""

import stat
from collections.abc import Mapping

_TRAILER = "TRAILER!!!"
_ALIGNED_BYTES = 4


def cpio(files: Mapping[str, bytes]) -> bytes:
    """An archive of programs and data, with the folders that they need. All are root's, and may be
    executed.
    """
    entries: dict[str, tuple[int, bytes]] = {}
    for name, content in files.items():
        parts = name.split("/")[:-1]
        for length in range(1, len(parts) + 1):
            entries["/".join(parts[:length])] = (stat.S_IFDIR | 0o755, b"")
        entries[name] = (stat.S_IFREG | 0o755, content)
    members = [
        _member(number, name, mode, content)
        for number, (name, (mode, content)) in enumerate(entries.items(), start=1)
    ]
    return b"".join([*members, _member(0, _TRAILER, 0, b"")])


def _member(number: int, name: str, mode: int, content: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    # inode, mode, user, group, links, time, size, device (2), device of a node (2), name, checksum
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return _padded(header + encoded) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNED_BYTES)
