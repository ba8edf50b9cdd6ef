"""What an evacuation's plan depends on, read from the database in one snapshot."""

from collections.abc import Collection
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import tables, vms
from manager.evacuations import rows
from manager.evacuations.planning import Present, Situation, Standing
from manager.evacuations.rows import Evacuation, Machine, Stage
from manager.saga import records
from manager.store import micros
from watari.v1 import agent_pb2, common_pb2, manager_pb2

_VMS = tables.vms.c


def situation(
    connection: Connection, cloud_id: str, evacuation: Evacuation, now: datetime
) -> Situation:
    """All of it. The minute of the day is that of this host's own time zone."""
    machines = rows.machines(connection, evacuation.evacuation_id)
    local = now.astimezone()
    return Situation(
        evacuation=evacuation,
        machines=machines,
        present=_present(connection, cloud_id, evacuation.request.host_id, machines),
        migrations={
            record.migration_id: Standing(record.state, record.problem)
            for machine in machines.values()
            if machine.stage is Stage.RUNNING
            and (record := records.get(connection, machine.migration_id)) is not None
        },
        now=micros(now),
        minute=local.hour * 60 + local.minute,
    )


def mode(
    connection: Connection, evacuation: Evacuation, machine: Machine
) -> common_pb2.MigrationMode.ValueType:
    """What was asked for; a machine that is off has no memory to save and moves as it is."""
    asked = evacuation.request.mode
    found = vms.get(connection, machine.vm_id)
    off = vms.state_text(agent_pb2.GUEST_STATE_SHUT_OFF)
    if asked == common_pb2.MIGRATION_MODE_SUSPEND and found and found.body.state == off:
        return common_pb2.MIGRATION_MODE_COLD
    return asked


def _present(
    connection: Connection, cloud_id: str, host_id: str, known: Collection[str]
) -> dict[str, Present]:
    """What is there to be moved. Sizes only of machines that are new: they need the body."""
    there = [_VMS.cloud_id == cloud_id, *([_VMS.host_id == host_id] if host_id else [])]
    query = sa.select(_VMS.vm_id, _VMS.name, _VMS.migration_id).where(*there)
    rows_there = connection.execute(query).all()
    new = {row.vm_id for row in rows_there if row.vm_id not in known}
    sizes: dict[str, int] = {}
    if new:
        bodies = connection.execute(sa.select(_VMS.vm_id, _VMS.body).where(*there)).all()
        sizes = {row.vm_id: _disk_bytes(row.body) for row in bodies if row.vm_id in new}
    return {
        row.vm_id: Present(row.vm_id, row.name, sizes.get(row.vm_id, 0), row.migration_id or "")
        for row in rows_there
    }


def _disk_bytes(body: bytes) -> int:
    return sum(disk.allocated_bytes for disk in manager_pb2.Vm.FromString(body).disks)
