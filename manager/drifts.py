"""Looks for drift, and repairs what is safe: nothing here starts, stops, deletes or disowns a
machine.
"""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import audit, capacity, drift, reservation_rows, shape_rows, tables, vms
from manager.agents import Agents
from manager.hosts import Hosts
from manager.reservation import ARRIVING
from manager.shapes import PLAIN
from manager.store import Store, micros
from watari import errors
from watari.clock import Clock
from watari.identity import SpiffeId
from watari.v1 import agent_pb2, manager_pb2

DRIFTS_MAX = 1000
"""Drifts that are told at a time, and repaired: the next look finds the others."""

_LOOKED_AT = (drift.UNKNOWN, drift.CHANGED)
"""What another look at the host repairs."""

_Placed = dict[drift.Consumer, tuple[str, dict[str, tuple[str, int]]]]
"""Host, and what is taken of whom by class, by consumer."""


class Drifts:
    """Compares what is written down with itself and with the hosts."""

    def __init__(
        self, cloud_id: str, store: Store, clock: Clock, agents: Agents, hosts: Hosts
    ) -> None:
        self._cloud_id = cloud_id
        self._store = store
        self._clock = clock
        self._agents = agents
        self._hosts = hosts

    def look(self, caller: SpiffeId, *, repair: bool) -> list[manager_pb2.Drift]:
        """Every drift; with `repair` what can safely be done is done, and is in the audit log."""
        found = self._of_hosts()
        if repair:
            for host_id in sorted({each.host_id for each in found if each.kind in _LOOKED_AT}):
                self._hosts.poll_one(host_id)
            left = [_key(each) for each in self._of_hosts()] if found else []
            for each in found:
                each.repaired = bool(each.repair) and _key(each) not in left
            with self._store.write() as connection:
                expected = self._expected(connection)
                allocations = self._of_allocations(connection, expected)
                counts = self._of_counts(connection, allocations)
                if allocations or counts:  # First: what is then repaired is counted from there.
                    capacity.count_anew(connection)
                for each in counts:
                    each.repaired = True
                for each in allocations:
                    self._repair(connection, each, expected)
                for each in [*found, *allocations, *counts]:
                    self._note(connection, each, caller)
        else:
            with self._store.read() as connection:
                allocations = self._of_allocations(connection, self._expected(connection))
                counts = self._of_counts(connection, allocations)
        return [*allocations, *counts, *found][:DRIFTS_MAX]

    def _of_hosts(self) -> list[manager_pb2.Drift]:
        asked_at = micros(self._clock.now())
        listed = {host_id: self._guests(host_id) for host_id in self._agents.host_ids}
        with self._store.read() as connection:
            rows = [
                row
                for host_id in listed
                for row in vms.on_host(connection, self._cloud_id, host_id)
            ]
            known = {row.vm_id for row in rows}
            for guests in listed.values():
                others = [each.vm_id for each in guests or () if each.vm_id not in known]
                rows += [row for key in others if (row := vms.get(connection, key)) is not None]
            shapes = shape_rows.every(connection)
            arriving = {
                row.vm_id for row in reservation_rows.live(connection) if row.state in ARRIVING
            }
        machines = [
            drift.Machine(
                row.vm_id,
                row.cloud_id == self._cloud_id,
                row.host_id,
                row.body.resources,
                settled=row.seen_at < asked_at and row.migration_id is None,
            )
            for row in rows
        ]
        bodies = {row.vm_id: row.body for row in rows}
        for host_id, guests in listed.items():
            shape = shapes.get(host_id, PLAIN)
            for guest in guests or ():
                body = bodies.get(guest.vm_id)
                guest.resources.CopyFrom(vms.seen(guest.resources, body, shape))
        return drift.of_hosts(machines, arriving, listed)

    def _guests(self, host_id: str) -> list[agent_pb2.Guest] | None:
        try:
            return self._agents.guests(host_id)
        except errors.WatariError:
            return None

    @staticmethod
    def _of_allocations(connection: Connection, expected: _Placed) -> list[manager_pb2.Drift]:
        should = {key: taken for key, (_, taken) in expected.items()}
        return drift.of_allocations(capacity.by_consumer(connection), should)[:DRIFTS_MAX]

    @staticmethod
    def _of_counts(
        connection: Connection, allocations: list[manager_pb2.Drift]
    ) -> list[manager_pb2.Drift]:
        """Told only where the allocations are right: the counts follow from them."""
        return [] if allocations else drift.of_counts(capacity.miscounted(connection))

    def _expected(self, connection: Connection) -> _Placed:
        """Host and allocation of everybody who should have one."""
        expected: _Placed = {}
        query = sa.select(tables.vms.c.host_id).where(tables.vms.c.cloud_id == self._cloud_id)
        for host_id in connection.scalars(query.distinct()).all():
            for row in vms.on_host(connection, self._cloud_id, host_id):
                taken = capacity.placed(connection, host_id, vms.consumed(row.body))
                expected[capacity.VM, row.vm_id] = host_id, taken
        for row in vms.handed_over(connection):
            # It may still be given back, and then it needs its room.
            taken = capacity.placed(connection, row.host_id, vms.consumed(row.body))
            expected[capacity.VM, row.vm_id] = row.host_id, taken
        for held in reservation_rows.live(connection):
            taken = capacity.placed(connection, held.host_id, held.takes)
            expected[capacity.RESERVATION, held.reservation_id] = held.host_id, taken
        for held in reservation_rows.booked(connection):
            taken = capacity.placed(connection, held.host_id, held.takes)
            expected[capacity.BOOKING, held.reservation_id] = held.host_id, taken
        return expected

    @staticmethod
    def _repair(connection: Connection, each: manager_pb2.Drift, expected: _Placed) -> None:
        for kind in (capacity.VM, capacity.RESERVATION, capacity.BOOKING):
            host_id, taken = expected.get((kind, each.subject_id), ("", {}))
            amounts = {name: amount for name, (_, amount) in taken.items()}
            # Also where it is right by now: written again, it is the same.
            capacity.give_back(connection, kind, each.subject_id)
            if amounts:
                capacity.record(connection, host_id, kind, each.subject_id, amounts)
        each.repaired = True

    def _note(self, connection: Connection, each: manager_pb2.Drift, caller: SpiffeId) -> None:
        if each.repaired:
            audit.append(
                connection,
                micros(self._clock.now()),
                actor=caller,
                action="allocations.repaired",
                subject=each.subject_id,
                details={"found": each.found, "expected": each.expected, "repair": each.repair},
            )


def _key(each: manager_pb2.Drift) -> tuple[int, str, str]:
    return each.kind, each.subject_id, each.host_id
