"""`python -m directory --config FILE`, also installed as `watari-directory`."""

import grpc

from directory.metrics import collector
from directory.service import DirectoryServicer
from directory.settings import Settings
from directory.stores import DirectoryStore
from directory.stores.embedded import EmbeddedStore
from directory.watch import Watches
from watari import clock, errors, metrics, service
from watari.periodic import Periodic
from watari.rpc import Server
from watari.v1 import directory_pb2_grpc

STORE_HEALTH = "watari.directory.store"
"""Name in the health service of what keeps the catalogue: "etcd is down" is not "I am down"."""

HEALTH_SECONDS = 1.0
"""How often that is looked at."""


def assemble(settings: Settings, context: service.Context) -> Server:
    """The directory, ready to serve; its store and sweeper are stopped by the context's stack."""
    store = _store(settings, context)
    context.stack.callback(store.close)

    def is_stopping() -> bool:
        return server.stopping.is_set()

    watches = Watches(store, context.clock, settings.watchers_max, is_stopping)
    servicer = DirectoryServicer(store, watches, settings, context.clock)

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

    metrics.expose(settings.metrics, context.stack, collector(store, watches.count))

    def tell_health() -> None:
        server.set_health(STORE_HEALTH, well=store.age() is None)

    tell_health()
    real = clock.SystemClock()
    health = Periodic("directory-health", HEALTH_SECONDS, real, tell_health)
    context.stack.enter_context(health)
    return server


def _store(settings: Settings, context: service.Context) -> DirectoryStore:
    if settings.state_path is not None:
        return EmbeddedStore(settings.state_path, settings.limits(), context.clock)
    try:
        from directory.stores.etcd_store import EtcdStore  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise errors.InvalidArgument(
            "CONFIG_INVALID",
            f"directory.etcd: {error}",
            hint="install watari[etcd]",
            key="directory.etcd",
        ) from error
    return EtcdStore(settings.etcd, settings.limits(), context.clock)


def main() -> None:
    """Serve until told to stop."""
    service.main("directory", Settings, assemble)


if __name__ == "__main__":
    main()
