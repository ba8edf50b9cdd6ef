"""Puts a manager together: what knows what, and in which order it starts and stops."""

import threading
from collections.abc import Callable
from functools import partial

import grpc

from manager import audit, capacity, classes, opening, refusals
from manager import metrics as manager_metrics
from manager.accounting import periods, sheet_documents
from manager.accounts.books import Books
from manager.accounts.facts import Cloud
from manager.accounts.sheets import Sheets
from manager.accounts.spending import Accounts
from manager.agents import Agents
from manager.arriving import Arriving
from manager.audit_service import AuditServicer
from manager.billing import parts
from manager.callers import Callers
from manager.directories import Directories
from manager.domain import Domain
from manager.drifts import Drifts
from manager.estimate_grants import EstimateGrants
from manager.estimates import Estimates
from manager.evacuations.running import Evacuations
from manager.events import Board
from manager.federation import joining
from manager.federation.joining import Members
from manager.federation.parting import Parting
from manager.federation.service import Federation, FederationServicer, IdentityServicer
from manager.handover import HandOvers
from manager.holds import Holds
from manager.hosts import Hosts
from manager.janitor import Janitor
from manager.lease import Lease
from manager.lifecycle import Lifecycle
from manager.links.measuring import Links
from manager.metering.reading import THIN_SECONDS, Metering
from manager.migrations import Migrations
from manager.owed import OwedCalls
from manager.peer_service import AccountingServicer, ReservationServicer
from manager.peers import Peers
from manager.publisher import Publisher
from manager.quotas.book import Quotas
from manager.quoting import Quoting
from manager.reservations import Reservations
from manager.resolutions import Resolutions
from manager.retained import RetainedCopies
from manager.saga.actions import Actions
from manager.saga.driver import Driver
from manager.saga.recording import Recorder
from manager.saga.resolving import Resolving
from manager.service import ManagerServicer
from manager.settings import Settings
from manager.store import Store
from watari import errors, metrics, processors, service, validate
from watari.identity import SpiffeId
from watari.periodic import Periodic
from watari.rpc import ChannelPool, Door, Server
from watari.v1 import audit_pb2_grpc, federation_pb2_grpc, manager_pb2_grpc


def assemble(settings: Settings, context: service.Context) -> Server:
    """A manager that works, and whose server is ready to start.

    Its hosts have been looked at once. Raises InvalidArgument CONFIG_INVALID.
    """
    check(settings, context.identity.spiffe_id)
    processors.keep_to(settings.processors)
    clock, stack, own = context.clock, context.stack, context.identity
    store = _opened(settings, context)
    refused = refusals.Refusals(store, clock)
    stack.callback(refused.close)
    channels = ChannelPool(own)
    stack.callback(channels.close)
    members = joining.assemble(settings, context, store, channels)

    agents = Agents(settings.agents, channels, settings.hosts)
    directories = Directories(settings.directories, channels, settings.publish)
    peers = Peers(
        settings.peers,
        members.providers.manager_of,
        store,
        clock,
        directories,
        channels,
        settings.migrations,
    )
    board = Board(clock, settings.watchers_max)
    owed = OwedCalls(settings.cloud_id, store, agents, peers)
    recorder = Recorder(settings.cloud_id, own, clock, store, board)
    links = Links(
        settings.links, store, clock, agents, partial(_others, settings.cloud_id, peers, members)
    )
    actions = Actions(recorder, agents, peers, owed, board, settings.migrations, links)
    driver = Driver(store, clock, actions, board, settings.migrations)
    sheets = Sheets(settings.prices, store, clock)
    cloud = Cloud(settings.cloud_id, own.spiffe_id.domain)
    quotas = Quotas(store, clock, cloud.cloud_id, cloud.domain, Accounts(cloud.domain, sheets))
    reservations = Reservations(store, clock, own, settings, peers.known, quotas, sheets.current)
    arriving = Arriving(store, clock, own, settings.cloud_id, agents, owed, settings.reservations)
    publisher = Publisher(settings, store, clock, own, directories, sheets.current)
    hosts = Hosts(settings, own.spiffe_id.domain, store, clock, agents)
    janitor = Janitor(store, clock, reservations, arriving, owed, agents)

    books = Books(settings.accounts, cloud, store, clock)
    migrations = Migrations(settings, store, clock, agents, peers, driver, board)
    evacuations = Evacuations(settings, own.spiffe_id, store, clock, migrations, peers)
    stopping = threading.Event()
    domain = Domain(
        settings=settings,
        provider_domain=own.spiffe_id.domain,
        callers=Callers(own, clock, settings.cloud_id, settings.brokers, store),
        store=store,
        migrations=migrations,
        evacuations=evacuations,
        estimates=Estimates(settings, own, store, clock, agents, peers, sheets.current),
        reservations=reservations,
        holds=Holds(
            own,
            clock,
            settings.cloud_id,
            settings.brokers,
            peers.known,
            peers.refresh,
            reservations,
        ),
        estimate_grants=EstimateGrants(
            store, clock, own, settings, peers.known, quotas, sheets.current
        ),
        quotas=quotas,
        billing=parts.assemble(settings, cloud, store, clock, sheets, books, peers, channels),
        quoting=Quoting(settings, store, clock, own, quotas, sheets.current),
        resolutions=Resolutions(store, clock, own, agents, arriving, Resolving(recorder, driver)),
        lifecycle=Lifecycle(settings.cloud_id, store, clock, agents),
        drifts=Drifts(settings.cloud_id, store, clock, agents, hosts),
        retained=RetainedCopies(store, clock, agents),
        hand_overs=HandOvers(store, clock, own, settings.cloud_id, arriving),
        publisher=publisher,
        stopping=stopping,
    )
    federation = members.federation(Parting(store, reservations, driver.interrupt))
    server = _server(settings, context, domain, federation, members.door, refused)

    members.check()
    hosts.poll()
    audit.tell_head(store)
    recurring = _recurring(settings, members, refused, store, hosts, janitor)
    books = Books(settings.accounts, cloud, store, clock)
    recurring["accounts"] = settings.accounts.book_seconds, books.book
    kept_days = settings.hosts.usage_events_days
    metering = Metering(settings.cloud_id, own.spiffe_id, store, clock, agents, kept_days)
    recurring["metering"] = settings.hosts.events_seconds, metering.read
    recurring["thinning"] = THIN_SECONDS, metering.thin
    recurring["evacuations"] = settings.evacuations.check_seconds, evacuations.check
    if directories.configured:
        recurring["publish"] = settings.publish.check_seconds, publisher.check
        recurring["learn"] = settings.publish.learn_seconds, peers.learn
        recurring["links"] = settings.links.check_seconds, links.measure
    metrics.expose(
        settings.metrics, stack, manager_metrics.collector(store, clock, settings.agents)
    )
    for name, (seconds, work) in recurring.items():
        stack.enter_context(Periodic(name, seconds, clock, work))
    stack.callback(driver.stop)
    driver.start()
    return server


