"""What is going on with another provider, and how it ends when that one is removed."""

from collections.abc import Callable

from manager import reservation_rows
from manager.reservation import Reservation, State
from manager.reservations import Reservations
from manager.saga import records
from manager.saga.record import Record
from manager.saga.states import COMMITTED
from manager.store import Store
from watari import errors, logs
from watari.identity import SpiffeId

_log = logs.get(__name__)


class Parting:
    """Ends what goes on with a provider. From any thread."""

    def __init__(
        self, store: Store, reservations: Reservations, interrupt: Callable[[str], None]
    ) -> None:
        """`interrupt` has a migration looked at at once; it finds that its peer is gone."""
        self._store = store
        self._reservations = reservations
        self._interrupt = interrupt

    def active(self, domain: str) -> int:
        """Migrations with a provider that have not ended, both ways."""
        return len(self._leaving(domain)) + len(self._arriving(domain))

    def part(self, domain: str) -> list[str]:
        """Turns round what leaves to it, and gives back what it reserved. Returns the migrations
        that wait: those past their commit point, and those that may be without our knowing.
        """
        leaving = self._leaving(domain)
        for record in leaving:
            self._interrupt(record.migration_id)
        waiting = [record.migration_id for record in leaving if record.state in COMMITTED]
        for row in self._arriving(domain):
            if row.state not in (State.PENDING, State.HELD):
                # The machine may be ours already: only its source knows, and cannot tell us now.
                waiting.append(row.migration_id)
                continue
            try:
                self._reservations.release(row.reservation_id, SpiffeId.parse(row.requested_by))
            except errors.WatariError as error:
                _log.warning("not given back", reservation=row.reservation_id, reason=error.reason)
                waiting.append(row.migration_id)
        return waiting

    def _leaving(self, domain: str) -> list[Record]:
        with self._store.read() as connection:
            return [each for each in records.active(connection) if _of(each.to_manager, domain)]

    def _arriving(self, domain: str) -> list[Reservation]:
        with self._store.read() as connection:
            return [
                each for each in reservation_rows.live(connection) if _of(each.requested_by, domain)
            ]


def _of(party: str, domain: str) -> bool:
    return SpiffeId.parse(party).domain == domain
