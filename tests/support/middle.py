"""Somebody in the middle: proxies before a data port that read, and change what they forward.

`Frames` ends the HTTP/2 of both sides and sees messages; `Wire` sees bytes of TCP and no more.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc

from agent.transfer import dataplane

TO_RECEIVER, TO_SENDER = "to the receiver", "to the sender"
STREAMS_MAX = 64


class Way(NamedTuple):
    """One direction of one stream."""

    session_id: str
    number: int
    direction: str


Change = Callable[[Way, int, Iterator[bytes]], Iterator[bytes]]
"""(way, messages before this, the rest): what is forwarded instead of the rest."""


@dataclass
class Frames:
    """Forwards messages; with a plan, changes one way from one message on."""

    target_port: int
    port: int
    history: dict[Way, list[bytes]] = field(default_factory=dict)
    """All messages that came so far."""
    plan: tuple[int, str, int, Change] | None = None
    """(stream, direction, after so many messages, change); used once."""
    applied: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._server = grpc.server(
            ThreadPoolExecutor(STREAMS_MAX), handlers=[_Forward(self)], options=dataplane.OPTIONS
        )
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def close(self) -> None:
        """Ends all that goes through."""
        self._server.stop(0).wait(10)

    def forward(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """One call."""
        metadata = {
            key: str(value)
            for key, value in context.invocation_metadata()
            if key.startswith("watari-")
        }
        session_id, number = metadata["watari-session"], int(metadata["watari-stream"])
        there, back = (Way(session_id, number, way) for way in (TO_RECEIVER, TO_SENDER))
        with dataplane.connect(f"127.0.0.1:{self.target_port}") as channel:
            call = channel.stream_stream(dataplane.METHOD)(
                self._changed(there, _quiet(messages)), metadata=tuple(metadata.items())
            )
            context.add_callback(call.cancel)
            try:
                yield from self._changed(back, call)
            except grpc.RpcError:
                context.abort(call.code(), call.details())

    def _changed(self, way: Way, messages: Iterator[bytes]) -> Iterator[bytes]:
        seen = self.history.setdefault(way, [])

        def recorded() -> Iterator[bytes]:
            for message in messages:
                seen.append(message)
                yield message

        rest = recorded()
        while True:
            with self._lock:
                plan, due = self.plan, False
                if plan is not None:
                    number, direction, after, change = plan
                    due = (number, direction) == way[1:] and len(seen) >= after
                if due:
                    self.plan = None
                    self.applied.set()
            if due:
                yield from change(way, len(seen), rest)
                return
            message = next(rest, None)
            if message is None:
                return
            yield message


class _Forward(grpc.GenericRpcHandler):
    def __init__(self, proxy: Frames) -> None:
        self._proxy = proxy

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        if handler_call_details.method != dataplane.METHOD:
            return None
        return grpc.stream_stream_rpc_method_handler(self._proxy.forward)


def _quiet(messages: Iterator[bytes]) -> Iterator[bytes]:
    """Ends where the caller goes away."""
    with contextlib.suppress(grpc.RpcError):
        yield from messages


Edit = Callable[[bytes], bytes | None]
"""Bytes as they come: what is forwarded, or None to cut the connection."""


@dataclass
class Wire:
    """Forwards bytes of TCP; with a plan, edits them once, where a connection comes so far."""

    target_port: int
    port: int
    plan: tuple[str, int, Edit] | None = None
    """(direction, position, edit); used once, on the first connection that comes so far."""
    applied: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """Takes no more connections."""
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target_port))
                for pipe in ((near, far, TO_RECEIVER), (far, near, TO_SENDER)):
                    threading.Thread(target=self._pump, args=pipe, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                edit = self._due(direction, passed + len(data))
                edited = edit(data) if edit else data
                if edited is None:
                    break
                passed += len(data)
                sink.sendall(edited)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _due(self, direction: str, position: int) -> Edit | None:
        with self._lock:
            if self.plan is None or self.plan[0] != direction or position < self.plan[1]:
                return None
            edit, self.plan = self.plan[2], None
            self.applied.set()
            return edit
