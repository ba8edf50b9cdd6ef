"""What the sender of a session says on the control connection: opening it, ending it, and why."""

import uuid

import grpc

from agent.settings import Settings
from agent.transfer import opening
from agent.transfer.dataplane import Connections
from agent.transfer.flow import Failure
from agent.transfer.streams import StreamBroken, cancelled_on_failure
from watari import clock, errors, failpoint, logs, retry
from watari.identity import Identity
from watari.rpc import client
from watari.v1 import agent_pb2, agent_pb2_grpc, common_pb2

COMPLETED = failpoint.declare("agent.attempt.completed")

TELL_SECONDS_MAX = 2.0
"""How long the receiver is told that a session has ended; it finds out by itself too."""

_NOT_TRUSTED = frozenset({"PROVIDER_UNKNOWN", "CERTIFICATE_DENIED"})
"""The receiver does not know this agent any more, and that is why it ended the session."""

_log = logs.get(__name__)


class Line:
    """The way to one receiver."""

    def __init__(
        self,
        target: client.Target,
        own: Identity,
        settings: Settings,
        time: clock.Clock,
        channels: client.ChannelPool,
    ) -> None:
        self.receiver = target.spiffe_id
        self._own = own
        self._settings = settings
        self._clock = time
        self.connections = Connections(own, time, settings.transfer.connect_seconds_max)
        """For the data of one session after another."""
        self._channel = channels.get(target)
        self._stub = agent_pb2_grpc.TransferServiceStub(self._channel)

    def open(
        self,
        asked: agent_pb2.OpenSessionRequest,
        options: common_pb2.TransferOptions,
    ) -> opening.Opened:
        """Opens a session, which gets an id of its own. Raises WatariError."""
        transfer = self._settings.transfer
        request = agent_pb2.OpenSessionRequest()
        request.CopyFrom(asked)
        request.session_id = str(uuid.uuid4())
        request.cipher_key_bits = options.cipher_key_bits or transfer.cipher_key_bits
        request.streams = options.streams or transfer.streams_max
        return opening.open_session(
            opening.Opening(
                self._stub,
                self.receiver,
                request,
                self.connections,
                self._own,
                self._settings,
                self._clock,
            )
        )

    def complete(
        self, request: agent_pb2.CompleteSessionRequest, failure: Failure
    ) -> common_pb2.SignedDocument:
        """The receiver's receipt. Raises WatariError."""
        response = retry.call(
            lambda: self._signed(request, failure), backoff=retry.Backoff(), clock=self._clock
        )
        failpoint.hit(COMPLETED)
        return response.receipt

    def close(self) -> None:
        """Lets the data connections go."""
        self.connections.close()

    def end(
        self, session_id: str, error: errors.WatariError | None = None
    ) -> errors.WatariError | None:
        """Ends a session; where a stream broke, the receiver's own word for why, if any."""
        request = agent_pb2.AbortSessionRequest(session_id=session_id)
        broken = isinstance(error, StreamBroken)
        limit = self._settings.transfer.connect_seconds_max if broken else TELL_SECONDS_MAX
        stub = agent_pb2_grpc.TransferServiceStub(self._channel.parting())
        try:
            response = client.call(stub.AbortSession, request, timeout_seconds=limit)
        except errors.WatariError as silent:
            _log.info("the receiver cannot be told that the session ended", reason=silent.reason)
            return silent if broken and silent.reason in _NOT_TRUSTED else None
        told = broken and bool(response.problem.reason)
        return errors.from_problem(response.problem) if told else None

    def _signed(
        self, request: agent_pb2.CompleteSessionRequest, failure: Failure
    ) -> agent_pb2.CompleteSessionResponse:
        """The receiver's answer; it may flush for minutes, and a failure here ends the wait."""
        timeout = self._settings.transfer.complete_seconds_max
        call = self._stub.CompleteSession.future(request, timeout=timeout)
        with cancelled_on_failure(failure, call):
            try:
                return call.result()
            except grpc.FutureCancelledError as error:
                failure.check()
                raise errors.Cancelled("CANCELLED", "the call was cancelled") from error
            except grpc.RpcError as error:
                failure.check()
                raise errors.from_rpc_error(error) from error
