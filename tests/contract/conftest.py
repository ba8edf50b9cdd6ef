"""Every store of the directory, to be held to one contract (directory/stores/__init__.py)."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from directory.stores import DirectoryStore, Limits
from directory.stores.embedded import EmbeddedStore
from directory.stores.etcd_store import EtcdStore
from tests.support import etcd_cluster
from tests.support.directory_stores import Rig
from watari.clock import FakeClock


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[etcd_cluster.Cluster]:
    """Three nodes. Each test takes a prefix of its own."""
    with etcd_cluster.cluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture(params=["embedded", "etcd"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """A store of each kind: a new kind is added to `params` and to `openers`."""
    prefix = f"/test-{uuid.uuid4()}/"

    def open_etcd(limits: Limits, clock: FakeClock) -> DirectoryStore:
        cluster: etcd_cluster.Cluster = request.getfixturevalue("etcd")
        return EtcdStore(cluster.settings(prefix), limits, clock)

    openers: dict[str, Callable[[Limits, FakeClock], DirectoryStore]] = {
        "embedded": lambda limits, clock: EmbeddedStore(tmp_path / "directory.db", limits, clock),
        "etcd": open_etcd,
    }
    rig = Rig(openers[request.param])
    yield rig
    rig.store.close()
