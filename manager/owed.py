"""Makes the calls that take something back: ends a hold, releases a reservation, discards data.

Used in person by a migration that rolls back, and by the janitor for what is owed. Every call is
idempotent, and what is gone already counts as done.
"""

from manager.agents import Agents
from manager.outbox import Kind, OwedCall
from manager.peers import Peer, Peers
from manager.saga import records
from manager.store import Store
from watari import errors, logs
from watari.identity import SpiffeId

_log = logs.get(__name__)


class OwedCalls:
    """Makes owed calls. Every method raises what the other side answers, or its silence."""

    def __init__(self, store: Store, agents: Agents, peers: Peers) -> None:
        self._store = store
        self._agents = agents
        self._peers = peers

    def make(self, call: OwedCall) -> None:
        """Make the call; returning means that it is settled."""
        match call.kind:
            case Kind.UNHOLD:
                self._agents.cancel_transfer(call.target, call.migration_id)
                self._agents.unhold(call.target, call.subject_id, call.migration_id)
            case Kind.RELEASE:
                self._release(call)
            case Kind.DISCARD:
                self._discard(call)

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
            if error.reason != "MIGRATION_COMMITTED":
                raise
            _log.error("agent activated what was never handed over", host_id=call.target)
