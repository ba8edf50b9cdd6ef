"""The parts of billing, put together."""

from dataclasses import dataclass

from manager.accounts.books import Books
from manager.accounts.facts import Cloud
from manager.accounts.sheets import Sheets
from manager.billing.contesting import Contesting
from manager.billing.disputes import Disputes
from manager.billing.invoicing import Invoicing
from manager.billing.other_side import OtherSide
from manager.billing.partners import Partners
from manager.billing.payments import Payments
from manager.billing.settling import Settling
from manager.billing.viewers import Viewer, viewer_of
from manager.peers import Peers
from manager.settings import Settings
from manager.store import Store
from watari import rpc
from watari.clock import Clock
from watari.rpc import ChannelPool


@dataclass(frozen=True)
class Billing:
    """What the services of billing call."""

    own_domain: str
    region: str
    zone: str
    """Of billing months."""
    store: Store
    clock: Clock
    sheets: Sheets
    invoicing: Invoicing
    disputes: Disputes
    payments: Payments
    settling: Settling
    contesting: Contesting

    def viewer(self) -> Viewer:
        """What the party that calls may see."""
        return viewer_of(rpc.current_peer(), self.own_domain)


def assemble(
    settings: Settings,
    cloud: Cloud,
    store: Store,
    clock: Clock,
    sheets: Sheets,
    books: Books,
    peers: Peers,
    channels: ChannelPool,
) -> Billing:
    """The billing of one cloud."""

    def other(cloud_id: str) -> OtherSide:
        return OtherSide(channels, cloud_id, peers.find(cloud_id))

    zone = settings.accounts.time_zone
    partners = Partners(cloud.domain, other)
    return Billing(
        own_domain=cloud.domain,
        region=settings.region,
        zone=zone,
        store=store,
        clock=clock,
        sheets=sheets,
        invoicing=Invoicing(books, settings.billing, store, clock),
        disputes=Disputes(store, clock),
        payments=Payments(store, clock),
        settling=Settling(cloud, zone, store, clock, partners),
        contesting=Contesting(store, clock, partners),
    )
