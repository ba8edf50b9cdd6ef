"""A file over one TCP connection, as it is.

Runs itself, `python plain.py receive|send ADDRESS FILE`, with the standard library only. The sender
ends when the receiver has flushed everything.
"""

import os
import socket
import sys
from pathlib import Path

PORT = 7556
DONE = b"done"
_CHUNK_BYTES = 1 << 20


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
