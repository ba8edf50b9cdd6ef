"""Settings that every service has: who it is, how it logs, and who gets its traces."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class EndpointSettings:
    """Where a service listens, and who must answer there."""

    address: str
    """host:port."""

    spiffe_id: str
    """Identity that the server must prove, as in spiffe://tokyo.example/manager/main."""


@dataclass(frozen=True)
class IdentitySettings:
    """Files that prove who a process is, and whom it believes."""

    certificate: Path
    """Certificate chain of this process, PEM, leaf first. Its URI SAN is the SPIFFE id."""

    key: Path
    """Private key, PEM, mode 0600 or narrower."""

    trust: Path
    """Folder with one `<domain>.pem` for each accepted provider; read again when it changes."""

    issuer: EndpointSettings | None = None
    """The own provider's manager, which renews the certificate and tells whom to trust. Without
    one both are what the files say: whoever writes them renews them."""


@dataclass(frozen=True)
class LogSettings:
    """How a process logs, always to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is written."""

    format: Literal["json", "console"] = "json"
    """JSON lines for machines, or coloured lines for a person at a terminal."""


@dataclass(frozen=True)
class TelemetrySettings:
    """Where OpenTelemetry traces go; without an endpoint nowhere. Needs `watari[otel]`."""

    otlp_endpoint: str = ""
    """http://host:port or https://host:port of the own provider's collector, OTLP over gRPC; empty:
    no traces."""

    sample_ratio: float = field(default=1.0, metadata={"min": 0.0, "max": 1.0})
    """Share of traces that is kept. It follows from the trace's id, so that servers of the same
    ratio keep the same ones. A peer can ask for less of them, never for more."""

    def __post_init__(self) -> None:
        if self.otlp_endpoint and not self.otlp_endpoint.startswith(("http://", "https://")):
            raise ValueError("otlp_endpoint is no http://host:port or https://host:port")
