"""Permits: documents by which a person lets one broker do something, and no other party.

Delegations, standing delegations and reservation mandates are. A broker passes one on as it was
signed, so whoever reads it proves it anew. Nothing in here knows what any of them permits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError

from watari import errors, identity
from watari.identity import SpiffeId, TrustStore
from watari.v1 import common_pb2

Message = TypeVar(
    "Message",
    common_pb2.Delegation,
    common_pb2.StandingDelegation,
    common_pb2.ReservationMandate,
)


@dataclass(frozen=True)
class Kind(Generic[Message]):
    """One kind of permit."""

    message: type[Message]
    purpose: str
    """What it is signed as."""

    renewal: str
    """Hint for one whose signature cannot be proved: how to have another one."""

    require_well_formed: Callable[[Message], None]
    """Raises InvalidArgument for a field that is none."""

    require_signer: Callable[[Message, SpiffeId], None]
    """Raises `invalid` for a party that may not sign this one, whose fields are well-formed."""

    invalid: Callable[[str, str], errors.Denied]
    """The error for one that does not permit what it is shown for, from a problem and a hint."""


def prove(
    kind: Kind[Message],
    document: common_pb2.SignedDocument,
    trust: TrustStore,
    now: datetime,
    *,
    delegate: SpiffeId,
    seen_at: datetime | None = None,
) -> tuple[Message, SpiffeId]:
    """What was permitted to `delegate`, and by whom. The signer's certificate must be valid at
    `now`, or at `seen_at`, when this very document is known to have been seen.

    Raises the kind's error: for a signature, a payload, a signer or a broker that is none of this
    permit's, in this order. Whether it has expired is the caller's question.
    """
    try:
        payload, signer = identity.verify(
            trust, document, kind.purpose, now=now, allow_expired_at=seen_at
        )
    except errors.Unauthenticated as error:
        raise kind.invalid(error.message, kind.renewal) from error
    try:
        said = kind.message.FromString(payload)
    except DecodeError as error:
        name = kind.message.DESCRIPTOR.name
        raise kind.invalid(f"its payload is no {name}", "send the contract's message") from error
    try:
        kind.require_well_formed(said)
    except errors.InvalidArgument as error:
        raise kind.invalid(error.message, error.hint) from error
    kind.require_signer(said, signer)
    if said.delegate != str(delegate):
        raise kind.invalid(
            f"it is for {said.delegate or 'nobody'}, not for {delegate}",
            "have it signed for the broker that is asked",
        )
    return said, signer
