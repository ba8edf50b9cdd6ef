"""Connections to a data port, and what both ends of one have to agree on.

`/watari.v1.TransferData/Stream`, metadata `watari-session` (UUID), `watari-stream` (number) and
`watari-proof` (hexadecimal). The other end is `agent.transfer.dataport`.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass
from typing import Protocol

import grpc

from agent.transfer.frames import MESSAGE_BYTES_MAX
from watari import clock, errors, validate
from watari.identity import Identity, SpiffeId
from watari.rpc.client import credentials
from watari.v1 import common_pb2

METHOD = "/watari.v1.TransferData/Stream"
_PING = "/watari.v1.TransferData/Ping"
_UNREACHED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
SESSION_KEY, STREAM_KEY, PROOF_KEY = "watari-session", "watari-stream", "watari-proof"
KEEPALIVE_MILLISECONDS = 20_000
_FRAME_BYTES_MAX = (1 << 24) - 1
METADATA_BYTES_MAX = 4096

WARM_SECONDS_MIN = 0.03
"""Round trip from which connections are warmed up: they are given padding while the session is
still being opened. TCP starts slowly, twice as fast after each round trip, and two round trips pass
before there is anything to send.
"""

WARM_BYTES = 48 * 1024
"""Padding for each: what TCP lets through in two round trips, 10 segments and then 20."""

OPTIONS = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.max_frame_size", _FRAME_BYTES_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_MILLISECONDS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MILLISECONDS),
)
"""Of both ends."""


@dataclass(frozen=True)
class StreamId:
    """Which stream of which session."""

    session_id: str
    number: int
    proof: bytes = b""
    """That this is said by an end of the session; `SessionKeys.stream_proof`."""


class Refused(errors.NotFound):
    """A stream that is none of its session's."""

    def __init__(self, why: str) -> None:
        super().__init__("SESSION_NOT_FOUND", why)


def connect(address: str, tls: tuple[Identity, SpiffeId] | None = None) -> grpc.Channel:
    """A channel with a TCP connection of its own; it sends no more than the receiver's window.

    With `tls` as the first identity, to the second and nobody else.
    """
    options: list[tuple[str, int | str]] = [
        *OPTIONS,
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
    ]
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    own, peer = tls
    options += [("grpc.ssl_target_name_override", peer.dns_name)]
    return grpc.secure_channel(address, credentials(own, peer), options=options)


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

    def give_back(self, channels: Sequence[grpc.Channel]) -> None:
        """Channels whose streams have ended well, for those of another session: connected already,
        and past their slow start.
        """
        self._ready.extend(channels)

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
    metadata = (
        (SESSION_KEY, stream.session_id),
        (STREAM_KEY, str(stream.number)),
        (PROOF_KEY, stream.proof.hex()),
    )
    return method(messages, timeout=timeout_seconds, metadata=metadata, wait_for_ready=True)
