"""What keeps disks small on Linux: punched holes, shared blocks, and zeros that are skipped."""

import ctypes
import fcntl
import os
import struct

BLOCK_BYTES = 4096
"""What is left as a hole when it is zero: the block of common file systems."""

_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02  # fallocate(2), linux/falloc.h
_FICLONERANGE = 0x4020940D  # ioctl_ficlonerange(2), linux/fs.h
_CLONE_RANGE = struct.Struct("=qQQQ")
"""struct file_clone_range: source descriptor, source offset, length, target offset."""

_libc = ctypes.CDLL(None, use_errno=True)
# Python 3.11 has posix_fallocate(3) only, which takes no mode; CDLL lets other threads run.
_libc.fallocate64.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.fallocate64.restype = ctypes.c_int


def punch(descriptor: int, offset: int, length: int) -> None:
    """Makes a range of a file or device read as zeros and frees its whole blocks.

    Raises OSError: EOPNOTSUPP where the file system cannot, EINVAL where a device wants other
    multiples.
    """
    while _libc.fallocate64(descriptor, _KEEP_SIZE | _PUNCH_HOLE, offset, length):
        failure = ctypes.get_errno()
        try:
            raise OSError(failure, os.strerror(failure))
        except InterruptedError:
            continue


def clone(source: int, source_offset: int, target: int, offset: int, length: int) -> None:
    """Makes a range of the file `target` share the blocks of a range of the file `source`.

    Raises OSError: EXDEV across file systems, EOPNOTSUPP without support, EINVAL for offsets that
    are no multiples of the file system's blocks.
    """
    request = _CLONE_RANGE.pack(source, source_offset, length, offset)
    fcntl.ioctl(target, _FICLONERANGE, request)


def nonzero_runs(content: bytes, block_bytes: int = BLOCK_BYTES) -> list[tuple[int, int]]:
    """(start, end) of the runs of blocks that hold anything but zeros."""
    zeros = bytes(block_bytes)
    runs: list[tuple[int, int]] = []
    for start in range(0, len(content), block_bytes):
        block = content[start : start + block_bytes]
        if block == zeros or (len(block) < block_bytes and not any(block)):
            continue
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], start + len(block))
        else:
            runs.append((start, start + len(block)))
    return runs
