"""Files that hold disks, of any format: opening, telling changes, and what their errors mean."""

import errno
import os
import stat
from pathlib import Path

from watari import errors

FILE_MODE = 0o600
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What it means that there is no room."""


def open_image(path: Path) -> int:
    """Opens a file or block device for reading. Raises FailedPrecondition IMAGE_UNREADABLE."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise unreadable(path, error.strerror) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        os.close(descriptor)
        raise unreadable(path, "it is no file and no block device")
    return descriptor


def create_file(path: Path) -> int:
    """A new, empty, private file in place of whatever has the name, in its folder durably.

    Returns its descriptor. Raises OSError.
    """
    path.unlink(missing_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, FILE_MODE)
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def identity_of(descriptor: int) -> tuple[int, int, int]:
    """What is another one after anybody wrote to the file."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ino


def size_of(descriptor: int) -> int:
    """Bytes of a file or a block device."""
    if stat.S_ISBLK(os.fstat(descriptor).st_mode):
        return os.lseek(descriptor, 0, os.SEEK_END)
    return os.fstat(descriptor).st_size


def allocated_of(descriptor: int) -> int:
    """Bytes that a file takes of its file system; 0 for a device, which takes none."""
    return os.fstat(descriptor).st_blocks * 512


def unreadable(path: Path, why: str | None, hint: str = "") -> errors.FailedPrecondition:
    """The error of a disk that cannot be opened."""
    return errors.FailedPrecondition(
        "IMAGE_UNREADABLE",
        f"disk image {path.name} cannot be read: {why}",
        hint=hint or "check that the file exists and that the agent's user may read it",
        disk=path.name,
    )


def changed(path: Path) -> errors.DataLoss:
    """The error of a disk that somebody wrote to while it was read."""
    return errors.DataLoss(
        "SOURCE_CHANGED",
        f"{path.name} changed while it was read",
        hint="stop whatever writes to the disk, then migrate again",
        disk=path.name,
    )


def cut_short(path: Path) -> errors.DataLoss:
    """The error of a disk under construction that somebody else made shorter."""
    return errors.DataLoss(
        "DISK_IO",
        f"{path.name} is shorter than it was made",
        hint="see what else writes to the agent's folders, then migrate again",
        disk=path.name,
    )


def disk_error(error: OSError, path: Path) -> errors.WatariError:
    """What failing to read or write `path` means to the caller."""
    if error.errno in FULL:
        return errors.Exhausted(
            "DISK_FULL",
            f"no room to write {path.name}: {error.strerror}",
            hint="free space at the destination or choose another cloud",
            disk=path.name,
        )
    return errors.DataLoss(
        "DISK_IO", f"{path.name}: {error.strerror}", hint="check the host's storage", disk=path.name
    )
