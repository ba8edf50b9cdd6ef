"""Puts the federation's side of a manager together, and keeps it going."""

from dataclasses import dataclass

from manager.federation.authorities import Authorities
from manager.federation.invitations import Invitations
from manager.federation.own import OwnBundle
from manager.federation.parting import Parting
from manager.federation.providers import Providers
from manager.federation.service import Federation
from manager.federation.telling import Teller
from manager.federation.trusting import Trusting
from manager.settings import Settings
from manager.store import Store
from watari import service
from watari.clock import Clock
from watari.identity import Identity, SpiffeId
from watari.keeper import Keeper
from watari.rpc import ChannelPool
from watari.v1 import federation_pb2


@dataclass(frozen=True)
class Members:
    """The parts that know about other providers."""

    own: Identity
    bundle: OwnBundle
    door: Invitations
    providers: Providers
    teller: Teller
    authorities: Authorities
    trusting: Trusting
    clock: Clock
    keeper: Keeper | None
    """Of this manager's own certificate; None where somebody else renews it."""

    def check(self) -> None:
        """What has to be done now and then: the own certificate, and changes of the authority."""
        if self.keeper is not None:
            self.keeper.check()
        self.authorities.step()

    def _renew_own(self) -> None:
        """After a denial of this manager itself. Certificates count in whole seconds: one of this
        second would be denied as well.
        """
        if self.keeper is not None:
            self.clock.sleep(1.0)
            self.keeper.renew()

    def federation(self, parting: Parting) -> Federation:
        """What the services call."""
        return Federation(
            authorities=self.authorities,
            trusting=self.trusting,
            providers=self.providers,
            bundle=self.bundle,
            parting=parting,
            renew_own=self._renew_own,
            own=self.own.spiffe_id,
        )


def assemble(
    settings: Settings, context: service.Context, store: Store, channels: ChannelPool
) -> Members:
    """The parts, with the trust folder as the database has it. Raises FailedPrecondition
    CREDENTIALS_UNREADABLE, KEY_FILE_TOO_OPEN, and OSError.
    """
    own, clock, limits = context.identity, context.clock, settings.federation
    bundle = OwnBundle(settings, own, store)
    door = Invitations(own.spiffe_id.domain, store, clock, limits)
    providers = Providers(settings, own, store, clock, bundle, door)
    providers.restore()
    teller = Teller(bundle, store, clock, channels, limits)
    authorities = Authorities(settings.authority, own, store, clock, teller)
    trusting = Trusting(own.trust)
    keeper = None
    if settings.authority.folder is not None:
        keeper = Keeper(own, _OwnIssuer(own.spiffe_id, authorities, trusting), clock)
    return Members(own, bundle, door, providers, teller, authorities, trusting, clock, keeper)


@dataclass(frozen=True)
class _OwnIssuer:
    """This manager, asked by itself."""

    own: SpiffeId
    authorities: Authorities
    trusting: Trusting

    def renew(self, request: bytes) -> bytes:
        """A certificate (DER) for the manager itself."""
        return self.authorities.issue(request, self.own)

    def trust(self, version: bytes) -> federation_pb2.GetTrustResponse:
        """Nothing new: the trust folder is this manager's own."""
        return federation_pb2.GetTrustResponse(version=version)
