"""Invitations to a federation: one line that lets two providers meet who do not know each other.

    watari://tokyo.example/manager/main@192.0.2.10:7442?ca=FINGERPRINT&secret=SECRET&until=TIME

Neither side can check the other's certificate yet, and there is no port without mutual TLS to meet
at. So the secret stands for two authorities, whose keys both sides derive from it (HKDF-SHA-256,
RFC 5869). One signs the certificate that the invited party shows, in the name
`spiffe://tokyo.example/invitee/ID`, the other signs the one that the inviting server shows when it
is called by that name. Who does not have the secret can make neither. Beyond the connection neither
counts: the invited party may call one method once, and the inviting provider is known by the
fingerprint of its CA.
"""

import base64
import binascii
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlencode, urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from watari import errors, validate
from watari.clock import Clock
from watari.identity import leaves
from watari.identity.authority import Authority, create_ca
from watari.identity.spiffe import Role, SpiffeId

SECRET_BYTES = 16
FINGERPRINT_BYTES = 32
TEXT_CHARS_MAX = 1024

_SCHEME = "watari"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the group of P-256 (NIST SP 800-186)."""

_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Invitation:
    """What the line says."""

    manager: SpiffeId
    """Who invites."""

    address: str
    """host:port of that manager."""

    ca_sha256: bytes
    """Fingerprint of the inviting provider's CA certificate."""

    expires_at: datetime

    secret: bytes = field(repr=False)

    @classmethod
    def make(
        cls, manager: SpiffeId, address: str, ca_sha256: bytes, expires_at: datetime
    ) -> "Invitation":
        """A new one."""
        whole = expires_at.astimezone(UTC).replace(microsecond=0)
        return cls(manager, address, ca_sha256, whole, secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> "Invitation":
        """The invitation in a line. Raises InvalidArgument INVITATION_INVALID."""
        if len(text) > TEXT_CHARS_MAX:
            raise invalid(f"it is longer than {TEXT_CHARS_MAX} characters")
        try:
            return _parse(text.strip())
        except (ValueError, KeyError, binascii.Error, errors.InvalidArgument):
            raise invalid("it cannot be read: copy the whole line") from None

    def __str__(self) -> str:
        party = str(self.manager).removeprefix("spiffe://")
        query = {
            "ca": _text(self.ca_sha256),
            "secret": _text(self.secret),
            "until": self.expires_at.strftime(_TIME),
        }
        return f"{_SCHEME}://{party}@{self.address}?{urlencode(query)}"

    @property
    def invitee(self) -> SpiffeId:
        """The name that both sides show: its last part is the invitation's id."""
        name = self._derived(b"id", 8).hex()
        return SpiffeId(self.manager.domain, Role.INVITEE, name)

    def caller(self, clock: Clock) -> Authority:
        """The authority whose certificates the invited party shows."""
        return self._authority(b"caller", clock)

    def door(self, clock: Clock) -> Authority:
        """The authority whose certificate the inviting server shows."""
        return self._authority(b"door", clock)

    def _authority(self, purpose: bytes, clock: Clock) -> Authority:
        # Twice the bytes of a key, so that the rest of the division is as good as even.
        number = int.from_bytes(self._derived(purpose, 64))
        key = ec.derive_private_key(1 + number % (_ORDER - 1), ec.SECP256R1())
        title = f"Watari invitation {self.invitee.name} {purpose.decode()}"
        return create_ca(self.manager.domain, clock, key=key, title=title)

    def _derived(self, purpose: bytes, length: int) -> bytes:
        info = b"watari v1 invitation " + purpose
        return HKDF(hashes.SHA256(), length, salt=None, info=info).derive(self.secret)


def recognise(certificate: bytes, caller_pem: bytes, invitee: SpiffeId, now: datetime) -> bool:
    """Whether a certificate is the invited party's: signed by the invitation's caller authority, in
    just that name, and valid now.
    """
    root = leaves.parse(caller_pem)
    try:
        found = leaves.verify(certificate, lambda party: [root] if party == invitee else [])
        return found.require_valid(now) == invitee
    except errors.Unauthenticated:
        return False


def code(one: bytes, other: bytes) -> str:
    """Sixteen digits from two fingerprints, in whichever order: what two people read to each other.
    To find a CA that gives the same digits takes 2^53 tries while the invitation holds.
    """
    digest = hashes.Hash(hashes.SHA256())
    digest.update(b"watari v1 code" + b"".join(sorted((one, other))))
    digits = f"{int.from_bytes(digest.finalize()) % 10**16:016}"
    return " ".join(digits[at : at + 4] for at in range(0, 16, 4))


def invalid(why: str) -> errors.InvalidArgument:
    """The error for an invitation that cannot be used."""
    return errors.InvalidArgument(
        "INVITATION_INVALID",
        f"the invitation cannot be used: {why}",
        hint="ask the other provider for a new one: watari federation invite",
    )


def _parse(text: str) -> Invitation:
    # The user part has slashes, which an authority of a URL has not: taken apart by hand.
    before, _, query = text.partition("?")
    party, _, address = before.partition("@")
    if urlsplit(party).scheme != _SCHEME:
        raise ValueError("not an invitation")
    fields = {key: values[0] for key, values in parse_qs(query, strict_parsing=True).items()}
    made = Invitation(
        SpiffeId.parse(party.replace(f"{_SCHEME}://", "spiffe://", 1)),
        validate.require_address(address, "address"),
        _bytes(fields["ca"], FINGERPRINT_BYTES),
        datetime.strptime(fields["until"], _TIME).replace(tzinfo=UTC),
        _bytes(fields["secret"], SECRET_BYTES),
    )
    if made.manager.role is not Role.MANAGER:
        raise ValueError("not a manager")
    return made


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes(text: str, length: int) -> bytes:
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if len(raw) != length:
        raise ValueError("of another length")
    return raw
