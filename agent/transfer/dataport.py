"""The data port's server: one gRPC method, bytes in and bytes out, over plain HTTP/2 or mutual TLS.

Anybody may connect. **Who cannot show the proof of a stream gets no thread, keeps no memory, and
learns nothing**: it is answered as if there were no such method, by the thread that polls the
connections. No protobuf on this path: building and parsing messages of 1 MiB costs more than
sealing them. Windows are fixed and bandwidth probing is off, because a probing receiver that stalls
was measured to grow by hundreds of MiB.

What the port answers is not authenticated: a status here says only that a stream was refused or has
ended, and the reason is asked for on the control port.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc

from agent.transfer import dataplane
from agent.transfer.dataplane import METHOD, Refused, StreamId
from agent.transfer.geometry import STREAMS_MAX
from agent.transfer.keys import PROOF_BYTES
from watari import errors, logs
from watari.identity import Identity
from watari.rpc.server import credentials

CONNECTIONS_PER_STREAM = 4
"""Connections that are taken for each stream that there may be: senders connect ahead, reconnect
and measure. Further ones are closed at once.
"""

HANDSHAKE_SECONDS_MAX = 10.0
"""How long a connection may take to say its first words, TLS included."""

IDLE_SECONDS_MAX = 60.0
"""A connection without a call is closed after that: longer than a sender that has connected ahead
waits for its session.
"""

STREAM_DIGITS_MAX = 9

REFUSED = grpc.StatusCode.UNIMPLEMENTED, "Method not found!"
"""What gRPC answers by itself to a method that there is not."""

ENDED = grpc.StatusCode.CANCELLED, "CANCELLED"
"""What gRPC answers by itself when a stream is cut."""

_log = logs.get(__name__)

Admits = Callable[[StreamId], bool]
"""Whether a stream may be opened. Called by the thread that polls, so it must never wait."""

Accept = Callable[[StreamId, Iterator[bytes], Callable[[], object]], Iterator[bytes]]
"""(stream, messages, cut): yields answers; raises WatariError, Refused before the stream is part of
its session; `cut()` ends the stream at once. Called for what was admitted.
"""


def serve(
    address: str,
    admits: Admits,
    accept: Accept,
    *,
    window_bytes: int,
    streams_max: int,
    tls: Identity | None = None,
) -> tuple[grpc.Server, int]:
    """A server on `address` that is not started yet, and its port; with `tls` under mutual TLS.
    Raises FailedPrecondition CONFIG_INVALID.
    """
    idle = int(IDLE_SECONDS_MAX * 1000)
    server = grpc.server(
        ThreadPoolExecutor(streams_max, thread_name_prefix="data"),
        handlers=[_Handler(admits, accept)],
        options=[
            *dataplane.OPTIONS,
            ("grpc.http2.lookahead_bytes", window_bytes),
            ("grpc.http2.min_ping_interval_without_data_ms", dataplane.KEEPALIVE_MILLISECONDS // 2),
            ("grpc.max_concurrent_streams", STREAMS_MAX),
            ("grpc.max_allowed_incoming_connections", CONNECTIONS_PER_STREAM * streams_max),
            ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_SECONDS_MAX * 1000)),
            ("grpc.max_connection_idle_ms", idle),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=streams_max,
    )
    try:
        if tls is not None:
            return server, server.add_secure_port(address, credentials(tls))
        return server, server.add_insecure_port(address)
    except RuntimeError as error:
        raise errors.FailedPrecondition(
            "CONFIG_INVALID",
            f"cannot listen for data on {address}",
            hint="set data_address to a free host:port",
        ) from error


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, admits: Admits, accept: Accept) -> None:
        self._admits = admits
        self._accept = accept

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        """Nothing is answered by gRPC itself, in the words of REFUSED."""
        if handler_call_details.method != METHOD:
            return None
        stream = _stream_id(handler_call_details.invocation_metadata)
        if stream is None or not self._admits(stream):
            return None
        return grpc.stream_stream_rpc_method_handler(partial(self._stream, stream))

    def _stream(
        self, stream: StreamId, messages: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        try:
            yield from self._accept(stream, messages, context.cancel)
        except Refused as error:
            _log.warning("data stream refused", reason=error.reason, peer=context.peer())
            context.abort(*REFUSED)
        except errors.WatariError as error:
            _log.warning("data stream ended", reason=error.reason, peer=context.peer())
            context.abort(*ENDED)
        except Exception:  # noqa: BLE001 - a handler's top: logged, and no more said than of others
            _log.exception("data stream failed", peer=context.peer())
            context.abort(*ENDED)


def _stream_id(metadata: Sequence[tuple[str, str | bytes]]) -> StreamId | None:
    """What the metadata names; None when it is not well-formed."""
    wanted = (dataplane.SESSION_KEY, dataplane.STREAM_KEY, dataplane.PROOF_KEY)
    values = dict(metadata)
    session_id, number, proof = (str(values.get(key, "")) for key in wanted)
    if not number.isascii() or not number.isdecimal() or len(number) > STREAM_DIGITS_MAX:
        return None
    if not proof.isascii() or len(proof) != 2 * PROOF_BYTES:
        return None
    try:
        return StreamId(session_id, int(number), bytes.fromhex(proof))
    except ValueError:
        return None
