"""The line that lets two providers meet: what it says, and what its secret proves."""

from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from watari import errors
from watari.clock import FakeClock
from watari.identity import SpiffeId, create_ca, invitation
from watari.identity.invitation import FINGERPRINT_BYTES, SECRET_BYTES, Invitation

NOW = datetime(2030, 1, 1, tzinfo=UTC)
CLOCK = FakeClock(NOW)
MANAGER = SpiffeId("tokyo.example", "manager", "main")


def made(**changed) -> Invitation:
    values = {
        "manager": MANAGER,
        "address": "192.0.2.10:7443",
        "ca_sha256": bytes(range(FINGERPRINT_BYTES)),
        "expires_at": NOW + timedelta(hours=1),
        "secret": bytes(SECRET_BYTES),
    }
    return Invitation(**(values | changed))


@given(
    ca=st.binary(min_size=FINGERPRINT_BYTES, max_size=FINGERPRINT_BYTES),
    secret=st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES),
    until=st.integers(0, 2**32).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    address=st.sampled_from(["192.0.2.10:7443", "[2001:db8::1]:7443", "m.tokyo.example:1"]),
)
def test_every_invitation_reads_as_it_was_written(ca, secret, until, address):
    one = made(ca_sha256=ca, secret=secret, expires_at=until, address=address)
    assert Invitation.parse(str(one)) == one
    assert Invitation.parse(f"  {one}\n") == one


@given(st.text(max_size=200))
def test_text_that_is_no_invitation_is_refused_in_one_way(text):
    with pytest.raises(errors.InvalidArgument, match="INVITATION_INVALID"):
        Invitation.parse(text)


LINE = str(made())


@pytest.mark.parametrize(
    "line",
    [
        LINE.replace("watari://", "https://"),
        LINE.replace("/manager/", "/operator/"),
        LINE.replace("tokyo.example", "Tokyo.Example"),
        LINE.replace(":7443", ":99999"),
        LINE.replace("secret=", "secret=AAAA"),
        LINE.replace("&secret", "&other"),
        LINE.replace("until=2030", "until=x"),
        LINE[:-30],
        LINE + quote("é" * 400),
    ],
)
def test_a_line_that_was_changed_or_cut_is_refused(line):
    with pytest.raises(errors.InvalidArgument, match="INVITATION_INVALID"):
        Invitation.parse(line)


def test_the_secret_is_in_no_representation():
    one = made(secret=b"0123456789abcdef")
    assert "0123456789abcdef" not in repr(one)
    assert one.secret.hex() not in repr(one)


def test_both_sides_derive_the_same_authorities_and_nobody_else_does():
    one, same, other = made(), Invitation.parse(LINE), made(secret=b"1" * SECRET_BYTES)
    assert one.invitee == same.invitee != other.invitee
    keys = {
        x509.load_pem_x509_certificate(side.cert_pem).public_key().public_numbers()
        for each in (one, same, other)
        for side in (each.caller(CLOCK), each.door(CLOCK))
    }
    assert len(keys) == 4  # a caller's and a door's, of one and of other


def test_the_holder_is_recognised_by_a_certificate_that_only_the_secret_makes():
    one, other = made(), made(secret=b"1" * SECRET_BYTES)
    known = one.caller(CLOCK).cert_pem
    certificate, _ = Invitation.parse(LINE).caller(CLOCK).issue(one.invitee, 60)
    assert invitation.recognise(certificate, known, one.invitee, NOW)
    late = NOW + timedelta(minutes=2)
    assert not invitation.recognise(certificate, known, one.invitee, late)
    for forged in (
        other.caller(CLOCK).issue(one.invitee, 60)[0],
        one.door(CLOCK).issue(one.invitee, 60)[0],
        one.caller(CLOCK).issue(MANAGER, 60)[0],
        create_ca("tokyo.example", CLOCK).issue(one.invitee, 60)[0],
    ):
        assert not invitation.recognise(forged, known, one.invitee, NOW)


def test_the_code_is_the_same_on_both_sides_and_another_for_another_authority():
    one, two, three = (create_ca("a.example", CLOCK).fingerprint for _ in range(3))
    assert invitation.code(one, two) == invitation.code(two, one)
    assert len({invitation.code(one, two), invitation.code(one, three)}) == 2
