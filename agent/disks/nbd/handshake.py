"""The fixed newstyle handshake: agrees on structured replies, contexts and an export.

```
S  NBDMAGIC  IHAVEOPT  flags(2)
C  flags(4)
C  IHAVEOPT  option(4)  bytes(4)  data         S  magic(8)  option(4)  type(4)  bytes(4)  data
   STRUCTURED_REPLY                               ACK
   SET_META_CONTEXT export, names                 META_CONTEXT id(4) name  ...  ACK
   GO export                                      INFO EXPORT(2) size(8) flags(2)  ...  ACK
```
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agent.disks.nbd import wire
from agent.disks.nbd.stream import Stream
from watari import errors

OPTION_REPLY_BYTES_MAX = 64 * 1024
"""Data of one answer in the handshake; the longest that we ask for holds one name."""

OPTION_REPLIES_MAX = 64
"""Answers to one option."""

EXPORT_BYTES_MAX = 1 << 62


@dataclass(frozen=True)
class Agreed:
    """What the handshake came to."""

    size: int
    flags: wire.Export
    contexts: dict[str, int] = field(default_factory=dict)
    """Number of each context that the server knows, by name."""


def negotiate(stream: Stream, export: str, contexts: Sequence[str]) -> Agreed:
    """Runs the handshake; the stream is in transmission afterwards. Raises DataLoss DISK_IO."""
    magic, option_magic, flags = wire.GREETING.unpack(stream.receive(wire.GREETING.size))
    if (magic, option_magic) != (wire.MAGIC, wire.OPTION_MAGIC):
        raise wire.violation("it does not greet as an NBD server")
    if not flags & wire.FIXED_NEWSTYLE:
        raise wire.violation("it does not know the fixed newstyle handshake")
    own = wire.FIXED_NEWSTYLE | flags & wire.NO_ZEROES
    stream.send([wire.CLIENT_FLAGS.pack(own)])
    for _ in _ask(stream, wire.Option.STRUCTURED_REPLY, b""):
        raise wire.violation("data in the answer to STRUCTURED_REPLY")
    found = _contexts(stream, export, contexts) if contexts else {}
    size, transmission = _go(stream, export)
    return Agreed(size, transmission, found)


def _contexts(stream: Stream, export: str, contexts: Sequence[str]) -> dict[str, int]:
    data = _text(export) + wire.U32.pack(len(contexts)) + b"".join(map(_text, contexts))
    found: dict[str, int] = {}
    for kind, content in _ask(stream, wire.Option.SET_META_CONTEXT, data):
        if kind != wire.OptionReply.META_CONTEXT or len(content) < wire.U32.size:
            raise wire.violation("an answer to SET_META_CONTEXT that is no context")
        name = content[wire.U32.size :].decode(errors="replace")
        (number,) = wire.U32.unpack_from(content)
        if name not in contexts or name in found or number in found.values():
            raise wire.violation(f"context {name[:64]!r}, which was not asked for or came before")
        found[name] = number
    return found


def _go(stream: Stream, export: str) -> tuple[int, wire.Export]:
    # Without asking for block sizes: the server then takes any offset and length.
    answer: tuple[int, wire.Export] | None = None
    for kind, content in _ask(stream, wire.Option.GO, _text(export) + wire.U16.pack(0)):
        if kind != wire.OptionReply.INFO or len(content) < wire.U16.size:
            raise wire.violation("an answer to GO that is no information")
        if wire.U16.unpack_from(content)[0] != wire.INFO_EXPORT:
            continue
        if len(content) != wire.EXPORT_INFO.size:
            raise wire.violation(f"{len(content)} bytes of information about the export")
        _, size, flags = wire.EXPORT_INFO.unpack(content)
        answer = size, wire.Export(flags)
    if answer is None:
        raise wire.violation("it did not tell the export's size")
    if answer[0] > EXPORT_BYTES_MAX or not answer[1] & wire.Export.HAS_FLAGS:
        raise wire.violation(f"an export of {answer[0]} bytes with flags {int(answer[1]):#x}")
    return answer


def _ask(stream: Stream, option: wire.Option, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Sends an option; yields (type, data) of its answers before ACK. Raises DataLoss DISK_IO."""
    stream.send([wire.OPTION.pack(wire.OPTION_MAGIC, option, len(data)), data])
    for _ in range(OPTION_REPLIES_MAX):
        head = stream.receive(wire.OPTION_REPLY.size)
        magic, answered, kind, length = wire.OPTION_REPLY.unpack(head)
        if (magic, answered) != (wire.OPTION_REPLY_MAGIC, option):
            raise wire.violation(f"no answer to option {option.name}")
        if length > OPTION_REPLY_BYTES_MAX:
            raise wire.violation(f"{length} bytes in an answer to option {option.name}")
        content = stream.receive(length)
        if kind & wire.OPTION_ERROR:
            raise _refused(option, kind, content)
        if kind == wire.OptionReply.ACK:
            return
        yield kind, content
    raise wire.violation(f"more than {OPTION_REPLIES_MAX} answers to option {option.name}")


def _refused(option: wire.Option, kind: int, content: bytes) -> errors.DataLoss:
    why = content[:200].decode(errors="replace").strip()
    why = "".join(character if character.isprintable() else "?" for character in why)
    return wire.violation(f"it refuses option {option.name}, error {kind & 0xFFFF} {why}".strip())


def _text(value: str) -> bytes:
    content = value.encode()
    if len(content) > wire.NAME_BYTES_MAX:
        raise ValueError(f"a name of {len(content)} bytes")
    return wire.U32.pack(len(content)) + content
