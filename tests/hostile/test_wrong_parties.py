"""Every kind of wrong party at every method of every server: each gets its own refusal.

The servers are real processes of two joined providers, the calls real ones over mutual TLS. What is
called is every method of the contract, whether this release serves it or not: the refusal comes
before the method. What a right party may do with wrong documents (a stolen grant, a replayed
session, another's delegation) is in tests/integration/test_agent_grants.py and
test_manager_delegations.py.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.descriptor import MethodDescriptor

from tests.support.command_line import CommandLine
from tests.support.local import Local, running, wait_until
from watari import authz, errors, identity
from watari.cli.federation.layout import LOCAL
from watari.clock import SystemClock
from watari.identity import Authority, Role, SpiffeId
from watari.identity.party import KeyPair
from watari.rpc import Target, visit
from watari.v1 import (
    agent_pb2,
    audit_pb2,
    broker_pb2,
    directory_pb2,
    federation_pb2,
    manager_pb2,
)

TOKYO, OSAKA, STRANGER = "tokyo.internal", "osaka.internal", "stranger.example"

SERVERS = {
    "directory": (directory_pb2,),
    "broker": (broker_pb2,),
    "tokyo-manager": (manager_pb2, federation_pb2, audit_pb2),
    "tokyo-agent": (agent_pb2,),
}
"""Whose methods each server has."""

METHODS: list[tuple[str, MethodDescriptor]] = [
    (server, method)
    for server, modules in SERVERS.items()
    for module in modules
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
IDS = [f"{method.containing_service.name}.{method.name}" for _, method in METHODS]
every_method = pytest.mark.parametrize(("server", "method"), METHODS, ids=IDS)

HANDSHAKE = (grpc.StatusCode.UNAVAILABLE, "PEER_UNAVAILABLE")
"""What a client sees of a connection that TLS refuses."""


@dataclass
class World:
    """Two joined providers, and whoever might knock."""

    local: Local
    folder: Path
    authorities: dict[str, Authority]
    _targets: dict[str, Target] = field(default_factory=dict)
    _channels: dict[tuple[str, object], grpc.Channel] = field(default_factory=dict)

    def target(self, server: str) -> Target:
        """Where a server listens, and who it is."""
        if server not in self._targets:
            (process,) = (each for each in LOCAL.processes() if each.name == server)
            self._targets[server] = Target(self.local.address(server), process.spiffe_id)
        return self._targets[server]

    def pair(self, party: SpiffeId, by: str = "", seconds: float = 3600) -> KeyPair:
        """A certificate and key of a party, by its own provider's CA or another's."""
        return KeyPair(*self.authorities[by or party.domain].issue(party, seconds))

    def call(
        self, server: str, method: MethodDescriptor, who: object, make: Callable[[], KeyPair]
    ) -> tuple[object, str]:
        """Code and reason of an empty request, made by whoever `who` stands for."""
        channel = self._channels.get((server, who))
        if channel is None:
            channel = visit(self.target(server), make(), self.roots(server))
            self._channels[server, who] = channel
        return self.over(channel, method)

    def roots(self, server: str) -> bytes:
        """What the caller believes: the server's own CA."""
        return self.authorities[self.target(server).spiffe_id.domain].cert_pem

    @staticmethod
    def over(channel: grpc.Channel, method: MethodDescriptor) -> tuple[object, str]:
        """The same on a connection that there is."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        try:
            if method.server_streaming:
                next(iter(channel.unary_stream(path)(b"", timeout=30)), None)
            else:
                channel.unary_unary(path)(b"", timeout=30)
        except grpc.RpcError as failed:
            error = errors.from_rpc_error(failed)
            return error.code, error.reason
        return grpc.StatusCode.OK, ""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    for local in running(folder / "federation"):
        clock = SystemClock()
        authorities = {
            domain: Authority.load(local.layout.authority(domain), clock)
            for domain in LOCAL.domains
        }
        authorities[STRANGER] = identity.create_ca(STRANGER, clock)
        yield World(local, folder, authorities)


@every_method
def test_without_a_certificate_nobody_gets_in(world, server, method):
    target = world.target(server)
    options = [("grpc.ssl_target_name_override", target.spiffe_id.dns_name)]
    trusted = grpc.ssl_channel_credentials(world.roots(server))
    with grpc.secure_channel(target.address, trusted, options) as channel:
        assert world.over(channel, method) == HANDSHAKE


@every_method
def test_without_tls_nobody_gets_in(world, server, method):
    with grpc.insecure_channel(world.target(server).address) as channel:
        assert world.over(channel, method) == HANDSHAKE


@every_method
def test_a_provider_that_has_not_joined_does_not_get_in(world, server, method):
    for role in (Role.OPERATOR, Role.MANAGER, Role.AGENT):
        party = SpiffeId(STRANGER, role, "main")
        assert world.call(server, method, party, lambda p=party: world.pair(p)) == HANDSHAKE


@every_method
def test_a_party_of_the_wrong_role_or_provider_is_refused(world, server, method):
    """Every role of both providers that the access table does not name."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    own = world.target(server).spiffe_id.domain
    refused = 0
    for role, domain in itertools.product(Role, (TOKYO, OSAKA)):
        party = SpiffeId(domain, role, "wrong")
        if any(each.matches(party, own) for each in authz.TABLE.get(path, frozenset())):
            continue
        answer = world.call(server, method, party, lambda p=party: world.pair(p))
        if role is Role.INVITEE:  # whom no CA can make, only an invitation
            assert answer == (grpc.StatusCode.UNAUTHENTICATED, "PEER_UNAUTHENTICATED")
        else:
            assert answer == (grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED"), party
        refused += 1
    assert refused >= 2  # the invitees at least


@every_method
def test_a_certificate_that_has_run_out_does_not_get_in(world, server, method):
    for party in right_parties(world, server, method):
        who = "expired", party
        assert world.call(server, method, who, lambda p=party: expired(world, p)) == HANDSHAKE


def expired(world: World, party: SpiffeId) -> KeyPair:
    authority = world.authorities[party.domain]
    past = FixedClock(datetime(2025, 1, 1, tzinfo=UTC))
    return KeyPair(*Authority(authority.cert_pem, authority.key_pem, past).issue(party, 3600))


@dataclass(frozen=True)
class FixedClock(SystemClock):
    """Then."""

    moment: datetime

    def now(self) -> datetime:
        return self.moment


@every_method
def test_a_name_that_another_providers_ca_gave_is_refused(world, server, method):
    """An accepted provider's CA signs a certificate in the name of a party of this one."""
    for party in right_parties(world, server, method):
        other = world.authorities[OSAKA if party.domain == TOKYO else TOKYO]
        who = "other CA", party
        answer = world.call(server, method, who, lambda a=other, p=party: forged(a, p))
        assert answer in (
            HANDSHAKE,
            (grpc.StatusCode.UNAUTHENTICATED, "PEER_UNAUTHENTICATED"),
        ), party


@every_method
def test_a_certificate_that_signs_another_is_no_authority(world, server, method):
    """A party's own key signs a certificate in a better name."""
    tenant = world.pair(SpiffeId(TOKYO, Role.USER, "acme"))
    signer = Authority(tenant.cert_pem, tenant.key_pem, SystemClock())
    for party in right_parties(world, server, method):
        who = "party as CA", party
        answer = world.call(server, method, who, lambda p=party: forged(signer, p))
        assert answer == HANDSHAKE, party


def right_parties(world: World, server: str, method: MethodDescriptor) -> list[SpiffeId]:
    """One of each kind that may call a method."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    own = world.target(server).spiffe_id.domain
    found = [
        SpiffeId(domain, role, "right")
        for role, domain in itertools.product(Role, (TOKYO, OSAKA))
        for party in [SpiffeId(domain, role, "right")]
        if any(each.matches(party, own) for each in authz.TABLE.get(path, frozenset()))
    ]
    invitees = [party for party in found if party.role is Role.INVITEE]
    assert found
    return [party for party in found if party not in invitees] or invitees


def forged(authority: Authority, party: SpiffeId) -> KeyPair:
    """A leaf for any name, signed by a key that may not."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(authority.cert_pem)
    signer = serialization.load_pem_private_key(authority.key_pem, None)
    names = [x509.UniformResourceIdentifier(str(party)), x509.DNSName(party.dns_name)]
    uses = [x509.ExtendedKeyUsageOID.CLIENT_AUTH, x509.ExtendedKeyUsageOID.SERVER_AUTH]
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2036, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    )
    return KeyPair(
        made.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


# From here on the world changes: what was good is revoked, then its provider removed.


@pytest.fixture(scope="module")
def revoked(world: World) -> dict[tuple[str, SpiffeId], grpc.Channel]:
    """Connections of right parties, made while they were good; then they are all revoked."""
    command_line = CommandLine(world.local.layout.root)
    channels: dict[tuple[str, SpiffeId], grpc.Channel] = {}
    parties: set[SpiffeId] = set()
    for server, method in METHODS:
        for party in right_parties(world, server, method):
            if party.role is not Role.INVITEE and (server, party) not in channels:
                pair = world.pair(party)
                channels[server, party] = visit(world.target(server), pair, world.roots(server))
                parties.add(party)
    for (server, _), channel in channels.items():
        assert check(channel) == grpc.StatusCode.OK, server
    for party in sorted(parties):
        cloud = party.domain.partition(".")[0]
        command_line.run("ca", "revoke", party.role, party.name, "--cloud", cloud)
    for channel in channels.values():
        wait_until(lambda c=channel: check(c) == grpc.StatusCode.UNAUTHENTICATED, 20)
    return channels


def check(channel: grpc.Channel) -> object:
    """What the health service says, which every accepted party may ask."""
    try:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=30)
    except grpc.RpcError as error:
        return error.code()  # type: ignore[attr-defined]
    return grpc.StatusCode.OK


