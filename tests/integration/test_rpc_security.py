"""Who gets through mutual TLS and the guard, and who does not."""

import socket

import grpc
import pytest

from tests.conftest import PARTY_SECONDS
from tests.support.rpc_catalogue import Ahead
from watari import errors, identity, rpc
from watari.identity import SpiffeId
from watari.v1 import agent_pb2, agent_pb2_grpc, manager_pb2, manager_pb2_grpc

MANAGER = "spiffe://tokyo.example/manager/main"
ALICE = "spiffe://tokyo.example/user/alice"


class Cloud(manager_pb2_grpc.ManagerServiceServicer):
    def GetCloudStatus(self, request, context):
        return manager_pb2.GetCloudStatusResponse()


class Host(agent_pb2_grpc.AgentServiceServicer):
    def GetHost(self, request, context):
        return agent_pb2.GetHostResponse()


def register(server):
    manager_pb2_grpc.add_ManagerServiceServicer_to_server(Cloud(), server)
    agent_pb2_grpc.add_AgentServiceServicer_to_server(Host(), server)


@pytest.fixture
def target(serve):
    return serve(MANAGER, register)


def status(party, target, **how):
    with rpc.connect(party, target) as channel:
        stub = manager_pb2_grpc.ManagerServiceStub(channel)
        return rpc.call(stub.GetCloudStatus, manager_pb2.GetCloudStatusRequest(), **how)


def test_a_party_that_the_table_names_gets_through(federation, target):
    assert status(federation.party(ALICE), target) == manager_pb2.GetCloudStatusResponse()


def test_a_party_that_the_table_does_not_name_is_denied(federation, target):
    stranger = federation.party("spiffe://osaka.example/operator/alice")
    with pytest.raises(errors.Denied) as caught:
        status(stranger, target)
    assert (caught.value.reason, caught.value.hint) == (
        "NOT_ALLOWED",
        "callers: any user, own operator",
    )


def test_being_allowed_one_method_allows_no_other(federation, target):
    user = federation.party("spiffe://osaka.example/user/alice")
    assert status(user, target) is not None
    with rpc.connect(user, target) as channel, pytest.raises(errors.Denied):
        rpc.call(agent_pb2_grpc.AgentServiceStub(channel).GetHost, agent_pb2.GetHostRequest())


def test_a_caller_whose_provider_was_not_accepted_cannot_connect(federation, target):
    with pytest.raises(errors.Unavailable):
        status(federation.party("spiffe://stranger.example/user/mallory"), target)


def test_a_caller_without_certificate_cannot_connect(federation, target):
    credentials = grpc.ssl_channel_credentials(federation.party(ALICE).trust.bundle())
    options = [("grpc.ssl_target_name_override", target.spiffe_id.dns_name)]
    with grpc.secure_channel(target.address, credentials, options) as channel:
        stub = manager_pb2_grpc.ManagerServiceStub(channel)
        with pytest.raises(errors.Unavailable):
            rpc.call(stub.GetCloudStatus, manager_pb2.GetCloudStatusRequest(), timeout_seconds=30)


def test_plain_text_is_not_served(target):
    with grpc.insecure_channel(target.address) as channel:
        stub = manager_pb2_grpc.ManagerServiceStub(channel)
        with pytest.raises(errors.Unavailable):
            rpc.call(stub.GetCloudStatus, manager_pb2.GetCloudStatusRequest(), timeout_seconds=30)


def test_tls_before_1_2_is_not_spoken(target):
    """A hello that offers TLS 1.1 at most is answered with an alert."""
    hello = bytes.fromhex("160301002d010000290302" + "00" * 32 + "000002002f0100")
    host, port = target.address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as plain:
        plain.sendall(hello)
        assert plain.recv(1)[:1] in (b"\x15", b"")


def test_an_expired_certificate_does_not_get_through(federation, target):
    alice = SpiffeId.parse(ALICE)
    expired = federation.issue(alice, federation.authorities["tokyo.example"], -1)
    with pytest.raises((errors.Unavailable, errors.Unauthenticated)):
        status(expired, target)


def test_only_the_named_server_is_talked_to_whatever_answers_there(federation, target):
    other = rpc.Target(target.address, SpiffeId.parse("spiffe://tokyo.example/manager/other"))
    with pytest.raises(errors.Unavailable):
        status(federation.party(ALICE), other)


def test_another_accepted_provider_cannot_stand_in_for_the_named_server(federation, serve):
    answering = serve("spiffe://osaka.example/manager/main", register)
    wanted = rpc.Target(answering.address, SpiffeId.parse(MANAGER))
    with pytest.raises(errors.Unavailable):
        status(federation.party(ALICE), wanted)


def test_a_server_certificate_for_a_foreign_domain_is_refused_though_an_accepted_ca_signed_it(
    own_federation, serve, monkeypatch
):
    """Osaka's CA, without its name constraints, issues itself a certificate of Tokyo's manager."""
    osaka = own_federation.authorities["osaka.example"]
    rogue = identity.create_ca("tokyo.example", own_federation.clock)
    forged = own_federation.issue(SpiffeId.parse(MANAGER), rogue)
    identity.save_certificate(
        own_federation.trust_folder / "osaka.example.pem", osaka.cert_pem + rogue.cert_pem
    )
    monkeypatch.setitem(own_federation._parties, MANAGER, forged)
    answering = serve(MANAGER, register, identities=own_federation)
    with pytest.raises(errors.Unavailable):
        status(own_federation.party(ALICE), answering)


