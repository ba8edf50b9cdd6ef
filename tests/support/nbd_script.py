"""An NBD server that says what a test wrote, over a real socket pair."""

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence

from agent.disks.nbd import Connection, wire

SIZE = 1 << 20
FLAGS = 0x6D
"""HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES."""


def option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    """One answer of the handshake."""
    return wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def greeting(contexts: Sequence[str] = (wire.BASE_ALLOCATION,), size: int = SIZE) -> bytes:
    """All that a server says until transmission begins; the contexts are numbered from 7."""
    said = wire.GREETING.pack(wire.MAGIC, wire.OPTION_MAGIC, 3)
    said += option_reply(8, 1)
    if contexts:
        for number, name in enumerate(contexts, 7):
            said += option_reply(10, 4, wire.U32.pack(number) + name.encode())
        said += option_reply(10, 1)
    said += option_reply(7, 3, wire.EXPORT_INFO.pack(0, size, FLAGS))
    return said + option_reply(7, 1)


def chunk(kind: int, payload: bytes = b"", *, done: bool = True, cookie: int = 1) -> bytes:
    """One chunk of a structured reply."""
    head = wire.U32.pack(wire.CHUNK_MAGIC)
    return head + wire.CHUNK.pack(int(done), kind, cookie, len(payload)) + payload


def data(offset: int, content: bytes, *, done: bool = True, cookie: int = 1) -> bytes:
    """An OFFSET_DATA chunk."""
    return chunk(1, wire.U64.pack(offset) + content, done=done, cookie=cookie)


def hole(offset: int, length: int, *, done: bool = True, cookie: int = 1) -> bytes:
    """An OFFSET_HOLE chunk."""
    return chunk(2, wire.HOLE.pack(offset, length), done=done, cookie=cookie)


def status(context: int, *runs: tuple[int, int], done: bool = True, cookie: int = 1) -> bytes:
    """A BLOCK_STATUS chunk."""
    packed = b"".join(wire.EXTENT.pack(*run) for run in runs)
    return chunk(5, wire.U32.pack(context) + packed, done=done, cookie=cookie)


def failed(error: int, text: bytes = b"", *, done: bool = True, cookie: int = 1) -> bytes:
    """An ERROR chunk."""
    return chunk(0x8001, wire.ERROR.pack(error, len(text)) + text, done=done, cookie=cookie)


def simple(error: int = 0, *, cookie: int = 1) -> bytes:
    """A simple reply."""
    return wire.U32.pack(wire.SIMPLE_REPLY_MAGIC) + wire.SIMPLE_REPLY.pack(error, cookie)


@contextlib.contextmanager
def says(script: bytes, *, ends: bool = True) -> Iterator[socket.socket]:
    """The client's end of a connection whose server says `script`, whatever it is asked, and then
    ends it, or is silent.
    """
    ours, theirs = socket.socketpair()

    def speak() -> None:
        with contextlib.suppress(OSError):
            theirs.sendall(script)
            if ends:
                theirs.shutdown(socket.SHUT_WR)
            while theirs.recv(65_536):
                pass

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        yield ours
    finally:
        with contextlib.suppress(OSError):
            ours.shutdown(socket.SHUT_RDWR)
        ours.close()
        speaker.join(10)
        theirs.close()
        assert not speaker.is_alive()


@contextlib.contextmanager
def connected(
    script: bytes,
    *,
    contexts: Sequence[str] = (wire.BASE_ALLOCATION,),
    ends: bool = True,
    seconds_max: float = 10.0,
) -> Iterator[Connection]:
    """A connection that has its handshake behind it; its server answers with `script`."""
    with says(greeting(contexts) + script, ends=ends) as ours:
        connection = Connection(ours, "vda", contexts=contexts, request_seconds_max=seconds_max)
        try:
            yield connection
        finally:
            connection.close()
