"""A provider changes its authority, and keeps its key, while everything goes on."""

import time
from dataclasses import replace

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.providers import (
    KYOTO,
    OSAKA,
    TOKYO,
    eventually,
    join,
    keeping,
    reason_of,
    reserve,
    restart,
    serial,
)
from watari import errors
from watari.identity import (
    Authority,
    Identity,
    create_ca,
    leaves,
    save_key,
)
from watari.rpc import client


def test_an_authority_is_changed_while_both_are_accepted_for_a_time(two):
    tokyo, osaka = two
    restart(tokyo, leaf_seconds=10, overlap_seconds=10)
    join(tokyo, osaka)
    old = tokyo.authority
    agent = tokyo.party("agent", "host-1")
    first = tokyo.rotate()
    assert first.ca_sha256 != old.fingerprint
    eventually(lambda: tokyo.rotate().issuing, "the new authority does not issue")
    new = Authority.load(tokyo.folder / "ca", tokyo.clock)
    assert new.fingerprint == first.ca_sha256
    assert len(osaka.provider(TOKYO).bundle.authorities) == 2
    # What the old one issued is good, and what the new one issues too, here and there.
    there = lambda: health_pb2_grpc.HealthStub(tokyo.channel(agent, osaka.target))  # noqa: E731
    request = health_pb2.HealthCheckRequest()
    keeper_of_agent = keeping(tokyo, agent)
    keeper_of_agent.check()
    assert client.call(there().Check, request).status == 1
    keeper_of_agent.renew()
    assert client.call(there().Check, request).status == 1

    def alone() -> bool:
        keeper_of_agent.check()
        roots = leaves.split(osaka.trust.roots_for(TOKYO))
        return [leaves.fingerprint(each) for each in roots] == [new.fingerprint]

    eventually(alone, "the old authority does not go")
    assert client.call(there().Check, request).status == 1
    # Who still shows the old one's certificate is out.
    stale = Identity(agent.spiffe_id, *old.issue(agent.spiffe_id), agent.trust)
    late = health_pb2_grpc.HealthStub(tokyo.channel(stale, osaka.target))
    assert reason_of(lambda: client.call(late.Check, request)) == "PEER_UNAVAILABLE"


def test_a_change_of_authority_waits_for_a_provider_that_is_away(two):
    tokyo, osaka = two
    join(tokyo, osaka)
    eventually(lambda: tokyo.provider(OSAKA).told_sequence > 0, "osaka was not told")
    osaka.stop()
    tokyo.rotate()
    time.sleep(0.5)
    waiting = tokyo.rotate()
    assert (list(waiting.waiting_for), waiting.issuing) == ([OSAKA], False)
    tokyo.stop()
    tokyo.start()  # it is on disk
    osaka.start()
    eventually(lambda: tokyo.rotate().issuing, "the new authority does not issue")


def test_a_change_of_authority_that_was_cut_off_is_finished(two):
    tokyo, osaka = two
    join(tokyo, osaka)
    osaka.stop()
    following = tokyo.rotate().ca_sha256
    tokyo.stop()
    # The certificate took its place, then the power went.
    ca = tokyo.folder / "ca"
    (ca / "ca.pem").write_bytes((ca / "next" / "ca.pem").read_bytes())
    tokyo.start()
    assert Authority.load(ca, tokyo.clock).fingerprint == following
    assert not (ca / "next").exists()
    assert tokyo.invite()


def test_a_change_that_was_cut_off_before_anybody_was_told_goes_on_by_telling(two):
    tokyo, osaka = two
    join(tokyo, osaka)
    osaka.stop()
    following = create_ca(TOKYO, tokyo.clock)
    following.save(tokyo.folder / "ca" / "next")
    time.sleep(0.5)
    waiting = tokyo.rotate()
    assert (waiting.ca_sha256, waiting.issuing) == (following.fingerprint, False)
    assert list(waiting.waiting_for) == [OSAKA]
    osaka.start()
    eventually(lambda: tokyo.rotate().issuing, "the new authority does not issue")
    assert len(osaka.provider(TOKYO).bundle.authorities) == 2


def test_a_wrong_passphrase_during_a_change_costs_no_key(two, tmp_path):
    tokyo, osaka = two
    join(tokyo, osaka)
    osaka.stop()
    tokyo.rotate()
    tokyo.stop()
    key = (tokyo.folder / "ca" / "ca.key").read_bytes()
    save_key(tmp_path / "wrong", b"not encrypted at all\n")
    tokyo.change(authority=replace(tokyo.settings.authority, passphrase_file=tmp_path / "wrong"))
    with pytest.raises(errors.FailedPrecondition):
        tokyo.start()
    tokyo.stop()
    assert (tokyo.folder / "ca" / "ca.key").read_bytes() == key
    assert (tokyo.folder / "ca" / "next" / "ca.key").exists()
    restart(tokyo, passphrase_file=None)
    assert tokyo.invite()


def test_an_authority_with_an_encrypted_key_issues_with_its_passphrase(two, tmp_path):
    tokyo, _ = two
    tokyo.authority.save(tokyo.folder / "ca", b"correct horse")
    assert b"ENCRYPTED" in (tokyo.folder / "ca" / "ca.key").read_bytes()
    tokyo.stop()
    with pytest.raises(errors.FailedPrecondition) as caught:
        tokyo.start()
    assert caught.value.reason == "CREDENTIALS_UNREADABLE"
    tokyo.stop()
    save_key(tmp_path / "wrong", b"battery staple\n")
    tokyo.change(authority=replace(tokyo.settings.authority, passphrase_file=tmp_path / "wrong"))
    with pytest.raises(errors.FailedPrecondition):
        tokyo.start()
    tokyo.stop()
    save_key(tmp_path / "right", b"correct horse\n")
    restart(tokyo, passphrase_file=tmp_path / "right")
    agent = tokyo.party("agent", "host-1")
    before = serial(agent)
    keeping(tokyo, agent).renew()
    assert serial(agent) != before


def test_a_manager_without_an_authority_says_that_it_issues_nothing(two):
    tokyo, _ = two
    restart(tokyo, folder=None)
    assert reason_of(keeping(tokyo, tokyo.party("agent", "host-1")).renew) == "NOT_SERVED"
    assert reason_of(tokyo.rotate) == "NOT_SERVED"


def test_a_provider_joins_while_another_changes_its_authority(three):
    """What people compare covers both authorities."""
    tokyo, osaka, kyoto = three
    join(tokyo, osaka)
    following = tokyo.rotate().ca_sha256
    eventually(lambda: tokyo.rotate().issuing, "the new authority does not issue")
    shown = kyoto.accept(tokyo.invite()).provider
    assert shown.ca_sha256 not in (tokyo.authority.fingerprint, following)
    assert shown.code == tokyo.provider(KYOTO).code
    kyoto.confirm(TOKYO)
    tokyo.confirm(KYOTO)
    assert reserve(kyoto, tokyo) == reserve(tokyo, kyoto) == "INVALID_ID"
    assert len(kyoto.provider(TOKYO).bundle.authorities) == 2
