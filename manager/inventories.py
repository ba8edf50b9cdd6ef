"""Inventories as the contract shows them."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import capacity, inventory, shape_rows, tables
from manager.inventory import STORAGE, Amounts, HostView
from manager.settings.hosts import AgentSettings, ClassSettings
from manager.store import moment
from watari.v1 import manager_pb2


def page(
    connection: Connection,
    agents: dict[str, AgentSettings],
    pool: dict[str, ClassSettings],
    *,
    after: str,
    limit: int,
) -> list[manager_pb2.Inventory]:
    """Inventories by host id, after a host; that of the pool, if there is one, comes first."""
    rows = connection.execute(sa.select(tables.hosts.c.host_id, tables.hosts.c.seen_at)).all()
    seen = {row.host_id: row.seen_at for row in rows}
    hosts = capacity.views(connection, agents)
    if pool:
        hosts = [capacity.pool(connection, pool), *hosts]
    shapes = shape_rows.every(connection)
    hosts = [host for host in hosts if host.host_id > after]
    return [
        _message(host, seen[host.host_id], shapes[host.host_id].message()) for host in hosts[:limit]
    ]


def _message(host: HostView, seen_at: int, shape: manager_pb2.ClassShape) -> manager_pb2.Inventory:
    shown = manager_pb2.Inventory(
        host_id=host.host_id,
        total=inventory.to_resources(host.total),
        reserved=inventory.to_resources(host.reserved),
        allocation_ratio=dict(host.ratios),
        allocated=inventory.to_resources(host.allocated),
        held=inventory.to_resources(host.held),
        free=inventory.to_resources(_writable(host.free)),
        generation=host.generation,
        reachable=host.reachable,
        units={
            name: manager_pb2.UnitBounds(least=each.least, most=each.most, step=each.step)
            for name, each in host.units.items()
        },
        traits=sorted(host.traits),
    )
    if shape.ByteSize():
        shown.shape.CopyFrom(shape)
    shown.seen_at.FromDatetime(moment(seen_at))
    return shown


def _writable(free: Amounts) -> Amounts:
    """What is free as an operator understands it: no more disk than can really be written."""
    return free | {inventory.DISK: min(free.get(inventory.DISK, 0), free[STORAGE])}
