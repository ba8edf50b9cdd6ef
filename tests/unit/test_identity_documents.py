from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from watari import errors, identity
from watari.clock import SystemClock
from watari.identity import SpiffeId, documents
from watari.v1 import common_pb2

SIGNER = "spiffe://osaka.example/manager/main"


@pytest.fixture
def signer(federation):
    return federation.party(SIGNER)


def check(signer, document, purpose="grant", expected=SIGNER, after=timedelta(), at=None):
    now = SystemClock().now() + after
    party = SpiffeId.parse(expected) if expected else None
    return identity.verify(signer.trust, document, purpose, party, now=now, allow_expired_at=at)


def refused(signer, document, **how) -> str:
    with pytest.raises(errors.Unauthenticated) as caught:
        check(signer, document, **how)
    return caught.value.reason


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.binary(max_size=300))
def test_a_signed_payload_comes_back_with_its_signer(signer, payload):
    document = identity.sign(signer, payload, "grant")
    crossed = common_pb2.SignedDocument.FromString(document.SerializeToString())
    assert check(signer, crossed) == (payload, signer.spiffe_id)


def test_a_signature_for_one_purpose_never_passes_for_another(signer):
    document = identity.sign(signer, b"x", "grant")
    with pytest.raises(errors.Unauthenticated, match="is a 'grant', not a 'receipt'"):
        check(signer, document, purpose="receipt")
    document.purpose = "receipt"
    assert refused(signer, document, purpose="receipt") == "SIGNATURE_INVALID"


def test_bytes_do_not_move_between_purpose_and_payload():
    assert documents._signed_bytes("a", b"b\0c") == b"watari-v1\0a\0b\0c"
    with pytest.raises(errors.InvalidArgument):
        identity.sign(None, b"c", "a\0b")


def test_an_altered_payload_or_signature_is_refused(signer):
    for part in ("payload", "signature"):
        document = identity.sign(signer, b"payload", "grant")
        content = getattr(document, part)
        setattr(document, part, content[:-1] + bytes([content[-1] ^ 1]))
        assert refused(signer, document) == "SIGNATURE_INVALID"


def test_a_document_of_somebody_else_is_refused_unless_anybody_will_do(federation, signer):
    document = identity.sign(federation.party("spiffe://tokyo.example/manager/main"), b"", "grant")
    assert refused(signer, document) == "SIGNATURE_INVALID"
    assert str(check(signer, document, expected=None)[1]).startswith("spiffe://tokyo.example/")


def test_anothers_certificate_does_not_go_with_ones_own_signature(federation, signer):
    other = federation.party("spiffe://tokyo.example/manager/main")
    document = identity.sign(other, b"payload", "grant")
    document.certificates[0] = identity.sign(signer, b"", "grant").certificates[0]
    assert refused(signer, document) == "SIGNATURE_INVALID"


def test_a_document_must_carry_exactly_one_certificate(signer):
    document = identity.sign(signer, b"payload", "grant")
    document.certificates.append(document.certificates[0])
    assert refused(signer, document) == "SIGNATURE_INVALID"
    del document.certificates[:]
    assert refused(signer, document) == "SIGNATURE_INVALID"


def test_a_stranger_cannot_sign(federation, signer):
    stranger = federation.party("spiffe://stranger.example/manager/main")
    assert refused(signer, identity.sign(stranger, b"", "grant"), expected=None) == (
        "PROVIDER_UNKNOWN"
    )


def test_an_archived_document_is_checked_at_the_moment_it_was_received(signer):
    document, received = identity.sign(signer, b"payload", "receipt"), SystemClock().now()
    later = timedelta(days=1)
    assert refused(signer, document, purpose="receipt", after=later) == "PEER_UNAUTHENTICATED"
    assert check(signer, document, purpose="receipt", after=later, at=received)[0] == b"payload"


@pytest.mark.parametrize("purpose", ["", "Grant", "a b", "x" * 65, "é"])
def test_malformed_purposes_are_refused(signer, purpose):
    with pytest.raises(errors.InvalidArgument):
        identity.sign(signer, b"", purpose)


def test_a_payload_beyond_the_limit_is_neither_signed_nor_checked(signer):
    payload = bytes(documents.PAYLOAD_BYTES_MAX + 1)
    with pytest.raises(errors.InvalidArgument, match="MESSAGE_TOO_LARGE"):
        identity.sign(signer, payload, "grant")
    document = identity.sign(signer, b"", "grant")
    document.payload = payload
    assert refused(signer, document) == "SIGNATURE_INVALID"
