"""Calls that are owed: decided in a transaction, made when the other side can be reached.

An owed call is recorded in the transaction that decides it and removed only once it was answered,
so that no crash forgets it. There is one of a kind for a migration. Calls must be idempotent: one
that was answered just before a crash is made again.
"""

from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import tables

_OWED = tables.owed_calls.c
_ALL = sa.select(_OWED.kind, _OWED.migration_id, _OWED.target, _OWED.subject_id, _OWED.attempts)

DELAY_SECONDS_INITIAL = 1.0
"""Before an owed call is repeated for the first time; doubles each time."""

DELAY_SECONDS_MAX = 60.0
"""Longest delay between two repetitions."""


class Kind(StrEnum):
    """What is owed."""

    UNHOLD = "unhold"
    """To a host of ours: end the transfer and the hold. Subject: the machine."""

    RELEASE = "release"
    """To another cloud: give the reservation back. Subject: the reservation."""

    DISCARD = "discard"
    """To a host of ours: delete what has arrived. Subject: the machine."""

    START = "start"
    """To a host of ours: let the machine run that arrived with it. Subject: the machine."""


@dataclass(frozen=True)
class OwedCall:
    """One call that is owed."""

    kind: Kind
    migration_id: str
    target: str
    """Host id or cloud id."""

    subject_id: str
    attempts: int = 0


def owe(connection: Connection, call: OwedCall, now: int) -> None:
    """Record a call, due at once (`now` in microseconds), in place of an earlier one like it."""
    settle(connection, call)
    connection.execute(
        tables.owed_calls.insert().values(
            kind=call.kind.value,
            migration_id=call.migration_id,
            target=call.target,
            subject_id=call.subject_id,
            attempts=0,
            due_at=now,
        )
    )


def settle(connection: Connection, call: OwedCall) -> None:
    """The call was answered; nothing when it is not owed."""
    connection.execute(tables.owed_calls.delete().where(*_same(call)))


def find(connection: Connection, kind: Kind, migration_id: str) -> OwedCall | None:
    """The call of a kind that is owed for a migration, if it is."""
    asked = _ALL.where(_OWED.kind == kind.value, _OWED.migration_id == migration_id)
    row = connection.execute(asked).one_or_none()
    return None if row is None else OwedCall(Kind(row.kind), *row[1:])


def to_host(connection: Connection, kind: Kind, host_id: str, vm_id: str) -> list[OwedCall]:
    """What of a kind is owed to a host about a machine, for whatever migration."""
    asked = _ALL.where(_OWED.kind == kind.value, _OWED.target == host_id, _OWED.subject_id == vm_id)
    rows = connection.execute(asked.order_by(_OWED.migration_id))
    return [OwedCall(Kind(row.kind), *row[1:]) for row in rows]


def settle_start(connection: Connection, vm_id: str) -> None:
    """Somebody has decided otherwise about a machine that was to be started."""
    connection.execute(
        tables.owed_calls.delete().where(_OWED.kind == Kind.START.value, _OWED.subject_id == vm_id)
    )


def postpone(connection: Connection, call: OwedCall, now: int) -> None:
    """The call was not answered: due again after a delay that grows with its attempts."""
    delay = min(DELAY_SECONDS_INITIAL * 2 ** min(call.attempts, 10), DELAY_SECONDS_MAX)
    connection.execute(
        tables.owed_calls.update()
        .where(*_same(call))
        .values(attempts=call.attempts + 1, due_at=now + int(delay * 1_000_000))
    )


def due(connection: Connection, now: int, limit: int) -> list[OwedCall]:
    """Calls whose time has come, longest due first."""
    rows = connection.execute(
        _ALL.where(_OWED.due_at <= now).order_by(_OWED.due_at, _OWED.migration_id).limit(limit)
    )
    return [OwedCall(Kind(row.kind), *row[1:]) for row in rows]


def _same(call: OwedCall) -> tuple[sa.ColumnElement[bool], ...]:
    return (_OWED.kind == call.kind.value, _OWED.migration_id == call.migration_id)
