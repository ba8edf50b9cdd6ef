"""Reading a party's certificate: its form, its one SPIFFE id, and whether a root signed it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from watari import errors
from watari.identity.authority import BACKDATE_SECONDS
from watari.identity.spiffe import Role, SpiffeId

CERTIFICATE_BYTES_MAX = 8 * 1024
"""A larger peer certificate is refused before it is parsed."""

_UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises, as late as an extension is looked at, for a malformed certificate."""


@dataclass(frozen=True)
class Verified:
    """A certificate that a root has signed."""

    spiffe_id: SpiffeId
    issued_at: datetime
    """When it was made."""
    not_before: datetime
    """From when both it and the root are valid."""
    not_after: datetime

    def require_valid(self, now: datetime) -> SpiffeId:
        """Whose it is. Raises Unauthenticated PEER_UNAUTHENTICATED when it is not valid now."""
        if not self.not_before <= now <= self.not_after:
            raise refused(
                f"the certificate of {self.spiffe_id} is valid from {self.not_before} "
                f"to {self.not_after}, not at {now}"
            )
        return self.spiffe_id


Roots = Callable[[SpiffeId], Sequence[x509.Certificate]]
"""The roots that may speak for a party; raises Unauthenticated when there are none."""


def verify(raw: bytes, roots: Roots) -> Verified:
    """Whose the certificate (PEM or DER) is, whatever the time. Raises Unauthenticated
    PEER_UNAUTHENTICATED, and what `roots` raises.
    """
    try:
        leaf = parse(raw)
        spiffe_id = _check_leaf(leaf)
    except _UNREADABLE as error:
        raise refused(f"the certificate cannot be read: {error}") from error
    signers = [root for root in roots(spiffe_id) if _signed_by(leaf, root)]
    if not signers:
        raise refused(f"the CA of {spiffe_id.domain} did not sign the certificate of {spiffe_id}")
    # The same CA key may stand in several roots while a provider renews its CA: the last to end.
    root = max(signers, key=lambda signer: signer.not_valid_after_utc)
    return Verified(
        spiffe_id,
        leaf.not_valid_before_utc + timedelta(seconds=BACKDATE_SECONDS),
        max(leaf.not_valid_before_utc, root.not_valid_before_utc),
        min(leaf.not_valid_after_utc, root.not_valid_after_utc),
    )


@dataclass(frozen=True)
class FixedRoots:
    """Believes the roots of one domain: for a provider that is not accepted yet, whose bundle is
    looked at.
    """

    domain: str
    certificates: Sequence[x509.Certificate]

    def verify_peer(self, certificate: bytes, now: datetime) -> SpiffeId:
        """As `TrustStore.verify_peer`. Raises Unauthenticated PEER_UNAUTHENTICATED."""
        return verify(certificate, self._roots).require_valid(now)

    def _roots(self, spiffe_id: SpiffeId) -> Sequence[x509.Certificate]:
        of_domain = spiffe_id.domain == self.domain and spiffe_id.role is not Role.INVITEE
        return self.certificates if of_domain else ()


def key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """Its public key. Raises Unauthenticated when it is not ECDSA P-256."""
    found = certificate.public_key()
    if not isinstance(found, ec.EllipticCurvePublicKey) or not isinstance(
        found.curve, ec.SECP256R1
    ):
        raise refused("the certificate's key is not ECDSA P-256")
    return found


def parse(raw: bytes) -> x509.Certificate:
    """A certificate in PEM or DER. Raises Unauthenticated when it is too large, ValueError."""
    if len(raw) > CERTIFICATE_BYTES_MAX:
        raise refused(f"the certificate is larger than {CERTIFICATE_BYTES_MAX} bytes")
    load: Callable[[bytes], x509.Certificate] = (
        x509.load_pem_x509_certificate
        if raw.lstrip().startswith(b"-----")
        else x509.load_der_x509_certificate
    )
    return load(raw)


def der(certificate_pem: bytes) -> bytes:
    """The first certificate of a PEM text, DER."""
    return x509.load_pem_x509_certificate(certificate_pem).public_bytes(serialization.Encoding.DER)


def ders(pem: bytes) -> list[bytes]:
    """Every certificate of a PEM text, DER. Raises ValueError."""
    return [
        each.public_bytes(serialization.Encoding.DER)
        for each in x509.load_pem_x509_certificates(pem)
    ]


def split(pem: bytes) -> list[bytes]:
    """Every certificate of a PEM text, PEM. Raises ValueError."""
    return [
        each.public_bytes(serialization.Encoding.PEM)
        for each in x509.load_pem_x509_certificates(pem)
    ]


def fingerprint(pem: bytes) -> bytes:
    """SHA-256 of a certificate: what people compare."""
    return hashlib.sha256(der(pem)).digest()


def is_authority(certificate: bytes, domain: str) -> bool:
    """Whether a certificate (DER) is an authority's of this domain: a CA with a key that we take,
    signed by itself, whose name is that of its domain and one more. TLS libraries look for issuers
    by name: one provider's authority with another one's name would stand in that one's way.
    """
    try:
        if len(certificate) > CERTIFICATE_BYTES_MAX:
            return False
        root = x509.load_der_x509_certificate(certificate)
        key(root)
        named = [(each.oid, each.value) for each in root.subject]
        oids = [NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME]
        if [oid for oid, _ in named] != oids or named[0][1] != domain:
            return False
        root.verify_directly_issued_by(root)
        return root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (*_UNREADABLE, TypeError, InvalidSignature, errors.Unauthenticated):
        return False


def refused(problem: str) -> errors.Unauthenticated:
    """The error for a certificate that proves nothing."""
    return errors.Unauthenticated(
        "PEER_UNAUTHENTICATED", problem, hint="issue the party's certificate again"
    )


def _check_leaf(leaf: x509.Certificate) -> SpiffeId:
    """The leaf's one SPIFFE id, after its form was checked."""
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    basic = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise refused(f"the certificate has {len(uris)} URI names instead of one")
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except errors.InvalidArgument as error:
        raise refused(error.message) from error
    if names.get_values_for_type(x509.DNSName) != [spiffe_id.dns_name]:
        raise refused(f"the certificate of {spiffe_id} has DNS names that are not its own")
    if basic.ca or ExtendedKeyUsageOID.CLIENT_AUTH not in uses:
        raise refused(f"the certificate of {spiffe_id} is not a party's")
    key(leaf)
    return spiffe_id


def _signed_by(leaf: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        is_ca = root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        leaf.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return is_ca
