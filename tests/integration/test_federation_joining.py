"""Providers meet by an invitation, are confirmed by people, and part, over real mutual TLS."""

import contextlib
import datetime
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from manager.federation import visiting
from tests.support.providers import Provider, eventually, join, strangers
from watari import bundles, errors, identity, rpc
from watari.clock import SystemClock
from watari.identity import SpiffeId, create_ca, denials, invitation, leaves
from watari.identity.invitation import Invitation
from watari.identity.party import KeyPair
from watari.rpc import client
from watari.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    federation_pb2,
    federation_pb2_grpc,
    manager_pb2,
    manager_pb2_grpc,
)

TOKYO, OSAKA, KYOTO = "tokyo.example", "osaka.example", "kyoto.example"


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Provider]]:
    with strangers(tmp_path, TOKYO, OSAKA, KYOTO) as made:
        yield made


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[Provider]]:
    with strangers(tmp_path, TOKYO, OSAKA) as made:
        yield made


def reason_of(attempt) -> str:
    with pytest.raises(errors.WatariError) as caught:
        attempt()
    return caught.value.reason


def reserve(caller: Provider, at: Provider) -> str:
    """What the other provider's manager says to a reservation: INVALID_ID means that it got in."""
    stub = manager_pb2_grpc.ReservationServiceStub(
        caller.channel(caller.party("manager"), at.target)
    )
    return reason_of(lambda: client.call(stub.Reserve, manager_pb2.ReserveRequest()))


def test_two_providers_meet_confirm_each_other_and_can_call_each_other(two):
    tokyo, osaka = two
    assert reason_of(lambda: reserve(osaka, tokyo)) == "PROVIDER_UNKNOWN"
    line = tokyo.invite()
    assert "\n" not in line
    assert len(line) < 200
    answer = osaka.accept(line)
    shown = answer.provider
    assert (shown.domain, shown.state) == (TOKYO, federation_pb2.PROVIDER_STATE_PENDING)
    assert shown.ca_sha256 == tokyo.authority.fingerprint
    assert answer.own_ca_sha256 == osaka.authority.fingerprint
    assert (
        shown.code
        == tokyo.provider(OSAKA).code
        == invitation.code(tokyo.authority.fingerprint, osaka.authority.fingerprint)
    )
    # Met, and not accepted by anybody yet.
    assert tokyo.trust.domains() == [TOKYO]
    assert osaka.trust.domains() == [OSAKA]
    osaka.confirm(TOKYO)
    assert reserve(osaka, tokyo) == "PEER_UNAVAILABLE"
    tokyo.confirm(OSAKA)
    assert reserve(osaka, tokyo) == "INVALID_ID"
    assert reserve(tokyo, osaka) == "INVALID_ID"
    eventually(lambda: tokyo.provider(OSAKA).told_sequence > 0, "osaka was not told")
    eventually(lambda: osaka.provider(TOKYO).told_sequence > 0, "tokyo was not told")


def test_an_invitation_is_good_for_one_provider_once(three):
    tokyo, osaka, kyoto = three
    line = tokyo.invite()
    osaka.accept(line)
    osaka.accept(line)  # the answer was lost, say
    assert reason_of(lambda: kyoto.accept(line)) == "INVITATION_INVALID"
    tokyo.confirm(OSAKA)
    # Its door is shut now: not even the handshake comes about.
    assert reason_of(lambda: osaka.accept(line)) == "PEER_UNAVAILABLE"
    assert reason_of(lambda: kyoto.accept(line)) == "PEER_UNAVAILABLE"


def test_an_invitation_outlives_a_restart_of_the_manager(two):
    tokyo, osaka = two
    line = tokyo.invite()
    tokyo.stop()
    assert reason_of(lambda: osaka.accept(line)) == "PEER_UNAVAILABLE"
    tokyo.start()
    assert osaka.accept(line).provider.domain == TOKYO


def test_only_what_the_inviting_provider_announced_is_met(two):
    tokyo, osaka = two
    line = Invitation.parse(tokyo.invite())
    forged = Invitation(line.manager, line.address, b"f" * 32, line.expires_at, line.secret)
    assert reason_of(lambda: osaka.accept(str(forged))) == "INVITATION_INVALID"
    assert reason_of(lambda: osaka.provider(TOKYO)) == "PROVIDER_NOT_FOUND"


