"""Writes what a migration came to: one transaction a step, then whoever watches is told."""

from manager import grants, metrics, outbox, vms
from manager.events import Board
from manager.saga import records, steps
from manager.saga.record import Record
from manager.saga.states import State
from manager.store import Store, micros
from watari import failpoint, identity, logs, tracing
from watari.clock import Clock
from watari.v1 import common_pb2

BEFORE_STATE = failpoint.declare("manager.saga.before_state")
AFTER_STATE = failpoint.declare("manager.saga.after_state")

_log = logs.get(__name__)


class Recorder:
    """Records steps of the migrations of one cloud. From any thread."""

    def __init__(
        self, cloud_id: str, own: identity.Identity, clock: Clock, store: Store, board: Board
    ) -> None:
        self.cloud_id = cloud_id
        self.own = own
        self.clock = clock
        self.store = store
        self._board = board

    def now(self) -> int:
        """Microseconds since 1970."""
        return micros(self.clock.now())

    @property
    def actor(self) -> str:
        """Who does what the saga does, for the audit log."""
        return str(self.own.spiffe_id)

    def reread(self, record: Record) -> Record:
        """The migration as it is on disk now."""
        with self.store.read() as connection:
            return records.require(connection, record.migration_id)

    def advance(
        self,
        record: Record,
        to: State,
        *,
        countersigned: common_pb2.SignedGrant | None = None,
        **values: object,
    ) -> None:
        """Change the state and further columns. Raises as `records.advance`."""
        failpoint.hit(BEFORE_STATE)
        with self.store.write() as connection:
            now = self.now()
            if countersigned is not None:
                grants.note_countersigned(connection, now, countersigned)
            advanced = records.advance(connection, record, to, now, actor=self.actor, **values)
        failpoint.hit(AFTER_STATE)
        self.announce(advanced)

    def end(
        self,
        record: Record,
        problem: common_pb2.Problem | None = None,
        owed: list[outbox.OwedCall] | None = None,
    ) -> None:
        """The final state that follows; the machine is free again, and debts are on record."""
        changes = {} if problem is None else {"problem": problem}
        to = State.FAILED if problem is not None else steps.end_state(record)
        failpoint.hit(BEFORE_STATE)
        with self.store.write() as connection:
            ended = records.advance(connection, record, to, self.now(), actor=self.actor, **changes)
            vms.unclaim(connection, record.vm_id, record.migration_id)
            for call in owed or []:
                outbox.owe(connection, call, self.now())
        failpoint.hit(AFTER_STATE)
        self.announce(ended)

    def announce(self, record: Record) -> None:
        """Tell whoever watches."""
        _log.info("migration", state=record.state, vm_id=record.vm_id, to_cloud=record.to_cloud)
        self._board.state_changed(record.message(self.cloud_id))
        if record.final:
            metrics.ended(record)
            self._trace(record)

    def _trace(self, record: Record) -> None:
        ended, to = record.ended_at or self.now(), record.to_cloud
        tracing.migration_ended(
            record.migration_id,
            record.created_at,
            ended,
            from_cloud=self.cloud_id,
            to_cloud=to,
            state=record.state.lower(),
        )
