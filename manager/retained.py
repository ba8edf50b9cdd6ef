"""What the hosts keep of machines that were handed over: looked at, and deleted before its time."""

from sqlalchemy.engine import Connection

from manager import audit
from manager.agents import Agents
from manager.saga import records
from manager.store import Store, micros
from watari import errors
from watari.clock import Clock
from watari.identity import SpiffeId
from watari.v1 import manager_pb2

RETAINED_MAX = 10_000
"""Entries of one answer; the contract's number."""

TOLD_MAX = 8
"""Migrations that one entry of the audit log names; it tells how many there were."""


class RetainedCopies:
    """The retained copies on the hosts of one cloud."""

    def __init__(self, store: Store, clock: Clock, agents: Agents) -> None:
        self._store = store
        self._clock = clock
        self._agents = agents

    def find(self, vm_id: str) -> list[manager_pb2.RetainedVm]:
        """What is kept, by host, then by migration; of one machine if `vm_id` is not empty.

        Raises Unavailable while a host does not answer: what it keeps is not known.
        """
        found = [
            manager_pb2.RetainedVm(host_id=host_id, retained=kept)
            for host_id in self._agents.host_ids
            for kept in self._agents.retained(host_id)
            if vm_id in ("", kept.vm_id)
        ]
        found.sort(key=lambda each: (each.host_id, each.retained.migration_id))
        return found[:RETAINED_MAX]

    def purge(
        self, vm_id: str, migration_id: str, caller: SpiffeId
    ) -> list[manager_pb2.RetainedVm]:
        """Delete what is kept of a machine, by one migration if `migration_id` is not empty; what
        was. Nothing but retained copies is ever touched.

        Raises FailedPrecondition MIGRATION_STATE while such a migration has not ended, Unavailable
        while a host does not answer.
        """
        with self._store.read() as connection:
            _require_ended(connection, migration_id)
        found = [
            each for each in self.find(vm_id) if migration_id in ("", each.retained.migration_id)
        ]
        with self._store.read() as connection:
            for each in found:
                _require_ended(connection, each.retained.migration_id)
        purged = []
        try:
            for each in found:
                self._agents.purge(each.host_id, vm_id, each.retained.migration_id)
                purged.append(each)
        finally:
            if purged:
                self._note(vm_id, purged, caller)
        return purged

    def _note(self, vm_id: str, purged: "list[manager_pb2.RetainedVm]", caller: SpiffeId) -> None:
        migrations = [each.retained.migration_id for each in purged]
        with self._store.write() as connection:
            audit.append(
                connection,
                micros(self._clock.now()),
                actor=caller,
                action="vm.purged",
                subject=vm_id,
                details={
                    "copies": len(purged),
                    "migrations": " ".join(migrations[:TOLD_MAX]),
                    "hosts": " ".join(sorted({each.host_id for each in purged})[:TOLD_MAX]),
                },
            )


def _require_ended(connection: Connection, migration_id: str) -> None:
    record = records.get(connection, migration_id) if migration_id else None
    if record is not None and not record.final:
        raise errors.FailedPrecondition(
            "MIGRATION_STATE",
            f"migration {migration_id} is {record.state}: its copy is not to be deleted yet",
            hint="wait until it has ended",
            state=record.state,
        )
