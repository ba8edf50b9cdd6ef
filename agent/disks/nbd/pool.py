"""Several connections to one export, so that workers do not wait for each other."""

import contextlib
import queue
from collections.abc import Iterator, Sequence

from agent.disks.nbd import wire
from agent.disks.nbd.connection import Connection
from agent.disks.nbd.replies import Status

CONNECTIONS_MAX = 16


class Pool:
    """The requests of `Connection`, from any number of threads; as many at once as connections.

    A flush covers writes on all of them only where the server says so (CAN_MULTI_CONN): for other
    exports that are written to, only the first connection is used.
    """

    def __init__(self, connections: Sequence[Connection]) -> None:
        if not 0 < len(connections) <= CONNECTIONS_MAX:
            raise ValueError(f"{len(connections)} connections, at most {CONNECTIONS_MAX}")
        self._connections = tuple(connections)
        first = connections[0]
        self.size = first.size
        """Bytes of the export."""
        self.contexts = first.contexts
        if any(each.size != self.size for each in connections):
            raise wire.violation("its connections disagree about the disk's size")
        shared = first.flags & (wire.Export.CAN_MULTI_CONN | wire.Export.READ_ONLY)
        # Last in, first out: what is idle stays idle.
        self._idle: queue.LifoQueue[Connection] = queue.LifoQueue()
        for each in reversed(connections if shared else connections[:1]):
            self._idle.put(each)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes."""
        with self._one() as connection:
            return connection.read(offset, length)

    def write(self, offset: int, content: bytes | memoryview) -> None:
        """Writes all of it."""
        with self._one() as connection:
            connection.write(offset, content)

    def zero(self, offset: int, length: int) -> None:
        """Makes a range read as zeros."""
        with self._one() as connection:
            connection.zero(offset, length)

    def flush(self) -> None:
        """Returns when every write that has returned is on stable storage."""
        with self._one() as connection:
            connection.flush()

    def block_status(self, offset: int, length: int, context: str) -> list[Status]:
        """Runs from `offset` on, at least one byte and at most `length` together."""
        with self._one() as connection:
            return connection.block_status(offset, length, context)

    def close(self) -> None:
        """Closes all connections."""
        for each in self._connections:
            each.close()

    @contextlib.contextmanager
    def _one(self) -> Iterator[Connection]:
        # The wait is bounded: whoever has a connection has a deadline.
        connection = self._idle.get()
        try:
            yield connection
        finally:
            self._idle.put(connection)
