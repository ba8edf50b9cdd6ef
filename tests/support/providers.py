"""Providers that have not met: each with an authority, a trust folder and a manager of its own."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import pytest

from manager.assembly import assemble
from manager.settings import Settings
from manager.settings.federation import AuthoritySettings, FederationSettings
from tests.support import databases, processes
from watari import errors, identity, keeper, rpc, service
from watari.clock import SystemClock
from watari.identity import Authority, Identity, SpiffeId, TrustStore
from watari.rpc import Server, client
from watari.settings import IdentitySettings
from watari.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    federation_pb2,
    federation_pb2_grpc,
    manager_pb2,
    manager_pb2_grpc,
)

TOKYO, OSAKA, KYOTO = "tokyo.example", "osaka.example", "kyoto.example"

WAIT_SECONDS_MAX = 60.0
QUICK = FederationSettings(check_seconds=0.1, call_seconds_max=3.0, retry_max_seconds=0.5)


@dataclass
class Provider:
    """One provider; its database and files outlive its manager."""

    domain: str
    folder: Path
    authority: Authority = field(init=False)
    settings: Settings = field(init=False)
    clock: SystemClock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        self.authority = identity.create_ca(self.domain, self.clock)
        self.authority.save(self.folder / "ca")
        self.port = processes.free_port()
        self.manager = SpiffeId(self.domain, "manager", "main")
        self._issue(self.manager)
        self.settings = Settings(
            cloud_id=self.domain.partition(".")[0],
            identity=self.identity_settings(self.manager),
            address=f"127.0.0.1:{self.port}",
            store=databases.sqlite(self.folder / "manager.sqlite"),
            authority=AuthoritySettings(folder=self.folder / "ca"),
            federation=QUICK,
        )
        self._stack: ExitStack | None = None
        self._server: Server | None = None
        self._channels = ExitStack()

    def identity_settings(self, party: SpiffeId) -> IdentitySettings:
        """Where a party's credentials are."""
        folder = self.home(party)
        return IdentitySettings(folder / "cert.pem", folder / "key.pem", folder / "trust")

    def home(self, party: SpiffeId) -> Path:
        """A party's folder."""
        return self.folder / f"{party.role}-{party.name}"

    def party(self, role: str, name: str = "main") -> Identity:
        """A party with a folder of its own, that trusts its own provider only."""
        party = SpiffeId(self.domain, role, name)
        if not self.home(party).exists():
            self._issue(party)
        return Identity.load_folder(self.home(party))

    def _issue(self, party: SpiffeId) -> None:
        cert_pem, key_pem = self.authority.issue(party)
        folder = self.home(party)
        identity.save_certificate(folder / "cert.pem", cert_pem)
        identity.save_key(folder / "key.pem", key_pem)
        identity.save_certificate(folder / "trust" / f"{self.domain}.pem", self.authority.cert_pem)

    @property
    def trust(self) -> TrustStore:
        """Whom its manager trusts."""
        return TrustStore(self.home(self.manager) / "trust")

    @property
    def target(self) -> rpc.Target:
        """Its manager."""
        return rpc.Target(self.settings.address, self.manager)

    def change(self, **values: object) -> None:
        """Other settings for the next start."""
        self.settings = replace(self.settings, **values)  # type: ignore[arg-type]

    def start(self) -> None:
        """Its manager, whatever an earlier one left."""
        self._stack = ExitStack()
        own = Identity.load_folder(self.home(self.manager))
        context = service.Context(clock=self.clock, identity=own, stack=self._stack)
        self._server = assemble(self.settings, context)
        self._server.start()

    def stop(self) -> None:
        """Stops its manager."""
        if self._server is not None:
            assert self._server.stop(0.2).wait(10), "a call did not end"
        if self._stack is not None:
            self._stack.close()
        self._server = self._stack = None

    def close(self) -> None:
        """Stops everything."""
        self.stop()
        self._channels.close()

    def channel(self, caller: Identity, target: rpc.Target | None = None) -> grpc.Channel:
        """A connection of a party, to this provider's manager unless another target is named."""
        return self._channels.enter_context(client.connect(caller, target or self.target))

    @property
    def operator(self) -> federation_pb2_grpc.FederationServiceStub:
        """The federation as the operator sees it."""
        channel = self.channel(self.party("operator", "admin"))
        return federation_pb2_grpc.FederationServiceStub(channel)

    @property
    def identities(self) -> federation_pb2_grpc.IdentityServiceStub:
        """The operator at IdentityService."""
        channel = self.channel(self.party("operator", "admin"))
        return federation_pb2_grpc.IdentityServiceStub(channel)

    def invite(self, ttl_seconds: int = 0) -> str:
        """A new invitation's line."""
        request = federation_pb2.CreateInvitationRequest(ttl_seconds=ttl_seconds)
        return client.call(self.operator.CreateInvitation, request).invitation

    def accept(self, invitation: str) -> federation_pb2.AcceptInvitationResponse:
        """Takes up an invitation."""
        request = federation_pb2.AcceptInvitationRequest(invitation=invitation)
        return client.call(self.operator.AcceptInvitation, request)

    def confirm(self, domain: str) -> federation_pb2.Provider:
        """Confirms what is shown of a provider."""
        shown = self.provider(domain)
        request = federation_pb2.ConfirmProviderRequest(domain=domain, ca_sha256=shown.ca_sha256)
        return client.call(self.operator.ConfirmProvider, request).provider

    def provider(self, domain: str) -> federation_pb2.Provider:
        """Another provider as this one knows it."""
        request = federation_pb2.GetProviderRequest(domain=domain)
        return client.call(self.operator.GetProvider, request).provider

    def remove(self, domain: str) -> federation_pb2.RemoveProviderResponse:
        """Removes a provider."""
        request = federation_pb2.RemoveProviderRequest(domain=domain)
        return client.call(self.operator.RemoveProvider, request)

    def revoke(self, party: SpiffeId) -> federation_pb2.Denial:
        """Revokes a party."""
        request = federation_pb2.RevokePartyRequest(spiffe_id=str(party), reason="a test")
        return client.call(self.identities.RevokeParty, request).denial

    def rotate(self) -> federation_pb2.RotateAuthorityResponse:
        """Changes the authority."""
        request = federation_pb2.RotateAuthorityRequest()
        return client.call(self.identities.RotateAuthority, request)


