"""The parts of a manager by what they are for, each made from those before it.

Nothing in here starts a thread but the lease's, without which the database is not this manager's.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from manager import capacity, opening, refusals
from manager.accounts.books import Books
from manager.accounts.facts import Cloud
from manager.accounts.sheets import Sheets
from manager.accounts.spending import Accounts
from manager.agents import Agents
from manager.arriving import Arriving
from manager.directories import Directories
from manager.evacuations.running import Evacuations
from manager.events import Board
from manager.federation import joining
from manager.federation.joining import Members
from manager.hosts import Hosts
from manager.lease import Lease
from manager.links.measuring import Links
from manager.migrations import Migrations
from manager.owed import OwedCalls
from manager.peers import Peers
from manager.quotas.book import Quotas
from manager.reservations import Reservations
from manager.saga.actions import Actions
from manager.saga.driver import Driver
from manager.saga.recording import Recorder
from manager.settings import Settings
from manager.store import Store
from watari import service
from watari.clock import Clock
from watari.identity import Identity
from watari.periodic import Periodic
from watari.rpc import ChannelPool


@dataclass(frozen=True)
class Base:
    """What everything else stands on."""

    settings: Settings
    identity: Identity
    clock: Clock
    stack: ExitStack
    """What is to be ended with the manager."""

    store: Store
    refused: refusals.Refusals
    channels: ChannelPool
    members: Members

    @classmethod
    def of(cls, settings: Settings, context: service.Context) -> "Base":
        """Opens the database, and waits until this is the process that works with it."""
        clock, stack, own = context.clock, context.stack, context.identity
        store = _opened(settings, context)
        refused = refusals.Refusals(store, clock)
        stack.callback(refused.close)
        channels = ChannelPool(own)
        stack.callback(channels.close)
        members = joining.assemble(settings, context, store, channels)
        return cls(settings, own, clock, stack, store, refused, channels, members)


@dataclass(frozen=True)
class Others:
    """Whom the manager calls."""

    agents: Agents
    directories: Directories
    peers: Peers
    owed: OwedCalls

    @classmethod
    def of(cls, base: Base) -> "Others":
        """Those of the settings; peers are learnt from the directory too."""
        settings, store, channels = base.settings, base.store, base.channels
        agents = Agents(settings.agents, channels, settings.hosts)
        directories = Directories(settings.directories, channels, settings.publish)
        peers = Peers(
            settings.peers,
            base.members.providers.manager_of,
            store,
            base.clock,
            directories,
            channels,
            settings.migrations,
        )
        return cls(agents, directories, peers, OwedCalls(settings.cloud_id, store, agents, peers))


@dataclass(frozen=True)
class Money:
    """What machines cost, and what tenants may use."""

    cloud: Cloud
    sheets: Sheets
    books: Books
    quotas: Quotas

    @classmethod
    def of(cls, base: Base) -> "Money":
        """Records the settings' price sheet if it is new."""
        settings, store, clock = base.settings, base.store, base.clock
        cloud = Cloud(settings.cloud_id, base.identity.spiffe_id.domain)
        sheets = Sheets(settings.prices, store, clock)
        accounts = Accounts(cloud.domain, sheets)
        return cls(
            cloud,
            sheets,
            Books(settings.accounts, cloud, store, clock),
            Quotas(store, clock, cloud.cloud_id, cloud.domain, accounts),
        )


@dataclass(frozen=True)
class Departures:
    """What drives machines out of this cloud."""

    links: Links
    recorder: Recorder
    driver: Driver
    migrations: Migrations
    evacuations: Evacuations

    @classmethod
    def of(cls, base: Base, others: Others) -> "Departures":
        """Nothing is driven before the driver is started."""
        settings, own, store, clock = base.settings, base.identity, base.store, base.clock
        agents, peers = others.agents, others.peers
        board = Board(clock, settings.watchers_max)
        recorder = Recorder(settings.cloud_id, own, clock, store, board)
        managers = partial(_managers, settings.cloud_id, peers, base.members)
        links = Links(settings.links, store, clock, agents, managers)
        actions = Actions(recorder, agents, peers, others.owed, board, settings.migrations, links)
        driver = Driver(store, clock, actions, board, settings.migrations)
        migrations = Migrations(settings, store, clock, agents, peers, driver, board)
        evacuations = Evacuations(settings, own.spiffe_id, store, clock, migrations, peers)
        return cls(links, recorder, driver, migrations, evacuations)


@dataclass(frozen=True)
class Arrivals:
    """What has and takes in machines."""

    hosts: Hosts
    reservations: Reservations
    arriving: Arriving

    @classmethod
    def of(cls, base: Base, others: Others, money: Money) -> "Arrivals":
        """Hosts are not looked at yet."""
        settings, own, store, clock = base.settings, base.identity, base.store, base.clock
        agents, limits = others.agents, settings.reservations
        return cls(
            Hosts(settings, own.spiffe_id.domain, store, clock, agents),
            Reservations(
                store, clock, own, settings, others.peers.known, money.quotas, money.sheets.current
            ),
            Arriving(store, clock, own, settings.cloud_id, agents, others.owed, limits),
        )


def _opened(settings: Settings, context: service.Context) -> Store:
    """The database, once this is the process that works with it."""
    clock, stack = context.clock, context.stack
    store = opening.opened(settings.store, clock, context.stopping)
    stack.callback(store.close)
    if settings.store.url:
        lease = Lease(store, clock, settings.store.lease_seconds)
        lease.await_turn(context.stopping)
        stack.callback(lease.give_back)
        stack.enter_context(Periodic("lease", lease.renew_seconds, clock, lease.renew))
    with store.write() as connection:
        capacity.open_pool(connection, settings.pool)
    return store


def _managers(cloud_id: str, peers: Peers, members: Members) -> dict[str, str]:
    """host:port of the managers of all other clouds."""
    every = {**peers.heard_of(), **members.providers.managers}
    return {cloud: each.address for cloud, each in every.items() if cloud != cloud_id}
