"""Signed documents: payloads whose author can be proved later, apart from any connection.

The signature is ECDSA P-256 with SHA-256 over "watari-v1", 0x00, purpose, 0x00, payload. A purpose
holds no 0x00, so no two pairs of purpose and payload give the same bytes.
"""

import re
from datetime import datetime
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from watari import errors
from watari.identity import leaves
from watari.identity.party import Identity
from watari.identity.spiffe import SpiffeId
from watari.v1 import common_pb2

PAYLOAD_BYTES_MAX = 2 * 1024 * 1024
"""Half of what a control message may hold; a larger document is refused before it is hashed."""

_PURPOSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}", re.ASCII)
_ALGORITHM = ec.ECDSA(hashes.SHA256())


def sign(identity: Identity, payload: bytes, purpose: str) -> common_pb2.SignedDocument:
    """`payload` signed by `identity` for one purpose, such as "grant".

    Raises InvalidArgument: INVALID_FIELD for a malformed purpose (lower-case letters, digits, dot
    and hyphen, at most 64), MESSAGE_TOO_LARGE beyond PAYLOAD_BYTES_MAX.
    """
    if _PURPOSE.fullmatch(purpose) is None:
        raise errors.InvalidArgument(
            "INVALID_FIELD", f"{purpose!r} is not a purpose", field="purpose"
        )
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise errors.InvalidArgument(
            "MESSAGE_TOO_LARGE",
            f"a document of {len(payload)} bytes",
            hint=f"at most {PAYLOAD_BYTES_MAX} bytes",
        )
    pair = identity.current()
    return common_pb2.SignedDocument(
        payload=payload,
        purpose=purpose,
        certificates=[leaves.der(pair.cert_pem)],
        signature=pair.private_key.sign(_signed_bytes(purpose, payload), _ALGORITHM),
    )


def verify(
    trust: "Believes",
    document: common_pb2.SignedDocument,
    purpose: str,
    expected: SpiffeId | None = None,
    *,
    now: datetime,
    allow_expired_at: datetime | None = None,
) -> tuple[bytes, SpiffeId]:
    """The payload and its signer, once purpose, signer and signature are proved.

    `expected` is who must have signed; None takes any accepted party. The certificate must be valid
    at `now`, or at `allow_expired_at` where that is given: the moment, known from elsewhere, at
    which an archived document was received. Raises Unauthenticated SIGNATURE_INVALID,
    PROVIDER_UNKNOWN or PEER_UNAUTHENTICATED.
    """
    if document.purpose != purpose or _PURPOSE.fullmatch(purpose) is None:
        raise _invalid(f"the document is a {document.purpose[:64]!r}, not a {purpose!r}")
    if len(document.payload) > PAYLOAD_BYTES_MAX:
        raise _invalid(f"the document is larger than {PAYLOAD_BYTES_MAX} bytes")
    if len(document.certificates) != 1:
        raise _invalid(f"the document carries {len(document.certificates)} certificates, not one")
    certificate = document.certificates[0]
    signer = trust.verify_peer(certificate, allow_expired_at or now)
    if expected is not None and signer != expected:
        raise _invalid(f"the document is signed by {signer}, not by {expected}")
    try:
        leaves.key(leaves.parse(certificate)).verify(
            document.signature, _signed_bytes(purpose, document.payload), _ALGORITHM
        )
    except InvalidSignature as error:
        raise _invalid(f"the signature of {signer} does not match the document") from error
    return document.payload, signer


class Believes(Protocol):
    """Whoever can tell a party by its certificate: a TrustStore, or the roots of one provider."""

    def verify_peer(self, certificate: bytes, now: datetime) -> SpiffeId:
        """Whose it is. Raises Unauthenticated."""
        ...


def _signed_bytes(purpose: str, payload: bytes) -> bytes:
    return b"\0".join((b"watari-v1", purpose.encode(), payload))


def _invalid(problem: str) -> errors.Unauthenticated:
    return errors.Unauthenticated(
        "SIGNATURE_INVALID", problem, hint="ask its author for the document again"
    )
