"""What the saga does in each state: calls to agents and peers, then one transaction.

Every action may be cut off anywhere and repeated. An action that fails says who failed; `steps`
decides what follows from it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from manager import grants, outbox, usage, vms
from manager.agents import Agents
from manager.events import Board
from manager.handover import PURPOSE as HAND_OVER
from manager.owed import OwedCalls
from manager.peers import Peers
from manager.saga import copying, documents, records, steps
from manager.saga.copying import StepFailed
from manager.saga.records import Record
from manager.saga.states import State
from manager.saga.steps import Again, Back, Party, Step
from manager.settings import MigrationSettings
from manager.store import Store, micros, moment
from watari import errors, failpoint, identity, logs
from watari.clock import Clock
from watari.identity import SpiffeId
from watari.v1 import agent_pb2, common_pb2

AFTER_HOLD = failpoint.declare("manager.saga.after_hold")
AFTER_RESERVE = failpoint.declare("manager.saga.after_reserve")
AFTER_CONFIRM = failpoint.declare("manager.saga.after_confirm")
BEFORE_COMMIT = failpoint.declare("manager.saga.before_commit")
IN_COMMIT = failpoint.declare("manager.saga.in_commit")
AFTER_COMMIT = failpoint.declare("manager.saga.after_commit")
AFTER_HAND_OVER = failpoint.declare("manager.saga.after_hand_over")
AFTER_RETIRE = failpoint.declare("manager.saga.after_retire")
AFTER_UNDO = failpoint.declare("manager.saga.after_undo")
BEFORE_STATE = failpoint.declare("manager.saga.before_state")
AFTER_STATE = failpoint.declare("manager.saga.after_state")

_log = logs.get(__name__)


class Actions:
    """Performs single steps of migrations."""

    def __init__(
        self,
        cloud_id: str,
        own: identity.Identity,
        clock: Clock,
        store: Store,
        agents: Agents,
        peers: Peers,
        board: Board,
        limits: MigrationSettings,
    ) -> None:
        self._cloud_id = cloud_id
        self._own = own
        self._clock = clock
        self._store = store
        self._agents = agents
        self._peers = peers
        self._board = board
        self._limits = limits
        self._owed = OwedCalls(store, agents, peers)
        self._copier = copying.Copier(clock, own, agents, peers, board, limits)

    def perform(self, record: Record, signals: copying.Signals) -> Again | Back | None:
        """Do what the record asks for. None: read it again and go on.

        Raises StepFailed for others' failures, and what the database raises.
        """
        step = steps.next_step(record)
        if step in _WITH_PEER:
            self._require_trusted(record)
        match step:
            case Step.BEGIN:
                self._advance(record, State.RESERVING)
            case Step.END:
                self._end(record)
            case Step.RESERVE:
                self._reserve(record)
            case Step.COPY:
                return self._copy(record, signals)
            case Step.COMMIT:
                self._commit(record)
            case Step.HAND_OVER:
                self._hand_over(record)
            case Step.RETIRE:
                self._retire(record)
            case Step.GO_BACK:
                self._advance(record, State.ROLLING_BACK)
            case Step.UNDO:
                self._undo(record)
            case Step.NOTHING:
                raise AssertionError(f"{record.migration_id} has ended")
        return None

    def _require_trusted(self, record: Record) -> None:
        """Nothing is begun or gone on with towards a provider that was removed."""
        peer = SpiffeId.parse(record.to_manager)
        if self._own.trust.refuses(peer, moment(record.created_at)):
            error = errors.Unauthenticated(
                "PROVIDER_UNKNOWN",
                f"{peer} is not trusted any more",
                hint="`watari federation list` shows who is accepted",
                domain=peer.domain,
            )
            raise StepFailed(Party.PEER, error)

    def roll_back(self, record: Record, problem: common_pb2.Problem) -> None:
        """Turn round because of a problem; REQUESTED ends at once."""
        if record.state is State.REQUESTED:
            self._end(record, problem)
        else:
            self._advance(record, State.ROLLING_BACK, problem=problem)

    def _reserve(self, record: Record) -> None:
        with _asking(Party.OWN_AGENT):
            guest = self._agents.hold(record.host_id, record.vm_id, record.migration_id)
            steps.require_same_machine(record, guest)
        failpoint.hit(AFTER_HOLD)
        request = record.reserve_request
        if request is None:
            request = documents.reserve_request(
                record,
                guest,
                from_cloud=self._cloud_id,
                source_agent=self._agents.spiffe_id(record.host_id),
                ttl_seconds=self._limits.reservation_ttl_seconds,
            )
            with self._store.write() as connection:
                record = records.note(connection, record, reserve_request=request)
        peer = documents.peer(record)
        with self._asking_peer(record):
            answer = self._peers.reserve(peer, request)
            documents.require_live(answer.reservation)
            grant = grants.accept(
                self._own, self._clock, request, answer.grant, destination_manager=peer.manager
            )
            documents.require_endpoint(grant, answer.agent_control)
        failpoint.hit(AFTER_RESERVE)
        given = answer.reservation.expires_at.seconds - answer.reservation.created_at.seconds
        self._advance(
            record,
            State.COPYING,
            countersigned=grant,
            grant=grant,
            destination_control=answer.agent_control,
            destination_data=documents.data_endpoint(answer.agent_data),
            reserved_seconds=given,
        )

    def _copy(self, record: Record, signals: copying.Signals) -> Again | Back | None:
        transfer = self._copier.run(record, signals, lambda: self._reread(record))
        if transfer is None:
            return None  # Cancelled or stopping: the record says more.
        if transfer.state == agent_pb2.TRANSFER_STATE_FAILED:
            counted = steps.count_failure(record, transfer.progress.done_bytes)
            with self._store.write() as connection:
                record = records.note(connection, record, **counted)
            return steps.after_transfer_failed(record, transfer.problem, self._limits)
        with _asking(Party.TRANSFER):
            receipt = self._copier.checked_receipt(record, transfer)
        self._advance(record, State.CONFIRMING, receipt=receipt)
        return None

    def _reread(self, record: Record) -> Record:
        with self._store.read() as connection:
            return records.require(connection, record.migration_id)

    def _commit(self, record: Record) -> None:
        with self._asking_peer(record):
            self._peers.confirm(documents.peer(record), steps.reservation_id(record.migration_id))
        failpoint.hit(AFTER_CONFIRM)
        failpoint.hit(BEFORE_COMMIT)
        handed = documents.hand_over(record, self._clock.now())
        payload = handed.SerializeToString(deterministic=True)
        document = identity.sign(self._own, payload, HAND_OVER)
        with self._store.write() as connection:
            # The commit point: owner and state change together, and a cancellation that came first
            # makes the compare-and-swap of `advance` fail.
            committed = records.advance(
                connection,
                record,
                State.HANDED_OVER,
                self._now(),
                actor=self._actor,
                hand_over=document,
            )
            given = vms.give_away(
                connection,
                record.vm_id,
                from_cloud=self._cloud_id,
                to_cloud=record.to_cloud,
                epoch=handed.ownership.epoch,
            )
            if not given:
                raise StepFailed(Party.TRANSFER, documents.not_owned(record))
            failpoint.hit(IN_COMMIT)
        failpoint.hit(AFTER_COMMIT)
        self._announce(committed)

    def _hand_over(self, record: Record) -> None:
        assert record.hand_over is not None  # noqa: S101 - written with the state
        handed = common_pb2.HandOver.FromString(record.hand_over.payload)
        with self._asking_peer(record):
            answer = self._peers.hand_over(documents.peer(record), record.hand_over)
            documents.require_accepted(record, answer, handed.ownership)
        failpoint.hit(AFTER_HAND_OVER)
        left = documents.usage_left(record, handed, self._cloud_id)
        with self._store.write() as connection:
            retiring = records.advance(
                connection, record, State.RETIRING, self._now(), actor=self._actor
            )
            usage.write(connection, left, record.tenant_domain)
        self._announce(retiring)

    def _retire(self, record: Record) -> None:
        with _asking(Party.OWN_AGENT):
            self._agents.retire(record.host_id, record.vm_id, record.migration_id)
        failpoint.hit(AFTER_RETIRE)
        self._end(record)

    def _undo(self, record: Record) -> None:
        failed = self._take_back(record)
        spent_seconds = (self._now() - record.state_changed_at) / 1_000_000
        # Who answers that it will not, or is not trusted any more, is not waited for: it is owed.
        waits = [failure for _, failure in failed if failure.error.retryable]
        if waits and spent_seconds < self._limits.rollback_wait_seconds_max:
            raise waits[0]
        failpoint.hit(AFTER_UNDO)
        self._end(record, owed=[call for call, _ in failed])

    def _take_back(self, record: Record) -> list[tuple[outbox.OwedCall, StepFailed]]:
        unhold = outbox.OwedCall(
            outbox.Kind.UNHOLD, record.migration_id, record.host_id, record.vm_id
        )
        calls = [(unhold, Party.OWN_AGENT)]
        if record.reserve_request is not None:
            reservation_id = record.reserve_request.reservation_id
            release = outbox.OwedCall(
                outbox.Kind.RELEASE, record.migration_id, record.to_cloud, reservation_id
            )
            calls.append((release, Party.PEER))
        failed = []
        for call, party in calls:
            try:
                self._owed.make(call)
            except errors.WatariError as error:
                _log.info("not taken back yet", kind=call.kind, reason=error.reason)
                failed.append((call, StepFailed(party, error)))
        return failed

    def _end(
        self,
        record: Record,
        problem: common_pb2.Problem | None = None,
        owed: list[outbox.OwedCall] | None = None,
    ) -> None:
        """The final state that follows; the machine is free again, and debts are on record."""
        changes = {} if problem is None else {"problem": problem}
        to = State.FAILED if problem is not None else steps.end_state(record)
        failpoint.hit(BEFORE_STATE)
        with self._store.write() as connection:
            ended = records.advance(
                connection, record, to, self._now(), actor=self._actor, **changes
            )
            vms.unclaim(connection, record.vm_id, record.migration_id)
            for call in owed or []:
                outbox.owe(connection, call, self._now())
        failpoint.hit(AFTER_STATE)
        self._announce(ended)

    def _advance(
        self,
        record: Record,
        to: State,
        *,
        countersigned: common_pb2.SignedGrant | None = None,
        **values: object,
    ) -> None:
        failpoint.hit(BEFORE_STATE)
        with self._store.write() as connection:
            now = self._now()
            if countersigned is not None:
                grants.note_countersigned(connection, now, countersigned)
            advanced = records.advance(connection, record, to, now, actor=self._actor, **values)
        failpoint.hit(AFTER_STATE)
        self._announce(advanced)

    def _announce(self, record: Record) -> None:
        _log.info("migration", state=record.state, vm_id=record.vm_id, to_cloud=record.to_cloud)
        self._board.state_changed(record.message(self._cloud_id))

    @contextmanager
    def _asking_peer(self, record: Record) -> Iterator[None]:
        try:
            yield
        except errors.WatariError as error:
            if error.retryable:
                self._peers.refresh(record.to_cloud)
            raise StepFailed(Party.PEER, error) from error

    def _now(self) -> int:
        return micros(self._clock.now())

    @property
    def _actor(self) -> str:
        return str(self._own.spiffe_id)


_WITH_PEER = frozenset({Step.BEGIN, Step.RESERVE, Step.COPY, Step.COMMIT})
"""Steps before the commit point that need the destination."""


@contextmanager
def _asking(party: Party) -> Iterator[None]:
    try:
        yield
    except errors.WatariError as error:
        raise StepFailed(party, error) from error
