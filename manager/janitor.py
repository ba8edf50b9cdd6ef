"""What must happen even if nobody asks again: expiry, owed calls, hand-overs, orphaned data."""

from manager import outbox, reservation_rows
from manager.agents import Agents
from manager.arriving import Arriving
from manager.outbox import OwedCall
from manager.owed import OwedCalls
from manager.reservation import ARRIVING, State
from manager.reservations import Reservations
from manager.store import Store, micros
from watari import errors, failpoint, logs
from watari.clock import Clock

OWED_PER_ROUND_MAX = 100
"""Owed calls that one round makes."""

AFTER_OWED = failpoint.declare("manager.janitor.after_owed_call")

_log = logs.get(__name__)


class Janitor:
    """One round of every chore; each may be cut off and is taken up by the next round. Chores that
    may take long are apart, so that they keep no other waiting.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        reservations: Reservations,
        arriving: Arriving,
        owed: OwedCalls,
        agents: Agents,
    ) -> None:
        self._store = store
        self._clock = clock
        self._reservations = reservations
        self._arriving = arriving
        self._owed = owed
        self._agents = agents

    def expire(self) -> None:
        """End reservations whose time has run out."""
        expired = self._reservations.expire_due()
        if expired:
            _log.info("reservations expired", count=expired)

    def finish(self) -> None:
        """Go on with what was handed over. A machine may take minutes to become ready."""
        for reservation_id in self._arriving.unfinished():
            self._finish(reservation_id)

    def pay(self) -> None:
        """Make owed calls. One that starts a machine may take minutes."""
        with self._store.read() as connection:
            calls = outbox.due(connection, self._now(), OWED_PER_ROUND_MAX)
        for call in calls:
            self._make(call)

    def discard_orphans(self) -> None:
        """Delete at every host what arrives for no live reservation."""
        for host_id in self._agents.host_ids:
            try:
                incoming = self._agents.incoming(host_id)
            except errors.WatariError as error:
                _log.debug("arrivals not looked at", host_id=host_id, reason=error.reason)
                continue
            for arrival in incoming:
                if self._is_orphan(arrival.migration_id):
                    call = OwedCall(
                        outbox.Kind.DISCARD, arrival.migration_id, host_id, arrival.vm_id
                    )
                    self._make(call)

    def _finish(self, reservation_id: str) -> None:
        try:
            self._arriving.finish(reservation_id)
        except errors.WatariError as error:
            _log.info("hand-over not finished", reservation_id=reservation_id, reason=error.reason)

    def _make(self, call: OwedCall) -> None:
        with logs.context(migration_id=call.migration_id):
            try:
                self._owed.make(call)
            except errors.WatariError as error:
                _log.info("still owed", kind=call.kind, target=call.target, reason=error.reason)
                with self._store.write() as connection:
                    outbox.postpone(connection, call, self._now())
                return
            failpoint.hit(AFTER_OWED)
            with self._store.write() as connection:
                outbox.settle(connection, call)

    def _is_orphan(self, migration_id: str) -> bool:
        with self._store.read() as connection:
            row = reservation_rows.of_migration(connection, migration_id)
        return row is None or (row.state not in ARRIVING and row.state is not State.USED)

    def _now(self) -> int:
        return micros(self._clock.now())
