"""Spans of what a server does, for whoever follows a migration across providers.

Without `install` nothing is recorded, and nothing of OpenTelemetry is imported: `watari.otel` is
what records. Spans carry what NAMES lists and nothing else: no names of machines or tenants, no
definitions, no messages of errors.

The trace of a migration has the migration's own id, and its root span an id that follows from it.
So managers and agents of both providers, before and after a crash, agree on it without a word.

Format of what travels with calls: https://www.w3.org/TR/trace-context/ (traceparent, version 00)
"""

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

TRACEPARENT_KEY = "traceparent"
"""Metadata key of a call."""

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)

NAMES = {
    "attempt": "watari.transfer.attempt",
    "from_cloud": "watari.cloud.from",
    "to_cloud": "watari.cloud.to",
    "method": "rpc.method",
    "migration_id": "watari.migration.id",
    "number": "watari.round.number",
    "peer": "watari.peer.provider",
    "read_bytes": "watari.bytes.read",
    "sent_bytes": "watari.bytes.sent",
    "state": "watari.migration.state",
    "wire_bytes": "watari.bytes.wire",
}
"""Every attribute that a span may have, and how it is called outside."""

Value = str | int | float


class Kind(Enum):
    """What a span is of."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True)
class Parent:
    """A span of another process, or one that another process can work out."""

    trace_id: int
    span_id: int
    sampled: bool

    @classmethod
    def of_migration(cls, migration_id: str | None) -> "Parent | None":
        """The root span of a migration's trace; None unless it is a UUID."""
        try:
            trace = uuid.UUID(migration_id or "")
        except ValueError:
            return None
        digest = hashlib.sha256(b"watari migration span" + trace.bytes).digest()
        return cls(trace.int, int.from_bytes(digest[:8], "big"), True) if trace.int else None

    @classmethod
    def parse(cls, values: Sequence[str]) -> "Parent | None":
        """What a caller says; None unless it is exactly one value of version 00, well-formed."""
        found = _TRACEPARENT.fullmatch(values[0]) if len(values) == 1 else None
        if found is None:
            return None
        trace_id, span_id, flags = (int(group, 16) for group in found.groups())
        return cls(trace_id, span_id, bool(flags & 1)) if trace_id and span_id else None


class Span(Protocol):
    """Something that is going on. From any thread."""

    @property
    def traceparent(self) -> str:
        """For the metadata of a call that is part of it; empty when nothing is recorded."""

    def set(self, **attributes: Value) -> None:
        """Adds attributes, by their short names."""

    def end(self, error: str = "") -> None:
        """It is over: with the reason code of an error, or well. Once; later calls do nothing."""


class Backend(Protocol):
    """What records. No method of it ever waits or raises for want of a collector."""

    def begin(
        self, name: str, kind: Kind, parent: Parent | None, attributes: dict[str, Value]
    ) -> Span:
        """A span under what goes on in this thread, else under `parent`, else by itself."""

    def current(self, span: Span) -> AbstractContextManager[None]:
        """What this thread does within the block is part of it."""

    def migration(self, root: Parent, began: int, ended: int, values: dict[str, Value]) -> None:
        """The root span of a migration that has ended; moments in microseconds since 1970."""


class _Nothing:
    traceparent = ""

    def set(self, **attributes: Value) -> None:
        pass

    def end(self, error: str = "") -> None:
        pass


_NOTHING = _Nothing()
_installed: list[Backend] = []


def install(backend: Backend) -> None:
    """Has everything from now on recorded, until `remove`."""
    _installed[:] = [backend]


def remove() -> None:
    """Has nothing recorded any more."""
    _installed.clear()


def on() -> bool:
    """Whether anything is recorded."""
    return bool(_installed)


def begin(name: str, kind: Kind = Kind.INTERNAL, **attributes: Value) -> Span:
    """A span that the caller ends."""
    return _installed[0].begin(name, kind, None, attributes) if _installed else _NOTHING


@contextmanager
def span(
    name: str,
    kind: Kind = Kind.INTERNAL,
    attributes: Mapping[str, Value] | None = None,
    *,
    parent: Parent | None = None,
) -> Iterator[Span]:
    """A span over the block. What the block raises is told by its reason code, and goes on."""
    if not _installed:
        yield _NOTHING
        return
    backend = _installed[0]
    begun = backend.begin(name, kind, parent, dict(attributes or {}))
    with backend.current(begun):
        try:
            yield begun
        except GeneratorExit:
            begun.end("CANCELLED")
            raise
        except BaseException as error:
            begun.end(str(getattr(error, "reason", type(error).__name__)))
            raise
        finally:
            begun.end()


def migration_span(
    migration_id: str, name: str, **attributes: Value
) -> AbstractContextManager[Span]:
    """A span in the trace of a migration."""
    root = Parent.of_migration(migration_id)
    return span(name, Kind.INTERNAL, {"migration_id": migration_id, **attributes}, parent=root)


def migration_ended(migration_id: str, began: int, ended: int, **attributes: Value) -> None:
    """The whole of a migration, told when it has ended. Moments: microseconds since 1970."""
    root = Parent.of_migration(migration_id)
    if _installed and root is not None:
        values = {"migration_id": migration_id, **attributes}
        _installed[0].migration(root, began, ended, values)