def test_invitations_that_cannot_be_used_are_told_apart(two):
    tokyo, osaka = two
    line = Invitation.parse(tokyo.invite())
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
    over = Invitation(line.manager, line.address, line.ca_sha256, past, line.secret)
    assert reason_of(lambda: osaka.accept(str(over))) == "INVITATION_INVALID"
    guessed = Invitation(line.manager, line.address, line.ca_sha256, line.expires_at, b"0" * 16)
    assert reason_of(lambda: osaka.accept(str(guessed))) == "PEER_UNAVAILABLE"
    assert reason_of(lambda: osaka.accept("watari://nonsense")) == "INVITATION_INVALID"
    assert reason_of(lambda: tokyo.accept(str(line))) == "INVITATION_INVALID"


def test_the_holder_of_an_invitation_can_do_nothing_else(two):
    tokyo, _ = two
    line = Invitation.parse(tokyo.invite())
    clock = SystemClock()
    pair = KeyPair(*line.caller(clock).issue(line.invitee, 60))
    channel = rpc.visit(rpc.Target(line.address, line.invitee), pair, line.door(clock).cert_pem)
    stub = federation_pb2_grpc.FederationServiceStub(channel)
    for method, request in (
        (stub.ListProviders, federation_pb2.ListProvidersRequest()),
        (stub.CreateInvitation, federation_pb2.CreateInvitationRequest()),
        (stub.RemoveProvider, federation_pb2.RemoveProviderRequest(domain=OSAKA)),
    ):
        assert reason_of(lambda m=method, r=request: client.call(m, r)) == "NOT_ALLOWED"
    # In nobody else's name either: the invitation's authority counts for its own name only.
    operator = SpiffeId(TOKYO, "operator", "admin")
    forged = KeyPair(*line.caller(clock).issue(operator, 60))
    channel = rpc.visit(rpc.Target(line.address, line.invitee), forged, line.door(clock).cert_pem)
    stub = federation_pb2_grpc.FederationServiceStub(channel)
    request = federation_pb2.ListProvidersRequest()
    assert reason_of(lambda: client.call(stub.ListProviders, request)) == "PEER_UNAUTHENTICATED"


def test_a_fingerprint_that_was_not_shown_is_not_confirmed(two):
    tokyo, osaka = two
    osaka.accept(tokyo.invite())
    request = federation_pb2.ConfirmProviderRequest(domain=TOKYO, ca_sha256=b"x" * 32)
    assert reason_of(lambda: client.call(osaka.operator.ConfirmProvider, request)) == (
        "PROVIDER_STATE"
    )
    assert osaka.trust.domains() == [OSAKA]


def test_a_provider_in_the_name_of_an_accepted_one_is_not_met(three, tmp_path):
    tokyo, osaka, _ = three
    join(tokyo, osaka)
    impostor = Provider(OSAKA, tmp_path / "impostor")
    impostor.start()
    try:
        assert reason_of(lambda: impostor.accept(tokyo.invite())) == "PROVIDER_STATE"
        assert tokyo.provider(OSAKA).ca_sha256 == osaka.authority.fingerprint
        assert reserve(osaka, tokyo) == "INVALID_ID"
    finally:
        impostor.close()


def test_nobody_joins_with_a_cloud_that_is_another_ones(three):
    tokyo, osaka, kyoto = three
    kyoto.stop()
    kyoto.change(cloud_id="osaka")
    kyoto.start()
    join(tokyo, osaka)
    kyoto.accept(tokyo.invite())
    assert reason_of(lambda: tokyo.confirm(KYOTO)) == "PROVIDER_STATE"
    assert KYOTO not in tokyo.trust.domains()


