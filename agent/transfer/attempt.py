"""One attempt to move one machine, as the sender runs it: check, shake hands, send, compare."""

import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import grpc

from agent import grants, receipts
from agent.disks import DiskReader, open_reader
from agent.hypervisors import Disk, Guest
from agent.settings import Settings
from agent.transfer import opening
from agent.transfer.dataplane import Connections
from agent.transfer.flow import Failure, Throttle
from agent.transfer.meter import Meter
from agent.transfer.sending import Route, Sending, Source
from agent.transfer.steering import Steering
from agent.transfer.streams import StreamBroken, cancelled_on_failure
from watari import clock, errors, failpoint, identity, logs, retry
from watari.identity import Identity, SpiffeId
from watari.rpc import client
from watari.v1 import agent_pb2, agent_pb2_grpc, common_pb2

COMPLETED = failpoint.declare("agent.attempt.completed")

CONNECTIONS_AHEAD = 17
"""Data connections that are made while the session is still being opened; what is not needed is
closed again. Over a long way this saves two round trips.
"""

TELL_SECONDS_MAX = 2.0
"""How long the receiver is told that a session has ended; it finds out by itself too."""

_MAY_BE_CHANGED = frozenset({"DIGEST_MISMATCH", "PEER_ERROR", "FRAME_INVALID"})

_NOT_TRUSTED = frozenset({"PROVIDER_UNKNOWN", "CERTIFICATE_DENIED"})
"""The receiver does not know this agent any more, and that is why it ended the session."""

