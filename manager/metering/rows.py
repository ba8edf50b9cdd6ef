"""Rows of recorded events, and of how far each log was read. Runs in the caller's transaction."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import reservation_rows, vms
from manager.metering import tables
from manager.ownership import Tenant, View
from manager.reservation import ARRIVING, State
from manager.within import within
from watari.v1 import agent_pb2, manager_pb2

_EVENTS = tables.usage_events.c
_LOGS = tables.event_logs.c

_IDS = uuid.UUID("5d1c2c0e-5a55-4c8f-9d0c-6f2b7a3e9d41")
"""Namespace of the ids of events."""


_COMES = {*ARRIVING, State.USED}
"""States of a reservation whose machine is coming, or is here and is not known yet."""


@dataclass(frozen=True)
class Position:
    """How far a host's log was read; sequence 0 is nothing of it."""

    log_id: str = ""
    sequence: int = 0


def event_id(host_id: str, log_id: str, sequence: int) -> str:
    """The id of an event, from where it was read."""
    return str(uuid.uuid5(_IDS, f"{host_id}/{log_id}/{sequence}"))


def position(connection: Connection, host_id: str, log_id: str = "") -> Position:
    """How far a log of a host was read, by default the one that was read last."""
    query = sa.select(_LOGS.log_id, _LOGS.sequence).where(_LOGS.host_id == host_id)
    if log_id:
        query = query.where(_LOGS.log_id == log_id)
    row = connection.execute(query.order_by(_LOGS.position.desc()).limit(1)).one_or_none()
    return Position(log_id) if row is None else Position(row.log_id, row.sequence)


def move(connection: Connection, host_id: str, to: Position) -> None:
    """From now on that log is the one that the host has, and is read from there on."""
    same = (_LOGS.host_id == host_id, _LOGS.log_id == to.log_id)
    connection.execute(tables.event_logs.delete().where(*same))
    connection.execute(
        tables.event_logs.insert().values(host_id=host_id, log_id=to.log_id, sequence=to.sequence)
    )


def write(connection: Connection, recorded: manager_pb2.UsageEvent) -> None:
    """Write an event."""
    connection.execute(
        tables.usage_events.insert().values(
            event_id=recorded.event_id,
            vm_id=recorded.event.vm_id,
            tenant_domain=recorded.tenant_domain,
            tenant=recorded.tenant,
            event=recorded.SerializeToString(deterministic=True),
        )
    )


def thin(connection: Connection, before: datetime, limit: int) -> int:
    """Drop the events that were recorded first, as long as they happened before; at most `limit`.
    How many went. How far each log was read stays, so none of them is recorded again.
    """
    rows = connection.execute(
        sa.select(_EVENTS.position, _EVENTS.event).order_by(_EVENTS.position).limit(limit)
    )
    old = 0, 0
    for position_, blob in rows:
        happened = manager_pb2.UsageEvent.FromString(blob).event.occurred_at
        if happened.ToDatetime(UTC) >= before:
            break
        old = old[0] + 1, position_
    connection.execute(tables.usage_events.delete().where(_EVENTS.position <= old[1]))
    return old[0]


def payer(connection: Connection, event: agent_pb2.HostEvent, own_domain: str) -> Tenant:
    """Whose machine an event is about. A host knows names only: the machine of another provider's
    tenant is known by what was said when it was reserved for, and is nobody's of that name here.
    """
    row = vms.get(connection, event.vm_id)
    if row is not None and row.tenant_domain != own_domain:
        return Tenant(row.tenant_domain, row.tenant)
    if row is None:
        arriving = reservation_rows.newest_for_vm(connection, event.vm_id)
        if arriving is not None and (
            arriving.state in _COMES or arriving.migration_id == event.migration_id
        ):
            return Tenant(arriving.tenant_domain, arriving.request.tenant)
    return Tenant(own_domain, event.tenant or (row.tenant if row else "default"))


def page(
    connection: Connection, view: View, *, tenant: str, vm_id: str, after: int, limit: int
) -> Sequence[tuple[int, manager_pb2.UsageEvent]]:
    """Events of the view after a position, as they were recorded, with theirs; empty filters take
    all.
    """
    query = sa.select(_EVENTS.position, _EVENTS.event).where(
        _EVENTS.position > after, within(_EVENTS, view)
    )
    if tenant:
        query = query.where(_EVENTS.tenant == tenant)
    if vm_id:
        query = query.where(_EVENTS.vm_id == vm_id)
    rows = connection.execute(query.order_by(_EVENTS.position).limit(limit))
    return [(found, manager_pb2.UsageEvent.FromString(event)) for found, event in rows]
