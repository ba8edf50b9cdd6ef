"""COPYING: starts the transfer between the agents, follows it, keeps the reservation alive.

The content never comes here. A watch lasts a bounded time, so that extensions, deadlines and
cancellations are noticed however silent the agent is.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from manager import grants
from manager.agents import Agents
from manager.events import Board
from manager.handover import RECEIPT_PURPOSE
from manager.links.observing import Observation, Observed
from manager.peers import Peer, Peers
from manager.saga import steps
from manager.saga.record import Record
from manager.saga.steps import Party
from manager.settings.migrations import MigrationSettings
from manager.store import micros
from watari import errors, failpoint, identity, logs
from watari.clock import Clock
from watari.v1 import agent_pb2, common_pb2

BEFORE_START = failpoint.declare("manager.saga.before_start_transfer")
AFTER_START = failpoint.declare("manager.saga.after_start_transfer")

ENDED = frozenset(
    {
        agent_pb2.TRANSFER_STATE_SUCCEEDED,
        agent_pb2.TRANSFER_STATE_FAILED,
        agent_pb2.TRANSFER_STATE_CANCELLED,
    }
)

_log = logs.get(__name__)


class StepFailed(Exception):
    """A step that somebody else did not do."""

    def __init__(self, party: Party, error: errors.WatariError) -> None:
        super().__init__(str(error))
        self.party = party
        self.error = error
        self.reason = error.reason


@dataclass
class Signals:
    """What the driver tells a step that runs, and what the step tells the driver."""

    interrupted: threading.Event = field(default_factory=threading.Event)
    """Set when the migration is cancelled or the manager stops."""

    moved: bool = False
    """The transfer has shown life since the step began: earlier failures are forgotten."""

    extend_at: float | None = None
    """Monotonic seconds of the reservation's next extension."""


