"""`python -m broker`: the broker as a process."""

import gc
from functools import partial

import grpc

from broker import metrics as broker_metrics
from broker.automation.bell import Bell
from broker.automation.desk import Desk
from broker.automation.engine import Engine
from broker.automation.store import Store
from broker.batch.batcher import Batcher
from broker.catalogue import Catalogue
from broker.deciding import Decider
from broker.holding import Holder
from broker.migrate import Migrator
from broker.peers import Peers
from broker.refusals import Refusals
from broker.releasing import Releasing
from broker.service import BrokerServicer
from broker.settings import Settings
from watari import metrics, rpc, service
from watari.periodic import Periodic
from watari.v1 import broker_pb2_grpc


def main() -> None:
    """Runs the broker until SIGTERM or SIGINT."""
    service.main("broker", Settings, assemble)


def assemble(settings: Settings, context: service.Context) -> rpc.Server:
    """The broker's server, not yet started."""
    pool = rpc.ChannelPool(context.identity)
    peers = Peers(pool, context.clock)
    catalogue = context.stack.enter_context(
        Catalogue(
            [peers.directory(endpoint) for endpoint in settings.directories],
            settings.catalogue,
            context.clock,
            loaded=_spare_the_collector,
        )
    )
    context.stack.callback(pool.close)  # which ends the catalogue's watch, before it is joined
    refusals = Refusals(settings.holds.refusals)
    broker_metrics.REMEMBERED.set_function(lambda: len(refusals))
    releasing = context.stack.enter_context(Releasing(settings.holds.releases_max))
    migrator = Migrator(
        catalogue=catalogue,
        decider=Decider(settings.in_flight),
        holder=Holder(peers.destination, refusals, releasing, context.clock, settings.holds),
        managers=partial(peers.manager, call_seconds_max=settings.manager_call_seconds_max),
        own=context.identity,
        clock=context.clock,
        submissions_max=settings.submissions_max,
        manager_seconds=settings.manager_call_seconds_max,
    )
    batcher = Batcher(catalogue, context.clock, settings.batch_runs_max)
    desk = None
    if settings.automation.path is not None:
        desk = automation(settings, context, catalogue, migrator, peers)
    servicer = BrokerServicer(catalogue, migrator, batcher, context.clock, desk)
    metrics.expose(settings.metrics, context.stack)

    def register(server: grpc.Server) -> None:
        broker_pb2_grpc.add_BrokerServiceServicer_to_server(servicer, server)

    return rpc.Server(
        "broker",
        context.identity,
        settings.address,
        clock=context.clock,
        servicers=register,
        settings=settings.rpc,
    )


def automation(
    settings: Settings,
    context: service.Context,
    catalogue: Catalogue,
    migrator: Migrator,
    peers: Peers,
) -> Desk:
    """Policies and plans, evaluated from now on until the context's stack is closed."""
    own = settings.automation
    if own.path is None:
        raise ValueError("without a path there is nowhere to keep policies")
    store = Store(own.path)
    context.stack.callback(store.close)
    bell = Bell()
    managers = partial(peers.manager, call_seconds_max=settings.manager_call_seconds_max)
    engine = Engine(own, store, catalogue, migrator, managers, context.clock, bell)
    context.stack.enter_context(
        Periodic("automation", own.interval_seconds, context.clock, engine.evaluate)
    )
    return Desk(own, store, engine, bell, context.identity, context.clock)


def _spare_the_collector() -> None:
    """Takes what has been read out of Python's cyclic collector, which would else walk millions of
    immutable values now and then, while a question waits.
    """
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    main()
