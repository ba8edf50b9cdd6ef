"""At the source: an operator ends a migration whose other side is gone for good.

Nobody is asked: the operator's word takes the place of the destination's. If that is wrong there
are two machines, or none; what each decision costs is in the audit log with who made it and why.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import audit, outbox, tables, vms
from manager.saga import handing, records, returning
from manager.saga.copying import StepFailed
from manager.saga.driver import Driver
from manager.saga.record import Record
from manager.saga.recording import Recorder
from manager.saga.states import CANCELLABLE, State
from watari import errors, failpoint
from watari.v1 import common_pb2, manager_pb2

AFTER_RESOLVE = failpoint.declare("manager.saga.after_resolve")

KEEP = manager_pb2.RESOLUTION_KEEP_HERE
GIVE_UP = manager_pb2.RESOLUTION_GIVE_UP_HERE
Decided: TypeAlias = "manager_pb2.Resolution.ValueType"


class Way(Enum):
    """What a resolution does to a migration."""

    TAKE_BACK = auto()
    LEAVE = auto()
    END = auto()
    """Without retiring the copy here."""

    NOTHING = auto()
    """It was decided before."""


CONSEQUENCES = {
    Way.TAKE_BACK: "lives here again; if the destination runs it there are two",
    Way.LEAVE: "lives at the destination; if it is not there, only the retained copy is left",
    Way.END: "lives at the destination; the copy on the lost host is never retired",
}


@dataclass(frozen=True)
class Word:
    """What an operator says."""

    resolution: "Decided"
    justification: str
    operator: str


def decide(record: Record, resolution: "Decided", *, host_answers: bool) -> Way:
    """What follows from a resolution. Raises FailedPrecondition MIGRATION_STATE, with what would be
    possible, where it is not for an operator to decide.
    """
    match (record.state, resolution):
        case (State.HANDED_OVER, manager_pb2.RESOLUTION_KEEP_HERE):
            return Way.TAKE_BACK
        case (State.HANDED_OVER, manager_pb2.RESOLUTION_GIVE_UP_HERE):
            return Way.LEAVE
        case (State.RETIRING, manager_pb2.RESOLUTION_GIVE_UP_HERE) if not host_answers:
            return Way.END
    if record.resolution == resolution:
        return Way.NOTHING
    raise errors.FailedPrecondition(
        "MIGRATION_STATE",
        f"a migration in {record.state} is not resolved so",
        hint=_possible(record.state),
        state=record.state,
    )


class Resolving:
    """Resolves migrations that leave this cloud."""

    def __init__(self, recorder: Recorder, driver: Driver) -> None:
        self._recorder = recorder
        self._driver = driver

    def find(self, migration_id: str) -> Record | None:
        """A migration that leaves this cloud, or None."""
        with self._recorder.store.read() as connection:
            return records.get(connection, migration_id)

    def resolve(self, migration_id: str, word: Word) -> Record:
        """Do as the operator says; idempotent. Raises as `decide`, and Conflict
        GENERATION_CONFLICT when the migration went on meanwhile, FailedPrecondition EPOCH_MISMATCH
        when the machine is not the destination's.
        """
        recorder = self._recorder
        with recorder.store.write() as connection:
            record = records.require(connection, migration_id)
            answers = _answers(connection, record.host_id)
            way = decide(record, word.resolution, host_answers=answers)
            if way is Way.NOTHING:
                return record
            try:
                resolved = self._go(connection, record, way, word)
            except StepFailed as failed:
                raise failed.error from failed
            self._note(connection, record, way, word)
        failpoint.hit(AFTER_RESOLVE)
        recorder.announce(resolved)
        self._driver.interrupt(migration_id)
        return resolved

    def _go(self, connection: Connection, record: Record, way: Way, word: Word) -> Record:
        recorder = self._recorder
        if way is Way.LEAVE:
            return handing.leave(connection, record, recorder, resolution=word.resolution)
        if way is Way.TAKE_BACK:
            assert record.reserve_request is not None  # noqa: S101 - nothing commits without one
            release = outbox.OwedCall(
                outbox.Kind.RELEASE,
                record.migration_id,
                record.to_cloud,
                record.reserve_request.reservation_id,
            )
            # Should the destination come back and not have heard of it, its room is free again.
            outbox.owe(connection, release, recorder.now())
            return returning.take_back(
                connection, record, recorder, problem=_problem(word), resolution=word.resolution
            )
        ended = records.advance(
            connection,
            record,
            State.SUCCEEDED,
            recorder.now(),
            actor=recorder.actor,
            resolution=word.resolution,
        )
        vms.unclaim(connection, record.vm_id, record.migration_id)
        return ended

    def _note(self, connection: Connection, record: Record, way: Way, word: Word) -> None:
        audit.append(
            connection,
            self._recorder.now(),
            actor=word.operator,
            action="migration.resolved",
            subject=record.migration_id,
            details=told(record.vm_id, record.state, word, CONSEQUENCES[way]),
        )


def told(vm_id: str, state: str, word: Word, consequence: str) -> dict[str, object]:
    """What the audit log says of a resolution."""
    return {
        "vm_id": vm_id,
        "state": state,
        "resolution": manager_pb2.Resolution.Name(word.resolution).removeprefix("RESOLUTION_"),
        "justification": word.justification,
        "consequence": consequence,
    }


def _problem(word: Word) -> common_pb2.Problem:
    return errors.to_problem(
        errors.FailedPrecondition(
            "MIGRATION_RESOLVED",
            f"{word.operator} decided that the machine lives here: {word.justification}",
            hint="make sure that the destination never runs its copy",
        )
    )


def _possible(state: State) -> str:
    if state in CANCELLABLE:
        return "it has not committed: cancel it"
    return {
        State.RETIRING: "the machine is the destination's; GIVE_UP_HERE ends it once the host here "
        "is gone",
        State.ROLLING_BACK: "it ends by itself, also when its destination is gone: calls are owed",
        State.TAKING_BACK: "the machine is this cloud's; it ends when the host here answers",
    }.get(state, "it has ended")


def _answers(connection: Connection, host_id: str) -> bool:
    hosts = tables.hosts.c
    query = sa.select(hosts.reachable).where(hosts.host_id == host_id)
    return bool(connection.scalar(query))
