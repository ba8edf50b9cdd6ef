"""Makes a disk image that is shaped like a real one: partition table, ext4, real files, holes.

Needs `mkfs.ext4` (e2fsprogs) and no root: the file system is filled from a folder while it is made.
The same source, size and amount give the same files in the same places of the tree.

Never: reads what this user may not, or follows symbolic links.
"""

import hashlib
import os
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from watari import errors, units

PARTITION_OFFSET_BYTES = 1024 * 1024
"""Where partitions begin since disks have 4 KiB sectors and controllers have stripes."""

OVERHEAD_BYTES_MIN = 48 * 1024 * 1024
"""Room that a file system of any size needs beside its files: journal, tables, reserve."""

FILES_MAX = 50_000
"""More would cost more time in the tables than in the content."""

MKFS_SECONDS_MAX = 600
"""An image takes seconds; beyond this the machine is stuck."""

_SECTOR_BYTES = 512
_BLOCK_BYTES = 4096
_LEFTOVER_BYTES = 64 * 1024  # this close to the wanted amount the search ends
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # where mkfs lives, and not on every user's PATH
_MBR = struct.Struct("<440sIH16s16s16s16s2s")
_MBR_ENTRY = struct.Struct("<B3sB3sII")


@dataclass(frozen=True)
class Content:
    """What was put into an image."""

    files: int
    """Number of files."""
    data_bytes: int
    """Sum of their sizes."""


def make_system_disk(path: Path, size_bytes: int, data_bytes: int, source: Path) -> Content:
    """Makes a new sparse raw image of `size_bytes` with about `data_bytes` of files of `source`.

    Raises FailedPrecondition TOOL_MISSING without mkfs.ext4, InvalidArgument INVALID_FIELD when
    the data cannot fit, Internal DISK_IO when mkfs.ext4 fails, and OSError.
    """
    mkfs = _find_mkfs()
    if size_bytes < data_bytes + data_bytes // 8 + OVERHEAD_BYTES_MIN:
        raise errors.InvalidArgument(
            "INVALID_FIELD",
            f"{units.format_bytes(data_bytes)} of files do not fit on a disk of "
            f"{units.format_bytes(size_bytes)}",
            hint="ask for a larger size or less data",
            field="size",
        )
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tree-") as folder:
        tree = Path(folder)
        content = _copy_tree(source, tree, data_bytes)
        with path.open("xb") as file:
            file.truncate(size_bytes)
        _format(mkfs, path, tree, size_bytes, content.files)
    with path.open("r+b") as file:
        file.write(partition_table(size_bytes))
    return content


def make_data_disk(path: Path, size_bytes: int, data_bytes: int) -> None:
    """Makes a new sparse raw file with incompressible content in two places, always the same."""
    content = hashlib.shake_256(b"watari data disk").digest(data_bytes // 2)
    with path.open("xb") as file:
        file.truncate(size_bytes)
        file.seek(PARTITION_OFFSET_BYTES)
        file.write(content)
        file.seek(size_bytes - len(content))
        file.write(content[::-1])


def partition_table(size_bytes: int) -> bytes:
    """The 512 bytes of a master boot record with one active Linux partition up to the end."""
    first = PARTITION_OFFSET_BYTES // _SECTOR_BYTES
    beyond_chs = b"\xfe\xff\xff"  # says: use the block addresses
    entry = _MBR_ENTRY.pack(
        0x80, beyond_chs, 0x83, beyond_chs, first, size_bytes // _SECTOR_BYTES - first
    )
    halt = b"\xfa\xf4\xeb\xfd"  # cli; hlt; again: there is no boot loader on this disk
    empty = bytes(_MBR_ENTRY.size)
    return _MBR.pack(halt, 0x57415441, 0, entry, empty, empty, empty, b"\x55\xaa")


def choose_files(source: Path, bytes_max: int) -> Iterator[tuple[Path, int]]:
    """Readable regular files below `source` with their sizes, in a fixed order, up to a sum.

    A file that would exceed the sum is passed over for smaller ones after it.
    """
    remaining, count = bytes_max, 0
    for folder, subfolders, names in os.walk(source):
        subfolders.sort()
        for name in sorted(names):
            if remaining < _LEFTOVER_BYTES or count >= FILES_MAX:
                return
            path = Path(folder, name)
            try:
                status = path.lstat()
            except OSError:  # gone since the folder was read: not ours to copy
                continue
            fits = 0 < status.st_size <= remaining
            if stat.S_ISREG(status.st_mode) and fits and os.access(path, os.R_OK):
                remaining, count = remaining - status.st_size, count + 1
                yield path, status.st_size


def _copy_tree(source: Path, tree: Path, bytes_max: int) -> Content:
    files = data_bytes = 0
    for path, size_bytes in choose_files(source, bytes_max):
        target = tree / source.name / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Without modes: a copy must not be set-uid anywhere.
        shutil.copyfile(path, target)
        files, data_bytes = files + 1, data_bytes + size_bytes
    return Content(files, data_bytes)


def _format(mkfs: str, path: Path, tree: Path, size_bytes: int, files: int) -> None:
    blocks = (size_bytes - PARTITION_OFFSET_BYTES) // _BLOCK_BYTES
    inodes = max(4096, files * 2)  # the folders need some too
    options = f"offset={PARTITION_OFFSET_BYTES},root_owner=0:0,nodiscard"
    command = [mkfs, "-q", "-F", "-b", str(_BLOCK_BYTES), "-N", str(inodes), "-L", "watari"]
    command += ["-d", str(tree), "-E", options, str(path), str(blocks)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=MKFS_SECONDS_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        raise errors.DeadlineExceeded(
            "DEADLINE_EXCEEDED", f"mkfs.ext4 did not end within {MKFS_SECONDS_MAX} s"
        ) from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise errors.Internal(
            "DISK_IO",
            f"mkfs.ext4 failed: {said[-1]}",
            hint=f"look whether {path.parent} has room left",
        )


def _find_mkfs() -> str:
    search = f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"
    mkfs = shutil.which("mkfs.ext4", path=search)
    if mkfs is None:
        raise errors.FailedPrecondition(
            "TOOL_MISSING",
            "mkfs.ext4 is not installed; it makes the disk image",
            hint="sudo apt-get install e2fsprogs (or give an image of your own with --image)",
            tool="mkfs.ext4",
        )
    return mkfs
