"""Reads the replies to requests, one at a time.

```
simple      67446698  error(4)  cookie(8)
structured  668e33ef  flags(2)  type(2)  cookie(8)  bytes(4)  payload     until a chunk is DONE

  NONE          -                            OFFSET_DATA   offset(8)  content
  OFFSET_HOLE   offset(8)  bytes(4)          BLOCK_STATUS  context(4)  { bytes(4)  flags(4) } ...
  ERROR         error(4)  length(2)  text    ERROR_OFFSET  the same, then offset(8)
```

One request is under way at a time, so every chunk must carry its cookie. A read's chunks may come
in any order, must not overlap, and together are all that was asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from agent.disks.nbd import wire
from agent.disks.nbd.stream import Stream

STATUS_BYTES_MAX = 2 * 1024 * 1024
"""Payload of one block status chunk; QEMU sends at most half of that."""

ERROR_BYTES_MAX = wire.ERROR.size + wire.NAME_BYTES_MAX + wire.U64.size

CHUNKS_MAX = 1 << 17
"""Chunks of one reply: one for every 256 bytes of the largest read."""


@dataclass(frozen=True)
class Status:
    """A run of `length` bytes with the same flags; their meaning is the context's."""

    length: int
    flags: int


@dataclass(frozen=True)
class _Head:
    kind: int
    length: int
    done: bool


class Failed(Exception):
    """The server refused or failed a request, and said so; the connection is as good as before.

    `error` is an errno of Linux: the protocol took its numbers from there.
    """

    def __init__(self, error: int, message: str) -> None:
        super().__init__(message)
        self.error = error


def read_plain(stream: Stream, cookie: int) -> None:
    """The reply to a request that returns nothing, in either form. Raises Failed, DataLoss."""
    (magic,) = wire.U32.unpack(stream.receive(wire.U32.size))
    if magic == wire.SIMPLE_REPLY_MAGIC:
        error, answered = wire.SIMPLE_REPLY.unpack(stream.receive(wire.SIMPLE_REPLY.size))
        if answered != cookie:
            raise wire.violation("a reply to another request")
        if error:
            raise Failed(error, "")
        return
    for head in _chunks(stream, cookie, magic):
        raise wire.violation(f"a chunk of type {head.kind} where nothing is to be told")


def read_data(stream: Stream, cookie: int, offset: int, target: memoryview) -> None:
    """The reply to READ of `len(target)` bytes at `offset`. Raises Failed, DataLoss."""
    found: list[tuple[int, int]] = []
    missing = len(target)
    for head in _chunks(stream, cookie):
        if head.kind == wire.Chunk.OFFSET_DATA:
            start, length = _data(stream, head, offset, target, missing)
        elif head.kind == wire.Chunk.OFFSET_HOLE:
            start, length = _hole(stream, head, offset, target, missing)
        else:
            raise wire.violation(f"a chunk of type {head.kind} in the reply to a read")
        found.append((start, length))
        missing -= length
    end = 0
    for start, length in sorted(found):
        if start != end:
            raise wire.violation("a read whose parts overlap or leave gaps")
        end = start + length
    if end != len(target):
        raise wire.violation(f"{end} of {len(target)} bytes in the reply to a read")


def read_status(stream: Stream, cookie: int, contexts: set[int]) -> dict[int, list[Status]]:
    """The reply to BLOCK_STATUS: at least one run for each of `contexts`, by their numbers.

    The last run may reach beyond what was asked for. Raises Failed, DataLoss.
    """
    found: dict[int, list[Status]] = {}
    for head in _chunks(stream, cookie):
        count, rest = divmod(head.length - wire.U32.size, wire.EXTENT.size)
        if head.kind != wire.Chunk.BLOCK_STATUS or count < 1 or rest:
            raise wire.violation(f"a chunk of type {head.kind} with {head.length} bytes of status")
        if head.length > STATUS_BYTES_MAX:
            raise wire.violation(f"{head.length} bytes of block status")
        payload = stream.receive(head.length)
        (context,) = wire.U32.unpack_from(payload)
        if context not in contexts or context in found:
            raise wire.violation(f"status of context {context}")
        runs = [Status(*run) for run in wire.EXTENT.iter_unpack(payload[wire.U32.size :])]
        if not all(run.length for run in runs):
            raise wire.violation("the status of no bytes")
        found[context] = runs
    if found.keys() != contexts:
        raise wire.violation("the status of a context is missing")
    return found


def _chunks(stream: Stream, cookie: int, magic: int | None = None) -> Iterator[_Head]:
    """The heads of a reply's chunks; the caller takes each payload before going on.

    Errors that the server reports are collected: the first is raised at the end of the reply.
    """
    failed: Failed | None = None
    for _ in range(CHUNKS_MAX):
        if magic is None:
            (magic,) = wire.U32.unpack(stream.receive(wire.U32.size))
        head = _head(stream, cookie, magic)
        magic = None
        if head.kind in {wire.Chunk.ERROR, wire.Chunk.ERROR_OFFSET}:
            told = _error(stream, head)
            failed = failed or told
        elif head.kind == wire.Chunk.NONE:
            if head.length or not head.done:
                raise wire.violation("an empty chunk that is not the last or not empty")
        else:
            yield head
        if head.done:
            if failed:
                raise failed
            return
    raise wire.violation(f"more than {CHUNKS_MAX} chunks in a reply")


def _head(stream: Stream, cookie: int, magic: int) -> _Head:
    if magic != wire.CHUNK_MAGIC:
        raise wire.violation(f"{magic:#010x} where a structured reply begins")
    flags, kind, answered, length = wire.CHUNK.unpack(stream.receive(wire.CHUNK.size))
    if answered != cookie:
        raise wire.violation("a reply to another request")
    return _Head(kind, length, bool(flags & wire.CHUNK_DONE))


def _error(stream: Stream, head: _Head) -> Failed:
    offset_bytes = wire.U64.size if head.kind == wire.Chunk.ERROR_OFFSET else 0
    if not wire.ERROR.size + offset_bytes <= head.length <= ERROR_BYTES_MAX:
        raise wire.violation(f"an error of {head.length} bytes")
    payload = stream.receive(head.length)
    error, length = wire.ERROR.unpack_from(payload)
    if not error or wire.ERROR.size + length + offset_bytes != head.length:
        raise wire.violation("an error that says nothing")
    text = payload[wire.ERROR.size : wire.ERROR.size + length].decode(errors="replace")
    return Failed(error, "".join(each if each.isprintable() else "?" for each in text[:200]))


def _data(
    stream: Stream, head: _Head, offset: int, target: memoryview, missing: int
) -> tuple[int, int]:
    length = head.length - wire.U64.size
    if not 0 < length <= missing:
        raise wire.violation(f"{head.length} bytes of data where {missing} are missing")
    (at,) = wire.U64.unpack(stream.receive(wire.U64.size))
    start = _within(at - offset, length, target)
    stream.receive_into(target[start : start + length])
    return start, length


def _hole(
    stream: Stream, head: _Head, offset: int, target: memoryview, missing: int
) -> tuple[int, int]:
    if head.length != wire.HOLE.size:
        raise wire.violation(f"a hole in {head.length} bytes")
    at, length = wire.HOLE.unpack(stream.receive(wire.HOLE.size))
    if not 0 < length <= missing:
        raise wire.violation(f"a hole of {length} bytes where {missing} are missing")
    start = _within(at - offset, length, target)
    target[start : start + length] = bytes(length)
    return start, length


def _within(start: int, length: int, target: memoryview) -> int:
    if not 0 <= start <= len(target) - length:
        raise wire.violation("data from another place than was asked for")
    return start
