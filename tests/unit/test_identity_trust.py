import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import HUB, OSAKA, TOKYO
from watari import errors, identity
from watari.clock import FakeClock
from watari.identity import Denial, SpiffeId, TrustStore, denials, leaves, trust

MANAGER = "spiffe://tokyo.example/manager/main"
DNS = "main.manager.tokyo.example"


def now() -> datetime:
    """Asked each time: a whole test run takes longer than certificates are back-dated."""
    return datetime.now(UTC)


def forge(authority, *, uris=(MANAGER,), names=(DNS,), ca=False, key=None, uses=None):
    """A certificate that the authority's key really signed, with whatever is asked for."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    alternatives = [
        *map(x509.UniformResourceIdentifier, uris),
        *map(x509.DNSName, names),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "forged")]))
        .issuer_name(x509.load_pem_x509_certificate(authority.cert_pem).subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - timedelta(hours=1))
        .not_valid_after(now() + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(
            x509.ExtendedKeyUsage(uses or [ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .sign(serialization.load_pem_private_key(authority.key_pem, None), hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.DER)


@pytest.fixture
def store(federation):
    return TrustStore(federation.trust_folder)


def reason(store, certificate) -> str:
    with pytest.raises(errors.Unauthenticated) as caught:
        store.verify_peer(certificate, now())
    return caught.value.reason


def test_a_well_formed_certificate_of_an_accepted_provider_is_taken(federation, store):
    certificate = forge(federation.authorities["tokyo.example"])
    assert store.verify_peer(certificate, now()) == SpiffeId.parse(MANAGER)


def test_an_authority_accepted_for_one_domain_cannot_speak_for_another(federation, store):
    certificate = forge(federation.authorities["osaka.example"])
    assert reason(store, certificate) == "PEER_UNAUTHENTICATED"


def test_a_provider_that_was_not_accepted_is_unknown(federation, store):
    stranger = "spiffe://stranger.example/manager/main"
    certificate = forge(
        federation.authorities["stranger.example"],
        uris=(stranger,),
        names=(SpiffeId.parse(stranger).dns_name,),
    )
    assert reason(store, certificate) == "PROVIDER_UNKNOWN"
    with pytest.raises(errors.Unauthenticated, match="PROVIDER_UNKNOWN"):
        store.roots_for("stranger.example")


@pytest.mark.parametrize(
    "parts",
    [
        {"uris": ()},
        {"uris": (MANAGER, "spiffe://osaka.example/manager/main")},
        {"uris": (MANAGER, "https://tokyo.example/")},
        {"uris": ("spiffe://tokyo.example/king/main",)},
        {"names": ("main.manager.osaka.example",)},
        {"names": (DNS, "other.manager.tokyo.example")},
        {"names": ()},
        {"ca": True},
        {"uses": [ExtendedKeyUsageOID.CODE_SIGNING]},
        {"key": ec.generate_private_key(ec.SECP384R1())},
        {"key": rsa.generate_private_key(65537, 2048)},
    ],
)
def test_a_certificate_that_is_no_partys_is_refused_though_its_ca_signed_it(
    federation, store, parts
):
    certificate = forge(federation.authorities["tokyo.example"], **parts)
    assert reason(store, certificate) == "PEER_UNAUTHENTICATED"


def test_a_leaf_cannot_issue_further_certificates(federation, store):
    party = federation.party(MANAGER)
    as_authority = identity.Authority(party.cert_pem, party.key_pem, federation.clock)
    assert reason(store, forge(as_authority)) == "PEER_UNAUTHENTICATED"


def test_a_root_is_no_party(federation, store):
    root = federation.authorities["tokyo.example"].cert_pem
    assert reason(store, root) == "PEER_UNAUTHENTICATED"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.binary(max_size=200) | st.binary(max_size=50).map(lambda part: b"-----BEGIN" + part))
def test_bytes_that_are_no_certificate_are_refused(store, raw):
    assert reason(store, raw) == "PEER_UNAUTHENTICATED"


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=200,
)
@given(data=st.data())
def test_a_certificate_with_a_flipped_bit_in_its_signed_part_is_refused(federation, store, data):
    good = leaves.der(federation.party(MANAGER).cert_pem)
    signed = x509.load_der_x509_certificate(good).tbs_certificate_bytes
    position = good.index(signed) + data.draw(st.integers(0, len(signed) - 1))
    bad = bytearray(good)
    bad[position] ^= 1 << data.draw(st.integers(0, 7))
    assert reason(store, bytes(bad)) in {"PEER_UNAUTHENTICATED", "PROVIDER_UNKNOWN"}


def test_a_certificate_beyond_the_size_limit_is_refused_unread(store):
    assert reason(store, b"0" * (leaves.CERTIFICATE_BYTES_MAX + 1)) == "PEER_UNAUTHENTICATED"


def test_a_provider_is_trusted_as_soon_as_its_file_is_there_and_no_longer(own_federation):
    party = own_federation.party(MANAGER)
    file = own_federation.trust_folder / "tokyo.example.pem"
    store, root = TrustStore(own_federation.trust_folder), file.read_bytes()
    assert store.verify_peer(party.cert_pem, now()) == party.spiffe_id
    file.unlink()
    assert reason(store, party.cert_pem) == "PROVIDER_UNKNOWN"
    assert store.domains() == ["hub.example", "osaka.example"]
    identity.save_certificate(file, root)
    assert store.verify_peer(party.cert_pem, now()) == party.spiffe_id


def test_a_damaged_file_costs_its_own_provider_the_trust_and_nobody_else(own_federation):
    store, party = TrustStore(own_federation.trust_folder), own_federation.party(MANAGER)
    identity.save_certificate(own_federation.trust_folder / "osaka.example.pem", b"junk")
    assert store.verify_peer(party.cert_pem, now()) == party.spiffe_id
    assert store.domains() == ["hub.example", "tokyo.example"]


def test_a_provider_may_have_two_authorities_while_it_changes_them(own_federation):
    file = own_federation.trust_folder / "tokyo.example.pem"
    new = identity.create_ca("tokyo.example", own_federation.clock)
    identity.save_certificate(file, file.read_bytes() + new.cert_pem)
    store = TrustStore(own_federation.trust_folder)
    for authority in (own_federation.authorities["tokyo.example"], new):
        party = own_federation.issue(SpiffeId.parse(MANAGER), authority)
        assert store.verify_peer(party.cert_pem, now()) == party.spiffe_id


def test_the_bundle_holds_the_roots_of_every_accepted_provider(federation, store):
    roots = x509.load_pem_x509_certificates(store.bundle())
    assert len(roots) == len(store.domains()) == 3


def test_verified_peers_are_remembered_up_to_a_limit(federation, store, monkeypatch):
    monkeypatch.setattr(trust, "VERIFIED_PEERS_MAX", 2)
    for name in ("a", "b", "c"):
        party = federation.party(f"spiffe://tokyo.example/user/{name}")
        store.verify_peer(party.cert_pem, now())
    assert len(store._verified) == 2


def test_a_denied_party_is_refused_until_it_has_a_newer_certificate(own_federation):
    party = SpiffeId(TOKYO, "agent", "lost")
    authority = own_federation.authorities[TOKYO]
    before, now = own_federation.issue(party, authority), own_federation.clock.now()
    trust = TrustStore(own_federation.trust_folder)
    assert trust.verify_peer(before.cert_pem, now) == party
    denials.save(trust.folder, TOKYO, [Denial(party, now, "its host was stolen")])
    with pytest.raises(errors.Unauthenticated) as caught:
        trust.verify_peer(before.cert_pem, now)
    assert caught.value.reason == "CERTIFICATE_DENIED"
    assert trust.refuses(party, now - timedelta(seconds=1))
    later = replace(authority, clock=FakeClock(now + timedelta(seconds=1)))
    after = own_federation.issue(party, later)
    assert trust.verify_peer(after.cert_pem, now + timedelta(seconds=2)) == party
    assert not trust.refuses(party, now + timedelta(seconds=1))


def test_a_provider_denies_its_own_parties_only(own_federation):
    party = own_federation.party(f"spiffe://{TOKYO}/agent/host-1")
    trust, now = TrustStore(own_federation.trust_folder), own_federation.clock.now()
    denials.save(trust.folder, OSAKA, [Denial(party.spiffe_id, now)])
    assert trust.verify_peer(party.cert_pem, now) == party.spiffe_id
    assert not trust.refuses(party.spiffe_id, now)


def test_a_list_of_denials_that_cannot_be_read_costs_its_provider_the_trust(own_federation):
    party = own_federation.party(f"spiffe://{TOKYO}/agent/host-1")
    trust, now = TrustStore(own_federation.trust_folder), own_federation.clock.now()
    denials.path_of(trust.folder, TOKYO).write_text("[{}]")
    with pytest.raises(errors.Unauthenticated) as caught:
        trust.verify_peer(party.cert_pem, now)
    assert caught.value.reason == "PROVIDER_UNKNOWN"
    assert trust.domains() == [HUB, OSAKA]


def test_who_lost_its_provider_may_not_go_on(own_federation):
    party = own_federation.party(f"spiffe://{OSAKA}/agent/host-1")
    trust, now = TrustStore(own_federation.trust_folder), own_federation.clock.now()
    assert not trust.refuses(party.spiffe_id, now)
    (trust.folder / f"{OSAKA}.pem").unlink()
    assert trust.refuses(party.spiffe_id, now)


def test_of_two_denials_of_a_party_the_later_one_counts():
    party, other = SpiffeId(TOKYO, "agent", "a"), SpiffeId(TOKYO, "agent", "b")
    early, late = datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 2, tzinfo=UTC)
    merged = denials.merged([Denial(party, late)], [Denial(party, early), Denial(other, early)])
    assert merged == [Denial(party, late), Denial(other, early)]


def test_a_denial_that_is_heard_of_late_counts_for_what_was_shown_before(own_federation):
    """Denied at T, proven here at T+1 by the old certificate, heard of at T+2."""
    party = SpiffeId(TOKYO, "agent", "stolen")
    authority = own_federation.authorities[TOKYO]
    old, denied_at = own_federation.issue(party, authority), own_federation.clock.now()
    trust = TrustStore(own_federation.trust_folder)
    proven_at = denied_at + timedelta(seconds=1)
    assert trust.verify_peer(old.cert_pem, proven_at) == party
    assert not trust.refuses(party, proven_at)
    denials.save(trust.folder, TOKYO, [Denial(party, denied_at)])
    assert trust.refuses(party, proven_at)
    # With a newer certificate it goes on.
    later = replace(authority, clock=FakeClock(denied_at + timedelta(seconds=3)))
    new = own_federation.issue(party, later)
    now = denied_at + timedelta(seconds=4)
    assert trust.verify_peer(new.cert_pem, now) == party
    assert not trust.refuses(party, now)


def test_what_appears_or_vanishes_is_seen_at_once_however_fast_it_goes(own_federation):
    """Also within one tick of the clock that the file system stamps a folder with."""
    store = TrustStore(own_federation.trust_folder)
    path = own_federation.trust_folder / f"{HUB}.pem"
    kept = path.read_bytes()
    for _ in range(50):
        path.unlink()
        assert HUB not in store.domains()
        identity.save_certificate(path, kept)
        assert HUB in store.domains()


def test_a_file_that_is_written_to_in_its_place_is_read_again_soon(own_federation):
    folder = own_federation.trust_folder
    store = TrustStore(folder)
    time.sleep(2 * trust.LOOK_SECONDS_MAX)
    assert store.roots_for(HUB) == own_federation.authorities[HUB].cert_pem
    (folder / f"{HUB}.pem").write_bytes(own_federation.authorities[TOKYO].cert_pem)
    time.sleep(2 * trust.LOOK_SECONDS_MAX)
    assert store.roots_for(HUB) == own_federation.authorities[TOKYO].cert_pem
