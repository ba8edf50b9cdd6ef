"""qcow2 disks, through a `qemu-nbd` process for each open disk.

QEMU is the one program that all agree with about this format, so it does the reading and writing.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.disks import qcow2_header, sparse
from agent.disks.contract import DiskReader
from agent.disks.extents import Extent, aligned, check_range
from agent.disks.images import (
    changed,
    create_file,
    disk_error,
    identity_of,
    open_image,
    unreadable,
)
from agent.disks.nbd import Pool, blocks, server, tools
from watari import errors

CLUSTER_BYTES = 64 * 1024
"""What qemu-img allocates at once unless told otherwise; zeros are skipped in these units."""

CREATE_SECONDS_MAX = 60.0
CHECK_SECONDS_MAX = 1800.0
"""Looking for lost clusters reads all of an image's tables."""

_CHECK_OK = {0, 3}
"""No errors, or lost clusters only: room is wasted, content is not."""


class Qcow2Reader:
    """Reads one image. Raises FailedPrecondition IMAGE_UNREADABLE for one that cannot be opened or
    needs other files, CONFIG_INVALID when the host has no `qemu-nbd`.
    """

    def __init__(self, path: Path, bitmap: str = "", *, yields: bool = False) -> None:
        """With `bitmap`, one that the image holds, `dirty` tells what it marks. Raises the same
        when there is none, or QEMU did not close the image in order. One that `yields` keeps nobody
        from opening the image meanwhile, as a machine does that is started.
        """
        self._path = path
        self._yields = yields
        self._bitmap = bitmap
        self._descriptor = open_image(path)
        self._server: server.Server | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self.size = qcow2_header.read(self._descriptor, path).size
            self._identity = identity_of(self._descriptor)
            self._server = self._start()
            # What was checked is what the server has opened.
            self.check_unchanged()
            if self._pool.size != self.size:
                raise changed(path)
            undo.pop_all()

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises DataLoss DISK_IO."""
        check_range(self.size, offset, length)
        return self._pool.read(offset, length)

    def extents(self, granularity: int, *, full_read: bool) -> Iterator[Extent]:
        """The whole disk, by the image's own tables."""
        try:
            os.fsync(self._descriptor)  # QEMU asks the file system about allocated clusters too
        except OSError as error:
            raise disk_error(error, self._path) from error
        if full_read:
            return iter([Extent(0, self.size, hole=False)] if self.size else [])
        return aligned(blocks.allocation(self._pool), self.size, granularity)

    def dirty(self) -> Iterator[Extent]:
        """What was written since the bitmap began, in order; without a bitmap ValueError."""
        if not self._bitmap:
            raise ValueError(f"{self._path.name} was opened without a bitmap")
        return blocks.dirty(self._pool, self._bitmap)

    def check_unchanged(self) -> None:
        """Raises DataLoss SOURCE_CHANGED when anyone wrote to the image or put another there."""
        try:
            named = os.lstat(self._path)
        except OSError as error:
            raise changed(self._path) from error
        now = identity_of(self._descriptor)
        if now != self._identity or named.st_ino != self._identity[2]:
            raise changed(self._path)

    def close(self) -> None:
        """Ends the server and closes the image."""
        if self._server:
            self._server.close()
            self._server = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> server.Server:
        try:
            return server.start(
                self._path, writable=False, bitmap=self._bitmap, yields=self._yields
            )
        except tools.ToolError as error:
            hint = (
                "shut down the machine or end the tool that has it open"
                if tools.locked(error)
                else "see what `qemu-img check` says about it"
            )
            raise unreadable(self._path, str(error), hint) from error

    @property
    def _pool(self) -> Pool:
        if self._server is None:
            raise ValueError(f"{self._path.name} has been closed")
        return self._server.pool


