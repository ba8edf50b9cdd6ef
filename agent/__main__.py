"""Runs an agent: `python -m agent --config FILE`."""

import threading
from collections.abc import Callable

import grpc

from agent import host, stored
from agent.disks import open_seed
from agent.events.log import EventLog
from agent.events.recorder import Recorder
from agent.events.serving import Events
from agent.hooks import Hooks
from agent.hypervisors import Hypervisor, choice
from agent.metrics import LOOK_SECONDS, Reach, collector
from agent.seeds.catalogue import SeedCatalogue
from agent.seeds.scopes import Scopes
from agent.service import AgentService, TransferService
from agent.settings import Settings
from agent.transfer import dataport, standing
from agent.transfer.jobs import Jobs
from agent.transfer.sessions import Sessions
from watari import metrics, service
from watari.identity import SpiffeId
from watari.periodic import Periodic
from watari.rpc.server import Server
from watari.v1 import agent_pb2, agent_pb2_grpc

STOP_SECONDS_MAX = 10.0
"""How long the data port is given to let go of its streams."""


def main() -> None:
    """Entry point of `watari-agent`."""
    service.main("agent", Settings, assemble)


def assemble(settings: Settings, context: service.Context) -> Server:
    """Joins the parts; what must be stopped is on the context's stack."""
    hypervisor, capacity = choice.opened(settings, context.clock, context.stack)
    hooks = Hooks(
        settings.hooks,
        cloud=settings.cloud_id,
        host=settings.host_id,
        due=settings.shelf / "hooks-due",
    )
    event_log, recorder = _events(settings, context, hypervisor)
    jobs = Jobs(hypervisor, hooks, context.identity, settings, context.clock, recorder.moved)
    stopping = threading.Event()
    context.stack.callback(stopping.set)
    arriving: list[Sessions] = []
    catalogue, scopes = _seeds(
        settings, context, hypervisor, lambda: jobs.busy or any(each.busy for each in arriving)
    )
    sessions = _data_port(settings, context, hypervisor, (catalogue, scopes), recorder)
    arriving.append(sessions)
    context.stack.enter_context(
        Periodic(
            "agent-index",
            settings.sweep_seconds,
            context.clock,
            lambda: catalogue.refresh(stopping),
        )
    )

    def describe() -> agent_pb2.Host:
        control = settings.advertised_address or settings.address
        own = context.identity.spiffe_id
        return host.describe(settings, hypervisor, own, control, sessions.data, capacity())

    def servicers(server: grpc.Server) -> None:
        events = Events(event_log, recorder, SpiffeId.parse(settings.manager))
        agent_service = AgentService(describe, hypervisor, jobs, sessions, hooks, events, stopping)
        agent_pb2_grpc.add_AgentServiceServicer_to_server(agent_service, server)
        agent_pb2_grpc.add_TransferServiceServicer_to_server(TransferService(sessions), server)

    server = Server(
        "agent",
        context.identity,
        settings.address,
        clock=context.clock,
        servicers=servicers,
        settings=settings.rpc,
        stopping=stopping,
    )
    context.stack.callback(jobs.close)
    if settings.metrics.address:
        _expose_metrics(settings, context, hypervisor, jobs, sessions)
    context.stack.enter_context(
        Periodic(
            "agent-trust",
            standing.CHECK_SECONDS,
            context.clock,
            sessions.cut_untrusted,
            jobs.cut_untrusted,
        )
    )
    context.stack.enter_context(
        Periodic(
            "agent-sweep",
            settings.sweep_seconds,
            context.clock,
            sessions.sweep,
            hypervisor.purge_expired,
        )
    )
    return server


def _events(
    settings: Settings, context: service.Context, hypervisor: Hypervisor
) -> tuple[EventLog, Recorder]:
    """The event log, up to date."""
    log = EventLog(settings.shelf / "events", settings.events, context.clock)
    context.stack.callback(log.close)
    recorder = Recorder(log, hypervisor, settings.events.look_seconds, context.clock)
    return log, context.stack.enter_context(recorder)


def _expose_metrics(
    settings: Settings,
    context: service.Context,
    hypervisor: Hypervisor,
    jobs: Jobs,
    sessions: Sessions,
) -> None:
    """Prometheus's endpoint, with whether the hypervisor answers."""
    reach = Reach(hypervisor, context.clock)
    context.stack.enter_context(Periodic("agent-reach", LOOK_SECONDS, context.clock, reach.look))
    reach.look()
    metrics.expose(settings.metrics, context.stack, collector(jobs, sessions, reach))


def _seeds(
    settings: Settings,
    context: service.Context,
    hypervisor: Hypervisor,
    busy: Callable[[], bool],
) -> tuple[SeedCatalogue, Scopes]:
    """What this host can compare arriving disks with."""
    scopes = Scopes(settings.shelf / "seeds")
    own = context.identity.spiffe_id.domain
    catalogue = SeedCatalogue(
        settings.shelf / "seeds" / "indexes",
        scopes,
        lambda: stored.images(hypervisor, own, settings.public_images),
        open_seed,
        context.clock,
        busy=busy,
    )
    context.stack.callback(catalogue.close)
    return catalogue, scopes


def _data_port(
    settings: Settings,
    context: service.Context,
    hypervisor: Hypervisor,
    seeds: tuple[SeedCatalogue, Scopes],
    recorder: Recorder,
) -> Sessions:
    """What arrives here, served on the data port."""
    sessions = Sessions(
        settings.shelf / "incoming",
        hypervisor,
        *seeds,
        context.identity,
        settings,
        context.clock,
        recorder.moved,
    )
    transfer = settings.transfer
    server, port = dataport.serve(
        settings.data_address,
        sessions.admits,
        sessions.accept,
        window_bytes=transfer.window_bytes,
        streams_max=transfer.receiving_max * (transfer.streams_max + 1),
        tls=context.identity if transfer.data_tls else None,
    )
    server.start()
    context.stack.callback(lambda: server.stop(0).wait(STOP_SECONDS_MAX))
    context.stack.callback(sessions.close)
    host_part = settings.data_address.rpartition(":")[0]
    sessions.data.address = settings.advertised_data_address or f"{host_part}:{port}"
    if transfer.data_tls:
        sessions.data.spiffe_id = str(context.identity.spiffe_id)
    return sessions


if __name__ == "__main__":
    main()
