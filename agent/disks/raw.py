"""Raw disks: plain files and block devices."""

import errno
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from watari import errors

BLOCK_BYTES = 4096
"""What is left as a hole when it is zero: the block of common file systems."""

_ZEROS = bytes(BLOCK_BYTES)


class RawReader:
    """Reads one disk. Raises FailedPrecondition IMAGE_UNREADABLE when it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self.descriptor = os.open(path, flags)
        except OSError as error:
            raise unreadable(path, error.strerror) from error
        mode = os.fstat(self.descriptor).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            os.close(self.descriptor)
            raise unreadable(path, "it is no file and no block device")
        self._identity = self._stat()
        self.size = size_of(self.descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises DataLoss DISK_IO, or SOURCE_CHANGED when it has shrunk."""
        try:
            content = os.pread(self.descriptor, length, offset)
            while len(content) < length:
                more = os.pread(self.descriptor, length - len(content), offset + len(content))
                if not more:
                    raise self._changed()
                content += more
        except OSError as error:
            raise disk_error(error, self._path) from error
        return content

    def flush(self) -> None:
        """Writes back what other processes left dirty, so that holes are reported as they are."""
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            raise disk_error(error, self._path) from error

    def check_unchanged(self) -> None:
        """Raises DataLoss SOURCE_CHANGED when anyone wrote to it since it was opened."""
        if self._stat() != self._identity:
            raise self._changed()

    def _stat(self) -> tuple[int, int, int]:
        status = os.fstat(self.descriptor)
        return status.st_size, status.st_mtime_ns, status.st_ino

    def _changed(self) -> errors.DataLoss:
        return errors.DataLoss(
            "SOURCE_CHANGED",
            f"{self._path.name} changed while it was read",
            hint="stop whatever writes to the disk, then migrate again",
            disk=self._path.name,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.descriptor)


class RawWriter:
    """Writes one new raw file of `size` bytes, sparse; an earlier file of that name goes first."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        try:
            path.unlink(missing_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise disk_error(error, path) from error
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            os.close(self._descriptor)
            raise disk_error(error, path) from error

    def write(self, offset: int, content: bytes) -> None:
        """Writes the blocks that are not zero. Raises Exhausted DISK_FULL, DataLoss DISK_IO."""
        try:
            for start, end in _runs(content):
                self._write_all(offset + start, memoryview(content)[start:end])
        except OSError as error:
            raise disk_error(error, self._path) from error

    def flush(self) -> None:
        """Returns once everything is on stable storage."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise disk_error(error, self._path) from error

    def close(self) -> None:
        """Closes the file; nothing is flushed."""
        os.close(self._descriptor)

    def _write_all(self, offset: int, content: memoryview) -> None:
        while content:
            written = os.pwrite(self._descriptor, content, offset)
            offset += written
            content = content[written:]


def _runs(content: bytes) -> list[tuple[int, int]]:
    """(start, end) of the runs of blocks that hold anything but zeros."""
    runs: list[tuple[int, int]] = []
    for start in range(0, len(content), BLOCK_BYTES):
        block = content[start : start + BLOCK_BYTES]
        if block == _ZEROS or (len(block) < BLOCK_BYTES and not any(block)):
            continue
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], start + len(block))
        else:
            runs.append((start, start + len(block)))
    return runs


def size_of(descriptor: int) -> int:
    """Guest-visible bytes of a file or a block device."""
    if stat.S_ISBLK(os.fstat(descriptor).st_mode):
        return os.lseek(descriptor, 0, os.SEEK_END)
    return os.fstat(descriptor).st_size


def unreadable(path: Path, why: str | None) -> errors.FailedPrecondition:
    """The error of a disk that cannot be opened."""
    return errors.FailedPrecondition(
        "IMAGE_UNREADABLE",
        f"disk image {path.name} cannot be read: {why}",
        hint="check that the file exists and that the agent's user may read it",
        disk=path.name,
    )


def disk_error(error: OSError, path: Path) -> errors.WatariError:
    """What failing to read or write `path` means to the caller."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return errors.Exhausted(
            "DISK_FULL",
            f"no room to write {path.name}: {error.strerror}",
            hint="free space at the destination or choose another cloud",
            disk=path.name,
        )
    return errors.DataLoss(
        "DISK_IO", f"{path.name}: {error.strerror}", hint="check the host's storage", disk=path.name
    )
