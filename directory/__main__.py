"""`python -m directory --config FILE`, also installed as `watari-directory`."""

import grpc

from directory.service import DirectoryServicer
from directory.settings import Settings
from directory.stores.embedded import EmbeddedStore
from directory.watch import Watches
from watari import service
from watari.periodic import Periodic
from watari.rpc import Server
from watari.v1 import directory_pb2_grpc


def assemble(settings: Settings, context: service.Context) -> Server:
    """The directory, ready to serve; its store and sweeper are stopped by the context's stack."""
    store = EmbeddedStore(settings.state_path, settings.limits(), context.clock)
    context.stack.callback(store.close)

    def is_stopping() -> bool:
        return server.stopping.is_set()

    watches = Watches(store, context.clock, settings.watchers_max, is_stopping)
    servicer = DirectoryServicer(store, watches, settings)

    def add_servicer(grpc_server: grpc.Server) -> None:
        directory_pb2_grpc.add_DirectoryServiceServicer_to_server(servicer, grpc_server)

    server = Server(
        "directory",
        context.identity,
        settings.address,
        clock=context.clock,
        servicers=add_servicer,
        settings=settings.rpc,
    )
    interval = settings.sweep_interval_seconds
    context.stack.enter_context(Periodic("directory-sweep", interval, context.clock, store.sweep))
    return server


def main() -> None:
    """Serve until told to stop."""
    service.main("directory", Settings, assemble)


if __name__ == "__main__":
    main()
