"""Certificates renew and are revoked while everything goes on, over TLS 1.3 only."""

import datetime
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.providers import (
    OSAKA,
    TOKYO,
    eventually,
    join,
    keeping,
    reason_of,
    restart,
    serial,
)
from watari import errors, rpc
from watari.identity import (
    Identity,
    SpiffeId,
    TrustStore,
    leaves,
    requests,
    save_key,
)
from watari.rpc import client
from watari.v1 import (
    federation_pb2,
    federation_pb2_grpc,
    manager_pb2,
    manager_pb2_grpc,
)


@contextmanager
def serving(identity: Identity, clock) -> Iterator[rpc.Target]:
    """Some other server of the provider."""
    server = rpc.Server("other", identity, "127.0.0.1:0", clock=clock, servicers=lambda _: None)
    port = server.start()
    try:
        yield rpc.Target(f"127.0.0.1:{port}", identity.spiffe_id)
    finally:
        server.stop(0).wait(10)


def test_a_party_renews_its_certificate_under_a_new_key(two):
    tokyo, _ = two
    restart(tokyo, leaf_seconds=30)
    agent = tokyo.party("agent", "host-1")
    before, key = serial(agent), agent.key_pem
    keeping(tokyo, agent).renew()
    assert serial(agent) != before
    assert agent.key_pem != key
    made, end = agent.current().validity
    assert end - made <= datetime.timedelta(seconds=31)
    # And on disk: the next process is the same party.
    again = Identity.load_folder(tokyo.home(agent.spiffe_id))
    assert (serial(again), again.spiffe_id) == (serial(agent), agent.spiffe_id)
    assert tokyo.trust.verify_peer(again.cert_pem, tokyo.clock.now()) == agent.spiffe_id


def test_nobody_gets_another_name_or_a_certificate_for_a_key_that_is_not_its_own(two):
    tokyo, _ = two
    agent = tokyo.party("agent", "host-1")
    stub = federation_pb2_grpc.IdentityServiceStub(tokyo.channel(agent))
    manager_request, _ = requests.make(SpiffeId(TOKYO, "manager", "main"))
    request = federation_pb2.RenewCertificateRequest(certificate_request=manager_request)
    issued = client.call(stub.RenewCertificate, request).certificate
    assert tokyo.trust.verify_peer(issued, tokyo.clock.now()) == agent.spiffe_id
    request.certificate_request = manager_request[:-1] + bytes([manager_request[-1] ^ 1])
    assert reason_of(lambda: client.call(stub.RenewCertificate, request)) in {
        "SIGNATURE_INVALID",
        "INVALID_FIELD",
    }
    request.certificate_request = b"x" * 9000
    assert reason_of(lambda: client.call(stub.RenewCertificate, request)) == "INVALID_FIELD"


def test_a_server_renews_without_ending_a_connection(two):
    """Streams and calls on a connection go on; the next connection sees the new certificate."""
    tokyo, _ = two
    restart(tokyo, leaf_seconds=30)
    agent = tokyo.party("agent", "host-1")
    operator = tokyo.party("operator", "admin")
    with serving(agent, tokyo.clock) as target:
        channel = tokyo.channel(operator, target)
        stub = health_pb2_grpc.HealthStub(channel)
        with client.stream(
            stub.Watch, health_pb2.HealthCheckRequest(), timeout_seconds=30
        ) as watched:
            next(iter(watched))
            shown = presented(target, operator)
            keeping(tokyo, agent).renew()
            assert client.call(stub.Check, health_pb2.HealthCheckRequest()).status == 1
            assert presented(target, operator) != shown
            assert presented(target, operator) == leaves.der(agent.cert_pem)


