"""How two agents come to share the keys of a session (docs/wire-format.md, "Handshake").

The sender signs what it offers, the receiver the transcript, which covers that. Each compares what
the other signed with what itself sent or received, so nothing in it can have been changed on the
way, by whoever carried it. **This is the one place where identities are bound to keys.**

```
sender    OpenSession: grant, definition, shares, SessionOffer signed by the sender
receiver  checks all of it, chooses by its own order: its share, SessionTranscript signed by it
sender    compares; both derive keys from the secret and the transcript
```
"""

import datetime
import hashlib
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from agent import grants
from agent.transfer import agreement, keys
from watari import errors, identity
from watari.identity import Identity, SpiffeId
from watari.v1 import agent_pb2

PURPOSE = "session-receiver"
PURPOSE_OFFERED = "session-sender"


@dataclass(frozen=True)
class Opening:
    """The sender's side between asking and being answered."""

    request: agent_pb2.OpenSessionRequest
    offer: agreement.Offer
    sender: SpiffeId
    receiver: SpiffeId


def ask(request: agent_pb2.OpenSessionRequest, own: Identity, receiver: SpiffeId) -> Opening:
    """Adds fresh shares to a request that is complete otherwise, and the sender's signature."""
    offer = agreement.Offer()
    del request.key_shares[:]
    request.key_shares.extend(offer.shares())
    sign(request, own, receiver)
    return Opening(request, offer, own.spiffe_id, receiver)


def sign(request: agent_pb2.OpenSessionRequest, own: Identity, receiver: SpiffeId) -> None:
    """Signs a request as it stands, for one receiver."""
    offer = _offer(request, str(own.spiffe_id), str(receiver))
    payload = offer.SerializeToString(deterministic=True)
    request.offer.CopyFrom(identity.sign(own, payload, PURPOSE_OFFERED))


def check_offer(
    request: agent_pb2.OpenSessionRequest, own: Identity, peer: SpiffeId, now: datetime.datetime
) -> None:
    """Whether the peer that sent a request signed just this one, to this agent. To be called before
    anything that costs more. Raises Unauthenticated SIGNATURE_INVALID or what `identity.verify`
    says of its certificate, InvalidArgument for shares and key lengths that are none.
    """
    keys.require_key_bits(request.cipher_key_bits)
    agreement.choose(request.key_shares)
    payload, _ = identity.verify(own.trust, request.offer, PURPOSE_OFFERED, peer, now=now)
    if _read_offer(payload) != _offer(request, str(peer), str(own.spiffe_id)):
        raise errors.Unauthenticated(
            "SIGNATURE_INVALID", "the sender signed another offer than the one that came"
        )


def answer(
    request: agent_pb2.OpenSessionRequest, own: Identity, sender: SpiffeId
) -> tuple[keys.SessionKeys, agent_pb2.OpenSessionResponse]:
    """The receiver's keys, and its signed answer, after `check_offer`. Raises InvalidArgument."""
    share, secret = agreement.respond(agreement.choose(request.key_shares))
    transcript = _transcript(request, str(sender), str(own.spiffe_id), share)
    signed = identity.sign(own, transcript.SerializeToString(deterministic=True), PURPOSE)
    session = keys.SessionKeys(secret, signed.payload, request.cipher_key_bits)
    return session, agent_pb2.OpenSessionResponse(key_share=share, transcript=signed)


def conclude(
    opening: Opening,
    response: agent_pb2.OpenSessionResponse,
    own: Identity,
    now: datetime.datetime,
) -> keys.SessionKeys:
    """The sender's keys. Raises Unauthenticated SIGNATURE_INVALID unless the receiver signed just
    the transcript that this side expects, InvalidArgument when it chose what was not offered.
    """
    opening.offer.check(response.key_share)
    payload, _ = identity.verify(own.trust, response.transcript, PURPOSE, opening.receiver, now=now)
    expected = _transcript(
        opening.request, str(opening.sender), str(opening.receiver), response.key_share
    )
    if _read_transcript(payload) != expected:
        raise errors.Unauthenticated(
            "SIGNATURE_INVALID", "the receiver signed another handshake than the one that was held"
        )
    secret = opening.offer.secret(response.key_share)
    return keys.SessionKeys(secret, payload, opening.request.cipher_key_bits)


def _offer(
    request: agent_pb2.OpenSessionRequest, sender: str, receiver: str
) -> agent_pb2.SessionOffer:
    return agent_pb2.SessionOffer(
        session_id=request.session_id,
        migration_id=request.migration_id,
        grant_sha256=grants.digest(request.grant),
        sender=sender,
        receiver=receiver,
        offered=request.key_shares,
        cipher_key_bits=request.cipher_key_bits,
        definition_sha256=hashlib.sha256(request.definition_xml.encode()).digest(),
        dry_run=request.dry_run,
    )


def _read_transcript(payload: bytes) -> agent_pb2.SessionTranscript | None:
    try:
        return agent_pb2.SessionTranscript.FromString(payload)
    except DecodeError:
        return None


def _read_offer(payload: bytes) -> agent_pb2.SessionOffer | None:
    try:
        return agent_pb2.SessionOffer.FromString(payload)
    except DecodeError:
        return None


def _transcript(
    request: agent_pb2.OpenSessionRequest, sender: str, receiver: str, chosen: agent_pb2.KeyShare
) -> agent_pb2.SessionTranscript:
    offer = request.offer.SerializeToString(deterministic=True)
    return agent_pb2.SessionTranscript(
        session_id=request.session_id,
        migration_id=request.migration_id,
        grant_sha256=grants.digest(request.grant),
        sender=sender,
        receiver=receiver,
        offered=request.key_shares,
        chosen=chosen,
        cipher_key_bits=request.cipher_key_bits,
        offer_sha256=hashlib.sha256(offer).digest(),
    )
