"""Keeping up with the hosts: what they have, which machines are on them.

A host tells what is there; who owns it is decided here. A machine that nobody knew is adopted at
epoch 1. A machine that a host does not list any more, or a host that does not answer, changes what
is shown and never who owns what.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import inventory, outbox, reservation_rows, shape_rows, tables, vms
from manager.agents import Agents
from manager.saga import records
from manager.saga.states import State
from manager.settings import Settings
from manager.store import Store, micros
from watari import errors, logs
from watari.clock import Clock
from watari.v1 import agent_pb2, common_pb2, manager_pb2

POLLS_CONCURRENT_MAX = 8
"""Hosts that are looked at at a time: one that hangs delays the others by its deadline at most."""

_HOSTS = tables.hosts.c
_log = logs.get(__name__)


class Hosts:
    """Polls every configured host."""

    def __init__(
        self, settings: Settings, own_domain: str, store: Store, clock: Clock, agents: Agents
    ) -> None:
        self._cloud_id = settings.cloud_id
        self._own_domain = own_domain
        self._store = store
        self._clock = clock
        self._agents = agents

    def poll(self) -> None:
        """Look at every host once."""
        with ThreadPoolExecutor(POLLS_CONCURRENT_MAX, thread_name_prefix="poll") as pool:
            list(pool.map(self.poll_one, self._agents.host_ids))

    def poll_one(self, host_id: str) -> None:
        """Look at one host; one that does not answer is noted as unreachable."""
        with logs.context(host_id=host_id):
            asked_at = micros(self._clock.now())
            try:
                host = self._agents.host(host_id)
                self._require_ours(host_id, host)
                guests = self._agents.guests(host_id)
            except errors.WatariError as error:
                self._unreachable(host_id, error)
                return
            with self._store.write() as connection:
                self._seen(connection, host)
                left = self._reconcile(connection, host_id, guests, asked_at)
            for vm_id, migration_id in left:
                self._retire(host_id, vm_id, migration_id)

    def _require_ours(self, host_id: str, host: agent_pb2.Host) -> None:
        """A wrong address in the settings must not mix up two hosts."""
        told = (host.host_id, host.cloud_id)
        if told != (host_id, self._cloud_id):
            raise errors.FailedPrecondition(
                "PEER_ERROR",
                f"the agent at agents.{host_id} says it is host {told[0]} of cloud {told[1]}",
                hint="correct its address in the settings",
            )
        inventory.require_resources(host.total, "host.total")

    def _seen(self, connection: Connection, host: agent_pb2.Host) -> None:
        now, blob = micros(self._clock.now()), host.SerializeToString(deterministic=True)
        row = connection.execute(
            sa.select(tables.hosts).where(_HOSTS.host_id == host.host_id)
        ).one_or_none()
        if row is None:
            connection.execute(
                tables.hosts.insert().values(
                    host_id=host.host_id, host=blob, reachable=True, seen_at=now, generation=1
                )
            )
            return
        changed = row.host != blob or not row.reachable
        connection.execute(
            tables.hosts.update()
            .where(_HOSTS.host_id == host.host_id)
            .values(host=blob, reachable=True, seen_at=now, generation=row.generation + changed)
        )
        if not row.reachable:
            _log.info("host answers again")

    def _unreachable(self, host_id: str, error: errors.WatariError) -> None:
        with self._store.write() as connection:
            changed = connection.execute(
                tables.hosts.update()
                .where(_HOSTS.host_id == host_id, _HOSTS.reachable.is_(True))
                .values(reachable=False, generation=_HOSTS.generation + 1)
            )
        if changed.rowcount:
            _log.warning("host does not answer", reason=error.reason, problem=error.message)

    def _reconcile(
        self,
        connection: Connection,
        host_id: str,
        guests: list[agent_pb2.Guest],
        asked_at: int,
    ) -> list[tuple[str, str]]:
        """Bring the rows in line; returns the copies of machines that left, with their migrations,
        that are still to be retired.
        """
        known = {row.vm_id: row for row in vms.on_host(connection, self._cloud_id, host_id)}
        shape = shape_rows.of(connection, host_id)
        for guest in guests:
            if not guest.vm_id:
                _log.warning("machine without a readable UUID", guest=guest.name)
                continue
            row = known.pop(guest.vm_id, None) or vms.get(connection, guest.vm_id)
            body = None if row is None else row.body
            guest.resources.CopyFrom(vms.seen(guest.resources, body, shape))
            if row is None:
                self._adopt(connection, host_id, guest)
            elif row.cloud_id == self._cloud_id:
                self._refresh(connection, host_id, row, guest)
        for row in known.values():
            # One that arrived after the host was asked is not missing.
            if row.seen_at < asked_at:
                self._missing(connection, row)
        ended = [(guest, self._held_in_vain(connection, host_id, guest)) for guest in guests]
        return [(guest.vm_id, left) for guest, left in ended if left is not None]

    def _adopt(self, connection: Connection, host_id: str, guest: agent_pb2.Guest) -> None:
        # What is arriving becomes a machine by its hand-over, and by nothing else.
        if reservation_rows.live_for_vm(connection, guest.vm_id):
            return
        # A host that was told an epoch knows better than a database that was lost.
        epoch = max(1, guest.epoch)
        vms.put(connection, self._row(host_id, guest, epoch), counted=True)
        _log.info("adopted a machine", vm_id=guest.vm_id, epoch=epoch)

    def _refresh(
        self, connection: Connection, host_id: str, row: vms.VmRow, guest: agent_pb2.Guest
    ) -> None:
        lost = row.body.problem.reason == "VM_NOT_FOUND"
        # What a host that was away still holds is an old copy, and not the one that is missed.
        old = bool(guest.held_by) or max(1, guest.epoch) < row.epoch
        if row.host_id != host_id and (old or not lost):
            _log.warning("machine is on two hosts", vm_id=row.vm_id, counted_on=row.host_id)
            return
        seen = self._row(host_id, guest, row.epoch, row)
        if replace(seen, seen_at=row.seen_at) == row:
            vms.touch(connection, row.vm_id, seen.seen_at)
        else:
            vms.put(connection, seen, counted=True)

    def _missing(self, connection: Connection, row: vms.VmRow) -> None:
        """The row stays, with its problem: a machine is never disowned by silence."""
        if row.body.problem.reason == "VM_NOT_FOUND":
            return
        problem = common_pb2.Problem(
            reason="VM_NOT_FOUND",
            code=errors.NotFound.code.value[0],
            message=f"host {row.host_id} does not list the machine any more",
            hint="look at the host; the machine is owned and counted until it is found",
        )
        connection.execute(
            tables.vms.update()
            .where(tables.vms.c.vm_id == row.vm_id)
            .values(body=_with_problem(row.body, problem).SerializeToString(deterministic=True))
        )
        _log.warning("machine is gone from its host", vm_id=row.vm_id)

    def _held_in_vain(
        self, connection: Connection, host_id: str, guest: agent_pb2.Guest
    ) -> str | None:
        """A migration that has ended holds nothing. Where it did not succeed the end of its hold is
        owed; the id of one that did, while the host was away: its copy is to be retired.
        """
        record = records.get(connection, guest.held_by) if guest.held_by else None
        row = vms.get(connection, guest.vm_id)
        if record is None or row is None:
            return None
        ours = row.cloud_id == self._cloud_id
        # A copy that reappears at another of our hosts stays held.
        here = ours and row.host_id == host_id
        if record.state in (State.FAILED, State.CANCELLED) and here:
            # In nobody's way here: it may take minutes until the machine runs again.
            call = outbox.OwedCall(outbox.Kind.UNHOLD, guest.held_by, host_id, guest.vm_id)
            if outbox.find(connection, call.kind, call.migration_id) is None:
                outbox.owe(connection, call, micros(self._clock.now()))
        return record.migration_id if record.state is State.SUCCEEDED and not here else None

    def _retire(self, host_id: str, vm_id: str, migration_id: str) -> None:
        try:
            self._agents.retire(host_id, vm_id, migration_id)
        except errors.WatariError as error:
            # The next look finds it again.
            _log.warning("copy not retired", vm_id=vm_id, reason=error.reason)

    def _row(
        self, host_id: str, guest: agent_pb2.Guest, epoch: int, known: vms.VmRow | None = None
    ) -> vms.VmRow:
        tenant_domain, tenant = self._own_domain, guest.tenant or "default"
        if known is not None and known.tenant_domain != self._own_domain:
            # A host knows names only: whose tenant it is was said when the machine arrived.
            tenant_domain, tenant = known.tenant_domain, known.tenant
        return vms.VmRow(
            vm_id=guest.vm_id,
            name=guest.name,
            cloud_id=self._cloud_id,
            epoch=epoch,
            host_id=host_id,
            tenant_domain=tenant_domain,
            tenant=tenant,
            migration_id=None if known is None else known.migration_id,
            body=manager_pb2.Vm(
                state=vms.state_text(guest.state),
                resources=guest.resources,
                disks=guest.disks,
                problem=guest.problem if guest.HasField("problem") else None,
            ),
            seen_at=micros(self._clock.now()),
        )


def _with_problem(body: manager_pb2.Vm, problem: common_pb2.Problem) -> manager_pb2.Vm:
    changed = manager_pb2.Vm()
    changed.CopyFrom(body)
    changed.problem.CopyFrom(problem)
    return changed
