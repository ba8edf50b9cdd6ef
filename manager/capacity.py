"""Who consumes what on which host: the one place where capacity is taken and given back.

Every function runs in the caller's transaction. Whoever takes room has read the host's view in the
same transaction, and the change of the host's generation fails when somebody else took room in
between: on SQLite transactions are serial anyway, on other databases this is what prevents it.
"""

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import inventory, tables
from manager.inventory import Amounts, HostView
from manager.settings import AgentSettings
from watari import errors
from watari.v1 import agent_pb2, common_pb2

VM = "vm"
RESERVATION = "reservation"

_HOSTS = tables.hosts.c
_ALLOCATIONS = tables.allocations.c


def views(connection: Connection, agents: Mapping[str, AgentSettings]) -> list[HostView]:
    """Every host that is configured and was ever reached, by host id."""
    sums = _sums(connection)
    rows = connection.execute(sa.select(tables.hosts).order_by(_HOSTS.host_id))
    found = []
    for row in rows:
        settings = agents.get(row.host_id)
        if settings is None:
            continue
        host = agent_pb2.Host.FromString(row.host)
        found.append(
            HostView(
                host_id=row.host_id,
                total=inventory.amounts(host.total),
                reserved=inventory.reserved_of(settings),
                ratios={inventory.VCPUS: settings.vcpu_allocation_ratio},
                storage_free_bytes=host.storage_free_bytes,
                allocated=sums.get((row.host_id, VM), {}),
                held=sums.get((row.host_id, RESERVATION), {}),
                generation=row.generation,
                reachable=row.reachable,
            )
        )
    return found


def data_endpoint(connection: Connection, host_id: str) -> common_pb2.Endpoint | None:
    """Where a host takes sealed frames, as it last told; None while that is not known."""
    blob = connection.scalar(sa.select(_HOSTS.host).where(_HOSTS.host_id == host_id))
    if blob is None:
        return None
    host = agent_pb2.Host.FromString(blob)
    return host.data if host.data.address else None


def take(
    connection: Connection, host: HostView, kind: str, consumer_id: str, asked: Amounts
) -> None:
    """Consume `asked` on a host whose view was read in this transaction.

    The check that it fits, the rows and the generation belong together: a view that has become old
    is a Conflict GENERATION_CONFLICT, and the caller's transaction is rolled back with all of it.
    Raises Exhausted INSUFFICIENT_CAPACITY when it does not fit.
    """
    inventory.choose([host], asked)
    _insert(connection, host.host_id, kind, consumer_id, asked)
    changed = connection.execute(
        tables.hosts.update()
        .where(_HOSTS.host_id == host.host_id, _HOSTS.generation == host.generation)
        .values(generation=host.generation + 1)
    )
    if changed.rowcount != 1:
        raise errors.Conflict(
            "GENERATION_CONFLICT",
            f"the inventory of host {host.host_id} changed meanwhile",
            hint="repeat the call",
            retryable=True,
            host=host.host_id,
        )


def record(
    connection: Connection, host_id: str, kind: str, consumer_id: str, amounts: Amounts
) -> None:
    """Note what a consumer takes as a fact, in place of what was noted of it, fitting or not."""
    if _current(connection, kind, consumer_id) == (host_id, amounts):
        return
    give_back(connection, kind, consumer_id)
    _insert(connection, host_id, kind, consumer_id, amounts)
    _bump(connection, host_id)


def give_back(connection: Connection, kind: str, consumer_id: str) -> None:
    """End what a consumer takes; nothing when it takes nothing."""
    mine = (_ALLOCATIONS.consumer_id == consumer_id) & (_ALLOCATIONS.kind == kind)
    hosts = connection.scalars(sa.select(_ALLOCATIONS.host_id).where(mine).distinct()).all()
    connection.execute(tables.allocations.delete().where(mine))
    for host_id in hosts:
        _bump(connection, host_id)


def _sums(connection: Connection) -> dict[tuple[str, str], Amounts]:
    sums: dict[tuple[str, str], Amounts] = {}
    rows = connection.execute(
        sa.select(
            _ALLOCATIONS.host_id,
            _ALLOCATIONS.kind,
            _ALLOCATIONS.resource_class,
            sa.func.sum(_ALLOCATIONS.amount),
        ).group_by(_ALLOCATIONS.host_id, _ALLOCATIONS.kind, _ALLOCATIONS.resource_class)
    )
    for host_id, kind, name, amount in rows:
        sums.setdefault((host_id, kind), {})[name] = int(amount)
    return sums


def _current(connection: Connection, kind: str, consumer_id: str) -> tuple[str, Amounts] | None:
    rows = connection.execute(
        sa.select(_ALLOCATIONS.host_id, _ALLOCATIONS.resource_class, _ALLOCATIONS.amount).where(
            _ALLOCATIONS.consumer_id == consumer_id, _ALLOCATIONS.kind == kind
        )
    ).all()
    if not rows:
        return None
    return rows[0][0], {name: amount for _, name, amount in rows}


def _insert(
    connection: Connection, host_id: str, kind: str, consumer_id: str, amounts: Amounts
) -> None:
    rows = [
        {
            "consumer_id": consumer_id,
            "kind": kind,
            "resource_class": name,
            "host_id": host_id,
            "amount": amount,
        }
        for name, amount in sorted(amounts.items())
    ]
    if rows:
        connection.execute(tables.allocations.insert(), rows)


def _bump(connection: Connection, host_id: str) -> None:
    connection.execute(
        tables.hosts.update()
        .where(_HOSTS.host_id == host_id)
        .values(generation=_HOSTS.generation + 1)
    )
