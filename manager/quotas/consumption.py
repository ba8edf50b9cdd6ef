"""What tenants consume: the rows that capacity counts, by tenant. In the caller's transaction.

A machine that arrives is a reservation until the one transaction that makes it a machine, and one
that leaves is a machine until the one that gives it away: it counts once at each moment.
"""

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import capacity, inventory, reservation_rows, tables
from manager.inventory import Amounts
from manager.ownership import Tenant
from manager.quotas.limits import MACHINES

_ALLOCATIONS = tables.allocations.c
_VMS = tables.vms.c


def of_tenant(connection: Connection, cloud_id: str, tenant: Tenant) -> Amounts:
    """What one tenant consumes."""
    mine = (_VMS.tenant_domain == tenant.domain) & (_VMS.tenant == tenant.name)
    return _by_tenant(connection, cloud_id, mine, tenant).get(tenant, {})


def by_tenant(connection: Connection, cloud_id: str) -> dict[Tenant, Amounts]:
    """What every tenant consumes that consumes anything."""
    return _by_tenant(connection, cloud_id, sa.true(), None)


def _by_tenant(
    connection: Connection,
    cloud_id: str,
    mine: sa.ColumnElement[bool],
    only: Tenant | None,
) -> dict[Tenant, Amounts]:
    parts: dict[Tenant, list[Amounts]] = {}
    columns = (_VMS.tenant_domain, _VMS.tenant)
    for domain, name, resource_class, amount in connection.execute(
        sa.select(*columns, _ALLOCATIONS.resource_class, sa.func.sum(_ALLOCATIONS.amount))
        .join(tables.allocations, _ALLOCATIONS.consumer_id == _VMS.vm_id)
        .where(_ALLOCATIONS.kind == capacity.VM, mine)
        .group_by(*columns, _ALLOCATIONS.resource_class)
    ):
        parts.setdefault(Tenant(domain, name), []).append({resource_class: int(amount)})
    for domain, name, machines in connection.execute(
        sa.select(*columns, sa.func.count())
        .where(_VMS.cloud_id == cloud_id, mine)
        .group_by(*columns)
    ):
        parts.setdefault(Tenant(domain, name), []).append({MACHINES: machines})
    for tenant, amounts in _arriving(connection, only):
        parts.setdefault(tenant, []).append(amounts)
    return {tenant: inventory.total(each) for tenant, each in parts.items()}


def _arriving(connection: Connection, only: Tenant | None) -> Iterable[tuple[Tenant, Amounts]]:
    """What live reservations hold, each with its tenant, which stands in its request."""
    held: dict[str, Amounts] = {}
    for consumer_id, resource_class, amount in connection.execute(
        sa.select(_ALLOCATIONS.consumer_id, _ALLOCATIONS.resource_class, _ALLOCATIONS.amount).where(
            _ALLOCATIONS.kind == capacity.RESERVATION,
            _ALLOCATIONS.resource_class != inventory.STORAGE,
        )
    ):
        held.setdefault(consumer_id, {})[resource_class] = amount
    for reservation_id, tenant in reservation_rows.live_tenants(connection):
        if only is None or tenant == only:
            yield tenant, held.get(reservation_id, {}) | {MACHINES: 1}
