"""Both agents sign the handshake, and nobody in between can weaken or redirect it."""

import uuid
from collections.abc import Callable

import pytest

from agent.transfer import frames, handshake
from agent.transfer.keys import SessionKeys
from tests.conftest import Federation
from tests.support.arriving import RECEIVER, SENDER
from watari import errors, identity
from watari.identity import Identity, SpiffeId
from watari.v1 import agent_pb2, common_pb2

CLASSICAL = agent_pb2.KEY_AGREEMENT_X25519
HYBRID = agent_pb2.KEY_AGREEMENT_X25519_MLKEM768
OTHER = SpiffeId(SENDER.domain, SENDER.role, "host2")

Request = agent_pb2.OpenSessionRequest
Response = agent_pb2.OpenSessionResponse


class Hands:
    """Both sides of a handshake; a test changes what goes from one to the other."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.sender = federation.party(str(SENDER))
        self.receiver = federation.party(str(RECEIVER))
        self.request = Request(
            session_id=str(uuid.uuid4()),
            migration_id=str(uuid.uuid4()),
            grant=common_pb2.SignedGrant(granted=common_pb2.SignedDocument(payload=b"a grant")),
            definition_xml="<domain/>",
            cipher_key_bits=256,
            streams=1,
        )
        self.opening = handshake.ask(self.request, self.sender, RECEIVER)

    def answered(
        self, request: Request | None = None, peer: SpiffeId = SENDER
    ) -> tuple[SessionKeys, Response]:
        request = request or self.request
        handshake.check_offer(request, self.receiver, peer, self.federation.clock.now())
        return handshake.answer(request, self.receiver, peer)

    def concluded(self, response: Response) -> SessionKeys:
        now = self.federation.clock.now()
        return handshake.conclude(self.opening, response, self.sender, now)

    def altered(self, change: Callable[[Request], object]) -> Request:
        """The request as somebody in between makes it."""
        copy = Request()
        copy.CopyFrom(self.request)
        change(copy)
        return copy

    def signed_offer(
        self, by: Identity, change: Callable[[agent_pb2.SessionOffer], object]
    ) -> None:
        """Puts another offer in place of the sender's."""
        offer = agent_pb2.SessionOffer.FromString(self.request.offer.payload)
        change(offer)
        payload = offer.SerializeToString(deterministic=True)
        self.request.offer.CopyFrom(identity.sign(by, payload, "session-sender"))

    def signed_transcript(
        self, response: Response, change: Callable[[agent_pb2.SessionTranscript], object]
    ) -> Response:
        """Puts another transcript in place of the receiver's, signed by the receiver itself."""
        transcript = agent_pb2.SessionTranscript.FromString(response.transcript.payload)
        change(transcript)
        payload = transcript.SerializeToString(deterministic=True)
        response.transcript.CopyFrom(identity.sign(self.receiver, payload, "session-receiver"))
        return response


@pytest.fixture
def hands(federation: Federation) -> Hands:
    return Hands(federation)


def refused(call: Callable[[], object]) -> None:
    with pytest.raises(errors.Unauthenticated) as caught:
        call()
    assert caught.value.reason == "SIGNATURE_INVALID"


@pytest.mark.parametrize("kind", [HYBRID, CLASSICAL])
def test_both_sides_have_the_same_keys_by_either_agreement(hands: Hands, kind: int) -> None:
    if kind == CLASSICAL:  # a sender that speaks nothing else
        del hands.request.key_shares[0]
        hands.signed_offer(hands.sender, lambda offer: offer.offered.__delitem__(0))
    there, response = hands.answered()
    assert response.key_share.agreement == kind
    here = hands.concluded(response)
    message = here.sender_stream(1)[0].seal(frames.Zeros(0, 0, 65_536))
    assert there.receiver_stream(1)[1].open(message) == frames.Zeros(0, 0, 65_536)
    assert there.open_manifest(here.seal_manifest(b"all")) == b"all"


REQUEST_CHANGES: list[Callable[[Request], object]] = [
    lambda request: setattr(request, "session_id", str(uuid.uuid4())),
    lambda request: setattr(request, "migration_id", str(uuid.uuid4())),
    lambda request: setattr(request.grant.granted, "payload", b"another grant"),
    lambda request: setattr(request.grant.countersigned, "payload", b"another signature"),
    lambda request: setattr(request, "definition_xml", "<domain></domain>"),
    lambda request: setattr(request, "cipher_key_bits", 128),
    lambda request: setattr(request, "dry_run", True),
    lambda request: request.key_shares.__delitem__(0),
    lambda request: request.key_shares.__delitem__(1),
    lambda request: request.key_shares.reverse(),
    lambda request: setattr(request.key_shares[1], "public_key", b"\x09" * 32),
    lambda request: setattr(request.key_shares[0], "public_key", b"\x09" * 1216),
    lambda request: setattr(request.offer, "payload", b"\xff"),
    lambda request: setattr(request.offer, "payload", request.offer.payload + b"\x48\x01"),
    lambda request: setattr(request.offer, "purpose", "session-receiver"),
    lambda request: request.ClearField("offer"),
]


@pytest.mark.parametrize("change", REQUEST_CHANGES)
def test_whatever_is_changed_of_a_request_breaks_the_senders_signature(
    hands: Hands, change: Callable[[Request], object]
) -> None:
    refused(lambda: hands.answered(hands.altered(change)))


