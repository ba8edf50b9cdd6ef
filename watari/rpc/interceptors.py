"""What happens to every call before and after its servicer.

In this order: the peer's certificate is verified, the access table asked, ids bound to the log, the
servicer called, its error mapped to a status, one line written to the access log.
"""

import contextvars
import re
import threading
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from typing import Any, NoReturn, Protocol

import grpc
from grpc_status import rpc_status

from watari import authz, errors, logs, metrics, tracing
from watari.clock import Clock
from watari.identity import Identity, SpiffeId
from watari.rpc.settings import MIGRATION_ID_KEY, QUIET_METHODS, REQUEST_ID_KEY
from watari.tracing import Kind

OnRefusal = Callable[[str, str, errors.WatariError], None]
"""Told of every call that is refused for who makes it: its full method name, the peer's SPIFFE id
or UNKNOWN_PEER, and the Unauthenticated or Denied that is answered. Called before the answer, in
the call's own thread: it must neither wait nor take long. What it raises is logged."""

UNKNOWN_PEER = "unknown"
"""Stands for the name of a peer that did not prove who it is."""

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_log = logs.get(__name__)
_peer: contextvars.ContextVar[SpiffeId] = contextvars.ContextVar("watari_peer")


def current_peer() -> SpiffeId:
    """Who makes the call that this thread serves. Raises LookupError outside a call."""
    return _peer.get()


class Door(Protocol):
    """A way in for parties that no accepted CA knows, beside the server's own certificate."""

    def pairs(self) -> Sequence[tuple[bytes, bytes]]:
        """(key, certificate), PEM, that the server shows to who asks for their DNS name."""
        ...

    def roots(self) -> bytes:
        """Authorities of those parties, PEM, for TLS."""
        ...

    def recognise(self, certificate: bytes, now: datetime) -> SpiffeId | None:
        """Whose certificate it is; None when it is none of theirs."""
        ...


