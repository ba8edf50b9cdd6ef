"""What a server counts, for Prometheus to fetch over HTTP.

Every server counts its calls (`watari_rpc_...`); what else it has is added by `add`. The page has
no secrets and no names of machines or tenants, and needs no authentication unless `client_ca` says
so: listen where only the monitoring can reach.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import prometheus_client
from prometheus_client import REGISTRY, Counter, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from watari import errors, logs

JOIN_SECONDS_MAX = 5.0

CALLS = Counter("watari_rpc_calls", "Calls that have ended.", ["method", "code"])
SECONDS = Histogram(
    "watari_rpc_seconds",
    "How long calls took, streams from their beginning to their end.",
    ["method", "code"],
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60),
)
CERTIFICATE_EXPIRES = prometheus_client.Gauge(
    "watari_certificate_expires_timestamp_seconds", "When the own certificate runs out."
)

Gauge = GaugeMetricFamily
_log = logs.get(__name__)


@dataclass(frozen=True)
class MetricsSettings:
    """Where Prometheus fetches; without an address nowhere."""

    address: str = ""
    """host:port to listen on; empty: no metrics. Plain HTTP unless `certificate` is set."""

    certificate: Path | None = None
    """Certificate chain for HTTPS, PEM."""

    key: Path | None = None
    """Its key, PEM."""

    client_ca: Path | None = None
    """Authority, PEM, from which whoever fetches must have a certificate."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca needs a certificate: only HTTPS knows its clients")


def count_call(method: str, code: str, seconds: float) -> None:
    """One call has ended. `method` is one that the server has: their number is bounded."""
    CALLS.labels(method, code).inc()
    SECONDS.labels(method, code).observe(seconds)


def certificate_expires(moment: datetime) -> None:
    """The own certificate is valid until then."""
    CERTIFICATE_EXPIRES.set(moment.timestamp())


def expose(
    settings: MetricsSettings, stack: ExitStack, collect: Callable[[], Iterable[Gauge]] = tuple
) -> None:
    """Both `add` and `serve`; nothing at all without an address."""
    if settings.address:
        add(stack, collect)
        serve(settings, stack)


def add(stack: ExitStack, collect: Callable[[], Iterable[Gauge]]) -> None:
    """Has `collect` asked at every fetch, until the stack is closed. It must not block for long."""
    collector = _Asked(collect)
    REGISTRY.register(collector)
    stack.callback(REGISTRY.unregister, collector)


def serve(settings: MetricsSettings, stack: ExitStack) -> int:
    """Listens until the stack is closed; returns the port, 0 when there is no address.

    Raises Unavailable SERVER_UNAVAILABLE when the address cannot be had.
    """
    if not settings.address:
        return 0
    host, _, port = settings.address.rpartition(":")
    try:
        server, thread = start_http_server(
            int(port),
            host.strip("[]"),
            certfile=_text(settings.certificate),
            keyfile=_text(settings.key),
            client_cafile=_text(settings.client_ca),
            client_auth_required=settings.client_ca is not None,
        )
    except (OSError, ValueError) as error:
        raise errors.Unavailable(
            "SERVER_UNAVAILABLE",
            f"cannot serve metrics on {settings.address}: {error}",
            hint="another process has the port, the address is not host:port, or a file is missing",
            retryable=False,
            address=settings.address,
        ) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(JOIN_SECONDS_MAX)

    stack.callback(stop)
    _log.info("metrics", address=settings.address, port=server.server_port)
    return int(server.server_port)


class _Asked(Collector):
    def __init__(self, collect: Callable[[], Iterable[Gauge]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Gauge]:
        return self._collect()

    def describe(self) -> Iterable[Gauge]:
        return ()  # else a registration would ask already


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
