"""The data port: one gRPC method, bytes in and bytes out, over plain HTTP/2 or mutual TLS.

`/watari.v1.TransferData/Stream`, metadata `watari-session` (UUID) and `watari-stream` (number).
No protobuf on this path: building and parsing messages of 1 MiB costs more than sealing them.
Windows are fixed and bandwidth probing is off, because a probing receiver that stalls was measured
to grow by hundreds of MiB. What the port answers is not authenticated: a status here says only that
a stream ended, and the reason is asked for on the control port.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import grpc

from agent.transfer.frames import MESSAGE_BYTES_MAX
from agent.transfer.geometry import STREAMS_MAX
from watari import clock, errors, logs, validate
from watari.identity import Identity, SpiffeId
from watari.rpc.client import credentials as client_credentials
from watari.rpc.server import credentials as server_credentials
from watari.v1 import common_pb2

METHOD = "/watari.v1.TransferData/Stream"
_PING = "/watari.v1.TransferData/Ping"
_UNREACHED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_SESSION, _STREAM = "watari-session", "watari-stream"
_KEEPALIVE_MILLISECONDS = 20_000
_FRAME_BYTES_MAX = (1 << 24) - 1
METADATA_BYTES_MAX = 4096

WARM_SECONDS_MIN = 0.03
"""Round trip from which connections are warmed up: they are given padding while the session is
still being opened. TCP starts slowly, twice as fast after each round trip, and two round trips pass
before there is anything to send.
"""

WARM_BYTES = 48 * 1024
"""Padding for each: what TCP lets through in two round trips, 10 segments and then 20."""

_log = logs.get(__name__)

_COMMON = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.max_frame_size", _FRAME_BYTES_MAX),
    ("grpc.keepalive_time_ms", _KEEPALIVE_MILLISECONDS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_MILLISECONDS),
)


@dataclass(frozen=True)
class StreamId:
    """Which stream of which session."""

    session_id: str
    number: int


Accept = Callable[[StreamId, Iterator[bytes], Callable[[], object]], Iterator[bytes]]
"""(stream, messages, cut): yields answers; raises WatariError; `cut()` ends the stream at once."""


def serve(
    address: str,
    accept: Accept,
    *,
    window_bytes: int,
    streams_max: int,
    tls: Identity | None = None,
) -> tuple[grpc.Server, int]:
    """A server on `address` that is not started yet, and its port; with `tls` under mutual TLS.
    Raises FailedPrecondition CONFIG_INVALID.
    """
    server = grpc.server(
        ThreadPoolExecutor(streams_max, thread_name_prefix="data"),
        handlers=[_Handler(accept)],
        options=[
            *_COMMON,
            ("grpc.http2.lookahead_bytes", window_bytes),
            ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_MILLISECONDS // 2),
            ("grpc.max_concurrent_streams", STREAMS_MAX),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=streams_max,
    )
    try:
        if tls is not None:
            return server, server.add_secure_port(address, server_credentials(tls))
        return server, server.add_insecure_port(address)
    except RuntimeError as error:
        raise errors.FailedPrecondition(
            "CONFIG_INVALID",
            f"cannot listen for data on {address}",
            hint="set data_address to a free host:port",
        ) from error


def connect(address: str, tls: tuple[Identity, SpiffeId] | None = None) -> grpc.Channel:
    """A channel with a TCP connection of its own; it sends no more than the receiver's window.

    With `tls` as the first identity, to the second and nobody else.
    """
    options: list[tuple[str, int | str]] = [
        *_COMMON,
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
    ]
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    own, peer = tls
    options += [("grpc.ssl_target_name_override", peer.dns_name)]
    return grpc.secure_channel(address, client_credentials(own, peer), options=options)


class Connections:
    """The data channels of one session, which may be connected before it is opened.

    A channel is connected by a ping: a call of a method that there is not, which is answered too.
    Watching a channel's connectivity would do it as well, but gRPC polls for that in threads that
    must have ended before the channel does. Channels are let go, not closed: gRPC disconnects one
    when its last call is over.
    """

    def __init__(self, own: Identity, time: clock.Clock, timeout_seconds: float) -> None:
        self._own = own
        self._clock = time
        self._timeout_seconds = timeout_seconds
        self._endpoint = common_pb2.Endpoint()
        self._ready: list[grpc.Channel] = []
        self._measured: grpc.Channel | None = None
        self._pings: list[grpc.Future[bytes]] = []
        self._round_trip: futures.Future[float] | None = None

    def aim(self, endpoint: common_pb2.Endpoint, ahead: int = 1) -> None:
        """Says where to connect to, and connects `ahead` channels at once and one to measure with.
        Channels to elsewhere that were made before are dropped. Raises InvalidArgument
        INVALID_FIELD.
        """
        validate.require_address(endpoint.address, "data.address")
        if endpoint == self._endpoint:
            return
        if endpoint.spiffe_id:
            SpiffeId.parse(endpoint.spiffe_id)
        self.close()
        self._endpoint.CopyFrom(endpoint)
        self._ready = [self._connect() for _ in range(ahead)]
        self._pings = [self._ping(channel) for channel in self._ready]
        self._measured = self._connect()
        self._round_trip = futures.Future()
        measured = (self._measured, self._round_trip)
        threading.Thread(target=self._measure, args=measured, name="ping", daemon=True).start()

    def round_trip_seconds(self) -> float:
        """The way there and back, once it is known. Raises Unavailable PEER_UNAVAILABLE."""
        if self._round_trip is None:
            raise errors.Internal("INTERNAL", "the data port's address is not known yet")
        return self._round_trip.result()

    def ping(self) -> "grpc.Future[bytes]":
        """Starts a ping on a connection that carries nothing else."""
        if self._measured is None:
            raise errors.Internal("INTERNAL", "the data port's address is not known yet")
        return self._ping(self._measured)

    def take(self) -> grpc.Channel:
        """A channel for a stream, connected already if there is one."""
        return self._ready.pop() if self._ready else self._connect()

    def close(self) -> None:
        """Lets go of channels that nobody took."""
        for ping in self._pings:
            ping.cancel()
        self._pings.clear()
        self._ready.clear()
        self._measured = None

    def _connect(self) -> grpc.Channel:
        peer = self._endpoint.spiffe_id
        tls = (self._own, SpiffeId.parse(peer)) if peer else None
        return connect(self._endpoint.address, tls)

    def _ping(self, channel: grpc.Channel, padding: int = 0) -> "grpc.Future[bytes]":
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_PING)
        return method.future(bytes(padding), timeout=self._timeout_seconds, wait_for_ready=True)

    def _measure(self, channel: grpc.Channel, round_trip: "futures.Future[float]") -> None:
        """The first ping connects, the second is timed."""
        ready, address = list(self._ready), self._endpoint.address
        connecting = self._ping(channel)
        if self._is_far(address) and channel is self._measured:
            self._pings += [self._ping(each, WARM_BYTES) for each in ready]
        for timed in (False, True):
            began = self._clock.monotonic()
            error = (self._ping(channel) if timed else connecting).exception()
            if isinstance(error, grpc.RpcError) and error.code() in _UNREACHED:
                round_trip.set_exception(
                    errors.Unavailable(
                        "PEER_UNAVAILABLE",
                        f"the data port {address} does not answer",
                        hint="open it in the destination's firewall; compare data_address there",
                    )
                )
                return
        round_trip.set_result(self._clock.monotonic() - began)

    def _is_far(self, address: str) -> bool:
        """Whether a bare TCP connection takes long; it is there a round trip before one of gRPC."""
        host, _, port = address.rpartition(":")
        began = self._clock.monotonic()
        with contextlib.suppress(OSError):
            there = host.strip("[]"), int(port)
            socket.create_connection(there, self._timeout_seconds).close()
        return self._clock.monotonic() - began >= WARM_SECONDS_MIN


class DataCall(Protocol):
    """A running stream, as the sender sees it."""

    def __iter__(self) -> Iterator[bytes]:
        """The receiver's answers; raises grpc.RpcError when the stream breaks."""

    def cancel(self) -> bool:
        """Ends the stream at once."""


