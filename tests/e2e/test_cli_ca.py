"""A provider's authority and its federation by the command line."""

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine
from watari.cli.exits import Exit
from watari.clock import FakeClock
from watari.identity import Authority, Identity

DOMAIN = "kyoto.example"


@pytest.fixture
def offline(tmp_path: Path) -> CommandLine:
    """The command line, without any federation."""
    return CommandLine(tmp_path / "none")


def test_an_authority_issues_folders_that_are_identities(offline, tmp_path):
    ca = str(tmp_path / "ca")
    made = offline.json("ca", "init", DOMAIN, "--dir", ca)
    assert made["domain"] == DOMAIN
    assert offline.json("ca", "show", "--dir", ca)["ca_sha256"] == made["ca_sha256"]
    for role, name in (("manager", "main"), ("agent", "host-1"), ("user", "acme")):
        out = tmp_path / role
        issued = offline.json("ca", "issue", role, name, "--dir", ca, "--out", str(out))
        own = Identity.load_folder(out)
        assert issued["spiffe_id"] == str(own.spiffe_id) == f"spiffe://{DOMAIN}/{role}/{name}"
        assert own.trust.verify_peer(own.cert_pem, datetime.now(UTC)) == own.spiffe_id
        begin, end = own.current().validity
        assert end - begin == timedelta(days=3)
        assert stat.S_IMODE((out / "key.pem").stat().st_mode) == 0o600


def test_an_authority_is_not_made_over_another(offline, tmp_path):
    ca = str(tmp_path / "ca")
    offline.run("ca", "init", DOMAIN, "--dir", ca)
    before = (tmp_path / "ca" / "ca.key").read_bytes()
    failed = offline.run("ca", "init", DOMAIN, "--dir", ca, "-o", "json", code=Exit.REFUSED)
    assert "already" in failed.error["message"]
    assert (tmp_path / "ca" / "ca.key").read_bytes() == before


def test_a_key_that_others_can_read_is_refused_with_what_to_do(offline, tmp_path):
    ca = tmp_path / "ca"
    offline.run("ca", "init", DOMAIN, "--dir", str(ca))
    (ca / "ca.key").chmod(0o640)
    issue = ("ca", "issue", "agent", "a", "--dir", str(ca), "--out", str(tmp_path / "a"))
    failed = offline.run(*issue, "-o", "json", code=Exit.REFUSED)
    assert failed.error["reason"] == "KEY_FILE_TOO_OPEN"
    assert failed.error["hint"].startswith(f"chmod 600 {ca / 'ca.key'}")
    assert not (tmp_path / "a").exists()


def test_an_encrypted_key_needs_its_passphrase(offline, tmp_path):
    ca = str(tmp_path / "ca")
    knows = CommandLine(offline.state, {"WATARI_CA_PASSPHRASE": "correct horse"})
    guesses = CommandLine(offline.state, {"WATARI_CA_PASSPHRASE": "battery staple"})
    assert knows.json("ca", "init", DOMAIN, "--dir", ca, "--encrypt")["key_encrypted"] is True
    issue = ("ca", "issue", "agent", "a", "--dir", ca, "--out", str(tmp_path / "a"), "-o", "json")
    failed = guesses.run(*issue, code=Exit.REFUSED)
    assert failed.error["reason"] == "CREDENTIALS_UNREADABLE"
    assert "horse" not in failed.err + failed.out
    assert "staple" not in failed.err + failed.out
    knows.run(*issue)
    assert Identity.load_folder(tmp_path / "a").spiffe_id.name == "a"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("init", "Not A Domain"), "INVALID_FIELD"),
        (("issue", "agent", "UPPER"), "INVALID_FIELD"),
        (("issue", "invitee", "x"), "INVALID_FIELD"),
        (("issue", "king", "x"), "INVALID_FIELD"),
        (("issue", "agent", "x", "--days", "91"), "INVALID_FIELD"),
    ],
)
def test_what_cannot_be_issued_is_refused(offline, tmp_path, arguments, reason):
    ca = str(tmp_path / "ca")
    offline.run("ca", "init", DOMAIN, "--dir", ca)
    where = str(tmp_path / "other") if arguments[0] == "init" else ca
    failed = offline.run("ca", *arguments, "--dir", where, "-o", "json", code=Exit.USAGE)
    assert failed.error["reason"] == reason


def test_the_local_providers_have_joined_and_are_shown(watari):
    (osaka,) = watari.json("federation", "list")
    assert (osaka["domain"], osaka["state"]) == ("osaka.internal", "accepted")
    assert osaka["bundle"]["cloud_ids"] == ["osaka"]
    (tokyo,) = watari.json("federation", "list", "--cloud", "osaka")
    assert tokyo["domain"] == "tokyo.internal"
    assert tokyo["code"] == osaka["code"]
    table = watari.run("federation", "list").out
    assert "SHA256:" in table
    shown = watari.run("federation", "show", "osaka.internal").out
    assert osaka["code"] in shown


def test_nobody_unknown_is_shown_confirmed_or_removed(watari):
    for verb in (("show",), ("confirm",), ("remove", "--yes")):
        failed = watari.run(
            "federation", verb[0], "nobody.example", *verb[1:], "-o", "json", code=Exit.NOT_FOUND
        )
        assert failed.error["reason"] == "PROVIDER_NOT_FOUND"


def test_an_invitation_is_one_line_and_lasts_as_long_as_asked(watari):
    made = watari.json("federation", "invite", "--valid", "2h")
    assert made["invitation"].startswith("watari://tokyo.internal/manager/main@")
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=1, minutes=59) < left <= timedelta(hours=2)
    out = watari.run("federation", "invite").out
    assert out.count("\n") == 1
    failed = watari.run("federation", "invite", "--valid", "60d", "-o", "json", code=Exit.USAGE)
    assert failed.error["reason"] == "INVALID_FIELD"


def test_joining_with_nonsense_says_so(watari):
    failed = watari.run("federation", "join", "watari://x", "--yes", "-o", "json", code=Exit.USAGE)
    assert failed.error["reason"] == "INVITATION_INVALID"
    assert "federation invite" in failed.error["hint"]


def test_a_party_is_revoked_and_its_provider_told(watari):
    denial = watari.json("ca", "revoke", "user", "gone", "--reason", "left")
    assert denial["spiffe_id"] == "spiffe://tokyo.internal/user/gone"
    assert denial["reason"] == "left"
    denied = watari.state / "config/pki/tokyo.internal/manager-main/trust"
    (row,) = [
        row
        for row in json.loads((denied / "tokyo.internal.denied.json").read_text())
        if row["spiffe_id"] == denial["spiffe_id"]
    ]
    assert row["reason"] == "left"


def test_a_person_whose_certificate_has_run_out_is_told_what_to_do(watari):
    """The command says so itself; TLS would only say that nobody answers."""
    operator = Identity.load_folder(watari.state / "config/pki/tokyo.internal/operator-admin")
    long_ago = FakeClock(datetime.now(UTC) - timedelta(days=30))
    ca = Authority.load(watari.state / "config/pki/tokyo.internal/ca", long_ago)
    good = operator.current()
    operator.replace(*ca.issue(operator.spiffe_id))
    try:
        failed = watari.run("vm", "list", "--cloud", "tokyo", "-o", "json", code=None)
    finally:
        operator.replace(good.cert_pem, good.key_pem)
    assert failed.error["reason"] == "PEER_UNAUTHENTICATED"
    assert "watari ca issue" in failed.error["hint"]
