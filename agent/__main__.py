"""Runs an agent: `python -m agent --config FILE`."""

import threading

import grpc

from agent import host
from agent.hypervisors.shelf import Shelf, staged_disk
from agent.service import AgentService, TransferService
from agent.settings import Settings
from agent.transfer import dataplane
from agent.transfer.jobs import Jobs
from agent.transfer.sessions import Sessions
from watari import service
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
    shelf = Shelf(settings.shelf, context.clock, settings.retention_seconds)
    context.stack.callback(shelf.close)
    jobs = Jobs(shelf, context.identity, settings, context.clock)
    sessions, data_address = _data_port(settings, context, shelf)
    stopping = threading.Event()

    def describe() -> agent_pb2.Host:
        control = settings.advertised_address or settings.address
        own = context.identity.spiffe_id
        return host.describe(settings, shelf, own, control, data_address)

    def servicers(server: grpc.Server) -> None:
        agent_service = AgentService(describe, shelf, jobs, sessions, stopping)
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
    context.stack.enter_context(
        Periodic(
            "agent-sweep",
            settings.sweep_seconds,
            context.clock,
            sessions.sweep,
            shelf.purge_expired,
        )
    )
    return server


def _data_port(settings: Settings, context: service.Context, shelf: Shelf) -> tuple[Sessions, str]:
    """What arrives here, served on the data port, and the address that senders are told."""
    sessions = Sessions(
        settings.shelf / "incoming", shelf, staged_disk, context.identity, settings, context.clock
    )
    transfer = settings.transfer
    server, port = dataplane.serve(
        settings.data_address,
        sessions.accept,
        window_bytes=transfer.window_bytes,
        streams_max=transfer.receiving_max * transfer.streams,
    )
    server.start()
    context.stack.callback(lambda: server.stop(0).wait(STOP_SECONDS_MAX))
    context.stack.callback(sessions.close)
    host_part = settings.data_address.rpartition(":")[0]
    sessions.data_address = settings.advertised_data_address or f"{host_part}:{port}"
    return sessions, sessions.data_address


if __name__ == "__main__":
    main()
