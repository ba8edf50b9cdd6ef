"""The rows that name resource classes: read and renamed, in the caller's transaction.

What is counted as taken is to be counted anew afterwards.
"""

from collections.abc import Callable, Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import capacity, inventory, reservation_rows, tables, vms
from manager.inventory import Amounts
from manager.quotas import rows as quota_rows
from manager.reservation import OPEN
from watari.v1 import manager_pb2

_ALLOCATIONS = tables.allocations.c
_RESERVATIONS = tables.reservations.c

Taken = dict[tuple[str, str], dict[str, tuple[str, int]]]
"""Host and amount by class, by kind and id of the consumer."""


def classes_taken(connection: Connection, host_id: str | None = None) -> frozenset[str]:
    """Every class of which somebody takes something, of one host or of any."""
    query = sa.select(_ALLOCATIONS.resource_class).distinct()
    if host_id is not None:
        query = query.where(_ALLOCATIONS.host_id == host_id)
    return frozenset(connection.scalars(query))


def taken_of(connection: Connection, classes: Collection[str], host_id: str | None) -> Taken:
    """Who takes something of these classes, of one host or of all, and what of each of them."""
    query = sa.select(tables.allocations).where(_ALLOCATIONS.resource_class.in_(classes))
    if host_id is not None:
        query = query.where(_ALLOCATIONS.host_id == host_id)
    found: Taken = {}
    for row in connection.execute(query):
        of_consumer = found.setdefault((row.kind, row.consumer_id), {})
        of_consumer[row.resource_class] = row.host_id, row.amount
    return found


def rewrite(
    connection: Connection,
    consumer: tuple[str, str],
    taken: dict[str, tuple[str, int]],
    change: Callable[[Amounts], Amounts],
) -> None:
    """What a consumer takes, `taken` of it of the classes that change, is called otherwise: in its
    allocations, all of one host, and in what is written down of it.
    """
    kind, key = consumer
    ((host_id),) = {host for host, _ in taken.values()}
    connection.execute(
        tables.allocations.delete().where(
            _ALLOCATIONS.kind == kind,
            _ALLOCATIONS.consumer_id == key,
            _ALLOCATIONS.resource_class.in_(list(taken)),
        )
    )
    named = {"kind": kind, "consumer_id": key, "host_id": host_id}
    amounts = change({name: amount for name, (_, amount) in taken.items()})
    connection.execute(
        tables.allocations.insert(),
        [named | {"resource_class": name, "amount": each} for name, each in amounts.items()],
    )
    if kind == capacity.VM:
        vm = vms.get(connection, key)
        if vm is not None:
            asked = change(inventory.amounts(vm.body.resources))
            vms.reshape(connection, vm, inventory.to_resources(asked))
        return
    row = reservation_rows.get(connection, key)
    if row is not None:
        needs = inventory.to_resources(change(inventory.amounts(row.needs)))
        reservation_rows.reshape(connection, row, needs)


def rename_in_quotas(connection: Connection, old: str, new: str) -> int:
    """Quotas limit the class by its new name; how many do."""
    count = 0
    for tenant, row in quota_rows.every(connection).items():
        assert row.quota is not None  # noqa: S101 - `every` reads no others
        quota = manager_pb2.Quota()
        quota.CopyFrom(row.quota)
        for limits in (quota.hard, quota.soft):
            if old in limits.other:
                limits.other[new] = limits.other.pop(old)
        if quota != row.quota:
            quota_rows.write(connection, row, tenant, quota, row.request_id)
            count += 1
    return count


def pinned(connection: Connection) -> frozenset[int]:
    """The price sheets by which machines would be charged that are to come."""
    states = [state.value for state in OPEN]
    query = sa.select(_RESERVATIONS.price_version).where(_RESERVATIONS.state.in_(states))
    return frozenset(connection.scalars(query.distinct()))
