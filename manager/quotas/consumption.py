"""What tenants consume: the rows that capacity counts, by tenant. In the caller's transaction.

A machine that arrives is a reservation until the one transaction that makes it a machine, and one
that leaves is a machine until the one that gives it away: it counts once at each moment.
"""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import capacity, inventory, tables
from manager.inventory import Amounts
from manager.ownership import Tenant
from manager.quotas.limits import MACHINES
from manager.reservation import LIVE

_ALLOCATIONS = tables.allocations.c
_VMS = tables.vms.c
_RESERVATIONS = tables.reservations.c


def of_tenant(connection: Connection, cloud_id: str, tenant: Tenant) -> Amounts:
    """What one tenant consumes."""
    return _by_tenant(connection, cloud_id, tenant).get(tenant, {})


def by_tenant(connection: Connection, cloud_id: str) -> dict[Tenant, Amounts]:
    """What every tenant consumes that consumes anything."""
    return _by_tenant(connection, cloud_id, None)


def _by_tenant(connection: Connection, cloud_id: str, only: Tenant | None) -> dict[Tenant, Amounts]:
    parts: dict[Tenant, list[Amounts]] = {}
    live = _RESERVATIONS.state.in_([state.value for state in LIVE])
    counted = (
        (capacity.VM, _VMS, _VMS.vm_id, sa.true(), _VMS.cloud_id == cloud_id),
        (capacity.RESERVATION, _RESERVATIONS, _RESERVATIONS.reservation_id, live, live),
    )
    for kind, rows, key, taking, there in counted:
        whose = (rows.tenant_domain, rows.tenant)
        mine: sa.ColumnElement[bool] = sa.true()
        if only is not None:
            mine = (rows.tenant_domain == only.domain) & (rows.tenant == only.name)
        takes = (
            sa.select(*whose, _ALLOCATIONS.resource_class, sa.func.sum(_ALLOCATIONS.amount))
            .join(tables.allocations, _ALLOCATIONS.consumer_id == key)
            .where(_ALLOCATIONS.kind == kind, taking, mine)
            .group_by(*whose, _ALLOCATIONS.resource_class)
        )
        number = sa.select(*whose, sa.literal(MACHINES), sa.func.count()).where(there, mine)
        for query in (takes, number.group_by(*whose)):
            for domain, name, resource_class, amount in connection.execute(query):
                if resource_class != inventory.STORAGE:
                    part = {resource_class: int(amount)}
                    parts.setdefault(Tenant(domain, name), []).append(part)
    return {tenant: inventory.total(each) for tenant, each in parts.items()}
