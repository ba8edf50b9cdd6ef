"""A file over one TCP connection, as it is.

Also runs itself, `python plain.py receive|send ADDRESS FILE`. The sender ends when the receiver has
flushed everything.
"""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # as a program it has nothing but the standard library
    from bench.link import Side

PORT = 7556
DONE = b"done"
SECONDS_MAX = 7200.0
_CHUNK_BYTES = 1 << 20


@contextlib.contextmanager
def receiving(side: "Side", address: str, target: Path) -> Iterator[Callable[[], None]]:
    """Takes one file at an address of an end; the block gets what waits for the receiver's end.

    That raises RuntimeError when the receiver failed.
    """
    command = side.command(sys.executable, __file__, "receive", address, target)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None  # noqa: S101 - for the type checker

        def finish() -> None:
            if code := receiver.wait(SECONDS_MAX):
                raise RuntimeError(f"the receiver ended with {code}")

        try:
            receiver.stdout.readline()
            yield finish
        finally:
            receiver.kill()


def send_from(side: "Side", address: str, image: Path) -> None:
    """Sends a file from an end of the link. Raises CalledProcessError, TimeoutExpired."""
    command = side.command(sys.executable, __file__, "send", address, image)
    subprocess.run(command, check=True, timeout=SECONDS_MAX)


def receive(address: str, path: Path) -> None:
    """Takes one file from one connection."""
    with socket.create_server((address, PORT)) as server:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        connection, _ = server.accept()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("wb", buffering=0) as file:
        while size := connection.recv_into(buffer):
            written = 0
            while written < size:
                written += file.write(buffer[written:size])
        os.fsync(file.fileno())
    connection.sendall(DONE)
    connection.close()


def send(address: str, path: Path) -> None:
    """Sends the file, and waits until it is flushed."""
    with socket.create_connection((address, PORT)) as connection, path.open("rb") as file:
        connection.sendfile(file)
        connection.shutdown(socket.SHUT_WR)
        if connection.recv(len(DONE)) != DONE:
            sys.exit("the receiver did not take everything")


if __name__ == "__main__":
    (receive if sys.argv[1] == "receive" else send)(sys.argv[2], Path(sys.argv[3]))