class Copier:
    """Runs transfers."""

    def __init__(
        self,
        clock: Clock,
        own: identity.Identity,
        agents: Agents,
        peers: Peers,
        board: Board,
        limits: MigrationSettings,
        observed: Callable[[str, Observed], None],
    ) -> None:
        """`observed` is told what the way to a cloud carried."""
        self._observed = observed
        self._clock = clock
        self._own = own
        self._agents = agents
        self._peers = peers
        self._board = board
        self._limits = limits

    def run(
        self, record: Record, signals: Signals, latest: Callable[[], Record]
    ) -> agent_pb2.Transfer | None:
        """Follow a transfer until it has SUCCEEDED or FAILED; None when interrupted. `latest` reads
        the record again: a cap that was changed just before the transfer began counts too.

        Raises StepFailed when an agent or the peer does not answer, or too much time has passed.
        """
        self._require_in_time(record)
        failpoint.hit(BEFORE_START)
        transfer = self._start(record)
        failpoint.hit(AFTER_START)
        self._tell_limit(record, latest())
        observation = Observation()
        while transfer.state not in ENDED:
            if signals.interrupted.is_set():
                return None
            self._require_in_time(record)
            self._extend_when_due(record, signals)
            transfer = self._watch(record, signals, observation)
        self._tell_observed(latest(), observation)
        if transfer.state == agent_pb2.TRANSFER_STATE_CANCELLED:
            if signals.interrupted.is_set():
                return None
            raise StepFailed(Party.TRANSFER, _cancelled_there())
        return transfer

    def checked_receipt(
        self, record: Record, transfer: agent_pb2.Transfer
    ) -> common_pb2.SignedDocument:
        """The receipt, once it is the granted agent's and says what the source read itself.

        Raises Unauthenticated SIGNATURE_INVALID and DataLoss RECEIPT_MISMATCH.
        """
        assert record.grant is not None  # noqa: S101 - written with COPYING
        grant = grants.read(record.grant.granted)
        payload, _ = identity.verify(
            self._own.trust,
            transfer.receipt,
            RECEIPT_PURPOSE,
            identity.SpiffeId.parse(grant.destination_agent),
            now=self._clock.now(),
        )
        receipt = common_pb2.Receipt.FromString(payload)
        steps.require_receipt(grant, receipt, transfer.source_view)
        return transfer.receipt

    def _start(self, record: Record) -> agent_pb2.Transfer:
        request = agent_pb2.StartTransferRequest(
            migration_id=record.migration_id,
            vm_id=record.vm_id,
            grant=record.grant,
            destination_control=record.destination_control,
            options=record.options,
            destination_data=record.destination_data,
            mode=record.mode,
        )
        try:
            return self._agents.start_transfer(record.host_id, request)
        except errors.WatariError as error:
            raise StepFailed(Party.OWN_AGENT, error) from error

    def _tell_limit(self, began: Record, now: Record) -> None:
        if now.options == began.options:
            return
        limit, schedule = now.options.limit_bytes_per_second, now.options.limit_schedule
        try:
            self._agents.set_transfer_limit(began.host_id, began.migration_id, limit, schedule)
        except errors.WatariError as error:
            raise StepFailed(Party.OWN_AGENT, error) from error

    def _tell_observed(self, record: Record, observation: Observation) -> None:
        """A transfer under a cap says nothing of the way."""
        found = observation.result()
        options = record.options
        if found and not options.limit_bytes_per_second and not options.limit_schedule:
            self._observed(record.to_cloud, found)

    def _watch(
        self, record: Record, signals: Signals, observation: Observation
    ) -> agent_pb2.Transfer:
        """The last that was seen of the transfer within one watch."""
        seen: agent_pb2.Transfer | None = None
        seconds = self._limits.watch_seconds_max
        try:
            with self._agents.watch_transfer(
                record.host_id, record.migration_id, seconds
            ) as transfers:
                for seen in transfers:
                    signals.moved = True
                    observation.add(seen.progress)
                    self._board.progress(record.migration_id, seen.progress)
                    if signals.interrupted.is_set() or seen.state in ENDED:
                        return seen
        except errors.WatariError as error:
            # The end of the watch's own time is no failure, if anything was heard in it.
            if seen is None or not isinstance(error, errors.DeadlineExceeded):
                raise StepFailed(Party.OWN_AGENT, _retryable_if_lost(error)) from error
        if seen is None:
            raise StepFailed(Party.OWN_AGENT, _silent(record.host_id))
        return seen

    def _extend_when_due(self, record: Record, signals: Signals) -> None:
        interval = max(1.0, (record.reserved_seconds or 0) / 3)
        if signals.extend_at is None:
            elapsed = (micros(self._clock.now()) - record.state_changed_at) / 1_000_000
            signals.extend_at = self._clock.monotonic() + interval - elapsed
        if self._clock.monotonic() < signals.extend_at:
            return
        peer = Peer(record.to_cloud, identity.SpiffeId.parse(record.to_manager))
        reservation_id = steps.reservation_id(record)
        try:
            self._peers.extend(peer, reservation_id, self._limits.reservation_ttl_seconds)
        except errors.WatariError as error:
            if not error.retryable:
                raise StepFailed(Party.PEER, error) from error
            # The copy goes on without the destination's manager for as long as the reservation.
            _log.warning("reservation not extended", reason=error.reason)
            signals.extend_at = self._clock.monotonic() + interval / 4
        else:
            signals.extend_at = self._clock.monotonic() + interval

    def _require_in_time(self, record: Record) -> None:
        try:
            steps.require_in_time(record, micros(self._clock.now()), self._limits)
        except errors.DeadlineExceeded as error:
            raise StepFailed(Party.TRANSFER, error) from error


def _retryable_if_lost(error: errors.WatariError) -> errors.WatariError:
    """An agent that restarted, or dropped the stream, is asked again."""
    lost = isinstance(error, errors.Cancelled) or error.reason == "TRANSFER_NOT_FOUND"
    if not lost or error.retryable:
        return error
    return errors.Unavailable("PEER_UNAVAILABLE", error.message, cause=error.reason)


def _silent(host_id: str) -> errors.Unavailable:
    return errors.Unavailable(
        "PEER_UNAVAILABLE",
        f"the agent of host {host_id} says nothing of the transfer",
        peer=host_id,
    )


def _cancelled_there() -> errors.Cancelled:
    return errors.Cancelled(
        "CANCELLED",
        "the transfer was cancelled at the agent",
        hint="somebody with access to the host did it; migrate again",
    )
