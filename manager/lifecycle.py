"""Machines are started and stopped for who owns them, while no migration moves them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from manager import audit, movable, outbox, vms
from manager.agents import Agents
from manager.ownership import View
from manager.store import Store, micros
from manager.vms import VmRow
from watari import errors
from watari.clock import Clock
from watari.identity import SpiffeId
from watari.v1 import agent_pb2, manager_pb2


class Lifecycle:
    """Starts and stops the machines of one cloud."""

    def __init__(self, cloud_id: str, store: Store, clock: Clock, agents: Agents) -> None:
        self._cloud_id = cloud_id
        self._store = store
        self._clock = clock
        self._agents = agents
        self._ordered: set[str] = set()
        self._lock = threading.Lock()

    def start(self, key: str, view: View, caller: SpiffeId) -> manager_pb2.Vm:
        """Let a machine of the view run; it is running when this returns.

        Raises NotFound VM_NOT_FOUND, FailedPrecondition VM_BUSY and VM_LIFECYCLE_FAILED,
        Unavailable while its host does not answer, Unimplemented NOT_SERVED where it
        runs none.
        """
        with self._of(key, view) as vm:
            guest = self._agents.start(vm.host_id, vm.vm_id, epoch=vm.epoch)
            return self._done(vm, guest, caller, "vm.started")

    def stop(self, key: str, timeout_seconds: int, view: View, caller: SpiffeId) -> manager_pb2.Vm:
        """Shut a machine of the view down, by force after `timeout_seconds`. Raises as `start`."""
        with self._of(key, view) as vm:
            with self._store.write() as connection:
                # Whoever stops it overrules the migration that brought it, whatever the host does.
                outbox.settle_start(connection, vm.vm_id)
            guest = self._agents.stop(vm.host_id, vm.vm_id, timeout_seconds, vm.epoch)
            return self._done(vm, guest, caller, "vm.stopped")

    @contextmanager
    def _of(self, key: str, view: View) -> Iterator[VmRow]:
        """The machine, which nobody else is given an order about meanwhile. A migration that begins
        is no danger: a host starts and stops nothing held.
        """
        with self._store.read() as connection:
            vm = vms.find(connection, self._cloud_id, key, view)
        movable.require_free(vm)
        with self._alone(vm):
            yield vm

    def _done(
        self, vm: VmRow, guest: agent_pb2.Guest, caller: SpiffeId, action: str
    ) -> manager_pb2.Vm:
        """Record what was done. A start that was owed is made, or overruled."""
        now = micros(self._clock.now())
        with self._store.write() as connection:
            outbox.settle_start(connection, vm.vm_id)
            audit.append(
                connection,
                now,
                actor=caller,
                action=action,
                subject=vm.vm_id,
                details={"vm_name": vm.name, "host_id": vm.host_id},
            )
            current = vms.get(connection, vm.vm_id)
            if current is not None and current.cloud_id == self._cloud_id:
                vm = _seen(current, guest, now)
                vms.put(connection, vm, counted=True)
        return vm.message()

    @contextmanager
    def _alone(self, vm: VmRow) -> Iterator[None]:
        """One order at a time for each machine: it may take an hour, and holds a thread."""
        with self._lock:
            if vm.vm_id in self._ordered:
                raise errors.FailedPrecondition(
                    "VM_BUSY",
                    f"machine {vm.name} is being started or stopped already",
                    hint="wait for that, or look with `watari vm show`",
                    vm=vm.name,
                )
            self._ordered.add(vm.vm_id)
        try:
            yield
        finally:
            with self._lock:
                self._ordered.discard(vm.vm_id)


def _seen(row: VmRow, guest: agent_pb2.Guest, now: int) -> VmRow:
    body = manager_pb2.Vm()
    body.CopyFrom(row.body)
    body.state = vms.state_text(guest.state)
    return replace(row, body=body, seen_at=now)