def test_a_removed_provider_is_out_at_once_and_comes_back_by_an_invitation_only(two):
    tokyo, osaka = two
    join(tokyo, osaka)
    channel = osaka.channel(osaka.party("manager"), tokyo.target)
    stub = manager_pb2_grpc.ReservationServiceStub(channel)
    call = lambda: client.call(stub.Reserve, manager_pb2.ReserveRequest())  # noqa: E731
    assert reason_of(call) == "INVALID_ID"
    gone = tokyo.remove(OSAKA).provider
    assert gone.state == federation_pb2.PROVIDER_STATE_REMOVED
    # On the connection that it has, and on new ones.
    assert reason_of(call) == "PROVIDER_UNKNOWN"
    assert reserve(osaka, tokyo) == "PEER_UNAVAILABLE"
    tokyo.remove(OSAKA)
    assert reason_of(lambda: tokyo.confirm(OSAKA)) == "PROVIDER_STATE"
    tokyo.stop()
    tokyo.start()
    assert tokyo.trust.domains() == [TOKYO]
    join(tokyo, osaka)
    assert reserve(osaka, tokyo) == "INVALID_ID"


def test_a_crash_between_row_and_trust_folder_is_mended_at_the_next_start(two):
    tokyo, osaka = two
    join(tokyo, osaka)
    tokyo.stop()
    path = tokyo.trust.folder / f"{OSAKA}.pem"
    path.unlink()
    tokyo.start()
    assert tokyo.trust.domains() == [OSAKA, TOKYO]


def test_an_accepted_provider_speaks_for_itself_only(three):
    tokyo, osaka, kyoto = three
    join(tokyo, osaka)
    join(tokyo, kyoto)
    channel = kyoto.channel(kyoto.party("manager"), tokyo.target)
    stub = federation_pb2_grpc.FederationServiceStub(channel)
    stolen = federation_pb2.PutBundleRequest(bundle=signed_bundle(osaka, sequence=99))
    assert reason_of(lambda: client.call(stub.PutBundle, stolen)) == "INVALID_FIELD"
    forged = federation_pb2.PutBundleRequest(bundle=signed_bundle(kyoto, sequence=99))
    last = forged.bundle.signature[-1] ^ 1
    forged.bundle.signature = forged.bundle.signature[:-1] + bytes([last])
    assert reason_of(lambda: client.call(stub.PutBundle, forged)) == "SIGNATURE_INVALID"


def put(caller: Provider, at: Provider, bundle) -> int:
    """Brings a bundle as its provider's manager."""
    stub = federation_pb2_grpc.FederationServiceStub(
        caller.channel(caller.party("manager"), at.target)
    )
    request = federation_pb2.PutBundleRequest(bundle=signed(caller, bundle))
    return client.call(stub.PutBundle, request).sequence


def test_no_second_authority_comes_in_behind_the_one_that_people_compare(two):
    """Whoever intercepted the line adds an authority of his own to the right provider's bundle."""
    tokyo, osaka = two
    evil = Provider(OSAKA, osaka.folder / "evil")
    line = Invitation.parse(tokyo.invite())
    hidden = said_by(osaka, sequence=5)
    hidden.authorities.append(leaves.der(evil.authority.cert_pem))
    for bundle in (signed(evil, hidden), signed(osaka, hidden)):
        attempt = lambda b=bundle: visiting.exchange(line, b, tokyo.clock, 3.0)  # noqa: E731
        assert reason_of(attempt) == "PROVIDER_STATE"
    assert reason_of(lambda: tokyo.provider(OSAKA)) == "PROVIDER_NOT_FOUND"
    osaka.accept(str(line))  # it was not used up


@pytest.mark.parametrize(
    "change",
    [
        lambda bundle, other: bundle.authorities.append(named_like(other)),
        lambda bundle, _other: bundle.authorities.append(bundle.authorities[0] + b"\n"),
        lambda bundle, _other: bundle.authorities.append(
            create_ca(OSAKA, SystemClock()).cert_pem  # PEM, not DER
        ),
        lambda bundle, _other: bundle.denied.add(
            spiffe_id=f"spiffe://{OSAKA}/agent/a", reason="x" * 257
        ),
        lambda bundle, _other: bundle.denied.add(
            spiffe_id=f"spiffe://{OSAKA}/agent/a"
        ).issued_until.__setattr__("seconds", 2**60),
    ],
)
def test_a_bundle_that_would_stand_in_somebodys_way_is_refused(two, change):
    """Not by an accepted provider either: it could lock others out, or keep the manager down."""
    tokyo, osaka = two
    join(tokyo, osaka)
    bundle = said_by(osaka, sequence=9)
    change(bundle, tokyo.authority)
    assert reason_of(lambda: put(osaka, tokyo, bundle)) == "INVALID_FIELD"
    tokyo.stop()
    tokyo.start()
    assert reserve(osaka, tokyo) == "INVALID_ID"


