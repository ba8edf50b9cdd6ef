"""What one TCP connection carries over the link: the best that any method could hope for.

Runs itself as `python goodput.py serve|send` at the two ends, with the standard library only.
"""

import json
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.link import Link

PORT = 7555
SECONDS = 5.0
"""Measured, after the connection has come up to speed."""

WARM_SECONDS_MIN = 1.0
WARM_ROUND_TRIPS = 15
_CHUNK_BYTES = 1 << 20


def bytes_per_second(link: "Link", seconds: float = SECONDS) -> float:
    """Payload bytes per second of a single stream, once it is at speed."""
    warm = max(WARM_SECONDS_MIN, WARM_ROUND_TRIPS * link.shape.round_trip_seconds)
    receive = link.destination.command(sys.executable, __file__, "serve", warm, seconds)
    with subprocess.Popen(receive, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None  # noqa: S101 - for the type checker
        receiver.stdout.readline()
        address = link.destination.address
        until = warm + seconds + 2 * link.shape.round_trip_seconds
        subprocess.run(
            link.source.command(sys.executable, __file__, "send", address, until), check=True
        )
        measured = json.loads(receiver.stdout.readline())
    return float(measured["bytes"]) / float(measured["seconds"])


def serve(warm_seconds: float, seconds: float) -> None:
    """Counts what arrives in a window of time."""
    with socket.create_server(("", PORT)) as server:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        connection, _ = server.accept()
    buffer = bytearray(_CHUNK_BYTES)
    opened = time.monotonic()
    begun = ended = counted = 0.0
    while size := connection.recv_into(buffer):
        now = time.monotonic()
        if now < opened + warm_seconds:
            begun = now
        elif now < opened + warm_seconds + seconds:
            counted, ended = counted + size, now
    sys.stdout.write(json.dumps({"bytes": counted, "seconds": ended - begun}) + "\n")


def send(address: str, seconds: float) -> None:
    """Sends zeros for some time."""
    chunk = memoryview(bytes(_CHUNK_BYTES))
    end = time.monotonic() + seconds
    with socket.create_connection((address, PORT)) as connection:
        while time.monotonic() < end:
            connection.sendall(chunk)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(float(sys.argv[2]), float(sys.argv[3]))
    else:
        send(sys.argv[2], float(sys.argv[3]))