@every_method
def test_a_revoked_party_is_refused_on_old_and_new_connections(world, revoked, server, method):
    for party in right_parties(world, server, method):
        if party.role is Role.INVITEE:
            continue
        expected = (grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_DENIED")
        assert world.over(revoked[server, party], method) == expected, party


@pytest.fixture(scope="module")
def removed(
    world: World, revoked: object
) -> tuple[dict[tuple[str, Role], grpc.Channel], dict[Role, KeyPair]]:
    """Connections of an accepted provider's parties, made before it was removed, and new ones."""
    command_line = CommandLine(world.local.layout.root)
    pairs = {role: world.pair(SpiffeId(OSAKA, role, "late")) for role in Role}
    channels = {
        (server, role): visit(world.target(server), pairs[role], world.roots(server))
        for server in SERVERS
        for role in Role
        if role is not Role.INVITEE
    }
    for channel in channels.values():
        assert check(channel) == grpc.StatusCode.OK
    command_line.run("federation", "remove", OSAKA, "--yes")
    for channel in channels.values():
        wait_until(lambda c=channel: check(c) != grpc.StatusCode.OK, 20)
    return channels, pairs


@every_method
def test_a_removed_provider_is_out_on_old_and_new_connections(world, removed, server, method):
    channels, pairs = removed
    for role in (Role.MANAGER, Role.AGENT, Role.OPERATOR, Role.USER, Role.BROKER):
        old = world.over(channels[server, role], method)
        # gRPC may have connected again meanwhile, which TLS refuses.
        expected = ((grpc.StatusCode.UNAUTHENTICATED, "PROVIDER_UNKNOWN"), HANDSHAKE)
        assert old in expected, role
        who = "removed", role
        assert world.call(server, method, who, lambda r=role: pairs[r]) == HANDSHAKE, role
