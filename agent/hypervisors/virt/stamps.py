"""Whether a disk was written to since a moment: saved memory fits the disks of its moment only.

A file is told by its size and the time of its last write, which every write changes. A block device
has neither; the kernel counts what was written to it since it was booted. After a reboot nobody can
tell, and it counts as written to: the machine had its power cut then anyway.
"""

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SYSFS = Path("/sys/dev/block")
_SECTORS_WRITTEN, _SECTORS_DISCARDED = 6, 13
"""Positions in a device's `stat`: the kernel's Documentation/block/stat.rst."""


def taken(paths: Iterable[Path]) -> dict[str, str]:
    """What tells these disks as they are now, by path."""
    return {str(each): of(each) for each in paths}


def of(path: Path) -> str:
    """What tells one disk as it is now; empty where nothing does."""
    try:
        found = path.stat()
        if stat.S_ISBLK(found.st_mode):
            number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
            counts = (_SYSFS / number / "stat").read_text().split()
            boot = _BOOT_ID.read_text().strip()
            written = int(counts[_SECTORS_WRITTEN])
            if len(counts) > _SECTORS_DISCARDED:
                written += int(counts[_SECTORS_DISCARDED])
            return f"device {boot} {written}"
    except (OSError, ValueError, IndexError):
        return ""
    return f"file {found.st_mtime_ns} {found.st_size}"


def changed(stamps: Mapping[str, str]) -> list[str]:
    """The disks that are not, for sure, as they were then."""
    return [path for path, stamp in stamps.items() if not stamp or stamp != of(Path(path))]


def newer(stamps: Mapping[str, str], image: Path) -> list[str]:
    """The disks that may have been written to after a memory image, by its file's time. That of a
    device is not known.
    """
    saved_at = image.stat().st_mtime_ns
    found = []
    for path, stamp in stamps.items():
        kind, _, rest = stamp.partition(" ")
        if kind != "file" or int(rest.partition(" ")[0]) > saved_at:
            found.append(path)
    return found
