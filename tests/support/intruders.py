"""Peers of a data port that have no session, and do what they can to cost it something."""

import contextlib
import itertools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from agent.transfer import dataplane, frames

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
"""A client's first words in HTTP/2, with settings that change nothing."""

LARGE = bytes(frames.MESSAGE_BYTES_MAX)

Intruder = Callable[[int, threading.Event], None]
"""(port, until): goes on until told to stop."""

CONNECTIONS_MAX = 300
"""More than the port takes."""


def silent(port: int, until: threading.Event) -> None:
    """Many connections that say nothing."""
    _hold(port, until, lambda _link: None)


def dribbling(port: int, until: threading.Event) -> None:
    """Many that say the preface byte by byte, for ever."""

    def say(link: socket.socket) -> None:
        link.send(PREFACE[:1])

    _hold(port, until, say)


def idle(port: int, until: threading.Event) -> None:
    """Many that begin well and then call nothing."""
    said: set[socket.socket] = set()

    def begin(link: socket.socket) -> None:
        if link not in said:
            said.add(link)
            link.sendall(PREFACE)

    _hold(port, until, begin)


def garbage(port: int, until: threading.Event) -> None:
    """Bytes at random, as fast as they are taken."""
    noise = os.urandom(1 << 16)
    while not until.is_set():
        with contextlib.suppress(OSError), _connected(port) as link:
            while not until.is_set():
                link.sendall(noise)


def unread(port: int, until: threading.Event) -> None:
    """Calls with as much as the windows let through, whose answers nobody reads."""
    headers = _request_headers()
    while not until.is_set():
        with contextlib.suppress(OSError), _connected(port) as link:
            link.sendall(PREFACE)
            for number in itertools.count(1, 2):
                link.sendall(_frame(1, 4, number, headers))
                for _ in range(64):
                    link.sendall(_frame(0, 0, number, bytes(1 << 14)))
                if until.is_set():
                    return


def calling(session_id: str, number: int) -> Intruder:
    """Streams of a session with large messages, one after another, over many connections."""

    def call(port: int, until: threading.Event) -> None:
        while not until.is_set():
            with dataplane.connect(f"127.0.0.1:{port}") as channel:
                for _ in range(8):
                    proof = os.urandom(32)
                    stream = dataplane.StreamId(session_id or str(uuid.uuid4()), number, proof)
                    endless = itertools.takewhile(
                        lambda _: not until.is_set(), itertools.repeat(LARGE)
                    )
                    with contextlib.suppress(grpc.RpcError):
                        list(dataplane.open_stream(channel, stream, endless, 5))

    return call


@contextmanager
def at_work(port: int, *intruders: Intruder) -> Iterator[None]:
    """All of them at a port, each in a thread, within the block."""
    until = threading.Event()
    threads = [threading.Thread(target=each, args=(port, until), daemon=True) for each in intruders]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        until.set()
        for thread in threads:
            thread.join(20)


def overheard(shelf: Path, migration_id: str) -> str:
    """The session's id, as who reads the traffic knows it."""
    record = shelf / "incoming" / migration_id / "session.json"
    session_id: str = json.loads(record.read_bytes())["session_id"]
    return session_id


def _hold(port: int, until: threading.Event, say: Callable[[socket.socket], None]) -> None:
    links: list[socket.socket] = []
    while not until.is_set():
        with contextlib.suppress(OSError):
            if len(links) < CONNECTIONS_MAX:
                links.append(_connected(port))
        for link in list(links):
            try:
                say(link)
            except OSError:
                links.remove(link)
                link.close()
        time.sleep(0.005)
    for link in links:
        link.close()


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=2)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113, 4.1)."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


def _request_headers() -> bytes:
    """The headers of a call, HPACK without index or Huffman (RFC 7541, 6.2.2)."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": dataplane.METHOD,
        ":authority": "any",
        "te": "trailers",
        "content-type": "application/grpc",
        "watari-session": str(uuid.uuid4()),
        "watari-stream": "1",
        "watari-proof": "00" * 32,
    }
    parts = [part.encode() for field in fields.items() for part in field]
    texts = [bytes([len(part)]) + part for part in parts]
    return b"".join(b"\0" + texts[at] + texts[at + 1] for at in range(0, len(texts), 2))