def named_like(authority) -> bytes:
    """A CA of another key with an authority's name, DER."""
    title = x509.load_pem_x509_certificate(authority.cert_pem).subject.get_attributes_for_oid(
        NameOID.COMMON_NAME
    )
    return leaves.der(create_ca(authority.domain, SystemClock(), title=title[0].value).cert_pem)


def test_as_many_denials_as_may_be_are_taken_and_outlive_a_restart(two):
    tokyo, osaka = two
    join(tokyo, osaka)
    bundle = said_by(osaka, sequence=9)
    for number in range(denials.DENIALS_MAX):
        name = f"spiffe://{OSAKA}/agent/{'a' * 50}-{number}"
        bundle.denied.add(spiffe_id=name, reason="\u00e4" * 128).issued_until.GetCurrentTime()
    assert put(osaka, tokyo, bundle) == 9
    tokyo.stop()
    tokyo.start()
    assert reserve(osaka, tokyo) == "INVALID_ID"


def test_a_provider_takes_no_cloud_that_nobody_has_confirmed(three):
    tokyo, osaka, kyoto = three
    for guest in (osaka, kyoto):
        join(tokyo, guest)
    bundle = said_by(kyoto, sequence=9)
    bundle.cloud_ids.extend(["osaka", "tokyo", "nara"])
    assert put(kyoto, tokyo, bundle) == 9
    assert list(tokyo.provider(KYOTO).bundle.cloud_ids) == ["kyoto"]


def test_a_provider_that_is_removed_while_it_brings_bundles_stays_out(two):
    tokyo, osaka = two
    join(tokyo, osaka)
    stop = threading.Event()

    def bring() -> None:
        for sequence in range(10, 10_000):
            if stop.is_set():
                return
            with contextlib.suppress(errors.WatariError):
                put(osaka, tokyo, said_by(osaka, sequence=sequence, name=str(sequence)))

    bringing = [threading.Thread(target=bring) for _ in range(3)]
    for thread in bringing:
        thread.start()
    time.sleep(0.3)
    tokyo.remove(OSAKA)
    stop.set()
    for thread in bringing:
        thread.join(10)
    assert tokyo.trust.domains() == [TOKYO]
    assert tokyo.provider(OSAKA).state == federation_pb2.PROVIDER_STATE_REMOVED


def test_the_same_bundle_under_another_number_leaves_nothing_behind(two):
    tokyo, osaka = two
    join(tokyo, osaka)
    put(osaka, tokyo, said_by(osaka, sequence=9, name="other"))
    before = len(entries(tokyo))
    for sequence in range(10, 20):
        assert put(osaka, tokyo, said_by(osaka, sequence=sequence, name="other")) == sequence
    assert len(entries(tokyo)) == before


def test_an_older_bundle_takes_no_newer_ones_place(two):
    tokyo, osaka = two
    join(tokyo, osaka)
    stub = federation_pb2_grpc.FederationServiceStub(
        osaka.channel(osaka.party("manager"), tokyo.target)
    )
    newest = federation_pb2.PutBundleRequest(bundle=signed_bundle(osaka, sequence=9, name="new"))
    assert client.call(stub.PutBundle, newest).sequence == 9
    older = federation_pb2.PutBundleRequest(bundle=signed_bundle(osaka, sequence=8, name="old"))
    assert client.call(stub.PutBundle, older).sequence == 9
    assert tokyo.provider(OSAKA).bundle.display_name == "new"


def said_by(provider: Provider, sequence: int, name: str = "x") -> federation_pb2.Bundle:
    """What a provider would say of itself."""
    bundle = bundles.bundle_of(provider.domain, provider.authority.cert_pem, {})
    bundle.sequence, bundle.display_name = sequence, name
    bundle.manager.address = provider.settings.address
    bundle.manager.spiffe_id = str(provider.manager)
    bundle.cloud_ids.append(provider.settings.cloud_id)
    return bundle


