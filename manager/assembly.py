"""Puts a manager together: what knows what, and in which order it starts and stops."""

import threading
from collections.abc import Callable
from functools import partial

import grpc

from manager import audit, checking, refusals
from manager import metrics as manager_metrics
from manager.audit_service import AuditServicer
from manager.billing import parts as billing
from manager.callers import Callers
from manager.domain import Domain
from manager.drifts import Drifts
from manager.estimate_grants import EstimateGrants
from manager.estimates import Estimates
from manager.federation.parting import Parting
from manager.federation.service import Federation, FederationServicer, IdentityServicer
from manager.handover import HandOvers
from manager.holds import Holds
from manager.janitor import Janitor
from manager.lifecycle import Lifecycle
from manager.links.measuring import Links
from manager.metering.reading import THIN_SECONDS, Metering
from manager.parts import Arrivals, Base, Departures, Money, Others
from manager.peer_service import AccountingServicer, ReservationServicer
from manager.peers import Peers
from manager.publisher import Publisher
from manager.quoting import Quoting
from manager.reshaping import Reshaping
from manager.resolutions import Resolutions
from manager.retained import RetainedCopies
from manager.revocations import Revocations
from manager.saga.resolving import Resolving
from manager.service import ManagerServicer
from manager.settings import Settings
from manager.standing import Seen
from watari import metrics, processors, service
from watari.periodic import Periodic
from watari.rpc import Server
from watari.v1 import audit_pb2_grpc, federation_pb2_grpc, manager_pb2_grpc

_Recurring = dict[str, tuple[float, Callable[[], None]]]
"""Name of the thread, seconds in between, and what to do."""


def assemble(settings: Settings, context: service.Context) -> Server:
    """A manager that works, and whose server is ready to start.

    Its hosts have been looked at once. Raises InvalidArgument CONFIG_INVALID.
    """
    checking.check(settings, context.identity.spiffe_id)
    processors.keep_to(settings.processors)
    base = Base.of(settings, context)
    others = Others.of(base)
    money = Money.of(base)
    departures = Departures.of(base, others)
    arrivals = Arrivals.of(base, others, money)
    domain = _domain(base, others, money, departures, arrivals)
    driver = departures.driver
    parting = Parting(base.store, arrivals.reservations, driver.interrupt)
    server = _server(base, domain, base.members.federation(parting))

    base.members.check()
    arrivals.hosts.poll()
    audit.tell_head(base.store)
    collected = manager_metrics.collector(base.store, base.clock, settings.agents)
    metrics.expose(settings.metrics, base.stack, collected)
    recurring = _recurring(base, others, money, departures, arrivals)
    if others.directories.configured:
        recurring |= _published(settings, domain.publisher, others.peers, departures.links)
    for name, (seconds, work) in recurring.items():
        base.stack.enter_context(Periodic(name, seconds, base.clock, work))
    base.stack.callback(driver.stop)
    driver.start()
    return server


def _domain(
    base: Base, others: Others, money: Money, departures: Departures, arrivals: Arrivals
) -> Domain:
    """What the services call."""
    settings, own, store, clock = base.settings, base.identity, base.store, base.clock
    agents, peers, directories = others.agents, others.peers, others.directories
    quotas, sheets = money.quotas, money.sheets
    hosts, reservations, arriving = arrivals.hosts, arrivals.reservations, arrivals.arriving
    resolving = Resolving(departures.recorder, departures.driver)
    return Domain(
        settings=settings,
        provider_domain=own.spiffe_id.domain,
        callers=Callers(own, clock, settings.cloud_id, settings.brokers, store),
        revocations=Revocations(store, clock),
        store=store,
        migrations=departures.migrations,
        evacuations=departures.evacuations,
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
            Seen(store),
        ),
        estimate_grants=EstimateGrants(
            store, clock, own, settings, peers.known, quotas, sheets.current
        ),
        quotas=quotas,
        billing=billing.assemble(
            settings, money.cloud, store, clock, sheets, money.books, peers, base.channels
        ),
        quoting=Quoting(settings, store, clock, own, quotas, sheets.current),
        resolutions=Resolutions(store, clock, own, agents, arriving, resolving),
        lifecycle=Lifecycle(settings.cloud_id, store, clock, agents),
        drifts=Drifts(settings.cloud_id, store, clock, agents, hosts),
        reshaping=Reshaping(settings, store, clock),
        retained=RetainedCopies(store, clock, agents),
        hand_overs=HandOvers(store, clock, own, settings.cloud_id, arriving),
        publisher=Publisher(settings, store, clock, own, directories, sheets.current),
        stopping=threading.Event(),
    )


def _recurring(
    base: Base, others: Others, money: Money, departures: Departures, arrivals: Arrivals
) -> _Recurring:
    """What comes again, whatever the manager is set to."""
    settings, store, clock, members = base.settings, base.store, base.clock, base.members
    janitor = Janitor(
        store, clock, arrivals.reservations, arrivals.arriving, others.owed, others.agents
    )
    own, kept_days = base.identity.spiffe_id, settings.hosts.usage_events_days
    metering = Metering(settings.cloud_id, own, store, clock, others.agents, kept_days)
    federated = settings.federation.check_seconds
    return {
        "federation": (federated, members.check),
        # Apart: others that do not answer must not keep the own certificate waiting.
        "telling": (federated, members.teller.tell),
        "refusals": (refusals.WRITE_SECONDS, base.refused.write),
        "audit": (audit.TELL_HEAD_SECONDS, partial(audit.tell_head, store)),
        "poll": (settings.hosts.poll_seconds, arrivals.hosts.poll),
        "expiry": (settings.janitor_seconds, janitor.expire),
        "hand-overs": (settings.janitor_seconds, janitor.finish),
        "owed": (settings.janitor_seconds, janitor.pay),
        "orphans": (settings.orphans_seconds, janitor.discard_orphans),
        "accounts": (settings.accounts.book_seconds, money.books.book),
        "metering": (settings.hosts.events_seconds, metering.read),
        "thinning": (THIN_SECONDS, metering.thin),
        "evacuations": (settings.evacuations.check_seconds, departures.evacuations.check),
    }


def _published(settings: Settings, publisher: Publisher, peers: Peers, links: Links) -> _Recurring:
    """What comes again where there is a directory."""
    return {
        "publish": (settings.publish.check_seconds, publisher.check),
        "learn": (settings.publish.learn_seconds, peers.learn),
        "links": (settings.links.check_seconds, links.measure),
    }


def _server(base: Base, domain: Domain, federation: Federation) -> Server:
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
        base.identity,
        base.settings.address,
        clock=base.clock,
        servicers=add,
        settings=base.settings.rpc,
        stopping=domain.stopping,
        door=base.members.door,
        on_refusal=base.refused.on_refusal,
    )
