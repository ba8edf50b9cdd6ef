"""One conversation with an NBD server: one request at a time, by one thread at a time."""

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from agent.disks.images import disk_error
from agent.disks.nbd import handshake, replies, wire
from agent.disks.nbd.replies import Status
from agent.disks.nbd.stream import Stream
from watari import errors

TRANSFER_BYTES_MAX = 32 * 1024 * 1024
"""Content of one request; what servers take at least, and QEMU at most."""

RANGE_BYTES_MAX = 1 << 30
"""Range of one request without content."""

HANDSHAKE_SECONDS_MAX = 30.0
REQUEST_SECONDS_MAX = 120.0
"""Deadline of one request, for storage that is slow to wake."""

FLUSH_SECONDS_MAX = 900.0
"""Deadline of a flush, which may have gigabytes to write back."""


class Connection:
    """A connection in transmission. Ranges are within `size`; lengths are of any number of bytes.

    What the server reports (no room, a bad block) is raised as `images.disk_error` says, and the
    connection goes on. Anything else breaks it: that error is raised again by every later call.
    """

    def __init__(
        self,
        connected: socket.socket,
        disk: str,
        *,
        export: str = "",
        contexts: Sequence[str] = (wire.BASE_ALLOCATION,),
        request_seconds_max: float = REQUEST_SECONDS_MAX,
    ) -> None:
        """Runs the handshake on a connected socket and owns it from then on; `disk` is its name in
        messages. Raises DataLoss DISK_IO.
        """
        self._stream = Stream(connected)
        self._disk = Path(disk)
        self._request_seconds_max = request_seconds_max
        self._cookie = 0
        self.broken: errors.WatariError | None = None
        """Why it is of no more use."""
        try:
            self._stream.begin(min(HANDSHAKE_SECONDS_MAX, request_seconds_max))
            agreed = handshake.negotiate(self._stream, export, contexts)
        except BaseException:
            self._stream.close()
            raise
        self.size = agreed.size
        """Bytes of the export."""
        self.flags = agreed.flags
        self.contexts = agreed.contexts

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes."""
        content = bytearray(length)
        view = memoryview(content)
        for at, step in _steps(length, TRANSFER_BYTES_MAX):
            part = view[at : at + step]
            with self._request(wire.Command.READ, offset + at, step) as cookie:
                replies.read_data(self._stream, cookie, offset + at, part)
        return bytes(content)

    def write(self, offset: int, content: bytes | memoryview) -> None:
        """Writes all of it."""
        view = memoryview(content)
        for at, step in _steps(len(view), TRANSFER_BYTES_MAX):
            data = view[at : at + step]
            with self._request(wire.Command.WRITE, offset + at, step, data=data) as cookie:
                replies.read_plain(self._stream, cookie)

    def zero(self, offset: int, length: int) -> None:
        """Makes a range read as zeros; the server may punch a hole for it."""
        if not self.flags & wire.Export.SEND_WRITE_ZEROES:
            raise wire.violation("it cannot write zeros, or the disk is open for reading only")
        for at, step in _steps(length, RANGE_BYTES_MAX):
            with self._request(wire.Command.WRITE_ZEROES, offset + at, step) as cookie:
                replies.read_plain(self._stream, cookie)

    def flush(self) -> None:
        """Returns when every write that was answered before is on stable storage."""
        if not self.flags & wire.Export.SEND_FLUSH:
            raise wire.violation("it cannot flush")
        seconds = max(FLUSH_SECONDS_MAX, self._request_seconds_max)
        with self._request(wire.Command.FLUSH, 0, 0, seconds_max=seconds) as cookie:
            replies.read_plain(self._stream, cookie)

    def block_status(self, offset: int, length: int, context: str) -> list[Status]:
        """Runs from `offset` on, at least one byte and at most `length` together.

        Raises DataLoss DISK_IO also when the server did not offer `context` in the handshake.
        """
        if context not in self.contexts:
            raise wire.violation(f"it does not know {context}")
        length = min(length, RANGE_BYTES_MAX)
        with self._request(wire.Command.BLOCK_STATUS, offset, length) as cookie:
            found = replies.read_status(self._stream, cookie, set(self.contexts.values()))
        runs: list[Status] = []
        for run in found[self.contexts[context]]:
            if not length:
                break
            runs.append(Status(min(run.length, length), run.flags))
            length -= runs[-1].length
        return runs

    def close(self) -> None:
        """Takes leave, as far as that is possible, and closes the socket."""
        if self.broken is None:
            self.broken = errors.DataLoss("DISK_IO", f"{self._disk.name} has been closed")
            with contextlib.suppress(errors.WatariError):
                self._stream.begin(1.0)
                self._send(wire.Command.DISC, 0, 0, b"")
        self._stream.close()

    @contextlib.contextmanager
    def _request(
        self,
        command: wire.Command,
        offset: int,
        length: int,
        *,
        data: bytes | memoryview = b"",
        seconds_max: float | None = None,
    ) -> Iterator[int]:
        """Sends a request and yields its cookie; the block reads the reply."""
        if self.broken:
            raise self.broken
        try:
            self._stream.begin(seconds_max or self._request_seconds_max)
            self._send(command, offset, length, data)
            yield self._cookie
        except replies.Failed as failed:
            text = str(failed) or f"the NBD server reports error {failed.error}"
            reported = OSError(failed.error, f"{command.name}: {text}")
            raise disk_error(reported, self._disk) from failed
        except BaseException as error:
            self.broken = (
                error
                if isinstance(error, errors.WatariError)
                else errors.DataLoss("DISK_IO", f"a request to {self._disk.name} was broken off")
            )
            self._stream.close()
            raise

    def _send(
        self, command: wire.Command, offset: int, length: int, data: bytes | memoryview
    ) -> None:
        self._cookie += 1
        request = wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, command, self._cookie, offset, length)
        self._stream.send([request, data] if data else [request])


def _steps(length: int, step_max: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of the requests that `length` bytes take."""
    for at in range(0, length, step_max):
        yield at, min(step_max, length - at)
