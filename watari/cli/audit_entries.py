"""Entries of an audit log as the commands read them: from a manager, or from an exported file.

One at a time, so that a log of any length takes little memory. A line of an export has everything
that is hashed, so that whoever has the file can verify it without us (docs/audit.md).
"""

import json
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from watari import audit, errors
from watari.audit import Head
from watari.cli.clients import Manager
from watari.cli.plain import enum_name
from watari.v1 import audit_pb2, audit_pb2_grpc
from watari.v1.audit_pb2 import AuditEntry

LINE_CHARS_MAX = 128 * 1024
"""Longest line of an export: the largest entry with every character escaped."""

_PAGE_SIZE = 500
_OUTCOMES = audit_pb2.AuditOutcome.DESCRIPTOR


class RemoteLog:
    """The log of a cloud's manager, up to the entry that was the newest when it was opened."""

    def __init__(self, manager: Manager) -> None:
        self._peer = manager.peer
        self._stub = audit_pb2_grpc.AuditServiceStub(manager.peer.channel)
        first = self._page(after=0, size=1)
        self.head = Head(first.last_sequence, first.last_hash)
        """The newest entry, as the manager says."""

    def entries(self, after: int = 0) -> Iterator[AuditEntry]:
        """Entries after a sequence number, oldest first, page by page."""
        while after < self.head.sequence:
            page = self._page(after, _PAGE_SIZE).entries
            for entry in page:
                if entry.sequence <= self.head.sequence:
                    yield entry
            if not page or page[-1].sequence <= after:
                return  # The manager does not go on: the caller finds what is missing.
            after = page[-1].sequence

    def _page(self, after: int, size: int) -> audit_pb2.ListAuditEntriesResponse:
        request = audit_pb2.ListAuditEntriesRequest(after_sequence=after, page_size=size)
        return self._peer.read(self._stub.ListAuditEntries, request)


def read_file(path: Path) -> Iterator[AuditEntry]:
    """The entries of an export.

    Raises NotFound INVALID_FIELD when it cannot be read, and DataLoss AUDIT_CHAIN_BROKEN for a line
    that is no entry.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            number = 0
            while line := lines.readline(LINE_CHARS_MAX + 1):
                number += 1
                yield _parsed(line, number)
    except OSError as error:
        raise errors.NotFound(
            "INVALID_FIELD",
            f"{path}: {error.strerror}",
            hint="name a file that `watari audit export` wrote",
        ) from error


def plain(entry: AuditEntry) -> dict[str, Any]:
    """The entry as plain values: a line of an export. Unlike those of other messages its time is
    exact.
    """
    return {
        "sequence": entry.sequence,
        "occurred_at": _moment(entry.occurred_at),
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "outcome": enum_name(_OUTCOMES, entry.outcome),
        "details": {name: entry.details[name] for name in sorted(entry.details)},
        "previous_hash": entry.previous_hash.hex(),
        "hash": entry.hash.hex(),
    }


def line(entry: AuditEntry) -> str:
    """A line of an export, with its end: the same in every encoding, and safe on a terminal."""
    return json.dumps(plain(entry)) + "\n"


def _parsed(text: str, number: int) -> AuditEntry:
    try:
        return _entry(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise audit.broken(number, "altered", f"line {number} is no entry") from error


def _entry(values: dict[str, Any]) -> AuditEntry:
    entry = AuditEntry(
        sequence=values["sequence"],
        actor=values["actor"],
        action=values["action"],
        subject=values["subject"],
        outcome=_outcome(values["outcome"]),
        details=values["details"],
        previous_hash=bytes.fromhex(values["previous_hash"]),
        hash=bytes.fromhex(values["hash"]),
    )
    entry.occurred_at.FromJsonString(values["occurred_at"])
    if plain(entry) != values:
        raise ValueError("not as it is exported")
    return entry


def _outcome(name: str) -> audit_pb2.AuditOutcome.ValueType:
    full = f"AUDIT_OUTCOME_{name.upper()}"
    return audit_pb2.AuditOutcome.Value(full)


def _moment(value: Timestamp) -> str:
    """RFC 3339 in UTC with microseconds; what is no such time, which we never write, as numbers."""
    try:
        text = value.ToDatetime(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError):
        text = ""
    if not text or value.nanos % 1000:
        return f"{value.seconds} s {value.nanos} ns"
    return text
