"""What the saga does in each state: calls to agents and peers, then one transaction.

Every action may be cut off anywhere and repeated. An action that fails says who failed; `steps`
decides what follows from it.
"""

from manager import grants, outbox
from manager.agents import Agents
from manager.events import Board
from manager.links.measuring import Links
from manager.owed import OwedCalls
from manager.peers import Peers
from manager.saga import copying, documents, records, steps
from manager.saga.asking import asking, asking_peer
from manager.saga.copying import StepFailed
from manager.saga.handing import HandingOver
from manager.saga.record import Record
from manager.saga.recording import Recorder
from manager.saga.states import State
from manager.saga.steps import Again, Back, Party, Step
from manager.settings.migrations import MigrationSettings
from manager.store import moment
from watari import errors, failpoint, logs
from watari.identity import SpiffeId
from watari.v1 import agent_pb2, common_pb2

AFTER_HOLD = failpoint.declare("manager.saga.after_hold")
AFTER_RESERVE = failpoint.declare("manager.saga.after_reserve")
AFTER_UNDO = failpoint.declare("manager.saga.after_undo")

_log = logs.get(__name__)


class Actions:
    """Performs single steps of migrations."""

    def __init__(
        self,
        recorder: Recorder,
        agents: Agents,
        peers: Peers,
        owed: OwedCalls,
        board: Board,
        limits: MigrationSettings,
        links: Links,
    ) -> None:
        self._recorder = recorder
        self._own = recorder.own
        self._agents = agents
        self._peers = peers
        self._limits = limits
        self._owed = owed
        self._copier = copying.Copier(
            recorder.clock, recorder.own, agents, peers, board, limits, links.observed
        )
        self._handing = HandingOver(recorder, agents, peers)

    def perform(self, record: Record, signals: copying.Signals) -> Again | Back | None:
        """Do what the record asks for. None: read it again and go on.

        Raises StepFailed for others' failures, and what the database raises.
        """
        step = steps.next_step(record)
        if step in _WITH_PEER:
            self._require_trusted(record)
        match step:
            case Step.BEGIN:
                self._recorder.advance(record, State.RESERVING)
            case Step.END:
                self._recorder.end(record)
            case Step.RESERVE:
                self._reserve(record)
            case Step.COPY:
                return self._copy(record, signals)
            case Step.COMMIT:
                self._handing.commit(record)
            case Step.HAND_OVER:
                self._handing.hand_over(record)
            case Step.RETIRE:
                self._handing.retire(record)
            case Step.TAKE_BACK:
                self._handing.take_back(record)
            case Step.GO_BACK:
                self._recorder.advance(record, State.ROLLING_BACK)
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
            self._recorder.end(record, problem)
        else:
            self._recorder.advance(record, State.ROLLING_BACK, problem=problem)

    def _reserve(self, record: Record) -> None:
        with asking(Party.OWN_AGENT):
            guest = self._agents.hold(
                record.host_id, record.vm_id, record.migration_id, record.mode
            )
            steps.require_same_machine(record, guest)
        failpoint.hit(AFTER_HOLD)
        request = record.reserve_request
        if request is None:
            request = documents.reserve_request(
                record,
                guest,
                from_cloud=self._recorder.cloud_id,
                source_agent=self._agents.spiffe_id(record.host_id),
                ttl_seconds=self._limits.reservation_ttl_seconds,
            )
            with self._recorder.store.write() as connection:
                record = records.note(connection, record, reserve_request=request)
        peer = documents.peer(record)
        with asking_peer(self._peers, record):
            answer = self._peers.reserve(peer, request)
            documents.require_live(answer.reservation)
            grant = grants.accept(
                self._own,
                self._recorder.clock,
                request,
                answer.grant,
                destination_manager=peer.manager,
            )
            documents.require_endpoint(grant, answer.agent_control)
        failpoint.hit(AFTER_RESERVE)
        given = answer.reservation.expires_at.seconds - answer.reservation.created_at.seconds
        self._recorder.advance(
            record,
            State.COPYING,
            countersigned=grant,
            grant=grant,
            destination_control=answer.agent_control,
            destination_data=documents.data_endpoint(answer.agent_data),
            reserved_seconds=given,
        )

    def _copy(self, record: Record, signals: copying.Signals) -> Again | Back | None:
        transfer = self._copier.run(record, signals, lambda: self._recorder.reread(record))
        if transfer is None:
            return None  # Cancelled or stopping: the record says more.
        if transfer.state == agent_pb2.TRANSFER_STATE_FAILED:
            counted = steps.count_failure(record, transfer.progress.done_bytes)
            with self._recorder.store.write() as connection:
                record = records.note(connection, record, **counted)
            return steps.after_transfer_failed(record, transfer.problem, self._limits)
        with asking(Party.TRANSFER):
            receipt = self._copier.checked_receipt(record, transfer)
        stopped_at = documents.stopped_at(transfer, self._recorder.clock.now())
        self._recorder.advance(record, State.CONFIRMING, receipt=receipt, stopped_at=stopped_at)
        return None

    def _undo(self, record: Record) -> None:
        failed = self._take_back(record)
        spent_seconds = (self._recorder.now() - record.state_changed_at) / 1_000_000
        # Who answers that it will not, or is not trusted any more, is not waited for: it is owed.
        waits = [failure for _, failure in failed if failure.error.retryable]
        if waits and spent_seconds < self._limits.rollback_wait_seconds_max:
            raise waits[0]
        failpoint.hit(AFTER_UNDO)
        self._recorder.end(record, owed=[call for call, _ in failed])

    def _take_back(self, record: Record) -> list[tuple[outbox.OwedCall, StepFailed]]:
        unhold = outbox.OwedCall(
            outbox.Kind.UNHOLD, record.migration_id, record.host_id, record.vm_id
        )
        calls = [(unhold, Party.OWN_AGENT)]
        # What a broker held for it waits to be taken over, though nothing was reserved yet.
        if record.reserve_request is not None or record.request.reservation_id:
            reservation_id = steps.reservation_id(record)
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


_WITH_PEER = frozenset({Step.BEGIN, Step.RESERVE, Step.COPY, Step.COMMIT})
"""Steps before the commit point that need the destination."""