def _others(cloud_id: str, peers: Peers, members: Members) -> dict[str, str]:
    """host:port of the managers of all other clouds."""
    every = {**peers.heard_of(), **members.providers.managers}
    return {cloud: each.address for cloud, each in every.items() if cloud != cloud_id}


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


def _recurring(
    settings: Settings,
    members: Members,
    refused: refusals.Refusals,
    store: Store,
    hosts: Hosts,
    janitor: Janitor,
) -> dict[str, tuple[float, Callable[[], None]]]:
    """What comes again: name of the thread, seconds in between, and what to do."""
    federated = settings.federation.check_seconds
    return {
        "federation": (federated, members.check),
        # Apart: others that do not answer must not keep the own certificate waiting.
        "telling": (federated, members.teller.tell),
        "refusals": (refusals.WRITE_SECONDS, refused.write),
        "audit": (audit.TELL_HEAD_SECONDS, partial(audit.tell_head, store)),
        "poll": (settings.hosts.poll_seconds, hosts.poll),
        "expiry": (settings.janitor_seconds, janitor.expire),
        "hand-overs": (settings.janitor_seconds, janitor.finish),
        "owed": (settings.janitor_seconds, janitor.pay),
        "orphans": (settings.orphans_seconds, janitor.discard_orphans),
    }


def _server(
    settings: Settings,
    context: service.Context,
    domain: Domain,
    federation: Federation,
    door: Door,
    refused: refusals.Refusals,
) -> Server:
    def add(grpc_server: grpc.Server) -> None:
        manager_pb2_grpc.add_ManagerServiceServicer_to_server(ManagerServicer(domain), grpc_server)
        manager_pb2_grpc.add_ReservationServiceServicer_to_server(
            ReservationServicer(domain), grpc_server
        )
        manager_pb2_grpc.add_AccountingServiceServicer_to_server(
            AccountingServicer(domain), grpc_server
        )
        federation_pb2_grpc.add_IdentityServiceServicer_to_server(
            IdentityServicer(federation), grpc_server
        )
        federation_pb2_grpc.add_FederationServiceServicer_to_server(
            FederationServicer(federation), grpc_server
        )
        audit_pb2_grpc.add_AuditServiceServicer_to_server(AuditServicer(domain.store), grpc_server)

    return Server(
        "manager",
        context.identity,
        settings.address,
        clock=context.clock,
        servicers=add,
        settings=settings.rpc,
        stopping=domain.stopping,
        door=door,
        on_refusal=refused.on_refusal,
    )


def check(settings: Settings, own: SpiffeId) -> None:
    """What the types of the settings cannot say. Raises InvalidArgument CONFIG_INVALID."""
    try:
        validate.require_cloud_id(settings.cloud_id, "cloud_id")
        validate.require_name(settings.region, "region")
        for host_id, agent in settings.agents.items():
            validate.require_name(host_id, "agents")
            classes.require(agent.inventory, f"agents.{host_id}.inventory")
            if SpiffeId.parse(agent.spiffe_id).domain != own.domain:
                raise validate.invalid_field(
                    f"agents.{host_id}.spiffe_id", "is another provider's", f"one of {own.domain}"
                )
        classes.require_pool(settings.pool, "pool")
        for endpoint in (*settings.directories, *settings.peers.values()):
            SpiffeId.parse(endpoint.spiffe_id)
            validate.require_address(endpoint.address, "address")
        sheet_documents.from_settings(settings.prices)
        periods.month(2026, 1, settings.accounts.time_zone)
        watchers = settings.watchers_max + settings.evacuations.watchers_max
        if watchers + settings.migrations.estimates_max >= settings.rpc.workers_max:
            raise validate.invalid_field(
                "watchers_max",
                "leaves no thread for calls",
                "with evacuations.watchers_max and migrations.estimates_max less than "
                "rpc.workers_max",
            )
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(
            "CONFIG_INVALID", f"manager: {error.message}", hint=error.hint
        ) from error
