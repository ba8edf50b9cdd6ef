"""One attempt to move one machine, as the sender runs it.

```
cold, suspend   open a session -> the machine stands still -> send -> compare, sign
warm            (view of the running disks -> open -> send -> close) ... -> then as cold
```

A round leaves at the receiver what an interrupted try would: verified leaves and a journal. The
next session goes on from there, so that rounds need nothing that resuming does not need as well.
What is known here of the round before are its digests, by which what did not change need not be
read.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from agent import grants, receipts
from agent.disks.view import DiskView
from agent.hooks import Document, Hooks, Stage
from agent.hypervisors import COLD, Guest, Hypervisor
from agent.settings import Settings
from agent.transfer import opening
from agent.transfer.flow import Failure, Throttle
from agent.transfer.line import Line
from agent.transfer.meter import Meter
from agent.transfer.passage import Outcome, Passage
from agent.transfer.rounds import DOWNTIME_SECONDS_TARGET, Ran, Rounds
from watari import clock, errors, failpoint, logs
from watari.identity import Identity
from watari.rpc import client
from watari.v1 import agent_pb2, common_pb2

AFTER_ROUND = failpoint.declare("agent.attempt.after_round")
BEFORE_STOP = failpoint.declare("agent.attempt.before_stop")
AFTER_STOP = failpoint.declare("agent.attempt.after_stop")

CONNECTIONS_AHEAD = 17
"""Data connections that are made while the session is still being opened; what is not needed is
closed again. Over a long way this saves two round trips.
"""

STOP_SECONDS_MAX = 60
"""What a guest is given to shut down, unless the migration says otherwise."""

STOP_UNNOTICED_SECONDS_MAX = 15.0
"""A session that was idle for longer is opened again before anything is sent on it."""

STOP_SEEN_SECONDS_MAX = 5.0
"""How long after a round failed a guest may take to be seen off that has powered itself off."""

STOP_LOOK_SECONDS = 0.2

_MAY_BE_CHANGED = frozenset({"DIGEST_MISMATCH", "PEER_ERROR", "FRAME_INVALID"})

_log = logs.get(__name__)


@dataclass(frozen=True)
class Attempt:
    """Everything that an attempt is made from."""

    request: agent_pb2.StartTransferRequest
    guest: Guest
    hypervisor: Hypervisor
    hooks: Hooks
    own: Identity
    settings: Settings
    clock: clock.Clock
    channels: client.ChannelPool
    failure: Failure
    throttle: Throttle
    metered: Callable[[Meter], None]
    """Told of the meter of every round before it begins."""
    ticked: Callable[[], None]
    """Called a few times a second while data moves."""
    entered: Callable[["agent_pb2.TransferState.ValueType"], None]
    """Told of every state that the attempt reaches."""
    stopped: Callable[[datetime], None]
    """Told when a machine that ran was stopped."""
    number: int = 1

    def run(self) -> Outcome:
        """Runs to the end. Raises the first WatariError."""
        grant = checked_grant(self.request, self.guest, self.own, self.settings, self.clock)
        target = client.Target.of(self.request.destination_control)
        line = Line(target, self.own, self.settings, self.clock, self.channels)
        with closing(line):
            passage = Passage(
                line,
                self.request,
                grant,
                self.guest,
                self.own,
                self.settings,
                self.clock,
                self.failure,
                self.throttle,
                self.metered,
                self.ticked,
                self.entered,
                self.number,
            )
            if self.request.destination_data.address:
                line.connections.aim(self.request.destination_data, ahead=CONNECTIONS_AHEAD)
            warm = self.request.mode == common_pb2.MIGRATION_MODE_WARM
            known = self._rounds(passage) if warm else None
            return self._last_round(passage, known)

    def _rounds(self, passage: Passage) -> opening.Known | None:
        """Sends what changes while the machine runs, until the rest is little enough. What the last
        of these rounds found out; None when the machine does not run.
        """
        target = self.request.options.downtime_seconds_target or DOWNTIME_SECONDS_TARGET
        rounds = Rounds(float(target))
        known: opening.Known | None = None
        session_id = ""
        while rounds.another:
            view = self._running_view(passage.line, rounds.number, session_id)
            if view is None:
                break
            with view:
                opened = passage.open()
                session_id = opened.route.session_id
                try:
                    known = self._round(passage, opened, view, known, rounds)
                except errors.WatariError as error:
                    raise self._stopped_itself(error) from error
            failpoint.hit(AFTER_ROUND)
        return known

    def _running_view(self, line: Line, number: int, session_id: str) -> DiskView | None:
        """None also of a machine that has stopped by itself: the last round is next. `session_id`
        is what the round before has left open.
        """
        vm_id, migration_id = self.guest.vm_id, self.request.migration_id
        try:
            return self.hypervisor.running_view(vm_id, migration_id, number)
        except errors.WatariError:
            if not self._runs_on():
                return None
            if session_id:
                line.end(session_id)
            raise

    def _round(
        self,
        passage: Passage,
        opened: opening.Opened,
        view: DiskView,
        known: opening.Known | None,
        rounds: Rounds,
    ) -> opening.Known:
        """Sends what differs. The session is left to the next one, which takes its place."""
        began = self.clock.monotonic()
        rounds.round_trip_seconds = opened.round_trip_seconds
        source = passage.source(opened, view, known)
        meter = passage.meter(source, opened)
        meter.round, meter.expected_seconds = rounds.number, rounds.expected_seconds
        passage.send(source, opened, meter, lambda _frames: None)
        seconds = self.clock.monotonic() - began
        reading = (meter.busy.read + meter.busy.cpu) / self.settings.transfer.workers
        rounds.ended(Ran(seconds, reading, meter.needed_bytes, meter.sent_bytes, source.whole))
        _log.info(
            "round",
            number=meter.round,
            sent_bytes=meter.sent_bytes,
            seconds=round(seconds, 3),
            expected_downtime_seconds=round(rounds.expected_seconds, 3),
        )
        return opened.known(source, passage.specs)

    def _stopped_itself(self, error: errors.WatariError) -> errors.WatariError:
        """What to say of a round that failed: a guest that powers itself off takes the view with
        it, and the next attempt finds it standing still.
        """
        if not isinstance(error, errors.DataLoss) or self._runs_on():
            return error
        return errors.FailedPrecondition(
            "VM_NOT_RUNNING",
            f"machine {self.guest.name} stopped by itself while it was copied: {error.message}",
            hint="it goes on by itself: the next attempt moves it as it is now",
            retryable=True,
            vm=self.guest.name,
        )

    def _runs_on(self) -> bool:
        """Whether the machine runs, as far as is known; its disks may be gone a moment before its
        hypervisor says so.
        """
        deadline = self.clock.monotonic() + STOP_SEEN_SECONDS_MAX
        try:
            while self.hypervisor.guest(self.guest.vm_id).state == agent_pb2.GUEST_STATE_RUNNING:
                if self.clock.monotonic() >= deadline:
                    return True
                self.clock.sleep(STOP_LOOK_SECONDS)
        except errors.WatariError:
            return True
        return False

    def _last_round(self, passage: Passage, known: opening.Known | None) -> Outcome:
        """The session comes first: its receiver looks at the machine before that is stopped."""
        opened = passage.open()
        began = self.clock.monotonic()
        grant = passage.grant
        try:
            guest = self._stand_still(grant)
            view = self.hypervisor.still_view(guest.vm_id, grant.migration_id)
        except errors.WatariError as error:
            passage.line.end(opened.route.session_id, error)
            raise
        with view:
            if self.clock.monotonic() - began > STOP_UNNOTICED_SECONDS_MAX:
                opened = passage.open()
            source = passage.source(opened, view, known)
            meter = passage.meter(source, opened)
            meter.last_round = known is not None

            def complete(stream_frames: list[int]) -> Outcome:
                _check_unchanged(view)
                self.entered(agent_pb2.TRANSFER_STATE_COMPLETING)
                trees = [disk.tree for disk in source.disks]
                own_view = receipts.build(
                    grant,
                    source.digests,
                    list(zip(passage.specs, trees, strict=True)),
                    self.guest.definition_xml,
                    meter.wire_bytes,
                )
                return passage.complete(opened, stream_frames, own_view)

            try:
                return passage.send(source, opened, meter, complete)
            except errors.WatariError as error:
                raise _cause(error, view) from error

    def _stand_still(self, grant: common_pb2.Grant) -> Guest:
        """The machine, off, with all that was granted there to be read."""
        failpoint.hit(BEFORE_STOP)
        self.failure.check()
        runs = self.hypervisor.guest(self.guest.vm_id).state == agent_pb2.GUEST_STATE_RUNNING
        if runs:
            self.hooks.run(Stage.BEFORE_STOP, self._told())
            self.hooks.owe(Stage.AFTER_STOP, self._told())
        began = self.clock.now()
        seconds = self.request.options.stop_seconds_max or STOP_SECONDS_MAX
        guest = self.hypervisor.quiesce(self.guest.vm_id, grant.migration_id, float(seconds))
        if guest.stopped_by_hold:
            at = guest.stopped_at_seconds
            self.stopped(datetime.fromtimestamp(at, UTC) if at else began)
        check_granted_disks(grant, guest)
        failpoint.hit(AFTER_STOP)
        self.hooks.settle(Stage.AFTER_STOP, self.request.migration_id)
        return guest

    def _told(self) -> Document:
        migration_id, mode = self.request.migration_id, self.request.mode
        return self.hooks.document(self.guest, migration_id=migration_id, mode=mode or COLD)


def checked_grant(
    request: agent_pb2.StartTransferRequest,
    guest: Guest,
    own: Identity,
    settings: Settings,
    time: clock.Clock,
) -> common_pb2.Grant:
    """The grant, if it lets this agent send this machine as it is. Raises WatariError."""
    grant = grants.check(request.grant, own.trust, time.now())
    grants.check_sender(grant, own.spiffe_id, settings.manager, guest.vm_id, guest.epoch)
    if grant.destination_agent != request.destination_control.spiffe_id:
        raise errors.Denied("GRANT_INVALID", "the grant names another destination agent")
    if grant.migration_id != request.migration_id:
        raise errors.Denied("GRANT_INVALID", "the grant is for another migration")
    grants.check_purpose(grant, dry_run=False)
    check_granted_disks(grant, guest)
    return grant


def check_granted_disks(grant: common_pb2.Grant, guest: Guest) -> None:
    """Raises Denied GRANT_INVALID unless a machine's disks are just those that were granted."""
    granted = {disk.disk_id: disk.size_bytes for disk in grant.disks}
    if granted != {disk.disk_id: disk.size_bytes for disk in guest.disks}:
        raise errors.Denied("GRANT_INVALID", "the machine's disks are not those granted")


def _check_unchanged(view: DiskView) -> None:
    for disk in view.disks.values():
        disk.reader.check_unchanged()


def _cause(error: errors.WatariError, view: DiskView) -> errors.WatariError:
    """What to say of a failure: a source that changed while it was read explains a digest that does
    not match.
    """
    if error.reason in _MAY_BE_CHANGED:
        try:
            _check_unchanged(view)
        except errors.DataLoss as changed:
            return changed
    return error
