"""A service's calling side: channels to proven peers, calls with deadlines and bounded retry."""

import hashlib
import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import grpc

from watari import errors, logs, retry, tracing
from watari.clock import Clock, SystemClock
from watari.identity import Identity, SpiffeId
from watari.identity.party import KeyPair
from watari.rpc.live import LiveChannel
from watari.rpc.settings import (
    DEADLINE_SECONDS_DEFAULT,
    MIGRATION_ID_KEY,
    QUIET_METHODS,
    REQUEST_ID_KEY,
    channel_options,
    require_tls_1_3,
)
from watari.v1 import common_pb2

CHANNELS_MAX = 256
"""Peers that a ChannelPool stays connected to; the least recently asked for is let go."""

ADDRESS_CHARS_MAX = 300
"""A host name of 253 characters, brackets and a port."""

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


@dataclass(frozen=True)
class Target:
    """Where to call, and who must answer there."""

    address: str
    spiffe_id: SpiffeId

    @classmethod
    def of(cls, endpoint: common_pb2.Endpoint) -> "Target":
        """From its message. Raises InvalidArgument INVALID_FIELD."""
        if not 0 < len(endpoint.address) <= ADDRESS_CHARS_MAX or ":" not in endpoint.address:
            raise errors.InvalidArgument(
                "INVALID_FIELD",
                f"{endpoint.address[:80]!r} is not an address",
                hint="write host:port",
                field="address",
            )
        return cls(endpoint.address, SpiffeId.parse(endpoint.spiffe_id))


def connect(identity: Identity, target: Target) -> grpc.Channel:
    """A channel on which only `target.spiffe_id` can answer; the connection is made when needed.

    The server's certificate must come from the target's own provider, and carry the DNS name of the
    target's SPIFFE id, whatever host name or address was dialled. Raises Unauthenticated
    PROVIDER_UNKNOWN.

    Close it only when no thread can still call on it: grpcio 1.85 crashes the process on a call on
    a closed channel. A ChannelPool takes care of that.
    """
    return _open(identity, target, _Outgoing())


def credentials(identity: Identity, peer: SpiffeId) -> grpc.ChannelCredentials:
    """Mutual TLS as `identity`, to a certificate of `peer`'s own provider. Raises Unauthenticated
    PROVIDER_UNKNOWN. Who exactly answers is checked by the name that the channel's options ask for.
    """
    require_tls_1_3()
    pair = identity.current()
    return grpc.ssl_channel_credentials(
        root_certificates=identity.trust.roots_for(peer.domain),
        private_key=pair.key_pem,
        certificate_chain=pair.cert_pem,
    )


def visit(target: Target, pair: KeyPair, roots: bytes) -> grpc.Channel:
    """A channel to a server that no trust folder knows, authenticated by `roots` (PEM), as a party
    that none knows either: how two providers meet (`watari.identity.invitation`).
    """
    require_tls_1_3()
    trusted = grpc.ssl_channel_credentials(roots, pair.key_pem, pair.cert_pem)
    options = channel_options(target.spiffe_id.dns_name)
    channel = grpc.secure_channel(target.address, trusted, options)
    return grpc.intercept_channel(channel, _Outgoing())


def _open(identity: Identity, target: Target, outgoing: "_Outgoing") -> grpc.Channel:
    options = channel_options(target.spiffe_id.dns_name)
    trusted = credentials(identity, target.spiffe_id)
    channel = grpc.secure_channel(target.address, trusted, options)
    return grpc.intercept_channel(channel, outgoing)


def call(
    method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]",
    request: _Request,
    *,
    timeout_seconds: float = DEADLINE_SECONDS_DEFAULT,
    idempotent: bool = False,
    backoff: retry.Backoff | None = None,
    clock: Clock | None = None,
    stop: threading.Event | None = None,
) -> _Response:
    """The response of a stub's method.

    Each attempt has `timeout_seconds`. Only an `idempotent` call is repeated, as `backoff` says and
    until `stop` is set, and only after a retryable error. Raises the WatariError that the peer sent
    or that its silence means.
    """

    def attempt() -> _Response:
        with _mapped_errors():
            return method(request, timeout=timeout_seconds)

    if not idempotent:
        return attempt()
    return retry.call(
        attempt, backoff=backoff or retry.Backoff(), clock=clock or SystemClock(), stop=stop
    )


@contextmanager
def stream(
    method: "grpc.UnaryStreamMultiCallable[_Request, _Response]",
    request: _Request,
    *,
    timeout_seconds: float,
) -> Iterator[Iterator[_Response]]:
    """The responses of a stub's streaming method, cancelled when the block is left.

    Iterating raises WatariError, DeadlineExceeded after `timeout_seconds` in all.
    """
    with _mapped_errors():
        responses = method(request, timeout=timeout_seconds)
    try:
        yield _mapped(responses)
    finally:
        responses.cancel()


