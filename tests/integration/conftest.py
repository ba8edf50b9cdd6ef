"""Peers in the test's process: a directory, a broker with its peers, and a service of calls."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from directory.etcd_settings import EtcdSettings
from tests.conftest import Federation, Serve
from tests.support import directory_server, etcd_cluster
from tests.support.broker_world import World
from tests.support.clouds import VM, Cloud, two_clouds
from tests.support.directory_server import TOKYO, Client, Running, Start
from tests.support.providers import Provider, strangers
from tests.support.rpc_catalogue import ALICE, DIRECTORY, Catalogue
from watari import rpc
from watari.v1 import directory_pb2_grpc


@pytest.fixture
def start(federation: Federation, tmp_path: Path) -> Iterator[Start]:
    """Starts a directory, with any of its settings changed."""
    with ExitStack() as stack:

        def run(**changed: object) -> Running:
            state_path = tmp_path / "state" / "directory.db"
            return directory_server.run(federation, state_path, stack, changed)

        yield run


@pytest.fixture
def running(start: Start) -> Running:
    """A directory with the settings that it has by default."""
    return start()


@pytest.fixture
def tokyo(running: Running) -> Client:
    """What Tokyo's manager calls that directory with."""
    return running.client(TOKYO)


@pytest.fixture
def world(federation: Federation, serve: Serve, tmp_path: Path) -> Iterator[World]:
    """A broker, its directory and Tokyo's manager."""
    with ExitStack() as stack:
        yield World(federation, tmp_path, stack, serve)


@pytest.fixture
def catalogue() -> Catalogue:
    """A service that answers as the test tells it."""
    return Catalogue()


@pytest.fixture
def target(serve: Serve, catalogue: Catalogue) -> rpc.Target:
    """Where that service listens."""
    return serve(
        DIRECTORY,
        lambda server: directory_pb2_grpc.add_DirectoryServiceServicer_to_server(catalogue, server),
    )


@pytest.fixture
def channel(federation: Federation, target: rpc.Target) -> Iterator[grpc.Channel]:
    """Alice's channel to it."""
    with rpc.connect(federation.party(ALICE), target) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> directory_pb2_grpc.DirectoryServiceStub:
    """Alice's calls to it."""
    return directory_pb2_grpc.DirectoryServiceStub(channel)


@pytest.fixture
def clouds(federation: Federation, tmp_path: Path) -> Iterator[tuple[Cloud, Cloud]]:
    """tokyo with the machine web-1, and osaka; both managers run."""
    with two_clouds(federation, tmp_path) as (tokyo, osaka):
        tokyo.agent.add(VM, "web-1")
        tokyo.start()
        osaka.start()
        yield tokyo, osaka


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[etcd_cluster.Cluster]:
    """Three nodes, to break at will."""
    with etcd_cluster.cluster(tmp_path / "etcd") as cluster:
        yield cluster


@pytest.fixture
def on_etcd(federation: Federation, etcd: etcd_cluster.Cluster) -> Iterator[Start]:
    """Starts a directory on the cluster."""
    with ExitStack() as stack:

        def run(settings: EtcdSettings | None = None, **changed: object) -> Running:
            changed |= {"etcd": settings or etcd.settings()}
            return directory_server.run(federation, None, stack, changed)

        yield run


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[Provider]]:
    """Tokyo and Osaka, which have not met."""
    with strangers(tmp_path, "tokyo.example", "osaka.example") as made:
        yield made


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Provider]]:
    """Tokyo, Osaka and Kyoto, which have not met."""
    with strangers(tmp_path, "tokyo.example", "osaka.example", "kyoto.example") as made:
        yield made
