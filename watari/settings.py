"""Settings that every service has: who it is, and how it logs."""

from dataclasses import dataclass
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