def presented(target: rpc.Target, own: Identity, version=ssl.TLSVersion.TLSv1_3) -> bytes:
    """The certificate that a server shows on a new connection, DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    host, _, port = target.address.partition(":")
    with (
        socket.create_connection((host, int(port)), 5) as raw,
        context.wrap_socket(raw, server_hostname=target.spiffe_id.dns_name) as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""


def test_nothing_below_tls_1_3_is_spoken(two):
    tokyo, _ = two
    operator = tokyo.party("operator", "admin")
    assert presented(tokyo.target, operator) == leaves.der(
        Identity.load_folder(tokyo.home(tokyo.manager)).cert_pem
    )
    with pytest.raises(OSError, match="EOF"):
        presented(tokyo.target, operator, ssl.TLSVersion.TLSv1_2)


def test_a_client_speaks_tls_1_3_only_too(two, tmp_path):
    """A server that can do no more than TLS 1.2 is not talked to."""
    tokyo, _ = two
    agent, operator = tokyo.party("agent", "host-1"), tokyo.party("operator", "admin")
    pem = tmp_path / "both.pem"
    pem.write_bytes(agent.cert_pem + agent.key_pem)
    results = {}
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2"])
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=handshake, args=(listener, context, results, version))
            thread.start()
            target = rpc.Target(f"127.0.0.1:{listener.getsockname()[1]}", agent.spiffe_id)
            stub = health_pb2_grpc.HealthStub(rpc.connect(operator, target))
            with pytest.raises(grpc.RpcError):
                stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
            thread.join(30)
    assert results == {ssl.TLSVersion.TLSv1_2: None, ssl.TLSVersion.TLSv1_3: "TLSv1.3"}


def handshake(listener, context, results, version) -> None:
    listener.settimeout(30)
    raw, _ = listener.accept()
    raw.settimeout(30)
    try:
        with context.wrap_socket(raw, server_side=True) as connection:
            results[version] = connection.version()
    except OSError:
        results[version] = None


def test_a_renewal_that_was_cut_off_between_the_two_files_is_finished(two):
    tokyo, _ = two
    agent = tokyo.party("agent", "host-1")
    folder = tokyo.home(agent.spiffe_id)
    cert_pem, key_pem = tokyo.authority.issue(agent.spiffe_id)
    old_key = (folder / "key.pem").read_bytes()
    # As far as the certificate, then the power went.
    agent.replace(cert_pem, key_pem)
    (folder / "key.pem").replace(folder / "key.pem.next")
    save_key(folder / "key.pem", old_key)
    again = Identity.load_folder(folder)
    assert again.cert_pem == cert_pem
    assert again.key_pem == key_pem
    # And not even as far as the certificate.
    save_key(folder / "key.pem.next", old_key)
    save_key(folder / "key.pem", key_pem)
    assert Identity.load_folder(folder).key_pem == key_pem


def test_a_certificate_that_is_renewed_by_hand_is_taken_up(two):
    tokyo, _ = two
    agent = tokyo.party("agent", "host-1")
    before = serial(agent)
    other = Identity(
        agent.spiffe_id,
        *tokyo.authority.issue(agent.spiffe_id),
        TrustStore(tokyo.home(agent.spiffe_id) / "trust"),
    )
    other.save(tokyo.home(agent.spiffe_id))
    assert serial(agent) == serial(other) != before
    # Another party's is not.
    stranger = Identity(
        SpiffeId(TOKYO, "agent", "host-2"),
        *tokyo.authority.issue(SpiffeId(TOKYO, "agent", "host-2")),
        other.trust,
    )
    stranger.save(tokyo.home(agent.spiffe_id))
    assert serial(agent) == serial(other)


def test_a_manager_whose_certificate_has_run_out_makes_itself_another(two):
    tokyo, _ = two
    tokyo.stop()
    own = Identity.load_folder(tokyo.home(tokyo.manager))
    own.replace(*tokyo.authority.issue(tokyo.manager, valid_seconds=0.5))
    time.sleep(1)
    tokyo.start()
    assert tokyo.invite()


def test_other_servers_of_a_provider_follow_what_its_manager_accepts_and_removes(two):
    tokyo, osaka = two
    agent = tokyo.party("agent", "host-1")
    keeper_of_agent = keeping(tokyo, agent)
    join(tokyo, osaka)
    keeper_of_agent.check()
    assert agent.trust.domains() == [OSAKA, TOKYO]
    tokyo.remove(OSAKA)
    keeper_of_agent.check()
    assert agent.trust.domains() == [TOKYO]


def test_a_revoked_party_is_out_at_once_here_and_soon_at_other_providers(two):
    tokyo, osaka = two
    join(tokyo, osaka)
    agent = osaka.party("agent", "host-1")
    keeping(osaka, agent).check()
    stub = health_pb2_grpc.HealthStub(osaka.channel(agent))
    there = health_pb2_grpc.HealthStub(osaka.channel(agent, tokyo.target))
    for each in (stub, there):
        assert client.call(each.Check, health_pb2.HealthCheckRequest()).status == 1
    osaka.revoke(agent.spiffe_id)
    request = health_pb2.HealthCheckRequest()
    assert reason_of(lambda: client.call(stub.Check, request)) == "CERTIFICATE_DENIED"

    def out() -> bool:
        try:
            client.call(there.Check, request)
        except errors.Unauthenticated as error:
            return error.reason == "CERTIFICATE_DENIED"
        return False

    eventually(out, "tokyo was not told")
    # It cannot renew what was denied, and a new certificate from the authority is good.
    assert reason_of(keeping(osaka, agent).renew) == "CERTIFICATE_DENIED"
    time.sleep(1.1)  # certificates count in whole seconds
    agent.replace(*osaka.authority.issue(agent.spiffe_id))
    again = health_pb2_grpc.HealthStub(osaka.channel(agent))
    assert client.call(again.Check, request).status == 1


def test_a_provider_revokes_its_own_parties_only(two):
    tokyo, osaka = two
    join(tokyo, osaka)
    assert reason_of(lambda: tokyo.revoke(osaka.manager)) == "INVALID_FIELD"


def test_a_stream_of_a_revoked_party_is_cut(two):
    tokyo, _ = two
    user = tokyo.party("user", "acme")
    stub = health_pb2_grpc.HealthStub(tokyo.channel(user))
    responses = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
    next(responses)
    tokyo.revoke(user.spiffe_id)
    with pytest.raises(grpc.RpcError) as caught:
        next(responses)
    assert caught.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_stream_of_a_removed_provider_is_cut(two):
    tokyo, osaka = two
    join(tokyo, osaka)
    stub = health_pb2_grpc.HealthStub(osaka.channel(osaka.party("manager"), tokyo.target))
    responses = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
    next(responses)
    tokyo.remove(OSAKA)
    with pytest.raises(grpc.RpcError) as caught:
        next(responses)
    assert caught.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_manager_that_is_denied_itself_goes_on_with_a_new_certificate(two):
    tokyo, osaka = two
    join(tokyo, osaka)
    stub = manager_pb2_grpc.ReservationServiceStub(
        tokyo.channel(tokyo.party("manager"), osaka.target)
    )
    request = manager_pb2.ReserveRequest()
    assert reason_of(lambda: client.call(stub.Reserve, request)) == "INVALID_ID"
    before = serial(Identity.load_folder(tokyo.home(tokyo.manager)))
    tokyo.revoke(tokyo.manager)
    assert serial(Identity.load_folder(tokyo.home(tokyo.manager))) != before
    assert tokyo.invite()
    # The other provider is told over a connection that the new certificate makes.
    denied = lambda: [each.spiffe_id for each in osaka.provider(TOKYO).bundle.denied]  # noqa: E731
    eventually(lambda: denied() == [str(tokyo.manager)], "osaka was not told")
    old = reason_of(lambda: client.call(stub.Reserve, request))
    assert old in ("CERTIFICATE_DENIED", "INVALID_ID")  # the stub may show the new one
