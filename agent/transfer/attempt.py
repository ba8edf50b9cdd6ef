"""One attempt to move one machine, as the sender runs it: check, shake hands, send, compare."""

import os
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import grpc

from agent import grants, receipts
from agent.disks.raw import RawReader
from agent.hypervisors import Disk, Guest
from agent.settings import Settings
from agent.transfer import handshake
from agent.transfer.flow import Failure, Throttle
from agent.transfer.geometry import DIGEST_BYTES
from agent.transfer.keys import SessionKeys
from agent.transfer.merkle import DigestKeys, DiskTree
from agent.transfer.meter import Meter
from agent.transfer.sending import Sending, Source
from agent.transfer.streams import Route, StreamBroken, cancelled_on_failure
from watari import clock, errors, failpoint, identity, logs, retry, validate
from watari.identity import Identity, SpiffeId
from watari.rpc import client
from watari.v1 import agent_pb2, agent_pb2_grpc, common_pb2

OPENED = failpoint.declare("agent.attempt.session_opened")
COMPLETED = failpoint.declare("agent.attempt.completed")

TELL_SECONDS_MAX = 2.0
"""How long the receiver is told that a session has ended; it finds out by itself too."""

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
    entered: Callable[["agent_pb2.TransferState.ValueType"], None]
    """Told of every state that the attempt reaches."""

    def run(self) -> Outcome:
        """Runs to the end. Raises the first WatariError."""
        grant = checked_grant(self.request, self.guest, self.own, self.settings, self.clock)
        target = client.Target.of(self.request.destination_control)
        stub = agent_pb2_grpc.TransferServiceStub(self.channels.get(target))
        with ExitStack() as stack:
            disks = sorted(self.guest.disks, key=lambda disk: disk.disk_id)
            readers = tuple(stack.enter_context(RawReader(disk.path)) for disk in disks)
            request = self._open_request()
            digests = DigestKeys(request.digest_key)
            trees = tuple(DiskTree(digests, reader.size) for reader in readers)
            source = Source(readers, trees, self.request.options.full_read)
            route, session = self._shake_hands(stub, request, target.spiffe_id)
            self.entered(agent_pb2.TRANSFER_STATE_COPYING)
            try:
                frames = self._sending(source, digests).run(route, session)
                for reader in readers:
                    reader.check_unchanged()
                self.entered(agent_pb2.TRANSFER_STATE_COMPLETING)
                own_view = receipts.build(
                    grant,
                    digests,
                    list(zip(_specs(disks), trees, strict=True)),
                    self.guest.definition_xml,
                    self.meter.wire_bytes,
                )
                return self._complete(stub, route, session, frames, own_view, target.spiffe_id)
            except errors.WatariError as error:
                problem = self._abort(stub, route.session_id, error)
                if problem is not None:
                    raise problem from error
                raise

    def _open_request(self) -> agent_pb2.OpenSessionRequest:
        transfer, options = self.settings.transfer, self.request.options
        return agent_pb2.OpenSessionRequest(
            session_id=str(uuid.uuid4()),
            migration_id=self.request.migration_id,
            grant=self.request.grant,
            definition_xml=self.guest.definition_xml,
            digest_key=os.urandom(DIGEST_BYTES),
            cipher_key_bits=options.cipher_key_bits or transfer.cipher_key_bits,
            streams=options.streams or transfer.streams,
        )

    def _shake_hands(
        self,
        stub: agent_pb2_grpc.TransferServiceStub,
        request: agent_pb2.OpenSessionRequest,
        receiver: SpiffeId,
    ) -> tuple[Route, SessionKeys]:
        opening = handshake.ask(request, self.own, receiver)
        response = client.call(
            stub.OpenSession,
            request,
            timeout_seconds=self.settings.transfer.connect_seconds_max,
            idempotent=True,
        )
        session = handshake.conclude(opening, response, self.own, self.clock.now())
        failpoint.hit(OPENED)
        streams = max(1, min(response.streams, request.streams))
        address = validate.require_address(response.data.address, "data.address")
        return Route(request.session_id, address, streams, response.credit_bytes), session

    def _sending(self, source: Source, digests: DigestKeys) -> Sending:
        return Sending(
            source,
            digests,
            self.settings.transfer,
            self.request.options.compression_level or self.settings.transfer.compression_level,
            self.throttle,
            self.meter,
            self.failure,
            self.clock,
        )

    def _complete(
        self,
        stub: agent_pb2_grpc.TransferServiceStub,
        route: Route,
        session: SessionKeys,
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
            sealed_manifest=session.seal_manifest(manifest.SerializeToString()),
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

    def _abort(
        self,
        stub: agent_pb2_grpc.TransferServiceStub,
        session_id: str,
        error: errors.WatariError,
    ) -> errors.WatariError | None:
        """Ends the session; where a stream broke, the receiver's own word for why, if any."""
        request = agent_pb2.AbortSessionRequest(session_id=session_id)
        broken = isinstance(error, StreamBroken)
        timeout = self.settings.transfer.connect_seconds_max if broken else TELL_SECONDS_MAX
        try:
            response = client.call(stub.AbortSession, request, timeout_seconds=timeout)
        except errors.WatariError as silent:
            _log.info("the receiver cannot be told that the session ended", reason=silent.reason)
            return None
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
    grants.check_sender(grant, own.spiffe_id, settings.manager, guest.vm_id)
    if grant.destination_agent != request.destination_control.spiffe_id:
        raise errors.Denied("GRANT_INVALID", "the grant names another destination agent")
    if grant.migration_id != request.migration_id:
        raise errors.Denied("GRANT_INVALID", "the grant is for another migration")
    granted = {disk.disk_id: disk.size_bytes for disk in grant.disks}
    if granted != {disk.disk_id: disk.size_bytes for disk in guest.disks}:
        raise errors.Denied("GRANT_INVALID", "the machine's disks are not those granted")
    return grant


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