def signed(provider: Provider, bundle: federation_pb2.Bundle):
    """A bundle, signed by a provider's manager."""
    payload = bundle.SerializeToString(deterministic=True)
    return identity.sign(provider.party("manager"), payload, "bundle")


def signed_bundle(provider: Provider, sequence: int, name: str = "x"):
    return signed(provider, said_by(provider, sequence, name))


def test_as_many_invitations_are_open_as_may(two):
    tokyo, _ = two
    for _ in range(tokyo.settings.federation.invitations_max):
        tokyo.invite()
    assert reason_of(tokyo.invite) == "INVITATION_INVALID"


def test_providers_are_listed_by_domain_in_pages(three):
    tokyo, osaka, kyoto = three
    for guest in (osaka, kyoto):
        join(tokyo, guest)
    first = client.call(
        tokyo.operator.ListProviders, federation_pb2.ListProvidersRequest(page_size=1)
    )
    second = client.call(
        tokyo.operator.ListProviders,
        federation_pb2.ListProvidersRequest(page_size=1, page_token=first.next_page_token),
    )
    assert [each.domain for each in (*first.providers, *second.providers)] == [KYOTO, OSAKA]
    assert second.next_page_token == ""


def test_who_was_never_met_is_not_found(two):
    tokyo, _ = two
    assert reason_of(lambda: tokyo.provider(f"{uuid.uuid4().hex}.example")) == "PROVIDER_NOT_FOUND"
    assert reason_of(lambda: tokyo.remove("nobody.example")) == "PROVIDER_NOT_FOUND"


def test_an_invitation_says_what_it_said():
    made = Invitation.make(
        SpiffeId(TOKYO, "manager", "main"),
        "[2001:db8::1]:7443",
        create_ca(TOKYO, SystemClock()).fingerprint,
        datetime.datetime.now(datetime.UTC),
    )
    assert Invitation.parse(str(made)) == made
    assert made.secret.hex() not in repr(made)


def entries(provider: Provider) -> list[tuple[str, str, str]]:
    """What the audit log says, oldest first: action, actor and subject."""
    stub = audit_pb2_grpc.AuditServiceStub(provider.channel(provider.party("operator", "admin")))
    listed = client.call(stub.ListAuditEntries, audit_pb2.ListAuditEntriesRequest()).entries
    return [(each.action, each.actor, each.subject) for each in listed]


def test_meeting_accepting_and_removing_are_in_both_audit_logs(two):
    tokyo, osaka = two
    line = tokyo.invite()
    osaka.accept(line)
    osaka.confirm(TOKYO)
    tokyo.confirm(OSAKA)
    eventually(lambda: osaka.provider(TOKYO).told_sequence > 0, "tokyo was not told")
    tokyo.revoke(SpiffeId(TOKYO, "user", "gone"))
    tokyo.remove(OSAKA)
    invitee = Invitation.parse(line).invitee
    operator = f"spiffe://{TOKYO}/operator/admin"
    said = entries(tokyo)
    assert said[:4] == [
        ("invitation.created", operator, invitee.name),
        ("invitation.used", str(invitee), OSAKA),
        ("provider.met", str(invitee), OSAKA),
        ("provider.accepted", operator, OSAKA),
    ]
    assert ("party.denied", operator, f"spiffe://{TOKYO}/user/gone") in said
    assert said[-1] == ("provider.removed", operator, OSAKA)
    operator = f"spiffe://{OSAKA}/operator/admin"
    assert [each for each in entries(osaka) if each[2] == TOKYO][:2] == [
        ("provider.met", operator, TOKYO),
        ("provider.accepted", operator, TOKYO),
    ]
    secret = Invitation.parse(line).secret
    with sqlite3.connect(tokyo.settings.store.path) as connection:
        dump = "\n".join(connection.iterdump())
    assert secret.hex() not in dump.lower()
    assert line.partition("secret=")[2].partition("&")[0] not in dump
