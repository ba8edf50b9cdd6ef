"""Who consumes what on which host: the one place where capacity is taken and given back.

Every function runs in the caller's transaction. Whoever takes room has read the host's view in the
same transaction, and the change of the host's generation fails when somebody else took room in
between: on SQLite transactions are serial anyway, on other databases this is what prevents it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import classes, inventory, shape_rows, tables
from manager.bookings import ALWAYS, Booking, Span, of_host
from manager.inventory import POOL, Amounts, HostView
from manager.ownership import Tenant
from manager.settings.hosts import AgentSettings, ClassSettings
from manager.shapes import PLAIN, Shape, of_blob
from manager.statements import Ask, AskRows, Rows, Statement, Told, run
from watari import errors
from watari.v1 import agent_pb2, common_pb2

VM = "vm"
RESERVATION = "reservation"
BOOKING = "booking"
"""Of a reservation in advance, as long as it is not claimed: taken for its time only."""

_HOSTS = tables.hosts.c
_ALLOCATIONS = tables.allocations.c
_RESERVATIONS = tables.reservations.c
_TAKEN = tables.taken.c

_READ_TAKEN = Statement(sa.select(tables.taken).where(_TAKEN.amount != 0))
_READ_HOSTS = Statement(
    sa.select(
        *(_HOSTS.host_id, _HOSTS.host, _HOSTS.reachable, _HOSTS.generation, _HOSTS.shape)
    ).order_by(_HOSTS.host_id)
)
_ALLOCATE = Rows.inserting(tables.allocations, [column.name for column in _ALLOCATIONS])


def _taking(count: int) -> sa.TextClause:
    # Both databases say it alike; SQLAlchemy has it for each of them only.
    row = "(:host_id__{0}, :kind__{0}, :resource_class__{0}, :amount__{0})"
    return sa.text(
        "INSERT INTO taken (host_id, kind, resource_class, amount) VALUES"  # noqa: S608 - numbers
        f" {', '.join(row.format(each) for each in range(count))}"
        " ON CONFLICT (host_id, kind, resource_class)"
        " DO UPDATE SET amount = taken.amount + excluded.amount"
    )


_TAKE = Rows(_taking)
_READ_BOOKINGS = Statement(
    sa.select(
        *(_ALLOCATIONS.consumer_id, _ALLOCATIONS.host_id, _ALLOCATIONS.resource_class),
        *(_ALLOCATIONS.amount, _RESERVATIONS.starts_at, _RESERVATIONS.ends_at),
        *(_RESERVATIONS.tenant_domain, _RESERVATIONS.tenant),
    )
    .join(tables.reservations, _RESERVATIONS.reservation_id == _ALLOCATIONS.consumer_id)
    .where(_ALLOCATIONS.kind == BOOKING)
)
_SWAP = Statement(
    tables.hosts.update()
    .where(
        _HOSTS.host_id == sa.bindparam("known_host"),
        _HOSTS.generation == sa.bindparam("known_generation"),
    )
    .values(generation=_HOSTS.generation + 1)
)


class _HostRow(NamedTuple):
    """What is read of a host."""

    host_id: str
    host: bytes
    reachable: bool
    generation: int
    shape: bytes | None


@dataclass(frozen=True)
class Room:
    """All that there is and what is taken of it, at one moment."""

    hosts: list[HostView]
    """Every host that is configured and was ever reached, by host id."""

    pool: HostView
    """What the cloud has and no host owns, in the shape of a host that always answers."""

    data: Mapping[str, common_pb2.Endpoint]
    """Where a host takes sealed frames, as it last told; left out while that is not known."""

    any_booked: bool
    """Whether anything is booked for later: then `bookings` has to be read, and tells what."""

    shape: Shape = PLAIN
    """Of the pool: how classes are called now."""


def reading() -> list[Ask]:
    """Reads everything that an admission looks at; `room` tells it."""
    return [Ask(_READ_TAKEN), Ask(_READ_HOSTS)]


def room(
    told: Sequence[Told],
    agents: Mapping[str, AgentSettings],
    shared: Mapping[str, ClassSettings],
) -> Room:
    """What `reading` read."""
    sums = _sums_of(told[0].rows)
    rows = {row.host_id: row for row in (_HostRow(*each) for each in told[1].rows)}
    pooled = rows.pop(POOL, None)
    kept_out = _classes_of(None if pooled is None else pooled.host)
    shape = PLAIN if pooled is None else of_blob(pooled.shape)
    hosts = {host_id: agent_pb2.Host.FromString(row.host) for host_id, row in rows.items()}
    return Room(
        hosts=[
            _view(row, shape, hosts[host_id], agents[host_id], kept_out, sums)
            for host_id, row in rows.items()
            if host_id in agents
        ],
        pool=_pool(shared, shape, 0 if pooled is None else pooled.generation, sums),
        data={host_id: host.data for host_id, host in hosts.items() if host.data.address},
        any_booked=any(kind == BOOKING for _, kind in sums),
        shape=shape,
    )


def booked(connection: Connection) -> list[Booking]:
    """Everything that is booked for later."""
    found: dict[str, Booking] = {}
    (told,) = run(connection, [Ask(_READ_BOOKINGS)])
    for key, host_id, name, amount, starts_at, ends_at, *whose in told.rows:
        if key not in found:
            found[key] = Booking(key, Tenant(*whose), Span(starts_at, ends_at), {})
        found[key].taken.setdefault(host_id, {})[name] = amount
    return list(found.values())


def views(connection: Connection, agents: Mapping[str, AgentSettings]) -> list[HostView]:
    """Every host that is configured and was ever reached, by host id."""
    found = room(run(connection, reading()), agents, {})
    return with_bookings(found.hosts, booked(connection) if found.any_booked else [])


def pool(connection: Connection, shared: Mapping[str, ClassSettings]) -> HostView:
    """What the cloud has and no host owns, in the shape of a host that always answers."""
    query = sa.select(_HOSTS.generation, _HOSTS.shape).where(_HOSTS.host_id == POOL)
    generation, shape = connection.execute(query).one_or_none() or (0, None)
    sums = _sums(connection)
    found = _pool(shared, of_blob(shape), generation, sums)
    (found,) = with_bookings([found], booked(connection) if (POOL, BOOKING) in sums else [])
    return found


def with_bookings(
    views: Sequence[HostView], bookings: Sequence[Booking], within: Span = ALWAYS
) -> list[HostView]:
    """What is left for who takes room within a time; for ever is what a machine takes."""
    if not bookings:
        return list(views)
    return [replace(view, booked=of_host(bookings, view.host_id, within)) for view in views]


def open_pool(connection: Connection, shared: Mapping[str, ClassSettings]) -> None:
    """Make the pool what the settings say. What consumers have of a class that came into the pool
    is the pool's from now on, and what they have of one that went out of it is their host's: no
    allocation is lost or made.

    Raises FailedPrecondition CONFIG_INVALID, and changes nothing, should a sum not be the same
    afterwards.
    """
    before = _by_class(connection)
    shared = shape_rows.of(connection, POOL).settings(shared)
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
    homes = ((VM, tables.vms), (RESERVATION, tables.reservations), (BOOKING, tables.reservations))
    for kind, rows in homes:
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
    count_anew(connection)


def take(
    connection: Connection, host: HostView, kind: str, consumer_id: str, asked: Amounts
) -> None:
    """Consume `asked` on a host whose view was read in this transaction.

    Raises Exhausted INSUFFICIENT_CAPACITY when it does not fit, and what `take_all` raises.
    """
    inventory.choose([host], asked)
    take_all(connection, host, kind, {consumer_id: asked})


def take_all(
    connection: Connection, host: HostView, kind: str, taken: Mapping[str, Amounts]
) -> None:
    """Consume on a host what several consumers were found to fit for, by their ids, in the
    transaction in which its view was read. Raises Conflict GENERATION_CONFLICT.
    """
    require_unchanged(host, run(connection, taking(host, {kind: taken}))[-1])


def taking(host: HostView, taken: Mapping[str, Mapping[str, Amounts]]) -> list[Ask | AskRows]:
    """Writes that, by kind; what the last one tells is for `require_unchanged`."""
    lasting = [part for kind, each in taken.items() if kind != BOOKING for part in each.values()]
    asked = inventory.total(lasting)
    short = [name for name, amount in asked.items() if amount > host.free.get(name, 0)]
    if short:
        raise AssertionError(f"more was admitted on {host.host_id} than there is: {short}")
    known = {"known_host": host.host_id, "known_generation": host.generation}
    inserts = [ask for kind in taken for ask in _inserting(host.host_id, kind, taken[kind])]
    return [*inserts, Ask(_SWAP, known)]


def require_unchanged(host: HostView, told: Told) -> None:
    """The rows and the generation belong together: a view that has become old is a Conflict
    GENERATION_CONFLICT, and the caller's transaction is rolled back with all of it.
    """
    if told.changed != 1:
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
            _insert(connection, where, kind, {consumer_id: part})
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
    rows = connection.execute(
        tables.allocations.delete()
        .where(_ALLOCATIONS.consumer_id == consumer_id, _ALLOCATIONS.kind == kind)
        .returning(_ALLOCATIONS.host_id, _ALLOCATIONS.resource_class, _ALLOCATIONS.amount)
    ).all()
    for host_id, name, amount in rows:
        connection.execute(
            tables.taken.update()
            .where(_TAKEN.host_id == host_id, _TAKEN.kind == kind, _TAKEN.resource_class == name)
            .values(amount=_TAKEN.amount - amount)
        )
    for host_id in sorted({row.host_id for row in rows}):
        _bump(connection, host_id)


def miscounted(connection: Connection) -> dict[str, tuple[dict[str, Amounts], dict[str, Amounts]]]:
    """By host, or the pool: what is counted as taken, by kind, where it is not the sum of the
    allocations, and that sum.
    """
    counted, summed = _by_host(_sums(connection)), _by_host(_sums_of_allocations(connection))
    return {
        host_id: (counted.get(host_id, {}), summed.get(host_id, {}))
        for host_id in sorted(counted.keys() | summed.keys())
        if counted.get(host_id, {}) != summed.get(host_id, {})
    }


def count_anew(connection: Connection) -> None:
    """Make what is counted as taken the sum of the allocations."""
    connection.execute(tables.taken.delete())
    rows = [
        {"host_id": host_id, "kind": kind, "resource_class": name, "amount": amount}
        for (host_id, kind), amounts in _sums_of_allocations(connection).items()
        for name, amount in amounts.items()
    ]
    if rows:
        connection.execute(tables.taken.insert(), rows)


def _view(
    row: _HostRow,
    pooled: Shape,
    host: agent_pb2.Host,
    settings: AgentSettings,
    shared: frozenset[str],
    sums: "_Sums",
) -> HostView:
    told = classes.totals_of(inventory.amounts(host.total), settings)
    shape = replace(of_blob(row.shape), renamed=pooled.renamed)
    if shape != PLAIN:
        told = shape.totals(told)
        settings = replace(settings, inventory=shape.settings(settings.inventory))
    return HostView(
        host_id=row.host_id,
        total={name: amount for name, amount in told.items() if name not in shared},
        reserved=classes.reserved_of(settings),
        ratios=classes.ratios_of(settings),
        units=classes.units_of(settings.inventory),
        traits=frozenset({*host.traits, *settings.traits}),
        storage_free_bytes=host.storage_free_bytes,
        allocated=sums.get((row.host_id, VM), {}),
        held=sums.get((row.host_id, RESERVATION), {}),
        generation=row.generation,
        reachable=bool(row.reachable),
    )


def _pool(
    shared: Mapping[str, ClassSettings], shape: Shape, generation: int, sums: "_Sums"
) -> HostView:
    said = {name: each.total for name, each in shared.items() if each.total}
    shared = shape.settings(shared)
    return HostView(
        host_id=POOL,
        total=dict.fromkeys(shared, 0) | shape.totals(said),
        reserved={name: each.reserved for name, each in shared.items()},
        ratios={name: each.allocation_ratio for name, each in shared.items()},
        units=classes.units_of(shared),
        storage_free_bytes=0,
        allocated=sums.get((POOL, VM), {}),
        held=sums.get((POOL, RESERVATION), {}),
        generation=generation,
    )


def settle_storage(connection: Connection, host_id: str, reservation_id: str) -> None:
    """What a reservation was to write is written by now. The host said how much storage it has free
    before that, perhaps: until it is looked at again, so much less is taken to be.
    """
    _, written = _current(connection, RESERVATION, reservation_id).get(
        inventory.STORAGE, (host_id, 0)
    )
    blob = connection.scalar(sa.select(_HOSTS.host).where(_HOSTS.host_id == host_id))
    if not written or blob is None:
        return
    host = agent_pb2.Host.FromString(blob)
    host.storage_free_bytes -= min(written, host.storage_free_bytes)
    connection.execute(
        tables.hosts.update()
        .where(_HOSTS.host_id == host_id)
        .values(host=host.SerializeToString(deterministic=True), generation=_HOSTS.generation + 1)
    )


def _shared(connection: Connection) -> frozenset[str]:
    """The classes of the pool."""
    return _classes_of(connection.scalar(sa.select(_HOSTS.host).where(_HOSTS.host_id == POOL)))


def _classes_of(blob: bytes | None) -> frozenset[str]:
    return frozenset(inventory.amounts(agent_pb2.Host.FromString(blob or b"").total))


def _by_class(connection: Connection) -> dict[tuple[str, str], int]:
    """What machines and reservations take of each class, wherever it is."""
    columns = (_ALLOCATIONS.kind, _ALLOCATIONS.resource_class)
    rows = connection.execute(
        sa.select(*columns, sa.func.sum(_ALLOCATIONS.amount)).group_by(*columns)
    )
    return {(kind, name): int(amount) for kind, name, amount in rows}


_Sums = dict[tuple[str, str], Amounts]
"""What is taken, by host and kind."""


def _sums(connection: Connection) -> _Sums:
    return _sums_of(run(connection, [Ask(_READ_TAKEN)])[0].rows)


def _sums_of(rows: Iterable[tuple[Any, ...]]) -> _Sums:
    """As it was counted all along: a few rows, however many allocations there are."""
    sums: _Sums = {}
    for host_id, kind, name, amount in rows:
        sums.setdefault((host_id, kind), {})[name] = amount
    return sums


def _sums_of_allocations(connection: Connection) -> _Sums:
    sums: _Sums = {}
    columns = (_ALLOCATIONS.host_id, _ALLOCATIONS.kind, _ALLOCATIONS.resource_class)
    rows = connection.execute(
        sa.select(*columns, sa.func.sum(_ALLOCATIONS.amount)).group_by(*columns)
    )
    for host_id, kind, name, amount in rows:
        if amount:
            sums.setdefault((host_id, kind), {})[name] = int(amount)
    return sums


def _by_host(sums: _Sums) -> dict[str, dict[str, Amounts]]:
    found: dict[str, dict[str, Amounts]] = {}
    for (host_id, kind), amounts in sums.items():
        found.setdefault(host_id, {})[kind] = amounts
    return found


def _current(connection: Connection, kind: str, consumer_id: str) -> dict[str, tuple[str, int]]:
    """Host and amount by class."""
    rows = connection.execute(
        sa.select(_ALLOCATIONS.host_id, _ALLOCATIONS.resource_class, _ALLOCATIONS.amount).where(
            _ALLOCATIONS.consumer_id == consumer_id, _ALLOCATIONS.kind == kind
        )
    ).all()
    return {name: (host_id, amount) for host_id, name, amount in rows}


def _insert(connection: Connection, host_id: str, kind: str, taken: Mapping[str, Amounts]) -> None:
    run(connection, _inserting(host_id, kind, taken))


def _inserting(host_id: str, kind: str, taken: Mapping[str, Amounts]) -> list[AskRows]:
    """Writes what consumers take, and counts it."""
    of_host = {"kind": kind, "host_id": host_id}
    rows = [
        of_host | {"consumer_id": consumer_id, "resource_class": name, "amount": amount}
        for consumer_id, amounts in taken.items()
        for name, amount in sorted(amounts.items())
    ]
    sums = sorted(inventory.total(taken.values()).items())
    counts = [of_host | {"resource_class": name, "amount": amount} for name, amount in sums]
    return [AskRows(_ALLOCATE, rows), AskRows(_TAKE, counts)] if rows else []


def _bump(connection: Connection, host_id: str) -> None:
    connection.execute(
        tables.hosts.update()
        .where(_HOSTS.host_id == host_id)
        .values(generation=_HOSTS.generation + 1)
    )