def open_stream(
    channel: grpc.Channel, stream: StreamId, messages: Iterator[bytes], timeout_seconds: float
) -> DataCall:
    """Starts a stream; iterate the result for the receiver's answers.

    A channel that could not connect at first, because the receiver was just starting, gets the time
    to do so; it is the transfer's watchdog that gives up.
    """
    method: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
    metadata = ((_SESSION, stream.session_id), (_STREAM, str(stream.number)))
    return method(messages, timeout=timeout_seconds, metadata=metadata, wait_for_ready=True)


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, accept: Accept) -> None:
        self._accept = accept

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        if handler_call_details.method != METHOD:
            return None
        return grpc.stream_stream_rpc_method_handler(self._stream)

    def _stream(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            stream = _stream_id(context.invocation_metadata())
            yield from self._accept(stream, messages, context.cancel)
        except errors.WatariError as error:
            _log.warning("data stream ended", reason=error.reason, peer=context.peer())
            context.abort(error.code, error.reason)
        except Exception as error:  # noqa: BLE001 - a handler's top: logged, answered as INTERNAL
            _log.exception("data stream failed", peer=context.peer())
            context.abort(grpc.StatusCode.INTERNAL, type(error).__name__)


def _stream_id(metadata: Sequence[tuple[str, str | bytes]]) -> StreamId:
    values = {key: value for key, value in metadata if key in {_SESSION, _STREAM}}
    number = str(values.get(_STREAM, ""))
    if not number.isascii() or not number.isdecimal() or len(number) > 9:
        raise errors.InvalidArgument("INVALID_FIELD", f"no {_STREAM} in the metadata")
    return StreamId(validate.require_uuid(str(values.get(_SESSION, "")), _SESSION), int(number))
