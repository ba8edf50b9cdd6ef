"""Key agreements (docs/wire-format.md, "Handshake"): the shares, and the secret. Pure; no I/O.

X25519 (RFC 7748) alone, or together with ML-KEM-768 (FIPS 203) in the manner of X25519MLKEM768
(draft-ietf-tls-ecdhe-mlkem): who records the traffic today and has a quantum computer one day would
have to break both.

The offerer's halves are made once for a session and forgotten with it. **Nothing here proves who
made a share; the handshake does.**
"""

from collections.abc import Sequence
from functools import cache
from typing import Protocol, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from watari import errors
from watari.v1 import agent_pb2

Kind: TypeAlias = "agent_pb2.KeyAgreement.ValueType"

X25519_BYTES = 32
ENCAPSULATION_KEY_BYTES = 1184
CIPHERTEXT_BYTES = 1088

OFFER_BYTES = {
    agent_pb2.KEY_AGREEMENT_X25519: X25519_BYTES,
    agent_pb2.KEY_AGREEMENT_X25519_MLKEM768: ENCAPSULATION_KEY_BYTES + X25519_BYTES,
}
ANSWER_BYTES = {
    agent_pb2.KEY_AGREEMENT_X25519: X25519_BYTES,
    agent_pb2.KEY_AGREEMENT_X25519_MLKEM768: CIPHERTEXT_BYTES + X25519_BYTES,
}


@cache
def spoken() -> tuple[Kind, ...]:
    """The agreements that this agent speaks, strongest first: its own order, whatever a peer's."""
    hybrid = (agent_pb2.KEY_AGREEMENT_X25519_MLKEM768,) if _has_ml_kem() else ()
    return (*hybrid, agent_pb2.KEY_AGREEMENT_X25519)


class _Half(Protocol):
    """The offerer's private half of one agreement."""

    @property
    def public(self) -> bytes:
        """What the answerer is told."""

    def secret(self, answer: bytes) -> bytes:
        """The secret with an answer of the right length. Raises InvalidArgument."""


class Classical:
    """X25519."""

    def __init__(self, private: X25519PrivateKey | None = None) -> None:
        self._private = private or X25519PrivateKey.generate()

    @property
    def public(self) -> bytes:
        """32 bytes."""
        return self._private.public_key().public_bytes_raw()

    def secret(self, answer: bytes) -> bytes:
        """32 bytes. Raises InvalidArgument INVALID_FIELD for a point of small order."""
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(answer))
        except ValueError:
            raise _bad_share("the X25519 share is a point of small order") from None


class Hybrid:
    """X25519 with ML-KEM-768; in shares and secret ML-KEM's part comes first."""

    def __init__(
        self,
        private: MLKEM768PrivateKey | None = None,
        classical: Classical | None = None,
    ) -> None:
        self._private = private or MLKEM768PrivateKey.generate()
        self._classical = classical or Classical()

    @property
    def public(self) -> bytes:
        """1,216 bytes."""
        return self._private.public_key().public_bytes_raw() + self._classical.public

    def secret(self, answer: bytes) -> bytes:
        """64 bytes. A ciphertext that is none gives a secret that nobody else has."""
        ciphertext, point = answer[:CIPHERTEXT_BYTES], answer[CIPHERTEXT_BYTES:]
        classical = self._classical.secret(point)
        return self._private.decapsulate(ciphertext) + classical


class Offer:
    """The sender's fresh halves of every agreement that it speaks; used once, then forgotten."""

    def __init__(self) -> None:
        self._halves: dict[Kind, _Half] = {
            kind: Hybrid() if kind == agent_pb2.KEY_AGREEMENT_X25519_MLKEM768 else Classical()
            for kind in spoken()
        }

    def shares(self) -> list[agent_pb2.KeyShare]:
        """What the receiver is told, strongest first."""
        return [
            agent_pb2.KeyShare(agreement=kind, public_key=half.public)
            for kind, half in self._halves.items()
        ]

    def check(self, answer: agent_pb2.KeyShare) -> None:
        """Raises InvalidArgument INVALID_FIELD unless this was offered and has the right length."""
        if answer.agreement not in self._halves:
            raise _bad_share(f"agreement {answer.agreement} was not offered")
        _check_length(answer, ANSWER_BYTES[answer.agreement])

    def secret(self, answer: agent_pb2.KeyShare) -> bytes:
        """The secret with what the receiver chose. Raises InvalidArgument INVALID_FIELD."""
        self.check(answer)
        return self._halves[answer.agreement].secret(answer.public_key)


def choose(offered: Sequence[agent_pb2.KeyShare]) -> agent_pb2.KeyShare:
    """The strongest offered share that this agent speaks, by its own order and not the offer's.
    Costs nothing; raises InvalidArgument INVALID_FIELD when there is none, when one has another
    length than it must have, or when one agreement is offered twice.
    """
    for share in offered:
        if share.agreement in OFFER_BYTES:
            _check_length(share, OFFER_BYTES[share.agreement])
    by_kind = {share.agreement: share for share in offered}
    if len(by_kind) < len(offered):
        raise _bad_share("an agreement is offered twice")
    for kind in spoken():
        if kind in by_kind:
            return by_kind[kind]
    names = ", ".join(agent_pb2.KeyAgreement.Name(kind) for kind in spoken())
    raise _bad_share(f"no key agreement in common; this agent speaks {names}")


def respond(offered: agent_pb2.KeyShare) -> tuple[agent_pb2.KeyShare, bytes]:
    """The receiver's share for one that `choose` returned, and the secret. Raises InvalidArgument
    INVALID_FIELD for a share that is none.
    """
    classical = Classical()
    if offered.agreement == agent_pb2.KEY_AGREEMENT_X25519:
        public, secret = classical.public, classical.secret(offered.public_key)
    else:
        key, point = (
            offered.public_key[:ENCAPSULATION_KEY_BYTES],
            offered.public_key[ENCAPSULATION_KEY_BYTES:],
        )
        shared = classical.secret(point)
        try:
            encapsulated, ciphertext = MLKEM768PublicKey.from_public_bytes(key).encapsulate()
        except ValueError:
            raise _bad_share("the ML-KEM-768 share is no encapsulation key") from None
        public, secret = ciphertext + classical.public, encapsulated + shared
    return agent_pb2.KeyShare(agreement=offered.agreement, public_key=public), secret


def _has_ml_kem() -> bool:
    try:
        MLKEM768PrivateKey.generate()
    except UnsupportedAlgorithm:
        return False
    return True


def _check_length(share: agent_pb2.KeyShare, length: int) -> None:
    if len(share.public_key) != length:
        name = agent_pb2.KeyAgreement.Name(share.agreement)
        raise _bad_share(f"a share of {name} has {length} bytes, not {len(share.public_key)}")


def _bad_share(what: str) -> errors.InvalidArgument:
    return errors.InvalidArgument("INVALID_FIELD", what, field="key_shares")