def join(host: Provider, guest: Provider) -> None:
    """Two providers meet and accept each other."""
    guest.accept(host.invite())
    guest.confirm(host.domain)
    host.confirm(guest.domain)


@contextmanager
def strangers(folder: Path, *domains: str) -> Iterator[list[Provider]]:
    """Providers whose managers run, and that know nothing of each other."""
    made = [Provider(domain, folder / domain) for domain in domains]
    try:
        for each in made:
            each.start()
        yield made
    finally:
        for each in made:
            each.close()


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Waits until something is so; an answer that is an error counts as "not yet"."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        try:
            if condition():
                return
        except errors.WatariError as error:
            what = f"{what}: {error}"
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def reason_of(attempt: Callable[[], object]) -> str:
    """Why an attempt is refused."""
    with pytest.raises(errors.WatariError) as caught:
        attempt()
    return caught.value.reason


def reserve(caller: Provider, at: Provider) -> str:
    """What the other provider's manager says to a reservation: INVALID_ID means that it got in."""
    channel = caller.channel(caller.party("manager"), at.target)
    stub = manager_pb2_grpc.ReservationServiceStub(channel)
    return reason_of(lambda: client.call(stub.Reserve, manager_pb2.ReserveRequest()))


def keeping(provider: Provider, own: Identity) -> keeper.Keeper:
    """What keeps a party's certificate, as in its own process."""
    issuer = keeper.ManagerIssuer(rpc.ChannelPool(own), provider.target)
    return keeper.Keeper(own, issuer, provider.clock)


def restart(provider: Provider, **authority: object) -> None:
    """Its manager with other settings of the authority."""
    provider.stop()
    provider.change(authority=replace(provider.settings.authority, **authority))  # type: ignore[arg-type]
    provider.start()


def serial(identity: Identity) -> int:
    """The number of a party's certificate."""
    return identity.current().certificate.serial_number


def entries(provider: Provider) -> list[tuple[str, str, str]]:
    """What the audit log says, oldest first: action, actor and subject."""
    stub = audit_pb2_grpc.AuditServiceStub(provider.channel(provider.party("operator", "admin")))
    listed = client.call(stub.ListAuditEntries, audit_pb2.ListAuditEntriesRequest()).entries
    return [(each.action, each.actor, each.subject) for each in listed]
