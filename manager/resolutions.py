"""ResolveMigration: `manager.saga.resolving` at the source, and in here what a destination can.

At the destination a reservation that was never handed over waits for a source that may be gone for
good. Giving it up is always safe: a hand-over that comes after all is answered with a
relinquishment. Keeping the machine is not: if the source still has it, there are two.
"""

from sqlalchemy.engine import Connection

from manager import admission, audit, capacity, outbox, reservation_rows, takeover
from manager.agents import Agents
from manager.arriving import Arriving
from manager.reservation import ARRIVING, Reservation, State
from manager.saga import records
from manager.saga.record import Record
from manager.saga.resolving import GIVE_UP, KEEP, Decided, Resolving, Word, told
from manager.store import Store, micros
from watari import errors, failpoint, identity
from watari.clock import Clock
from watari.v1 import manager_pb2

AFTER_DECIDED = failpoint.declare("manager.resolutions.after_decided")

_CONSEQUENCES = {
    KEEP: "lives here at the next epoch, off; if the source still has it there are two",
    GIVE_UP: "nothing of it is here; a later hand-over is given back",
}


class Resolutions:
    """Resolves migrations from and to this cloud."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        own: identity.Identity,
        agents: Agents,
        arriving: Arriving,
        source: Resolving,
    ) -> None:
        self._own = own
        self._store = store
        self._clock = clock
        self._agents = agents
        self._arriving = arriving
        self._source = source

    def resolve(self, migration_id: str, word: Word) -> manager_pb2.Reservation | Record:
        """Do as the operator says, at the source or at the destination; idempotent.

        Raises NotFound MIGRATION_NOT_FOUND, FailedPrecondition MIGRATION_STATE, Unavailable while a
        machine that is to be kept cannot be activated; the decision holds all the same then.
        """
        if self._source.find(migration_id) is not None:
            return self._source.resolve(migration_id, word)
        row = self._read(migration_id)
        if word.resolution == KEEP and row.state is State.CONFIRMED and not row.kept:
            self._require_complete(row)
        self._decide(migration_id, word)
        failpoint.hit(AFTER_DECIDED)
        row = self._read(migration_id)
        if row.kept and row.state is State.CONFIRMED:
            self._keep(row)
        return self._read(migration_id).message()

    def _decide(self, migration_id: str, word: Word) -> None:
        with self._store.write() as connection:
            row = reservation_rows.of_migration(connection, migration_id)
            assert row is not None  # noqa: S101 - reservations are never deleted
            if row.resolution == word.resolution:
                return
            require_open(row, word.resolution)
            if word.resolution == KEEP:
                self._arriving.require_latest(connection, row)
            now = micros(self._clock.now())
            if word.resolution == KEEP:
                done = reservation_rows.resolve(connection, row, KEEP)
            else:
                done = reservation_rows.move(connection, row, State.RELEASED, resolution=GIVE_UP)
                capacity.give_back(connection, capacity.RESERVATION, row.reservation_id)
                discard = outbox.OwedCall(
                    outbox.Kind.DISCARD, row.migration_id, row.host_id, row.vm_id
                )
                outbox.owe(connection, discard, now)
            admission.require_swapped(done)
            self._note(connection, row, word)

    def _keep(self, row: Reservation) -> None:
        try:
            self._arriving.finish(row.reservation_id)
        except errors.WatariError as error:
            if takeover.is_final(error):
                self._undecide(row, error.reason)
            raise

    def _undecide(self, row: Reservation, reason: str) -> None:
        """The agent cannot make a machine of it: it can still be given up."""
        with self._store.write() as connection:
            current = reservation_rows.get(connection, row.reservation_id)
            if current is not None and current.state is State.CONFIRMED:
                admission.require_swapped(reservation_rows.resolve(connection, current, None))
                audit.append(
                    connection,
                    micros(self._clock.now()),
                    actor=self._own.spiffe_id,
                    action="migration.resolved",
                    subject=row.migration_id,
                    outcome=audit.REFUSED,
                    details={"vm_id": row.vm_id, "state": row.state, "reason": reason},
                )

    def _require_complete(self, row: Reservation) -> None:
        for arrival in self._agents.incoming(row.host_id):
            if arrival.migration_id == row.migration_id and arrival.complete:
                return
        raise errors.FailedPrecondition(
            "MIGRATION_STATE",
            f"machine {row.vm_id} has not arrived completely at host {row.host_id}",
            hint="only the source has all of it; here it can be given up (GIVE_UP_HERE)",
            state=row.state,
        )

    def _read(self, migration_id: str) -> Reservation:
        with self._store.read() as connection:
            row = reservation_rows.of_migration(connection, migration_id)
        if row is None:
            raise records.not_found(migration_id)
        return row

    def _note(self, connection: Connection, row: Reservation, word: Word) -> None:
        audit.append(
            connection,
            micros(self._clock.now()),
            actor=word.operator,
            action="migration.resolved",
            subject=row.migration_id,
            details=told(row.vm_id, row.state, word, _CONSEQUENCES[word.resolution]),
        )


def require_open(row: Reservation, resolution: "Decided") -> None:
    """Raises FailedPrecondition MIGRATION_STATE, with what would be possible, unless an operator of
    the destination may decide so.
    """
    waits = row.state in ARRIVING and not row.committed
    if waits and (resolution == GIVE_UP or row.state is State.CONFIRMED):
        return
    raise errors.FailedPrecondition(
        "MIGRATION_STATE",
        f"the reservation of migration {row.migration_id} is {row.state}"
        + (" and handed over" if row.hand_over is not None and row.committed else ""),
        hint=_possible(row),
        state=row.state,
    )


def _possible(row: Reservation) -> str:
    if row.state is State.PENDING:
        return "the source has not confirmed it: it can be given up (GIVE_UP_HERE), or expires"
    if row.state is State.USED:
        return "the machine is this cloud's: move it with a migration of its own"
    if row.state is State.CONFIRMED:
        return "it becomes this cloud's machine as soon as the host here answers"
    return "nothing of the machine is here; a hand-over that comes later is given back"
