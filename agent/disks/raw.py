"""Raw disks: plain files and block devices."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.disks import sparse
from agent.disks.contract import DiskReader
from agent.disks.extents import Extent, check_range, extents
from agent.disks.images import (
    FULL,
    changed,
    create_file,
    cut_short,
    disk_error,
    identity_of,
    open_image,
    size_of,
    unreadable,
)
from watari import errors

__all__ = ["RawReader", "RawWriter", "disk_error", "unreadable"]

ZERO_WRITE_BYTES = 1024 * 1024
"""Zeros that are written at once where holes cannot be punched."""

_NEVER = {errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EXDEV}
"""What a file system answers that will not do it another time either."""


class RawReader:
    """Reads one disk. Raises FailedPrecondition IMAGE_UNREADABLE when it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.descriptor = open_image(path)
        self._identity = identity_of(self.descriptor)
        self.size = size_of(self.descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises DataLoss DISK_IO, or SOURCE_CHANGED when it has shrunk."""
        try:
            content = _read(self.descriptor, offset, length)
        except OSError as error:
            raise disk_error(error, self._path) from error
        if content is None:
            raise changed(self._path)
        return content

    def flush(self) -> None:
        """Writes back what other processes left dirty, so that holes are reported as they are."""
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            raise disk_error(error, self._path) from error

    def extents(self, granularity: int, *, full_read: bool) -> Iterator[Extent]:
        """The whole disk, by SEEK_DATA and SEEK_HOLE."""
        self.flush()
        try:
            yield from extents(self.descriptor, self.size, granularity, full_read=full_read)
        except OSError as error:
            raise disk_error(error, self._path) from error

    def check_unchanged(self) -> None:
        """Raises DataLoss SOURCE_CHANGED when anyone wrote to it since it was opened."""
        if identity_of(self.descriptor) != self._identity:
            raise changed(self._path)

    def close(self) -> None:
        """Closes the file."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class RawWriter:
    """Writes a raw file of `size` bytes, sparse, or a block device of at least that.

    An earlier file of that name goes first, unless it is to be kept and has the same size.
    """

    def __init__(self, path: Path, size: int, *, keep: bool = False) -> None:
        self._path = path
        self.size = size
        self._punches = True
        self._shares_nothing_with: set[int] = set()
        """Devices whose files cannot be cloned from, so that each is asked once."""
        try:
            self._device = path.is_block_device() and not path.is_symlink()
            self._descriptor, self.kept = (_device if self._device else _file)(path, size, keep)
        except OSError as error:
            raise disk_error(error, path) from error
        if self._device and not self.kept:
            try:
                self.zero(0, size)
            except errors.WatariError:
                self.close()
                raise

    def write(self, offset: int, content: bytes) -> None:
        """Writes the blocks that are not zero."""
        check_range(self.size, offset, len(content))
        try:
            for start, end in sparse.nonzero_runs(content):
                self._write_all(offset + start, memoryview(content)[start:end])
        except OSError as error:
            raise disk_error(error, self._path) from error

    def zero(self, offset: int, length: int) -> None:
        """Punches a hole; writes zeros where there are no holes."""
        check_range(self.size, offset, length)
        start, end = self._blocks(offset, offset + length)
        try:
            if start < end and self._punch(start, end):
                self._write_zeros(offset, start)
                self._write_zeros(end, offset + length)
            else:
                self._write_zeros(offset, offset + length)
        except OSError as error:
            raise disk_error(error, self._path) from error

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes."""
        check_range(self.size, offset, length)
        try:
            content = _read(self._descriptor, offset, length)
        except OSError as error:
            raise disk_error(error, self._path) from error
        if content is None:
            raise cut_short(self._path)
        return content

    def clone(self, source: DiskReader, source_offset: int, offset: int, length: int) -> bool:
        """Shares blocks by FICLONERANGE, where source and target are files of one file system."""
        check_range(self.size, offset, length)
        if not isinstance(source, RawReader) or not length:  # a length of 0 would mean all of it
            return False
        device = os.fstat(source.descriptor).st_dev
        if device in self._shares_nothing_with:
            return False
        try:
            sparse.clone(source.descriptor, source_offset, self._descriptor, offset, length)
        except OSError as error:
            if error.errno in FULL or error.errno == errno.EIO:
                raise disk_error(error, self._path) from error
            if error.errno in _NEVER:
                self._shares_nothing_with.add(device)
            return False
        return True

    def extents(self, granularity: int) -> Iterator[Extent]:
        """What it holds, by SEEK_DATA and SEEK_HOLE."""
        self.flush()
        try:
            yield from extents(self._descriptor, self.size, granularity, full_read=False)
        except OSError as error:
            raise disk_error(error, self._path) from error

    def flush(self) -> None:
        """Returns once everything is on stable storage."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise disk_error(error, self._path) from error

    def close(self) -> None:
        """Closes the file; nothing is flushed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _blocks(self, start: int, end: int) -> tuple[int, int]:
        """What of a range is to be punched; the rest is written."""
        block = sparse.BLOCK_BYTES
        if self._device:  # takes whole blocks only
            return -(-start // block) * block, end - end % block
        if end == self.size:  # the last block is freed only by a hole that covers all of it
            return start, -(-end // block) * block
        return start, end

    def _punch(self, start: int, end: int) -> bool:
        """Whether it could."""
        if not self._punches:
            return False
        try:
            sparse.punch(self._descriptor, start, end - start)
        except OSError as error:
            if error.errno in _NEVER:
                self._punches = False
            elif error.errno != errno.EINVAL:  # a device that wants larger multiples
                raise
            return False
        return True

    def _write_zeros(self, start: int, end: int) -> None:
        zeros = memoryview(bytes(max(0, min(end - start, ZERO_WRITE_BYTES))))
        while start < end:
            self._write_all(start, zeros[: end - start])
            start += len(zeros)

    def _write_all(self, offset: int, content: memoryview) -> None:
        while content:
            written = os.pwrite(self._descriptor, content, offset)
            offset += written
            content = content[written:]


def _read(descriptor: int, offset: int, length: int) -> bytes | None:
    """Exactly `length` bytes; None when the file ends before. Raises OSError."""
    content = os.pread(descriptor, length, offset)
    while len(content) < length:
        more = os.pread(descriptor, length - len(content), offset + len(content))
        if not more:
            return None
        content += more
    return content


def _file(path: Path, size: int, keep: bool) -> tuple[int, bool]:
    """(descriptor, whether its content was kept) of a file of that size. Raises OSError."""
    if keep and (descriptor := _kept(path, size)) is not None:
        return descriptor, True
    descriptor = create_file(path)
    try:
        os.ftruncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor, False


def _kept(path: Path, size: int) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # whatever it is, it is no file of ours: it is replaced
        return None
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size == size:
        return descriptor
    os.close(descriptor)
    return None


def _device(path: Path, size: int, keep: bool) -> tuple[int, bool]:
    """The same for a block device; O_EXCL keeps off one that is mounted or otherwise in use."""
    descriptor = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW)
    if size_of(descriptor) < size:
        os.close(descriptor)
        raise OSError(errno.ENOSPC, f"the device is smaller than {size} bytes")
    return descriptor, keep
