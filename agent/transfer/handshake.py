"""How two agents come to share the keys of a session (docs/wire-format.md, "Handshake").

The sender offers shares in OpenSession, over mutual TLS; the receiver chooses one and signs the
transcript. The sender rebuilds the transcript from what it sent, so nothing in it can have been
changed on the way. **This is the one place where identities are bound to keys.**
"""

import datetime
from dataclasses import dataclass

from agent import grants
from agent.transfer import keys
from watari import errors, identity
from watari.identity import Identity, SpiffeId
from watari.v1 import agent_pb2, common_pb2

PURPOSE = "session-receiver"


@dataclass(frozen=True)
class Opening:
    """The sender's side between asking and being answered."""

    request: agent_pb2.OpenSessionRequest
    agreement: keys.Agreement
    sender: SpiffeId
    receiver: SpiffeId


def ask(request: agent_pb2.OpenSessionRequest, own: Identity, receiver: SpiffeId) -> Opening:
    """Adds a fresh share to a request."""
    agreement = keys.Agreement()
    request.key_shares.append(agreement.share())
    return Opening(request, agreement, own.spiffe_id, receiver)


def answer(
    request: agent_pb2.OpenSessionRequest, own: Identity
) -> tuple[keys.SessionKeys, agent_pb2.OpenSessionResponse]:
    """The receiver's keys, and its signed answer. Raises InvalidArgument."""
    bits = keys.require_key_bits(request.cipher_key_bits)
    offered = keys.choose(list(request.key_shares))
    agreement = keys.Agreement()
    grant = common_pb2.Grant.FromString(request.grant.granted.payload)
    transcript = _transcript(request, grant.source_agent, str(own.spiffe_id), agreement.share())
    signed = identity.sign(own, transcript.SerializeToString(deterministic=True), PURPOSE)
    session = keys.SessionKeys(agreement.shared_secret(offered), signed.payload, bits)
    return session, agent_pb2.OpenSessionResponse(key_share=agreement.share(), transcript=signed)


def conclude(
    opening: Opening,
    response: agent_pb2.OpenSessionResponse,
    own: Identity,
    now: datetime.datetime,
) -> keys.SessionKeys:
    """The sender's keys. Raises Unauthenticated SIGNATURE_INVALID unless the receiver signed just
    the transcript that this side expects.
    """
    payload, _ = identity.verify(own.trust, response.transcript, PURPOSE, opening.receiver, now=now)
    expected = _transcript(
        opening.request, str(opening.sender), str(opening.receiver), response.key_share
    )
    if agent_pb2.SessionTranscript.FromString(payload) != expected:
        raise errors.Unauthenticated(
            "SIGNATURE_INVALID", "the receiver signed another handshake than the one that was held"
        )
    secret = opening.agreement.shared_secret(response.key_share)
    return keys.SessionKeys(secret, payload, opening.request.cipher_key_bits)


def _transcript(
    request: agent_pb2.OpenSessionRequest, sender: str, receiver: str, chosen: agent_pb2.KeyShare
) -> agent_pb2.SessionTranscript:
    return agent_pb2.SessionTranscript(
        session_id=request.session_id,
        migration_id=request.migration_id,
        grant_sha256=grants.digest(request.grant),
        sender=sender,
        receiver=receiver,
        offered=request.key_shares,
        chosen=chosen,
        cipher_key_bits=request.cipher_key_bits,
    )
