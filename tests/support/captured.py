"""A migration between two agents while everything on the loopback is captured.

`unshare --net -- python -m tests.support.captured FOLDER MARKER` makes FOLDER/capture.pcapng and
prints, as JSON, the ports on which data was taken and on which the marker was said in clear.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import Federation
from tests.support import agents
from tests.support.shelves import MIB, Content, identical, put_machine
from watari.v1 import agent_pb2

DISK_BYTES = 8 * MIB
BUFFER_MIB = "64"
"""Of the kernel for the capture, so that none of it is lost."""

FLUSH_SECONDS = 2.0
"""Time for the last packets to reach the capture: the kernel gives them away in blocks."""

Stream = tuple[str, int]
"""(tshark's number of a TCP connection, port that sends)."""


def marked(content: bytes, marker: bytes) -> bytes:
    """Content with a marker at block starts, at odd places and over the edges of leaves."""
    changed = bytearray(content)
    for at in (*range(0, len(content), 1 << 20), *range(65_520, len(content), 1 << 18)):
        changed[at : at + len(marker)] = marker
    return bytes(changed[: len(content)])


def main() -> None:
    """Captures one migration."""
    folder, marker = Path(sys.argv[1]), sys.argv[2]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with capturing(folder / "capture.pcapng"):
        clear = say(marker.encode())
        data = migrate(folder, marker)
    sys.stdout.write(json.dumps({"clear": clear, "data": data}) + "\n")


@contextlib.contextmanager
def capturing(path: Path) -> Iterator[None]:
    """Captures the loopback within the block."""
    command = ["dumpcap", "-i", "lo", "-B", BUFFER_MIB, "-w", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        heard = ""
        for line in process.stderr:
            heard += line
            if line.startswith("File:"):
                break
        else:
            raise AssertionError(heard)
        try:
            yield
            time.sleep(FLUSH_SECONDS)
        finally:
            process.send_signal(signal.SIGINT)
            ending = process.communicate(timeout=30)[1]
    sys.stderr.write(ending)


def say(words: bytes) -> int:
    """Sends words in clear, cut in two segments; returns the port that they went to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]

        def listen() -> None:
            link, _ = server.accept()
            with link:
                while link.recv(4096):
                    pass

        listener = threading.Thread(target=listen)
        listener.start()
        with socket.create_connection(("127.0.0.1", port)) as link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            half = len(words) // 2
            for part in (b"before ", words[:half], words[half:], b" after"):
                link.sendall(part)
                threading.Event().wait(0.05)
        listener.join(10)
    return port


def migrate(folder: Path, marker: str) -> int:
    """A machine with the marker in its name and all over its disks; returns the data port."""
    with agents.running(Federation(folder / "federation"), folder / "hosts") as pair:
        disks = {"vda": Content(DISK_BYTES), "vdb": Content(DISK_BYTES), "vdc": Content(DISK_BYTES)}
        vm_id = put_machine(pair.source.shelf, marker, disks)
        home = pair.source.shelf / "vms" / marker
        contents = {
            "vda": os.urandom(DISK_BYTES),
            "vdb": b"the quick brown fox " * (DISK_BYTES // 20),
            "vdc": (os.urandom(4096) + bytes(61_440)) * (DISK_BYTES // 65_536),
        }
        for disk, content in contents.items():
            (home / f"{disk}.raw").write_bytes(marked(content, marker.encode()))
        migration_id = pair.start(vm_id)
        transfer = pair.source.wait_ended(migration_id)
        assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem
        pair.activate(migration_id)
        for disk in contents:
            arrived = pair.destination.disk(vm_id, disk)
            assert marker.encode() in arrived.read_bytes()
            assert identical(home / f"{disk}.raw", arrived)
        return pair.destination.data_port


def streams(capture: Path) -> dict[Stream, bytes]:
    """What each TCP connection carried in each direction, put together by sequence numbers."""
    fields = ("tcp.stream", "tcp.srcport", "tcp.seq", "tcp.payload")
    command = ["tshark", "-r", str(capture), "-Y", "tcp.len > 0", "-T", "fields"]
    command += [part for name in fields for part in ("-e", name)]
    command += ["-o", "tcp.desegment_tcp_streams:FALSE", "--disable-protocol", "http2"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: defaultdict[Stream, bytearray] = defaultdict(bytearray)
    for line in shown.splitlines():
        stream, port, sequence, payload = line.split("\t")
        place, content = int(sequence) - 1, bytes.fromhex(payload)
        whole = found[stream, int(port)]
        whole.extend(bytes(max(0, place + len(content) - len(whole))))
        whole[place : place + len(content)] = content
    return {stream: bytes(whole) for stream, whole in found.items()}


def to_port(capture: Path, port: int) -> set[str]:
    """tshark's numbers of the connections to a port."""
    command = ["tshark", "-r", str(capture), "-Y", f"tcp.port == {port}", "-T", "fields"]
    shown = subprocess.run(
        [*command, "-e", "tcp.stream"], check=True, capture_output=True, text=True
    )
    return set(shown.stdout.split())


if __name__ == "__main__":
    main()
