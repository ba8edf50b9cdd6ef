"""Disks of machines that run: a moment that QEMU exports, or a raw file as it changes."""

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.disks.extents import Extent, aligned, check_range
from agent.disks.nbd import Connection, Pool, blocks, wire
from agent.disks.raw import RawReader
from watari import errors

CONNECTIONS = 4
"""Connections to an export: reads that are under way at once."""

CONNECT_SECONDS_MAX = 10.0


class ExportReader:
    """One disk of an NBD server that somebody else runs, as it was when the export began."""

    def __init__(self, socket_path: Path, export: str, bitmap: str = "") -> None:
        """With `bitmap` the server must offer that one. Raises DataLoss DISK_IO."""
        contexts = [wire.BASE_ALLOCATION, *([wire.dirty_bitmap(bitmap)] if bitmap else [])]
        self._bitmap = bitmap
        connections: list[Connection] = []
        try:
            while len(connections) < CONNECTIONS:
                connections.append(_connect(socket_path, export, contexts))
            self._pool = Pool(connections)
        except BaseException:
            for each in connections:
                each.close()
            raise
        self.size = self._pool.size

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises DataLoss DISK_IO."""
        check_range(self.size, offset, length)
        return self._pool.read(offset, length)

    def extents(self, granularity: int, *, full_read: bool) -> Iterator[Extent]:
        """The whole disk, as QEMU knows it."""
        if full_read:
            return iter([Extent(0, self.size, hole=False)] if self.size else [])
        return aligned(blocks.allocation(self._pool), self.size, granularity)

    def dirty(self) -> Iterator[Extent]:
        """What has changed since the bitmap began, in order."""
        return blocks.dirty(self._pool, self._bitmap)

    def check_unchanged(self) -> None:
        """It cannot change: what the guest writes goes elsewhere."""

    def close(self) -> None:
        """Closes the connections."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class LiveRawReader(RawReader):
    """A raw disk that a machine writes to meanwhile: each read tells some moment's bytes."""

    def check_unchanged(self) -> None:
        """It does change."""


def _connect(path: Path, export: str, contexts: Sequence[str]) -> Connection:
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connecting.settimeout(CONNECT_SECONDS_MAX)
        connecting.connect(str(path))
    except OSError as error:
        connecting.close()
        raise errors.DataLoss(
            "DISK_IO",
            f"the export of disk {export} cannot be reached: {error.strerror}",
            hint="see the machine's log in the host's libvirt",
            disk=export,
        ) from error
    connection = Connection(connecting, export, export=export, contexts=contexts)
    if any(each not in connection.contexts for each in contexts[1:]):
        connection.close()
        raise wire.violation(f"it does not tell what has changed in {export}")
    return connection