_log = logs.get(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a successful attempt leaves."""

    receipt: common_pb2.SignedDocument
    source_view: common_pb2.Receipt


@dataclass(frozen=True)
class Attempt:
    """Everything that an attempt is made from."""

    request: agent_pb2.StartTransferRequest
    guest: Guest
    own: Identity
    settings: Settings
    clock: clock.Clock
    channels: client.ChannelPool
    failure: Failure
    throttle: Throttle
    meter: Meter
    ticked: Callable[[], None]
    """Called a few times a second while data moves."""
    entered: Callable[["agent_pb2.TransferState.ValueType"], None]
    """Told of every state that the attempt reaches."""

    def run(self) -> Outcome:
        """Runs to the end. Raises the first WatariError."""
        grant = checked_grant(self.request, self.guest, self.own, self.settings, self.clock)
        target = client.Target.of(self.request.destination_control)
        channel = self.channels.get(target)
        stub = agent_pb2_grpc.TransferServiceStub(channel)
        with ExitStack() as stack:
            connections = Connections(
                self.own, self.clock, self.settings.transfer.connect_seconds_max
            )
            stack.callback(connections.close)
            if self.request.destination_data.address:
                connections.aim(self.request.destination_data, ahead=CONNECTIONS_AHEAD)
            disks = sorted(self.guest.disks, key=lambda disk: disk.disk_id)
            readers = [stack.enter_context(open_reader(disk.path, disk.format)) for disk in disks]
            opened = opening.open_session(self._opening(stub, target, connections))
            self.meter.round_trip_seconds = opened.round_trip_seconds
            source = opened.source(disks, readers, full_read=self.request.options.full_read)
            self.entered(agent_pb2.TRANSFER_STATE_COPYING)

            def complete(stream_frames: list[int]) -> Outcome:
                for reader in readers:
                    reader.check_unchanged()
                self.entered(agent_pb2.TRANSFER_STATE_COMPLETING)
                trees = [disk.tree for disk in source.disks]
                own_view = receipts.build(
                    grant,
                    source.digests,
                    list(zip(_specs(disks), trees, strict=True)),
                    self.guest.definition_xml,
                    self.meter.wire_bytes,
                )
                return self._complete(stub, opened.route, stream_frames, own_view, target.spiffe_id)

            try:
                return self._sending(source, opened).run(opened.route, complete)
            except errors.WatariError as error:
                parting = agent_pb2_grpc.TransferServiceStub(channel.parting())
                told = abort(parting, opened.route.session_id, self.settings, error)
                raise _cause(error, told, readers) from error

    def _opening(
        self,
        stub: agent_pb2_grpc.TransferServiceStub,
        target: client.Target,
        connections: Connections,
    ) -> opening.Opening:
        transfer, options = self.settings.transfer, self.request.options
        request = agent_pb2.OpenSessionRequest(
            session_id=str(uuid.uuid4()),
            migration_id=self.request.migration_id,
            grant=self.request.grant,
            definition_xml=self.guest.definition_xml,
            cipher_key_bits=options.cipher_key_bits or transfer.cipher_key_bits,
            streams=options.streams or transfer.streams_max,
        )
        return opening.Opening(
            stub,
            target.spiffe_id,
            request,
            connections,
            self.own,
            self.settings,
            self.clock,
        )

    def _sending(self, source: Source, opened: opening.Opened) -> Sending:
        transfer, options = self.settings.transfer, self.request.options
        steering = Steering(
            level=options.compression_level or transfer.compression_level,
            streams=options.streams,
            streams_max=opened.route.streams_max,
            round_trip_seconds=opened.round_trip_seconds,
        )
        return Sending(
            source,
            transfer,
            steering,
            self.throttle,
            self.meter,
            self.failure,
            self.clock,
            ticked=self.ticked,
        )

    def _complete(
        self,
        stub: agent_pb2_grpc.TransferServiceStub,
        route: Route,
        stream_frames: list[int],
        own_view: common_pb2.Receipt,
        receiver: SpiffeId,
    ) -> Outcome:
        """Has the receiver sign, and checks that it received what was read."""
        manifest = agent_pb2.Manifest(
            session_id=route.session_id, disks=own_view.disks, stream_frames=stream_frames
        )
        request = agent_pb2.CompleteSessionRequest(
            session_id=route.session_id,
            sealed_manifest=route.keys.seal_manifest(manifest.SerializeToString()),
        )
        response = retry.call(
            lambda: self._signed(stub, request), backoff=retry.Backoff(), clock=self.clock
        )
        failpoint.hit(COMPLETED)
        payload, _ = identity.verify(
            self.own.trust, response.receipt, receipts.PURPOSE, receiver, now=self.clock.now()
        )
        receipts.compare(receipts.read(payload), own_view)
        self.failure.check()  # who cancelled meanwhile was told that it ends as cancelled
        return Outcome(response.receipt, own_view)

    def _signed(
        self,
        stub: agent_pb2_grpc.TransferServiceStub,
        request: agent_pb2.CompleteSessionRequest,
    ) -> agent_pb2.CompleteSessionResponse:
        """The receiver's answer; it may flush for minutes, and a failure here ends the wait."""
        timeout = self.settings.transfer.complete_seconds_max
        call = stub.CompleteSession.future(request, timeout=timeout)
        with cancelled_on_failure(self.failure, call):
            try:
                return call.result()
            except grpc.FutureCancelledError as error:
                self.failure.check()
                raise errors.Cancelled("CANCELLED", "the call was cancelled") from error
            except grpc.RpcError as error:
                self.failure.check()
                raise errors.from_rpc_error(error) from error


def abort(
    stub: agent_pb2_grpc.TransferServiceStub,
    session_id: str,
    settings: Settings,
    error: errors.WatariError | None = None,
) -> errors.WatariError | None:
    """Ends a session; where a stream broke, the receiver's own word for why, if any."""
    request = agent_pb2.AbortSessionRequest(session_id=session_id)
    broken = isinstance(error, StreamBroken)
    timeout = settings.transfer.connect_seconds_max if broken else TELL_SECONDS_MAX
    try:
        response = client.call(stub.AbortSession, request, timeout_seconds=timeout)
    except errors.WatariError as silent:
        _log.info("the receiver cannot be told that the session ended", reason=silent.reason)
        return silent if broken and silent.reason in _NOT_TRUSTED else None
    told = broken and bool(response.problem.reason)
    return errors.from_problem(response.problem) if told else None


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


def _specs(disks: list[Disk]) -> list[common_pb2.DiskSpec]:
    return [
        common_pb2.DiskSpec(
            disk_id=disk.disk_id,
            size_bytes=disk.size_bytes,
            allocated_bytes=disk.allocated_bytes,
            format=disk.format,
        )
        for disk in disks
    ]


def _cause(
    error: errors.WatariError, told: errors.WatariError | None, readers: list[DiskReader]
) -> errors.WatariError:
    """What to say of a failure: a source that changed while it was read explains a digest that does
    not match, and the receiver knows why a stream broke.
    """
    cause = told or error
    if cause.reason in _MAY_BE_CHANGED:
        try:
            for reader in readers:
                reader.check_unchanged()
        except errors.DataLoss as changed:
            return changed
    return cause
