"""Makes owed calls: ends a hold, releases a reservation, discards data, starts what arrived.

Used in person by who owes, and by the janitor for what is still owed then. Every call is
idempotent, and what is gone already counts as done.
"""

from manager import outbox, reservation_rows, vms
from manager.agents import Agents
from manager.outbox import Kind, OwedCall
from manager.peers import Peer, Peers
from manager.reservation import State
from manager.saga import records
from manager.store import Store
from watari import errors, logs
from watari.identity import SpiffeId

_log = logs.get(__name__)


class OwedCalls:
    """Makes owed calls. Every method raises what the other side answers, or its silence."""

    def __init__(self, cloud_id: str, store: Store, agents: Agents, peers: Peers) -> None:
        self._cloud_id = cloud_id
        self._store = store
        self._agents = agents
        self._peers = peers

    def make(self, call: OwedCall) -> None:
        """Make the call; returning means that it is settled."""
        match call.kind:
            case Kind.UNHOLD:
                epoch = self._epoch(call)
                self._agents.cancel_transfer(call.target, call.migration_id)
                self._agents.unhold(call.target, call.subject_id, call.migration_id, epoch)
            case Kind.RELEASE:
                self._release(call)
            case Kind.DISCARD:
                self._discard(call)
            case Kind.START:
                self._start(call)

    def _epoch(self, call: OwedCall) -> int:
        """What the host is to know of a machine that came back: a later epoch than it had when it
        was handed over. Otherwise 0: the machine's is as before.
        """
        with self._store.read() as connection:
            record = records.get(connection, call.migration_id)
            row = vms.get(connection, call.subject_id)
        came_back = record is not None and record.taken_back_epoch is not None
        ours = row is not None and row.cloud_id == self._cloud_id
        return row.epoch if came_back and ours and row is not None else 0

    def _release(self, call: OwedCall) -> None:
        with self._store.read() as connection:
            record = records.require(connection, call.migration_id)
        peer = Peer(record.to_cloud, SpiffeId.parse(record.to_manager))
        try:
            self._peers.release(peer, call.subject_id)
        except errors.FailedPrecondition as error:
            if error.reason != "MIGRATION_COMMITTED":
                raise
            # We never signed a hand-over, so the destination cannot own the machine.
            _log.error("destination claims an uncommitted machine", peer=record.to_manager)

    def _discard(self, call: OwedCall) -> None:
        try:
            self._agents.discard(call.target, call.migration_id)
        except errors.FailedPrecondition as error:
            if error.reason != "MIGRATION_COMMITTED" or self._given_back(call):
                # Of a machine that was given back no copy may stay: it is owed until it is gone.
                raise
            _log.error("agent activated what was never handed over", host_id=call.target)

    def _given_back(self, call: OwedCall) -> bool:
        with self._store.read() as connection:
            reservation = reservation_rows.of_migration(connection, call.migration_id)
        return reservation is not None and reservation.state is State.RELINQUISHED

    def _start(self, call: OwedCall) -> None:
        epoch = self._arrived_at(call)
        if epoch is None:
            _log.info("not started: it is somewhere else by now", vm_id=call.subject_id)
            return
        try:
            self._agents.start(call.target, call.subject_id, call.migration_id, epoch)
        except errors.NotFound as error:
            if error.reason != "VM_NOT_FOUND":
                raise
            _log.error("not started: its host has it no more", vm_id=call.subject_id)
        except errors.Unimplemented as error:
            # A shelf runs nothing: whoever chose it wanted the machine off.
            _log.warning("not started", vm_id=call.subject_id, problem=error.message)

    def _arrived_at(self, call: OwedCall) -> int | None:
        """The epoch at which the machine arrived with that migration, while it still is ours so."""
        with self._store.read() as connection:
            row = vms.get(connection, call.subject_id)
            reservation = reservation_rows.of_migration(connection, call.migration_id)
            owed = outbox.find(connection, call.kind, call.migration_id)
        if row is None or reservation is None or owed is None:
            return None  # gone; or its tenant has stopped it since
        epoch = reservation.request.source_epoch + 1
        here = (row.cloud_id, row.epoch, row.host_id) == (self._cloud_id, epoch, call.target)
        return epoch if here else None
