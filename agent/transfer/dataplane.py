"""The data port: one gRPC method, bytes in and bytes out, over plain HTTP/2.

`/watari.v1.TransferData/Stream`, metadata `watari-session` (UUID) and `watari-stream` (number).
No protobuf on this path: building and parsing messages of 1 MiB costs more than sealing them.
Windows are fixed and bandwidth probing is off, because a probing receiver that stalls was measured
to grow by hundreds of MiB. What the port answers is not authenticated: a status here says only that
a stream ended, and the reason is asked for on the control port.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import grpc

from agent.transfer.frames import MESSAGE_BYTES_MAX
from agent.transfer.geometry import STREAMS_MAX
from watari import errors, logs, validate

METHOD = "/watari.v1.TransferData/Stream"
_SESSION, _STREAM = "watari-session", "watari-stream"
_KEEPALIVE_MILLISECONDS = 20_000
_FRAME_BYTES_MAX = (1 << 24) - 1
METADATA_BYTES_MAX = 4096

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
    address: str, accept: Accept, *, window_bytes: int, streams_max: int
) -> tuple[grpc.Server, int]:
    """A server on `address` that is not started yet, and its port. Raises FailedPrecondition."""
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
        return server, server.add_insecure_port(address)
    except RuntimeError as error:
        raise errors.FailedPrecondition(
            "CONFIG_INVALID",
            f"cannot listen for data on {address}",
            hint="set data_address to a free host:port",
        ) from error


def connect(address: str) -> grpc.Channel:
    """A channel with a TCP connection of its own; it sends no more than the receiver's window."""
    return grpc.insecure_channel(
        address,
        options=[
            *_COMMON,
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),
        ],
    )


class DataCall(Protocol):
    """A running stream, as the sender sees it."""

    def __iter__(self) -> Iterator[bytes]:
        """The receiver's answers; raises grpc.RpcError when the stream breaks."""

    def cancel(self) -> bool:
        """Ends the stream at once."""


def open_stream(
    channel: grpc.Channel, stream: StreamId, messages: Iterator[bytes], timeout_seconds: float
) -> DataCall:
    """Starts a stream; iterate the result for the receiver's answers."""
    method: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
    metadata = ((_SESSION, stream.session_id), (_STREAM, str(stream.number)))
    return method(messages, timeout=timeout_seconds, metadata=metadata)


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
