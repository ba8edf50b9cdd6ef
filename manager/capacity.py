"""Who consumes what on which host: the one place where capacity is taken and given back.

Every function runs in the caller's transaction. Whoever takes room has read the host's view in the
same transaction, and the change of the host's generation fails when somebody else took room in
between: on SQLite transactions are serial anyway, on other databases this is what prevents it.
"""

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import classes, inventory, tables
from manager.inventory import POOL, Amounts, HostView
from manager.settings import AgentSettings, ClassSettings
from watari import errors
from watari.v1 import agent_pb2, common_pb2

VM = "vm"
RESERVATION = "reservation"

_HOSTS = tables.hosts.c
_ALLOCATIONS = tables.allocations.c


def views(connection: Connection, agents: Mapping[str, AgentSettings]) -> list[HostView]:
    """Every host that is configured and was ever reached, by host id."""
    sums = _sums(connection)
    shared = _shared(connection)
    rows = connection.execute(sa.select(tables.hosts).order_by(_HOSTS.host_id))
    found = []
    for row in rows:  # that of the pool is nobody's
        settings = agents.get(row.host_id)
        if settings is None:
            continue
        host = agent_pb2.Host.FromString(row.host)
        found.append(
            HostView(
                host_id=row.host_id,
                total=classes.totals_of(inventory.amounts(host.total), settings, shared),
                reserved=classes.reserved_of(settings),
                ratios=classes.ratios_of(settings),
                units=classes.units_of(settings.inventory),
                traits=frozenset({*host.traits, *settings.traits}),
                storage_free_bytes=host.storage_free_bytes,
                allocated=sums.get((row.host_id, VM), {}),
                held=sums.get((row.host_id, RESERVATION), {}),
                generation=row.generation,
                reachable=row.reachable,
            )
        )
    return found


def pool(connection: Connection, shared: Mapping[str, ClassSettings]) -> HostView:
    """What the cloud has and no host owns, in the shape of a host that always answers."""
    generation = connection.scalar(sa.select(_HOSTS.generation).where(_HOSTS.host_id == POOL))
    sums = _sums(connection)
    return HostView(
        host_id=POOL,
        total={name: each.total for name, each in shared.items()},
        reserved={name: each.reserved for name, each in shared.items()},
        ratios={name: each.allocation_ratio for name, each in shared.items()},
        units=classes.units_of(shared),
        storage_free_bytes=0,
        allocated=sums.get((POOL, VM), {}),
        held=sums.get((POOL, RESERVATION), {}),
        generation=generation or 0,
    )


def open_pool(connection: Connection, shared: Mapping[str, ClassSettings]) -> None:
    """Make the pool what the settings say. What consumers have of a class that came into the pool
    is the pool's from now on, and what they have of one that went out of it is their host's: no
    allocation is lost or made.

    Raises FailedPrecondition CONFIG_INVALID, and changes nothing, should a sum not be the same
    afterwards.
    """
    before = _by_class(connection)
    blob = agent_pb2.Host(
        host_id=POOL, total=inventory.to_resources(dict.fromkeys(shared, 1))
    ).SerializeToString(deterministic=True)
    known = connection.scalar(sa.select(_HOSTS.host).where(_HOSTS.host_id == POOL))
    if known is None:
        connection.execute(
            tables.hosts.insert().values(
                host_id=POOL, host=blob, reachable=True, seen_at=0, generation=1
            )
        )
    elif known != blob:
        connection.execute(
            tables.hosts.update()
            .where(_HOSTS.host_id == POOL)
            .values(host=blob, generation=_HOSTS.generation + 1)
        )
    connection.execute(
        tables.allocations.update()
        .where(_ALLOCATIONS.resource_class.in_(list(shared)))
        .values(host_id=POOL)
    )
    gone = (_ALLOCATIONS.host_id == POOL) & _ALLOCATIONS.resource_class.not_in(list(shared))
    for kind, rows in ((VM, tables.vms), (RESERVATION, tables.reservations)):
        key = rows.c.vm_id if kind == VM else rows.c.reservation_id
        home = sa.select(rows.c.host_id).where(key == _ALLOCATIONS.consumer_id).scalar_subquery()
        connection.execute(
            tables.allocations.update()
            .where(gone, _ALLOCATIONS.kind == kind)
            .values(host_id=sa.func.coalesce(home, POOL))
        )
    if _by_class(connection) != before:
        raise errors.FailedPrecondition(
            "CONFIG_INVALID",
            "the pool's classes cannot be changed: allocations would not add up",
            hint="take the change of [manager.pool] back, and compare the allocations",
        )


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
    """Note what a consumer takes as a fact, in place of what was noted of it, fitting or not: of
    the host, and of the pool where that has the class.
    """
    wanted = placed(connection, host_id, amounts)
    if _current(connection, kind, consumer_id) == wanted:
        return
    give_back(connection, kind, consumer_id)
    for where in (host_id, POOL):
        part = {name: amount for name, (at, amount) in wanted.items() if at == where}
        if part:
            _insert(connection, where, kind, consumer_id, part)
            _bump(connection, where)


def placed(connection: Connection, host_id: str, amounts: Amounts) -> dict[str, tuple[str, int]]:
    """Of whom a consumer on a host takes what: the host, or the pool; with the amount, by class."""
    shared = _shared(connection)
    return {name: (POOL if name in shared else host_id, amount) for name, amount in amounts.items()}


def by_consumer(
    connection: Connection,
) -> dict[tuple[str, str], dict[str, tuple[str, int]]]:
    """Everything that is taken: host and amount by class, by kind and id of the consumer."""
    found: dict[tuple[str, str], dict[str, tuple[str, int]]] = {}
    for row in connection.execute(sa.select(tables.allocations)):
        taken = found.setdefault((row.kind, row.consumer_id), {})
        taken[row.resource_class] = row.host_id, row.amount
    return found


def give_back(connection: Connection, kind: str, consumer_id: str) -> None:
    """End what a consumer takes; nothing when it takes nothing."""
    mine = (_ALLOCATIONS.consumer_id == consumer_id) & (_ALLOCATIONS.kind == kind)
    hosts = connection.scalars(sa.select(_ALLOCATIONS.host_id).where(mine).distinct()).all()
    connection.execute(tables.allocations.delete().where(mine))
    for host_id in hosts:
        _bump(connection, host_id)


def _shared(connection: Connection) -> frozenset[str]:
    """The classes of the pool."""
    blob = connection.scalar(sa.select(_HOSTS.host).where(_HOSTS.host_id == POOL))
    return frozenset(inventory.amounts(agent_pb2.Host.FromString(blob or b"").total))


def _by_class(connection: Connection) -> dict[tuple[str, str], int]:
    """What machines and reservations take of each class, wherever it is."""
    columns = (_ALLOCATIONS.kind, _ALLOCATIONS.resource_class)
    rows = connection.execute(
        sa.select(*columns, sa.func.sum(_ALLOCATIONS.amount)).group_by(*columns)
    )
    return {(kind, name): int(amount) for kind, name, amount in rows}


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


def _current(connection: Connection, kind: str, consumer_id: str) -> dict[str, tuple[str, int]]:
    """Host and amount by class."""
    rows = connection.execute(
        sa.select(_ALLOCATIONS.host_id, _ALLOCATIONS.resource_class, _ALLOCATIONS.amount).where(
            _ALLOCATIONS.consumer_id == consumer_id, _ALLOCATIONS.kind == kind
        )
    ).all()
    return {name: (host_id, amount) for host_id, name, amount in rows}


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
