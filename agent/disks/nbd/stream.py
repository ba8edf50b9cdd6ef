"""Bytes to and from a socket under a deadline."""

import socket
import time
from collections.abc import Sequence

from watari import errors


class Stream:
    """Exact reads and whole writes. Every failure is DataLoss DISK_IO.

    One deadline covers a whole exchange: a server that sends a byte at a time gains nothing.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._deadline = 0.0
        self._seconds = 0.0

    def begin(self, seconds_max: float) -> None:
        """Starts the deadline of the next exchange."""
        self._seconds = seconds_max
        self._deadline = time.monotonic() + seconds_max

    def receive(self, length: int) -> bytes:
        """Exactly `length` bytes; the caller has checked that it is a sane number."""
        content = bytearray(length)
        self.receive_into(memoryview(content))
        return bytes(content)

    def receive_into(self, target: memoryview) -> None:
        """Fills `target`."""
        while target:
            self._limit()
            try:
                count = self._socket.recv_into(target)
            except OSError as error:
                raise self._broken(error) from error
            if not count:
                raise broken("the server ended the connection")
            target = target[count:]

    def send(self, parts: Sequence[bytes | memoryview]) -> None:
        """Sends all of it."""
        for part in parts:
            self._limit()
            try:
                self._socket.sendall(part)  # its timeout is that of the whole call
            except OSError as error:
                raise self._broken(error) from error

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def _limit(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._broken(TimeoutError())
        self._socket.settimeout(left)

    def _broken(self, error: OSError) -> errors.DataLoss:
        if isinstance(error, TimeoutError):
            return broken(f"no answer within {self._seconds:g} s")
        return broken(error.strerror or str(error))


def broken(why: str) -> errors.DataLoss:
    """The error of a connection that is lost."""
    return errors.DataLoss(
        "DISK_IO",
        f"the connection to the disk's NBD server broke: {why}",
        hint="check the host's storage and whether qemu-nbd was killed, then try again",
    )
