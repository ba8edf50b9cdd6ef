"""The rows of evacuations and of their machines. Runs in the caller's transaction; decides nothing.

Ids of migrations are not stored: they follow from evacuation, machine and number of the attempt,
so that what was begun is begun again under the same id after a crash.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from manager import store
from manager.evacuations import tables
from watari import errors
from watari.v1 import common_pb2, manager_pb2

FAILURES_SHOWN_MAX = 100
"""Machines that could not be moved, as the contract shows them."""

MIGRATIONS_SHOWN_MAX = 50_000
"""Migration ids in one message: 1.9 MB, half of what a control message may have."""

_EVACUATIONS = tables.evacuations.c
_MACHINES = tables.evacuation_machines.c


class Stage(StrEnum):
    """Where a machine of an evacuation stands."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    """A migration of this evacuation moves it, or is about to be recorded."""

    ARRIVED = "ARRIVED"
    FAILED = "FAILED"
    """It could not be moved, and is not tried again."""

    GONE = "GONE"
    """It went away without this evacuation."""


OPEN = (Stage.WAITING, Stage.RUNNING)
"""Stages of what still has to go."""


@dataclass(frozen=True)
class Evacuation:
    """An evacuation as it is on disk. Moments are microseconds since 1970."""

    evacuation_id: str
    requested_by: str
    request: manager_pb2.StartEvacuationRequest
    created_at: int
    cancelled: bool = False
    ended_at: int | None = None

    @property
    def to_clouds(self) -> list[str]:
        """Where to, in order."""
        return list(self.request.to_clouds) or [self.request.to_cloud]


@dataclass(frozen=True)
class Machine:
    """A machine of an evacuation as it is on disk."""

    evacuation_id: str
    vm_id: str
    vm_name: str
    disk_bytes: int
    """What its disks take, when it was found."""

    stage: Stage = Stage.WAITING
    destination: int = 0
    """Which of the clouds it goes to, or is to go to."""

    tries: int = 0
    """Migrations to that cloud."""

    attempts: int = 0
    """Migrations in all: the number of the last one."""

    due_at: int = 0
    """No earlier than this is another one begun."""

    changed_at: int = 0
    problem: common_pb2.Problem | None = None
    """Why the last one failed."""

    @property
    def migration_id(self) -> str:
        """Its last migration; empty when none began."""
        return migration_id(self.evacuation_id, self.vm_id, self.attempts) if self.attempts else ""


def migration_id(evacuation_id: str, vm_id: str, attempt: int) -> str:
    """The id of one attempt to move a machine: the same after every restart."""
    return str(uuid.uuid5(uuid.UUID(evacuation_id), f"{vm_id}/{attempt}"))


def insert(connection: Connection, new: Evacuation) -> None:
    """Write a new evacuation."""
    connection.execute(
        tables.evacuations.insert().values(
            evacuation_id=new.evacuation_id,
            requested_by=new.requested_by,
            request=new.request.SerializeToString(deterministic=True),
            cancelled=new.cancelled,
            created_at=new.created_at,
            ended_at=new.ended_at,
        )
    )


def get(connection: Connection, evacuation_id: str) -> Evacuation | None:
    """The evacuation, or None."""
    query = sa.select(tables.evacuations).where(_EVACUATIONS.evacuation_id == evacuation_id)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _evacuation(row)


def require(connection: Connection, evacuation_id: str) -> Evacuation:
    """The evacuation. Raises NotFound EVACUATION_NOT_FOUND."""
    found = get(connection, evacuation_id)
    if found is None:
        raise errors.NotFound(
            "EVACUATION_NOT_FOUND",
            f"no evacuation {evacuation_id} of this cloud",
            hint="ask the cloud that is evacuated",
            evacuation_id=evacuation_id,
        )
    return found


def active(connection: Connection) -> list[Evacuation]:
    """Those that have not ended, oldest first."""
    query = sa.select(tables.evacuations).where(_EVACUATIONS.ended_at.is_(None))
    ordered = query.order_by(_EVACUATIONS.created_at, _EVACUATIONS.evacuation_id)
    return [_evacuation(row) for row in connection.execute(ordered).mappings()]


def cancel(connection: Connection, evacuation_id: str) -> None:
    """No further migration is started."""
    _change(connection, evacuation_id, cancelled=True)


def end(connection: Connection, evacuation_id: str, now: int) -> None:
    """It has ended."""
    _change(connection, evacuation_id, ended_at=now)


def machines(connection: Connection, evacuation_id: str) -> dict[str, Machine]:
    """All of its machines by UUID."""
    query = sa.select(tables.evacuation_machines).where(_MACHINES.evacuation_id == evacuation_id)
    rows = connection.execute(query).mappings()
    return {row["vm_id"]: _machine(row) for row in rows}


def put(connection: Connection, changed: Iterable[Machine]) -> None:
    """Write machines in place of what was there of them."""
    stored = [_stored(machine) for machine in changed]
    if not stored:
        return
    old = [{"old_id": each["evacuation_id"], "old_vm": each["vm_id"]} for each in stored]
    connection.execute(
        tables.evacuation_machines.delete().where(
            _MACHINES.evacuation_id == sa.bindparam("old_id"),
            _MACHINES.vm_id == sa.bindparam("old_vm"),
        ),
        old,
    )
    connection.execute(tables.evacuation_machines.insert(), stored)


def message(connection: Connection, evacuation: Evacuation) -> manager_pb2.Evacuation:
    """The evacuation as the contract shows it, without what it waits for."""
    request = evacuation.request
    found = sorted(
        machines(connection, evacuation.evacuation_id).values(),
        key=lambda machine: (machine.changed_at, machine.vm_id),
    )
    stages = [machine.stage for machine in found]
    shown = manager_pb2.Evacuation(
        evacuation_id=evacuation.evacuation_id,
        host_id=request.host_id,
        concurrency=request.concurrency,
        migration_ids=_migration_ids(found)[-MIGRATIONS_SHOWN_MAX:],
        remaining=sum(stage in OPEN for stage in stages),
        running=stages.count(Stage.RUNNING),
        succeeded=stages.count(Stage.ARRIVED),
        failed=stages.count(Stage.FAILED),
        done=evacuation.ended_at is not None,
        to_clouds=evacuation.to_clouds,
        mode=request.mode or common_pb2.MIGRATION_MODE_COLD,
        first=request.first,
        window=request.window if request.HasField("window") else None,
        options=request.options,
        cancelled=evacuation.cancelled,
        failures=_failures(found)[-FAILURES_SHOWN_MAX:],
    )
    shown.created_at.FromDatetime(store.moment(evacuation.created_at))
    if evacuation.ended_at is not None:
        shown.ended_at.FromDatetime(store.moment(evacuation.ended_at))
    return shown


def _migration_ids(found: Iterable[Machine]) -> list[str]:
    return [
        migration_id(machine.evacuation_id, machine.vm_id, attempt)
        for machine in found
        for attempt in range(1, machine.attempts + 1)
    ]


def _failures(found: Iterable[Machine]) -> list[manager_pb2.EvacuationFailure]:
    return [
        manager_pb2.EvacuationFailure(
            vm_id=machine.vm_id,
            vm_name=machine.vm_name,
            migration_id=machine.migration_id,
            problem=machine.problem,
        )
        for machine in found
        if machine.stage is Stage.FAILED
    ]


def _change(connection: Connection, evacuation_id: str, **values: object) -> None:
    connection.execute(
        tables.evacuations.update()
        .where(_EVACUATIONS.evacuation_id == evacuation_id)
        .values(**values)
    )


def _stored(machine: Machine) -> dict[str, Any]:
    values = {each.name: getattr(machine, each.name) for each in fields(machine)}
    if machine.problem is not None:
        values["problem"] = machine.problem.SerializeToString(deterministic=True)
    return values


def _evacuation(row: RowMapping) -> Evacuation:
    values = dict(row)
    values["request"] = manager_pb2.StartEvacuationRequest.FromString(values["request"])
    return Evacuation(**values)


def _machine(row: RowMapping) -> Machine:
    values = dict(row)
    values["stage"] = Stage(values["stage"])
    if values["problem"] is not None:
        values["problem"] = common_pb2.Problem.FromString(values["problem"])
    return Machine(**values)
