"""A service's listening side: mutual TLS, health, reflection, and an orderly end."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from types import FrameType
from typing import Any, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from watari import errors, failpoint, logs
from watari.clock import Clock
from watari.ending import SIGNALS
from watari.identity import Identity
from watari.rpc import interceptors
from watari.rpc.interceptors import Door
from watari.rpc.settings import RpcSettings, require_tls_1_3, server_options

SIGNAL_POLL_SECONDS = 0.2
"""How often the main thread looks for a signal, while it serves and while it drains."""

TRUST_CHECK_SECONDS = 0.5
"""How soon a running stream ends once its caller is not trusted any more. New calls are refused at
once."""

_log = logs.get(__name__)


class Server:
    """One control port.

    `servicers` is called once with the gRPC server and adds the generated servicers to it:

        Server("manager", identity, "0.0.0.0:7442", clock=clock,
               servicers=lambda grpc_server: add_ManagerServiceServicer_to_server(s, grpc_server))
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        address: str,
        *,
        clock: Clock,
        servicers: Callable[[grpc.Server], None],
        settings: RpcSettings | None = None,
        stopping: threading.Event | None = None,
        door: Door | None = None,
        on_refusal: interceptors.OnRefusal | None = None,
    ) -> None:
        self.name = name
        self.stopping = stopping or threading.Event()
        """Set when the server begins to stop; streams of servicers end when they see it."""

        self._settings = settings or RpcSettings()
        self._identity = identity
        self._address = address
        self._signals: list[int] = []
        self._started = False
        self._health = health.HealthServicer()
        self._guard = interceptors.Guard(identity, clock, door, on_refusal)
        self._credentials = credentials(identity, door)
        self._grpc = grpc.server(
            futures.ThreadPoolExecutor(
                self._settings.workers_max, thread_name_prefix=f"{name}-rpc"
            ),
            interceptors=[self._guard],
            options=server_options(self._settings),
            maximum_concurrent_rpcs=self._settings.workers_max + self._settings.queued_calls_max,
        )
        self._services = self._add(servicers)

    def start(self) -> int:
        """Listen and serve; returns the port, which the system chose if the address has port 0.

        Raises Unavailable SERVER_UNAVAILABLE when the address cannot be had.
        """
        try:
            port = self._grpc.add_secure_port(self._address, self._credentials)
        except RuntimeError as error:
            raise errors.Unavailable(
                "SERVER_UNAVAILABLE",
                f"cannot listen on {self._address}",
                hint="another process has the port, or the address is not this machine's",
                retryable=False,
                address=self._address,
            ) from error
        self._grpc.start()
        self._started = True
        threading.Thread(target=self._watch_trust, name=f"{self.name}-trust", daemon=True).start()
        for service in self._services:
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        for unknown in failpoint.undeclared():
            _log.warning("fail point is armed but not declared", failpoint=unknown)
        _log.info(
            "serving", address=self._address, port=port, identity=str(self._identity.spiffe_id)
        )
        return port

    def set_health(self, name: str, *, well: bool) -> None:
        """Tells the health service of something that this server needs, beside itself."""
        status = health_pb2.HealthCheckResponse
        self._health.set(name, status.SERVING if well else status.NOT_SERVING)

    def stop(self, grace_seconds: float | None = None) -> threading.Event:
        """Refuse new calls, let those that run end within the grace time; returns at once.

        The event is set when the last call has ended. A second call with a shorter time hastens it.
        """
        self.stopping.set()
        self._health.enter_graceful_shutdown()
        grace = self._settings.grace_seconds if grace_seconds is None else grace_seconds
        return self._grpc.stop(grace)

    def serve_forever(self, woken: threading.Event | None = None) -> None:
        """Serve until SIGTERM or SIGINT, then drain. A second signal ends the process at once.

        Starts the server unless `start` was called. For the main thread only; the signals' former
        handlers are put back. `woken` may be set by a signal that came before these are in place.
        """
        if not self._started:
            self.start()
        woken = woken or threading.Event()

        def on_signal(number: int, _frame: FrameType | None) -> None:
            self._signals.append(number)
            woken.set()

        handlers = {kind: signal.signal(kind, on_signal) for kind in SIGNALS}
        try:
            # In steps: the kernel may hand the signal to a thread of gRPC, and Python runs the
            # handler only once this thread comes back from its wait.
            while not woken.wait(SIGNAL_POLL_SECONDS):
                pass
            _log.info("stopping", signals=[signal.Signals(each).name for each in self._signals])
            self._drain()
        finally:
            for kind, handler in handlers.items():
                signal.signal(kind, handler)

    def _watch_trust(self) -> None:
        """Ends the streams of those who are trusted no longer."""
        while not self.stopping.wait(TRUST_CHECK_SECONDS):
            try:
                self._guard.cut_refused()
            except Exception:  # noqa: BLE001 - top of a thread: the next look may do better
                _log.exception("streams not checked")

    def _drain(self) -> None:
        done = self.stop()
        while not done.wait(SIGNAL_POLL_SECONDS):
            if len(self._signals) > 1:
                _log.warning("stopping at once")
                # Not sys.exit: it waits for the pool's threads, which may be what hangs.
                os._exit(128 + self._signals[1])
        _log.info("stopped")

    def _add(self, servicers: Callable[[grpc.Server], None]) -> list[str]:
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        listed = _Listing(self._grpc)
        servicers(cast("grpc.Server", listed))
        reflection.enable_server_reflection(
            [*listed.services, health.SERVICE_NAME, reflection.SERVICE_NAME], self._grpc
        )
        return listed.services


class _Listing:
    """Passes registrations on and notes the services' names, for health and reflection."""

    def __init__(self, server: grpc.Server) -> None:
        self._server = server
        self.services: list[str] = []

    def add_generic_rpc_handlers(self, handlers: tuple[grpc.ServiceRpcHandler, ...]) -> None:
        self.services += [handler.service_name() for handler in handlers]
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self._server.add_registered_method_handlers(service, handlers)


def credentials(identity: Identity, door: Door | None = None) -> grpc.ServerCredentials:
    """Mutual TLS 1.3 that follows the identity and the trust folder: a renewed certificate is shown
    and a provider accepted later may connect from the next handshake on. Connections stay.

    Raises FailedPrecondition CONFIG_INVALID where grpc was imported before watari.
    """
    require_tls_1_3()

    def wanted() -> _Shown:
        pair = identity.current()
        pairs = ((pair.key_pem, pair.cert_pem), *(door.pairs() if door else ()))
        return _Shown(pairs, identity.trust.bundle() + (door.roots() if door else b""))

    state = {"shown": wanted()}

    def changed() -> grpc.ServerCertificateConfiguration | None:
        now = wanted()
        if now == state["shown"]:
            return None
        state["shown"] = now
        return now.configuration()

    return grpc.dynamic_ssl_server_credentials(
        state["shown"].configuration(),
        cast("Callable[[], grpc.ServerCertificateConfiguration]", changed),
        require_client_authentication=True,
    )


@dataclass(frozen=True)
class _Shown:
    """What a server shows, and whose certificates it looks at."""

    pairs: tuple[tuple[bytes, bytes], ...]
    """(key, certificate), PEM. gRPC shows the one whose DNS name the caller asks for, else the
    first."""

    roots: bytes

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            list(self.pairs), root_certificates=self.roots
        )