class ChannelPool:
    """Channels by target, made when first asked for. May be used from any thread.

    Channels are let go, never closed: gRPC disconnects them when the last stub and call on them are
    gone. So no call that another thread begins can meet a closed channel.
    """

    def __init__(self, identity: Identity, channels_max: int = CHANNELS_MAX) -> None:
        self._identity = identity
        self._channels_max = channels_max
        self._lock = threading.Lock()
        self._channels: OrderedDict[tuple[Target, bytes], grpc.Channel] = OrderedDict()
        self._outgoing = _Outgoing()

    def get(self, target: Target) -> LiveChannel:
        """The channel to a target. Behind it is a new connection once the target's provider has
        changed its roots, or the own certificate was renewed; calls on the one before go on.

        Raises Unauthenticated PROVIDER_UNKNOWN, and so do calls on it later.
        """
        live = LiveChannel(lambda: self._current(target))
        live.parting()
        return live

    def _current(self, target: Target) -> grpc.Channel:
        roots = self._identity.trust.roots_for(target.spiffe_id.domain)
        key = (target, hashlib.sha256(roots + self._identity.cert_pem).digest())
        with self._lock:
            if key not in self._channels:
                self._channels[key] = _open(self._identity, target, self._outgoing)
            self._channels.move_to_end(key)
            if len(self._channels) > self._channels_max:
                self._channels.popitem(last=False)
            return self._channels[key]

    def close(self) -> None:
        """Cancel the streams, refuse new calls as Cancelled, let the channels go.

        Unary calls that run end by themselves, at their deadlines at the latest.
        """
        self._outgoing.close()
        with self._lock:
            self._channels.clear()


def _mapped(responses: Iterable[_Response]) -> Iterator[_Response]:
    with _mapped_errors():
        yield from responses


@contextmanager
def _mapped_errors() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise errors.from_rpc_error(error) from error


class _Details(NamedTuple):
    """What gRPC wants of ClientCallDetails, which has no constructor of its own."""

    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str | bytes], ...] | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Outgoing(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Gives every call the ids of the log context, and a deadline if it has none.

    Knows the streams that are open, so that they can be cancelled together.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._streams: weakref.WeakSet[Any] = weakref.WeakSet()

    def close(self) -> None:
        """Cancel every stream; from now on every call is refused as Cancelled."""
        with self._lock:
            self._closed = True
            streams = list(self._streams)
        for responses in streams:
            responses.cancel()

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self._check()
        return _traced(continuation, _completed(details), request)

    def intercept_stream_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self._check()
        return _traced(continuation, _completed(details), request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return self._tracked(_traced(continuation, _completed(details), request))

    def intercept_stream_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return self._tracked(_traced(continuation, _completed(details), request))

    def _check(self) -> None:
        with self._lock:
            if self._closed:
                raise errors.Cancelled("CANCELLED", "this process has stopped calling")

    def _tracked(self, responses: Any) -> Any:
        with self._lock:
            self._streams.add(responses)
            closed = self._closed
        if closed:
            responses.cancel()
        return responses


def _traced(continuation: Any, details: _Details, request: Any) -> Any:
    """Makes the call as a span of its own, which the other side is told of."""
    if not tracing.on() or details.method in QUIET_METHODS:
        return continuation(details, request)
    migration_id = dict(details.metadata or ()).get(MIGRATION_ID_KEY)
    known = {"migration_id": str(migration_id)} if migration_id else {}
    span = tracing.begin(details.method, tracing.Kind.CLIENT, method=details.method, **known)
    metadata = *(details.metadata or ()), (tracing.TRACEPARENT_KEY, span.traceparent)
    outcome = continuation(details._replace(metadata=metadata), request)

    def ended(*_: object) -> None:
        code = outcome.code()
        span.end("" if code is grpc.StatusCode.OK else code.name)

    if outcome.done() or not outcome.add_callback(ended):
        ended()
    return outcome


def _completed(details: grpc.ClientCallDetails) -> _Details:
    metadata = list(details.metadata or ())
    present = {key for key, _ in metadata}
    request_id, migration_id = logs.bound("request_id"), logs.bound("migration_id")
    if REQUEST_ID_KEY not in present:
        metadata.append((REQUEST_ID_KEY, request_id or uuid.uuid4().hex))
    if MIGRATION_ID_KEY not in present and migration_id is not None:
        metadata.append((MIGRATION_ID_KEY, migration_id))
    timeout = DEADLINE_SECONDS_DEFAULT if details.timeout is None else details.timeout
    return _Details(
        details.method,
        timeout,
        tuple(metadata),
        details.credentials,
        details.wait_for_ready,
        details.compression,
    )