class Qcow2Writer:
    """Writes an image of `size` bytes, rounded up to a full sector of 512 in the container.

    An earlier file of that name goes first, unless it is to be kept, is sound and has that size.
    """

    def __init__(self, path: Path, size: int, *, keep: bool = False) -> None:
        tools.require("qemu-nbd")
        tools.require("qemu-img")
        if path.is_block_device():
            raise errors.FailedPrecondition(
                "CONFIG_INVALID",
                f"{path.name} is a block device, which holds raw content",
                hint="let the disk be raw, or a file",
            )
        self._path = path
        self.size = size
        try:
            self.kept = keep and _usable(path, qcow2_header.container_size(size))
            if not self.kept:
                _create(path, size)
            self._server: server.Server | None = server.start(path, writable=True)
        except tools.ToolError as error:
            raise _failed(path, error) from error
        except OSError as error:
            raise disk_error(error, path) from error

    def write(self, offset: int, content: bytes) -> None:
        """Writes the clusters that are not zero."""
        check_range(self.size, offset, len(content))
        view = memoryview(content)
        for start, end in sparse.nonzero_runs(content, CLUSTER_BYTES):
            self._pool.write(offset + start, view[start:end])

    def zero(self, offset: int, length: int) -> None:
        """Frees the clusters of a range; what is not a whole cluster is written."""
        check_range(self.size, offset, length)
        if offset + length == self.size:
            length = self._pool.size - offset  # or the last cluster would not be a whole one
        self._pool.zero(offset, length)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes."""
        check_range(self.size, offset, length)
        return self._pool.read(offset, length)

    def clone(
        self,
        source: DiskReader,  # noqa: ARG002
        source_offset: int,  # noqa: ARG002
        offset: int,
        length: int,
    ) -> bool:
        """No: an image's clusters are its own."""
        check_range(self.size, offset, length)
        return False

    def extents(self, granularity: int) -> Iterator[Extent]:
        """What it holds, by the image's own tables."""
        self.flush()
        return aligned(blocks.allocation(self._pool), self.size, granularity)

    def flush(self) -> None:
        """Returns when content and tables are on stable storage."""
        self._pool.flush()

    def close(self) -> None:
        """Ends the server."""
        if self._server:
            self._server.close()
            self._server = None

    @property
    def _pool(self) -> Pool:
        if self._server is None:
            raise ValueError(f"{self._path.name} has been closed")
        return self._server.pool


def _create(path: Path, size: int) -> None:
    """A new image, on stable storage with its tables. Raises OSError, ToolError, WatariError."""
    descriptor = create_file(path)  # first and private: qemu-img would make it readable to others
    try:
        name = str(path.absolute())
        options = f"compat=1.1,cluster_size={CLUSTER_BYTES},lazy_refcounts=off,preallocation=off"
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, name, str(size)]
        status, said = tools.run(command, path, CREATE_SECONDS_MAX)
        if status:
            raise tools.ToolError(said)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _usable(path: Path, container_size: int) -> bool:
    """Whether there is a sound image of that size. A server that was killed leaves lost clusters
    behind, which are freed here. Raises ToolError, WatariError.
    """
    try:
        descriptor = open_image(path)
        try:
            if qcow2_header.read(descriptor, path).size != container_size:
                return False
        finally:
            os.close(descriptor)
    except errors.FailedPrecondition:
        return False
    path.chmod(0o600)
    command = ["qemu-img", "check", "-q", "-f", "qcow2", "-r", "leaks", str(path.absolute())]
    return tools.run(command, path, CHECK_SECONDS_MAX)[0] in _CHECK_OK


def _failed(path: Path, error: tools.ToolError) -> errors.WatariError:
    if os.strerror(errno.ENOSPC) in str(error):
        return disk_error(OSError(errno.ENOSPC, str(error)), path)
    return errors.DataLoss(
        "DISK_IO",
        f"{path.name}: {error}",
        hint="check the host's storage and that nothing else uses the agent's folders",
        disk=path.name,
    )
