"""The rows of machines: who owns them, where they are, what moves them.

Every function runs in the caller's transaction; none decides.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from manager import capacity, inventory, store, tables
from manager.ownership import View
from manager.shapes import Shape
from manager.statements import Ask, Statement, Told, padded
from manager.within import within
from watari import errors
from watari.v1 import agent_pb2, common_pb2, manager_pb2

_VMS = tables.vms.c
_NAMES = [column.name for column in _VMS]

HANDED_OVER = "HANDED_OVER"
"""As `manager.saga.states.State`, which is above this module."""

Position = tuple[str, str]
"""Name and UUID of the last machine of a page."""


@dataclass(frozen=True)
class VmRow:
    """A machine that this cloud owns or once owned."""

    vm_id: str
    name: str
    cloud_id: str
    """The owner."""

    epoch: int
    host_id: str
    tenant_domain: str
    """The provider whose tenant it is: the own one, or the one that it came from."""

    tenant: str
    migration_id: str | None
    body: manager_pb2.Vm
    """State, resources, disks and problem; what has a column is not set in it."""

    seen_at: int
    """Microseconds since 1970."""

    def message(self) -> manager_pb2.Vm:
        """The machine as the contract shows it."""
        vm = manager_pb2.Vm()
        vm.CopyFrom(self.body)
        vm.vm_id, vm.name, vm.cloud_id = self.vm_id, self.name, self.cloud_id
        vm.host_id, vm.epoch = self.host_id, self.epoch
        vm.tenant_domain, vm.tenant = self.tenant_domain, self.tenant
        vm.migration_id = self.migration_id or ""
        vm.seen_at.FromDatetime(store.moment(self.seen_at))
        return vm


def get(connection: Connection, vm_id: str) -> VmRow | None:
    """The row of a machine, whoever owns it now."""
    return _one(connection, sa.select(tables.vms).where(_VMS.vm_id == vm_id))


def finding(vm_ids: Collection[str]) -> Ask:
    """Reads the rows of machines; `found` tells them."""
    keys = padded(vm_ids)
    return Ask(_find(len(keys)), {f"key{number}": key for number, key in enumerate(keys)})


def found(told: Told) -> dict[str, VmRow]:
    """What `finding` read, by id, where there is any."""
    rows = [_row(dict(zip(_NAMES, row, strict=True))) for row in told.rows]
    return {row.vm_id: row for row in rows}


def find(connection: Connection, cloud_id: str, key: str, view: View) -> VmRow:
    """The machine of the view that the cloud owns by UUID or name. One outside of the view is not
    there, whatever is asked.

    Raises NotFound VM_NOT_FOUND (with where it went, if it did) and FailedPrecondition
    VM_NAME_AMBIGUOUS.
    """
    seen = sa.select(tables.vms).where(within(_VMS, view))
    named = seen.where(_VMS.cloud_id == cloud_id, _VMS.name == key).limit(2)
    by_id = _one(connection, seen.where(_VMS.vm_id == key))
    if by_id is not None and by_id.cloud_id == cloud_id:
        return by_id
    rows = connection.execute(named).mappings().all()
    if len(rows) > 1:
        raise errors.FailedPrecondition(
            "VM_NAME_AMBIGUOUS",
            f"several machines of cloud {cloud_id} are named {key!r}",
            hint="use the UUID",
            vm=key,
        )
    if not rows:
        raise _not_found(cloud_id, key, by_id)
    return _row(rows[0])


def owned(
    connection: Connection,
    cloud_id: str,
    view: View,
    *,
    vm_ids: Sequence[str] = (),
    after: Position | None,
    limit: int,
) -> list[VmRow]:
    """Machines of the view that the cloud owns, by name, then UUID, after a position; only those of
    `vm_ids` where there are any.
    """
    query = sa.select(tables.vms).where(_VMS.cloud_id == cloud_id, within(_VMS, view))
    if vm_ids:
        query = query.where(_VMS.vm_id.in_(vm_ids))
    if after is not None:
        # Two comparisons instead of one of row values, which not every database orders alike.
        query = query.where(
            (_VMS.name > after[0]) | ((_VMS.name == after[0]) & (_VMS.vm_id > after[1]))
        )
    rows = connection.execute(query.order_by(_VMS.name, _VMS.vm_id).limit(limit)).mappings()
    return [_row(row) for row in rows]


def on_host(connection: Connection, cloud_id: str, host_id: str) -> list[VmRow]:
    """Machines that the cloud owns and that are on a host."""
    query = sa.select(tables.vms).where(_VMS.cloud_id == cloud_id, _VMS.host_id == host_id)
    return [_row(row) for row in connection.execute(query).mappings()]


def handed_over(connection: Connection) -> list[VmRow]:
    """Machines that were given away, to a cloud that has not said yet that it keeps them."""
    moved = tables.migrations.c
    query = sa.select(tables.vms).join(
        tables.migrations, (moved.vm_id == _VMS.vm_id) & (moved.migration_id == _VMS.migration_id)
    )
    rows = connection.execute(query.where(moved.state == HANDED_OVER))
    return [_row(row) for row in rows.mappings()]


def put(connection: Connection, vm: VmRow, *, counted: bool) -> None:
    """Write a row in place of any other of the machine; `counted` machines consume their host."""
    connection.execute(tables.vms.delete().where(_VMS.vm_id == vm.vm_id))
    connection.execute(
        tables.vms.insert().values(
            vm_id=vm.vm_id,
            name=vm.name,
            cloud_id=vm.cloud_id,
            epoch=vm.epoch,
            host_id=vm.host_id,
            tenant_domain=vm.tenant_domain,
            tenant=vm.tenant,
            migration_id=vm.migration_id,
            body=vm.body.SerializeToString(deterministic=True),
            seen_at=vm.seen_at,
        )
    )
    if counted:
        capacity.record(connection, vm.host_id, capacity.VM, vm.vm_id, consumed(vm.body))
    else:
        capacity.give_back(connection, capacity.VM, vm.vm_id)


def touch(connection: Connection, vm_id: str, seen_at: int) -> None:
    """The machine was seen as it was before."""
    connection.execute(tables.vms.update().where(_VMS.vm_id == vm_id).values(seen_at=seen_at))


def claim(connection: Connection, vm_id: str, migration_id: str) -> bool:
    """Make a migration the one that moves a machine; False when another one does already."""
    changed = connection.execute(
        tables.vms.update()
        .where(_VMS.vm_id == vm_id, _VMS.migration_id.is_(None))
        .values(migration_id=migration_id)
    )
    return changed.rowcount == 1


def unclaim(connection: Connection, vm_id: str, migration_id: str) -> None:
    """The migration does not move the machine any more; nothing when another one does."""
    connection.execute(
        tables.vms.update()
        .where(_VMS.vm_id == vm_id, _VMS.migration_id == migration_id)
        .values(migration_id=None)
    )


def give_away(
    connection: Connection, vm_id: str, *, from_cloud: str, to_cloud: str, epoch: int
) -> bool:
    """Record another cloud as the owner, at `epoch`; False when this one does not hold epoch - 1.

    The machine goes on consuming its host until `vacate`: the other cloud may still give it back.
    """
    changed = connection.execute(
        tables.vms.update()
        .where(_VMS.vm_id == vm_id, _VMS.cloud_id == from_cloud, _VMS.epoch == epoch - 1)
        .values(cloud_id=to_cloud, epoch=epoch)
    )
    return changed.rowcount == 1


def vacate(connection: Connection, vm_id: str, cloud_id: str) -> None:
    """A machine that was given away does not come back: it stops consuming its host, unless it is
    this cloud's again by another migration.
    """
    row = get(connection, vm_id)
    if row is None or row.cloud_id != cloud_id:
        capacity.give_back(connection, capacity.VM, vm_id)


def take_back(
    connection: Connection, vm_id: str, *, to_cloud: str, from_cloud: str, epoch: int
) -> bool:
    """Record this cloud (`to_cloud`) as the owner again, at `epoch`; False when `from_cloud` does
    not hold epoch - 1. The machine consumes its host as before.
    """
    changed = connection.execute(
        tables.vms.update()
        .where(_VMS.vm_id == vm_id, _VMS.cloud_id == from_cloud, _VMS.epoch == epoch - 1)
        .values(cloud_id=to_cloud, epoch=epoch)
    )
    row = get(connection, vm_id)
    if changed.rowcount != 1 or row is None:
        return False
    capacity.record(connection, row.host_id, capacity.VM, vm_id, consumed(row.body))
    return True


def consumed(body: manager_pb2.Vm) -> inventory.Amounts:
    """What a machine takes. A definition may ask for any number; sums must stay within 64 bits."""
    asked = inventory.amounts(body.resources)
    return {name: min(amount, inventory.AMOUNT_MAX) for name, amount in asked.items()}


def seen(
    told: common_pb2.Resources, known: manager_pb2.Vm | None, shape: Shape
) -> common_pb2.Resources:
    """What a machine has by the classes' present names, of what its host tells of it and of what
    was known.
    """
    before = {} if known is None else inventory.amounts(known.resources)
    # A class that is said to be zero is told of all the same.
    amounts = dict(told.other) | inventory.amounts(told)
    return inventory.to_resources(shape.seen(amounts, before))


def reshape(connection: Connection, vm: VmRow, resources: common_pb2.Resources) -> None:
    """The machine has the same by other names: in a transaction in which nothing else changes."""
    body = manager_pb2.Vm()
    body.CopyFrom(vm.body)
    body.resources.CopyFrom(resources)
    connection.execute(
        tables.vms.update()
        .where(_VMS.vm_id == vm.vm_id)
        .values(body=body.SerializeToString(deterministic=True))
    )


def _not_found(cloud_id: str, key: str, elsewhere: VmRow | None) -> errors.NotFound:
    hint = "list the machines of this cloud"
    if elsewhere is not None:
        hint = f"it was handed over to cloud {elsewhere.cloud_id}: ask there"
    return errors.NotFound("VM_NOT_FOUND", f"no machine {key!r} in cloud {cloud_id}", hint=hint)


def _one(connection: Connection, query: "sa.Select[Any]") -> VmRow | None:
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _row(row)


@cache
def _find(keys: int) -> Statement:
    wanted: list[Any] = [sa.bindparam(f"key{each}") for each in range(keys)]
    return Statement(sa.select(tables.vms).where(_VMS.vm_id.in_(wanted)))


def _row(row: RowMapping | dict[str, Any]) -> VmRow:
    values = dict(row)
    values["body"] = manager_pb2.Vm.FromString(values["body"])
    return VmRow(**values)


_STATES = {
    agent_pb2.GUEST_STATE_SHUT_OFF: "shut off",
    agent_pb2.GUEST_STATE_RUNNING: "running",
    agent_pb2.GUEST_STATE_PAUSED: "paused",
}


def state_text(state: agent_pb2.GuestState.ValueType) -> str:
    """The word for a guest's state, as hypervisors say it."""
    return _STATES.get(state, "unknown")
