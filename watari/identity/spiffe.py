"""SPIFFE ids: the names that certificates carry and access rules compare."""

import enum
import re
from dataclasses import dataclass

from watari import errors

DOMAIN_CHARS_MAX = 180
"""Leaves room for name and role within the 253 characters of a DNS name."""

ID_CHARS_MAX = 320
"""Longer text is refused before it is parsed."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


class Role(enum.StrEnum):
    """What a party is."""

    DIRECTORY = "directory"
    MANAGER = "manager"
    BROKER = "broker"
    AGENT = "agent"
    OPERATOR = "operator"
    """A person who runs the provider."""
    USER = "user"
    """A tenant: its name is that of the tenant."""
    INVITEE = "invitee"
    """Who holds an invitation to the federation; its name is that of the invitation."""


@dataclass(frozen=True, order=True)
class SpiffeId:
    """`spiffe://<domain>/<role>/<name>`.

    Domain and name are DNS labels in lower case, so that one party has one spelling. Raises
    InvalidArgument INVALID_FIELD otherwise.
    """

    domain: str

    role: str
    """A `Role`."""

    name: str

    def __post_init__(self) -> None:
        validate_domain(self.domain)
        if _LABEL.fullmatch(self.name) is None:
            raise _invalid(self.name, "party name", "use lower-case letters, digits and hyphens")
        object.__setattr__(self, "role", _role(self.role))

    @classmethod
    def parse(cls, text: str) -> "SpiffeId":
        """The id that `text` spells. Raises InvalidArgument INVALID_FIELD."""
        scheme, _, rest = text[: ID_CHARS_MAX + 1].partition("://")
        parts = rest.split("/")
        if len(text) > ID_CHARS_MAX or scheme != "spiffe" or len(parts) != 3:
            raise _invalid(text[:80], "SPIFFE id", "write spiffe://<domain>/<role>/<name>")
        domain, role, name = parts
        return cls(domain, role, name)

    def __str__(self) -> str:
        return f"spiffe://{self.domain}/{self.role}/{self.name}"

    @property
    def dns_name(self) -> str:
        """What the party's certificate says as DNS name; it need not resolve."""
        return f"{self.name}.{self.role}.{self.domain}"


def validate_domain(domain: str) -> str:
    """The provider domain itself. Raises InvalidArgument INVALID_FIELD unless it is a DNS name."""
    if len(domain) > DOMAIN_CHARS_MAX or not all(map(_LABEL.fullmatch, domain.split("."))):
        raise _invalid(
            domain[:80], "provider domain", "use a DNS name in lower case: tokyo.example"
        )
    return domain


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        raise _invalid(text, "role", f"one of {', '.join(Role)}") from None


def _invalid(text: str, what: str, hint: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        "INVALID_FIELD", f"{text!r} is not a {what}", hint=hint, field="spiffe_id"
    )
