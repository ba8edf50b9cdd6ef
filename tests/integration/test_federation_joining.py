"""Providers meet by an invitation, are confirmed by people, and part, over real mutual TLS."""

import datetime
import sqlite3
import uuid

from tests.support.providers import (
    KYOTO,
    OSAKA,
    TOKYO,
    Provider,
    entries,
    eventually,
    join,
    reason_of,
    reserve,
)
from watari import rpc
from watari.clock import SystemClock
from watari.identity import SpiffeId, create_ca, invitation
from watari.identity.invitation import Invitation
from watari.identity.party import KeyPair
from watari.rpc import client
from watari.v1 import (
    federation_pb2,
    federation_pb2_grpc,
    manager_pb2,
    manager_pb2_grpc,
)


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