OFFER_CHANGES: list[Callable[[agent_pb2.SessionOffer], object]] = [
    lambda offer: setattr(offer, "session_id", str(uuid.uuid4())),
    lambda offer: setattr(offer, "migration_id", str(uuid.uuid4())),
    lambda offer: setattr(offer, "grant_sha256", b"g" * 32),
    lambda offer: setattr(offer, "sender", str(OTHER)),
    lambda offer: setattr(offer, "receiver", str(OTHER)),
    lambda offer: offer.offered.__delitem__(0),
    lambda offer: offer.offered.reverse(),
    lambda offer: setattr(offer, "cipher_key_bits", 128),
    lambda offer: setattr(offer, "definition_sha256", b"d" * 32),
    lambda offer: setattr(offer, "dry_run", True),
    lambda offer: offer.Clear(),
]


@pytest.mark.parametrize("change", OFFER_CHANGES)
def test_an_offer_of_something_else_is_refused_though_the_sender_signed_it(
    hands: Hands, change: Callable[[agent_pb2.SessionOffer], object]
) -> None:
    hands.signed_offer(hands.sender, change)
    refused(hands.answered)


def test_every_field_of_the_offer_is_tried_here() -> None:
    assert len(OFFER_CHANGES) - 2 == len(agent_pb2.SessionOffer.DESCRIPTOR.fields)
    assert len(TRANSCRIPT_CHANGES) == len(agent_pb2.SessionTranscript.DESCRIPTOR.fields)


def test_only_who_calls_may_have_signed(hands: Hands, federation: Federation) -> None:
    refused(lambda: hands.answered(peer=OTHER))
    hands.signed_offer(federation.party(str(OTHER)), lambda _: None)
    refused(hands.answered)
    refused(lambda: hands.answered(peer=OTHER))


def test_a_denied_or_unknown_signer_is_refused_by_its_own_reason(
    hands: Hands, own_federation: Federation
) -> None:
    receiver = own_federation.party(str(RECEIVER))
    now = own_federation.clock.now()
    with pytest.raises(errors.Unauthenticated) as caught:
        handshake.check_offer(hands.request, receiver, SENDER, now)
    assert caught.value.reason == "PEER_UNAUTHENTICATED"
    (own_federation.trust_folder / f"{SENDER.domain}.pem").unlink()
    with pytest.raises(errors.Unauthenticated) as caught:
        handshake.check_offer(hands.request, receiver, SENDER, now)
    assert caught.value.reason == "PROVIDER_UNKNOWN"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_lengths_are_looked_at_before_signatures(hands: Hands, length: int) -> None:
    hands.request.key_shares[1].public_key = b"k" * length
    hands.request.offer.signature = b"none"
    with pytest.raises(errors.InvalidArgument):
        hands.answered()
    hands.request.key_shares[1].public_key = b"k" * 32
    hands.request.cipher_key_bits = 64
    with pytest.raises(errors.InvalidArgument):
        hands.answered()


TRANSCRIPT_CHANGES: list[Callable[[agent_pb2.SessionTranscript], object]] = [
    lambda transcript: setattr(transcript, "session_id", str(uuid.uuid4())),
    lambda transcript: setattr(transcript, "migration_id", str(uuid.uuid4())),
    lambda transcript: setattr(transcript, "grant_sha256", b"g" * 32),
    lambda transcript: setattr(transcript, "sender", str(OTHER)),
    lambda transcript: setattr(transcript, "receiver", str(OTHER)),
    lambda transcript: transcript.offered.__delitem__(0),
    lambda transcript: setattr(transcript.chosen, "public_key", b"k" * 1120),
    lambda transcript: setattr(transcript, "cipher_key_bits", 128),
    lambda transcript: setattr(transcript, "offer_sha256", b"o" * 32),
]


@pytest.mark.parametrize("change", TRANSCRIPT_CHANGES)
def test_a_transcript_of_something_else_is_refused_though_the_receiver_signed_it(
    hands: Hands, change: Callable[[agent_pb2.SessionTranscript], object]
) -> None:
    _, response = hands.answered()
    refused(lambda: hands.concluded(hands.signed_transcript(response, change)))


def test_another_share_than_the_signed_one_is_refused(hands: Hands) -> None:
    _, response = hands.answered()
    share = bytearray(response.key_share.public_key)
    share[-1] ^= 1
    response.key_share.public_key = bytes(share)
    refused(lambda: hands.concluded(response))


def test_a_weaker_answer_cannot_be_put_in_place_of_the_receivers(hands: Hands) -> None:
    """Somebody in between holds a handshake of its own with either side, by X25519 alone."""
    _, response = hands.answered()
    weaker = agent_pb2.KeyShare(agreement=CLASSICAL, public_key=b"\x09" * 32)
    response.key_share.CopyFrom(weaker)
    refused(lambda: hands.concluded(response))
    response.transcript.CopyFrom(
        identity.sign(
            hands.federation.party(str(OTHER)), response.transcript.payload, "session-receiver"
        )
    )
    refused(lambda: hands.concluded(response))


def test_an_answer_to_an_earlier_offer_is_refused(hands: Hands) -> None:
    _, response = hands.answered()
    hands.opening = handshake.ask(hands.request, hands.sender, RECEIVER)
    refused(lambda: hands.concluded(response))


def test_the_definition_and_the_estimate_are_bound_to_the_keys(hands: Hands) -> None:
    """The transcript covers the offer, and the offer them."""
    keys, _ = hands.answered()
    hands.signed_offer(hands.sender, lambda _: None)  # signed again: another document
    again, response = hands.answered()
    sealed = keys.seal_manifest(b"all")
    with pytest.raises(errors.DataLoss):
        again.open_manifest(sealed)
    assert hands.concluded(response).seal_manifest(b"all") != sealed