class Guard(grpc.ServerInterceptor):
    """Stands before every method of a server, of all four kinds."""

    def __init__(
        self,
        identity: Identity,
        clock: Clock,
        door: Door | None = None,
        on_refusal: OnRefusal | None = None,
    ) -> None:
        self.identity = identity
        self.clock = clock
        self.door = door
        self.on_refusal = on_refusal
        self._lock = threading.Lock()
        self._streams: set[_Call] = set()

    def cut_refused(self) -> None:
        """Cancel the streams of callers that may not go on."""
        with self._lock:
            streams = list(self._streams)
        for call in streams:
            call.cut_if_refused()

    @contextmanager
    def _listed(self, call: "_Call") -> Iterator[None]:
        with self._lock:
            self._streams.add(call)
        try:
            yield
        finally:
            with self._lock:
                self._streams.discard(call)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = continuation(handler_call_details)
        if handler is None:
            return None  # gRPC answers UNIMPLEMENTED
        kinds = {
            (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
            (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
            (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
            (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
        }
        kind, make = kinds[handler.request_streaming, handler.response_streaming]
        serve = self._serve_stream if handler.response_streaming else self._serve_one
        behaviour, method = getattr(handler, kind), handler_call_details.method

        def guarded(request: Any, context: grpc.ServicerContext) -> Any:
            call = _Call(self, method, context)
            return serve(call, behaviour, request)

        return make(guarded, handler.request_deserializer, handler.response_serializer)

    @staticmethod
    def _serve_one(call: "_Call", behaviour: Callable[..., Any], request: Any) -> Any:
        # Each call gets variables of its own: threads are shared by calls.
        return contextvars.copy_context().run(call.answer, behaviour, request)

    def _serve_stream(
        self, call: "_Call", behaviour: Callable[..., Any], request: Any
    ) -> Iterator[Any]:
        variables = contextvars.copy_context()
        responses = variables.run(call.responses, behaviour, request)
        # Every step runs among the call's own variables, in whichever thread gRPC takes it; so does
        # the end of a call that its peer cancels.
        try:
            with self._listed(call):
                while (response := variables.run(next, responses, _END)) is not _END:
                    yield response
        finally:
            variables.run(responses.close)


_END = object()


class _Call:
    """One call on its way through the guard."""

    def __init__(self, guard: Guard, method: str, context: grpc.ServicerContext) -> None:
        self._identity = guard.identity
        self._clock = guard.clock
        self._door = guard.door
        self._on_refusal = guard.on_refusal
        self._method = method
        self._context = context
        self._began = guard.clock.monotonic()
        self._peer_name = UNKNOWN_PEER
        self._admitted: tuple[SpiffeId, datetime] | None = None

    def answer(self, behaviour: Callable[..., Any], request: Any) -> Any:
        with logs.context(**_ids(self._context)):
            try:
                self._admit()
                with self._span():
                    response = behaviour(request, self._context)
            except Exception as error:  # noqa: BLE001 - mapped and raised again
                self._fail(error)
            self._done("OK")
            return response

    def responses(self, behaviour: Callable[..., Any], request: Any) -> Generator[Any, None, None]:
        with logs.context(**_ids(self._context)):
            try:
                self._admit()
                with self._span():
                    yield from behaviour(request, self._context)
            except GeneratorExit:
                self._done("CANCELLED")
                raise
            except Exception as error:  # noqa: BLE001 - mapped and raised again
                self._fail(error)
            self._done("OK")

    def _admit(self) -> None:
        certificates = self._context.auth_context().get("x509_pem_cert", ())
        if not certificates:
            raise errors.Unauthenticated(
                "PEER_UNAUTHENTICATED", "no client certificate", hint="connect with mutual TLS"
            )
        # The type stubs say bytes; it is a list with one PEM certificate.
        certificate, now = bytes(certificates[0]), self._clock.now()
        invited = self._door.recognise(certificate, now) if self._door else None
        peer = invited or self._identity.trust.verify_peer(certificate, now)
        self._peer_name = str(peer)
        authz.check(self._method, peer, self._identity.spiffe_id.domain)
        _peer.set(peer)
        self._admitted = peer, now

    def _span(self) -> AbstractContextManager[object]:
        """Of a call whose caller is known and may make it: nobody else is recorded."""
        if not tracing.on() or self._method in QUIET_METHODS:
            return nullcontext()
        told = [
            str(value)
            for key, value in self._context.invocation_metadata()
            if key == tracing.TRACEPARENT_KEY
        ]
        migration_id = logs.bound("migration_id")
        root = tracing.Parent.of_migration(migration_id)
        values: dict[str, tracing.Value] = {"method": self._method, "peer": current_peer().domain}
        if migration_id is not None and root is not None:
            values["migration_id"] = migration_id
        parent = tracing.Parent.parse(told) or root
        return tracing.span(self._method, Kind.SERVER, values, parent=parent)

    def cut_if_refused(self) -> None:
        """End the call if its caller is not trusted any more. From any thread."""
        if self._admitted is not None and self._identity.trust.refuses(*self._admitted):
            _log.warning("call cut", method=self._method, peer=self._peer_name)
            self._context.cancel()

    def _fail(self, error: Exception) -> NoReturn:
        if not isinstance(error, errors.WatariError):
            if _status_is_set(self._context):
                raise error  # the servicer aborted by gRPC's own means, or the call was cancelled
            error = _unexpected(error, self._method)
        if isinstance(error, errors.Unauthenticated | errors.Denied):
            self._tell_refusal(error)
        self._done(error.code.name, reason=error.reason, problem=error.message)
        self._context.abort_with_status(rpc_status.to_status(errors.to_status(error)))

    def _tell_refusal(self, error: errors.WatariError) -> None:
        if self._on_refusal is None:
            return
        try:
            self._on_refusal(self._method, self._peer_name, error)
        except Exception:  # noqa: BLE001 - the peer is answered whatever becomes of telling it
            _log.exception("refusal was not told", method=self._method, peer=self._peer_name)

    def _done(self, code: str, **details: str) -> None:
        seconds = self._clock.monotonic() - self._began
        metrics.count_call(self._method, code, seconds)
        write = _log.debug if code == "OK" and self._method in QUIET_METHODS else _log.info
        write(
            "call",
            method=self._method,
            peer=self._peer_name,
            code=code,
            ms=round(seconds * 1000, 1),
            **details,
        )


def _unexpected(error: Exception, method: str) -> errors.Internal:
    """The peer learns an incident number; the log has the rest under it."""
    incident = uuid.uuid4().hex
    _log.error("unexpected error", incident=incident, method=method, exc_info=error)
    return errors.Internal(
        "INTERNAL",
        f"internal error, incident {incident}",
        hint="the server's log has this incident",
        incident=incident,
    )


def _status_is_set(context: grpc.ServicerContext) -> bool:
    code = getattr(context, "code", None)
    return code is not None and code() is not None


def _ids(context: grpc.ServicerContext) -> dict[str, str | None]:
    """What the caller says the call belongs to; malformed ids are replaced or left out."""
    said = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
    request_id, migration_id = said.get(REQUEST_ID_KEY, ""), said.get(MIGRATION_ID_KEY, "")
    return {
        "request_id": request_id if _ID.fullmatch(request_id) else uuid.uuid4().hex,
        "migration_id": migration_id if _ID.fullmatch(migration_id) else None,
    }
