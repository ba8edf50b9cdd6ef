"""What an operator sets for other providers: [manager.authority] and [manager.federation]."""

from dataclasses import dataclass, field
from pathlib import Path

from watari.identity.authority import LEAF_SECONDS_DEFAULT


@dataclass(frozen=True)
class AuthoritySettings:
    """The provider's certificate authority, if this manager issues certificates."""

    folder: Path | None = None
    """Folder with `ca.pem` and `ca.key` (`watari ca init`); none: parties are not renewed by it."""

    passphrase_file: Path | None = None
    """File, mode 0600, whose first line decrypts the key; none for a key that is not encrypted."""

    leaf_seconds: int = field(default=LEAF_SECONDS_DEFAULT, metadata={"min": 10, "max": 7_776_000})
    """How long a certificate lasts that is issued to a party; renewed after a third of it."""

    overlap_seconds: int = field(default=7_776_000, metadata={"min": 10, "max": 31_536_000})
    """How long an authority is still accepted once another one issues: as long as the longest
    certificate that `watari ca issue` makes, 90 days."""


@dataclass(frozen=True)
class FederationSettings:
    """How this provider joins others."""

    invitations_max: int = field(default=16, metadata={"min": 1, "max": 256})
    """Invitations that may be open at a time."""

    invitation_ttl_seconds: int = field(default=86_400, metadata={"min": 60, "max": 604_800})
    """How long an invitation holds, unless another time is asked for."""

    check_seconds: float = field(default=1.0, metadata={"min": 0.05})
    """Between two looks at what has to be told to whom, and at authorities that are changed."""

    call_seconds_max: float = field(default=10.0, metadata={"min": 0.1})
    """Deadline in seconds of a call to another provider about the federation."""

    retry_max_seconds: float = field(default=60.0, metadata={"min": 0.1})
    """Longest delay before a provider that did not answer is told again."""