def test_a_client_certificate_for_a_foreign_domain_passes_tls_and_is_stopped_by_the_guard(
    own_federation, serve
):
    target = serve(MANAGER, register, identities=own_federation)
    rogue = identity.create_ca("tokyo.example", own_federation.clock)
    osaka = own_federation.trust_folder / "osaka.example.pem"
    identity.save_certificate(osaka, osaka.read_bytes() + rogue.cert_pem)
    forged = own_federation.issue(SpiffeId.parse(ALICE), rogue)
    with pytest.raises(errors.Unauthenticated) as caught:
        status(forged, target)
    assert caught.value.reason == "PEER_UNAUTHENTICATED"


def test_an_unknown_provider_of_the_target_is_said_before_anything_is_sent(federation):
    stranger = SpiffeId.parse("spiffe://stranger.example/manager/main")
    with pytest.raises(errors.Unauthenticated, match="PROVIDER_UNKNOWN"):
        rpc.connect(federation.party(ALICE), rpc.Target("127.0.0.1:1", stranger))


def test_a_provider_may_call_from_the_moment_it_is_accepted_until_it_is_dropped(
    own_federation, serve
):
    target = serve(MANAGER, register, identities=own_federation)
    user = own_federation.party("spiffe://stranger.example/user/alice")
    with pytest.raises(errors.Unavailable):
        status(user, target)
    file = own_federation.trust_folder / "stranger.example.pem"
    identity.save_certificate(file, own_federation.authorities["stranger.example"].cert_pem)
    with rpc.connect(user, target) as channel:
        stub = manager_pb2_grpc.ManagerServiceStub(channel)
        request = manager_pb2.GetCloudStatusRequest()
        assert rpc.call(stub.GetCloudStatus, request) is not None
        file.unlink()
        with pytest.raises(errors.Unauthenticated) as caught:
            rpc.call(stub.GetCloudStatus, request)
    assert caught.value.reason == "PROVIDER_UNKNOWN"


def test_a_certificate_that_expires_ends_the_calls_on_a_connection_that_is_open(
    own_federation, serve
):
    own_federation.clock = Ahead()
    target = serve(MANAGER, register, identities=own_federation)
    with rpc.connect(own_federation.party(ALICE), target) as channel:
        stub = manager_pb2_grpc.ManagerServiceStub(channel)
        request = manager_pb2.GetCloudStatusRequest()
        assert rpc.call(stub.GetCloudStatus, request) is not None
        own_federation.clock.ahead_seconds = PARTY_SECONDS + 1
        with pytest.raises(errors.Unauthenticated, match="valid from"):
            rpc.call(stub.GetCloudStatus, request)


class Observer:
    """Notes what it is told, and fails if it shall."""

    def __init__(self, problem=None):
        self.told = []
        self.problem = problem

    def __call__(self, method, peer, error):
        self.told.append((method, peer, error.reason))
        if self.problem is not None:
            raise self.problem


@pytest.fixture
def observed(federation):
    """Starts a server whose refusals are told."""
    servers = []

    def start(observer):
        party = federation.party(MANAGER)
        server = rpc.Server(
            "manager",
            party,
            "127.0.0.1:0",
            clock=federation.clock,
            servicers=register,
            on_refusal=observer,
        )
        servers.append(server)
        return rpc.Target(f"127.0.0.1:{server.start()}", party.spiffe_id)

    yield start
    for server in servers:
        assert server.stop(0).wait(10)


def test_an_observer_is_told_of_refused_calls_and_of_no_others(federation, observed):
    observer = Observer()
    target = observed(observer)
    status(federation.party(ALICE), target)
    stranger = "spiffe://osaka.example/agent/host-1"
    with pytest.raises(errors.Denied):
        status(federation.party(stranger), target)
    with rpc.connect(federation.party(ALICE), target) as channel:
        stub = manager_pb2_grpc.ManagerServiceStub(channel)
        with pytest.raises(errors.Unimplemented):
            rpc.call(stub.GetVm, manager_pb2.GetVmRequest(vm="x"))
    method = "/watari.v1.ManagerService/GetCloudStatus"
    assert observer.told == [(method, stranger, "NOT_ALLOWED")]


def test_an_observer_is_told_of_refused_streams(federation, observed):
    observer = Observer()
    stranger = federation.party("spiffe://osaka.example/agent/host-1")
    request = manager_pb2.WatchMigrationRequest()
    with rpc.connect(stranger, observed(observer)) as channel:
        stub = manager_pb2_grpc.ManagerServiceStub(channel)
        watching = rpc.stream(stub.WatchMigration, request, timeout_seconds=30)
        with pytest.raises(errors.Denied), watching as responses:
            list(responses)
    assert [reason for _, _, reason in observer.told] == ["NOT_ALLOWED"]


def test_an_observer_that_fails_changes_nothing_for_the_caller(federation, observed):
    observer = Observer(RuntimeError("no room"))
    with pytest.raises(errors.Denied) as caught:
        status(federation.party("spiffe://osaka.example/agent/host-1"), observed(observer))
    assert caught.value.reason == "NOT_ALLOWED"
    assert len(observer.told) == 1
