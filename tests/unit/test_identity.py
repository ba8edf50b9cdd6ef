import contextlib
import os
import stat
from datetime import timedelta

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from watari import errors, identity
from watari.identity import Identity, Role, SpiffeId, TrustStore

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
MANAGER = "spiffe://tokyo.example/manager/main"


@given(st.lists(LABELS, min_size=1, max_size=4).map(".".join), st.sampled_from(Role), LABELS)
def test_a_spiffe_id_survives_being_written_and_read(domain, role, name):
    spiffe_id = SpiffeId(domain, role, name)
    assert SpiffeId.parse(str(spiffe_id)) == spiffe_id
    assert spiffe_id.dns_name == f"{name}.{role}.{domain}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://tokyo.example/manager/main",
        "spiffe://tokyo.example/manager",
        "spiffe://tokyo.example/manager/main/more",
        "spiffe://tokyo.example/king/main",
        "spiffe://Tokyo.example/manager/main",
        "spiffe://tokyo.example/manager/Main",
        "spiffe://tokyo.example/manager/a.b",
        "spiffe://tokyo.example/manager/a_b",
        "spiffe://tokyo.example/manager/-a",
        "spiffe://tokyo.example/manager/main\n",
        "spiffe://tokyo..example/manager/main",
        "spiffe://user@tokyo.example/manager/main",
        "spiffe://tokyo.example:1/manager/main",
        "spiffe:///manager/main",
        f"spiffe://{'a.' * 100}example/manager/main",
        f"spiffe://tokyo.example/manager/{'a' * 64}",
    ],
)
def test_what_is_no_spiffe_id_is_refused(text):
    with pytest.raises(errors.InvalidArgument, match="INVALID_FIELD"):
        SpiffeId.parse(text)


@given(st.text(max_size=400))
def test_any_text_is_either_an_id_with_one_spelling_or_refused(text):
    with contextlib.suppress(errors.InvalidArgument):
        assert str(SpiffeId.parse(text)) == text


def test_a_leaf_names_its_party_and_is_signed_for_both_ends_of_a_connection(federation):
    party = federation.party(MANAGER)
    leaf = x509.load_pem_x509_certificate(party.cert_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [MANAGER]
    assert names.get_values_for_type(x509.DNSName) == ["main.manager.tokyo.example"]
    assert party.trust.verify_peer(party.cert_pem, federation.clock.now()) == party.spiffe_id


def test_an_authority_issues_for_its_own_domain_only(federation):
    with pytest.raises(errors.InvalidArgument):
        federation.authorities["osaka.example"].issue(SpiffeId.parse(MANAGER), 60)


def test_a_leaf_never_outlives_its_authority(federation):
    authority = federation.authorities["tokyo.example"]
    cert_pem, _ = authority.issue(SpiffeId.parse(MANAGER), 10**10)
    root = x509.load_pem_x509_certificate(authority.cert_pem)
    leaf = x509.load_pem_x509_certificate(cert_pem)
    assert leaf.not_valid_after_utc == root.not_valid_after_utc


def test_the_domain_of_an_authority_is_in_its_certificate(federation):
    assert federation.authorities["tokyo.example"].domain == "tokyo.example"


def test_a_saved_identity_loads_and_its_key_is_for_its_owner_only(federation):
    folder = federation.folder_of(MANAGER)
    loaded = Identity.load_folder(folder)
    assert (loaded.spiffe_id, loaded.key_pem) == (
        SpiffeId.parse(MANAGER),
        federation.party(MANAGER).key_pem,
    )
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["cert.pem", "key.pem", "trust"]


def test_a_key_is_written_for_its_owner_only_under_any_umask(tmp_path):
    before = os.umask(0)
    try:
        identity.save_key(tmp_path / "key.pem", b"k")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_key_that_others_can_reach_is_refused(tmp_path, mode):
    identity.save_key(tmp_path / "key.pem", b"k")
    (tmp_path / "key.pem").chmod(mode)
    with pytest.raises(errors.FailedPrecondition) as caught:
        identity.load_key(tmp_path / "key.pem")
    assert caught.value.reason == "KEY_FILE_TOO_OPEN"
    assert "chmod 600" in caught.value.hint


def test_files_that_cannot_be_used_are_refused_by_name(federation, tmp_path):
    folder = federation.folder_of(MANAGER)
    other = federation.folder_of("spiffe://tokyo.example/broker/main")
    (tmp_path / "junk.pem").write_bytes(b"junk")
    trust = folder / "trust"
    for cert, key in [
        (folder / "absent.pem", folder / "key.pem"),
        (tmp_path / "junk.pem", folder / "key.pem"),
        (folder / "cert.pem", other / "key.pem"),
        (trust / "tokyo.example.pem", folder / "key.pem"),
    ]:
        with pytest.raises(errors.FailedPrecondition) as caught:
            Identity.load(cert, key, trust)
        assert caught.value.reason == "CREDENTIALS_UNREADABLE"
    with pytest.raises(errors.FailedPrecondition):
        TrustStore(tmp_path / "absent")


def test_neither_an_identity_nor_an_authority_shows_its_key(federation):
    assert repr(federation.party(MANAGER)) == f"Identity({MANAGER})"
    assert "PRIVATE" not in repr(federation.authorities["tokyo.example"])


def test_an_expired_certificate_is_refused_and_so_is_an_early_one(federation):
    party, now = federation.party(MANAGER), federation.clock.now()
    begins, ends = party.current().validity
    for moment in (ends + timedelta(seconds=1), begins - timedelta(hours=1)):
        with pytest.raises(errors.Unauthenticated, match="valid from"):
            party.trust.verify_peer(party.cert_pem, moment)
    assert party.trust.verify_peer(party.cert_pem, now) == party.spiffe_id
