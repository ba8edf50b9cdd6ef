"""The audit log's entries: how they are bounded, hashed and chained, and how a chain is verified.

Each entry holds the hash of the one before it, so that a change, a gap or another order shows, and
so does the loss of the end to whoever has noted an earlier head. The bytes that are hashed are
specified in docs/audit.md. Pure: no store and no clock in here.

Never: fails for what an entry says. Text that is too long is cut, and values under names of secrets
are replaced, so that telling of some work is never what makes it fail.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from watari import errors, logs
from watari.v1 import audit_pb2
from watari.v1.audit_pb2 import AuditEntry

DONE = audit_pb2.AUDIT_OUTCOME_DONE
REFUSED = audit_pb2.AUDIT_OUTCOME_REFUSED

HASH_BYTES = 32
"""SHA-256."""

ACTION_BYTES_MAX = 64
"""Longest action; longer text is cut, here and below."""

TEXT_BYTES_MAX = 512
"""Longest actor, subject and value of a detail."""

DETAILS_MAX = 16
"""Most details of an entry; further ones are left out."""

DETAIL_NAME_BYTES_MAX = 64
"""Longest name of a detail."""

ENTRY_BYTES_MAX = 16 * 1024
"""More than any entry within these limits takes as a message."""

_DOMAIN = b"watari audit entry 1\n"


class Head(NamedTuple):
    """The newest entry of a log, or of a part of it."""

    sequence: int
    hash: bytes


START = Head(0, bytes(HASH_BYTES))
"""Where every log begins: before its first entry."""


@dataclass(frozen=True)
class Noted:
    """What somebody kept of an earlier head: its number, its hash, or both."""

    sequence: int | None = None
    hash: bytes | None = None


def entry(
    *,
    actor: str,
    action: str,
    subject: str,
    outcome: audit_pb2.AuditOutcome.ValueType = DONE,
    details: Mapping[str, object] | None = None,
) -> AuditEntry:
    """An entry within the contract's limits, not chained yet, without a time."""
    made = AuditEntry(
        actor=_cut(actor, TEXT_BYTES_MAX),
        action=_cut(action, ACTION_BYTES_MAX),
        subject=_cut(subject, TEXT_BYTES_MAX),
        outcome=outcome,
    )
    for name, value in sorted((details or {}).items())[:DETAILS_MAX]:
        shown = logs.REDACTED if logs.is_secret(name) else str(value)
        made.details[_cut(name, DETAIL_NAME_BYTES_MAX)] = _cut(shown, TEXT_BYTES_MAX)
    return made


def chain(previous: Head, new: AuditEntry) -> AuditEntry:
    """A copy of `new` as the entry that follows `previous`."""
    chained = AuditEntry()
    chained.CopyFrom(new)
    chained.sequence = previous.sequence + 1
    chained.previous_hash = previous.hash
    chained.hash = digest(chained)
    return chained


def digest(of: AuditEntry) -> bytes:
    """The hash of an entry over all its other fields; docs/audit.md has the same in prose."""
    hashed = hashlib.sha256(_DOMAIN)
    for field in _fields(of):
        hashed.update(len(field).to_bytes(4, "big") + field)
    return hashed.digest()


def head_of(last: AuditEntry) -> Head:
    """The head of a log that ends with this entry."""
    return Head(last.sequence, last.hash)


def verify(
    entries: Iterable[AuditEntry], *, after: Head = START, noted: Noted | None = None
) -> Head:
    """Go through entries that follow `after`; the head that they lead to.

    Takes one at a time, so that a log of any length can be verified. Raises DataLoss
    AUDIT_CHAIN_BROKEN for the first that is not what was written: metadata `sequence` is its number
    and `fault` is `missing`, `out_of_order`, `altered` or `replaced`. With an earlier head that was
    kept elsewhere also `cut_off`, and `replaced` for a log that was written anew.
    """
    kept = noted or Noted()
    head, seen = after, kept.hash in (None, after.hash)
    for each in entries:
        _require_follows(head, each)
        head = head_of(each)
        seen = seen or each.hash == kept.hash
        if each.sequence == kept.sequence and not seen:
            raise _not_as_noted(each.sequence)
    if kept.sequence is not None and kept.sequence > head.sequence:
        raise _cut_off(head, f"entry {kept.sequence} was there once")
    if not seen:
        raise _cut_off(head, "no entry has the hash that was noted")
    return head


def _require_follows(head: Head, each: AuditEntry) -> None:
    expected = head.sequence + 1
    if each.sequence > expected:
        last = each.sequence - 1
        which = f"entry {expected} is" if last == expected else f"entries {expected} to {last} are"
        raise broken(expected, "missing", f"{which} missing: entry {each.sequence} stands there")
    if each.sequence < expected:
        raise broken(
            expected, "out_of_order", f"entry {each.sequence} stands where {expected} belongs"
        )
    if each.hash != digest(each):
        raise broken(expected, "altered", f"entry {expected} was altered")
    if each.previous_hash != head.hash:
        raise broken(
            expected,
            "replaced",
            f"entry {expected} does not follow the one before it: one of the two was replaced",
        )


def broken(sequence: int, fault: str, message: str) -> errors.DataLoss:
    """The error for a log that is not what was written."""
    return errors.DataLoss(
        "AUDIT_CHAIN_BROKEN",
        f"the audit log is not what was written: {message}",
        hint="keep a copy of it as it is, compare it with earlier exports, and find out who could "
        "write to the manager's database",
        sequence=sequence,
        fault=fault,
    )


def _not_as_noted(sequence: int) -> errors.DataLoss:
    return broken(
        sequence,
        "replaced",
        f"entry {sequence} has another hash than was noted: it, or one before it, was replaced",
    )


def _cut_off(head: Head, why: str) -> errors.DataLoss:
    return broken(head.sequence + 1, "cut_off", f"it ends with entry {head.sequence}, and {why}")


def _fields(of: AuditEntry) -> Iterator[bytes]:
    yield of.sequence.to_bytes(8, "big")
    yield of.occurred_at.seconds.to_bytes(8, "big", signed=True)
    yield of.occurred_at.nanos.to_bytes(4, "big", signed=True)
    yield of.actor.encode()
    yield of.action.encode()
    yield of.subject.encode()
    yield int(of.outcome).to_bytes(4, "big", signed=True)
    yield len(of.details).to_bytes(4, "big")
    for name in sorted(of.details):
        yield name.encode()
        yield of.details[name].encode()
    yield of.previous_hash


def _cut(text: str, bytes_max: int) -> str:
    raw = text.encode(errors="replace")
    if len(raw) <= bytes_max:
        return raw.decode()
    return raw[: bytes_max - 3].decode(errors="ignore") + "..."
