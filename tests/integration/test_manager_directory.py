"""A manager and the real directory: publishing, finding clouds, and outages."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from directory.__main__ import assemble
from directory.settings import Settings
from manager.settings.publishing import PublishSettings
from tests.conftest import HUB, Federation
from tests.support import processes
from tests.support.clouds import Cloud, eventually, two_clouds
from watari import errors, failpoint, service
from watari.rpc import client
from watari.settings import EndpointSettings, IdentitySettings
from watari.v1 import directory_pb2, directory_pb2_grpc, manager_pb2

VM = "6f1f2d2e-0000-4000-8000-000000000001"


class Hub:
    """A directory that can be stopped and started again."""

    def __init__(self, federation: Federation, folder: Path) -> None:
        self.federation = federation
        self.folder = folder
        self.port = processes.free_port()
        self.spiffe_id = f"spiffe://{HUB}/directory/main"
        self._running = ExitStack()

    @property
    def endpoint(self) -> EndpointSettings:
        """Where it answers."""
        return EndpointSettings(f"127.0.0.1:{self.port}", self.spiffe_id)

    def start(self, state: str = "directory.sqlite") -> None:
        """Serve, with what is in the file `state`."""
        settings = Settings(
            address=f"127.0.0.1:{self.port}",
            state_path=self.folder / state,
            identity=IdentitySettings(self.folder, self.folder, self.folder),
        )
        party = self.federation.party(self.spiffe_id)
        context = service.Context(clock=self.federation.clock, identity=party, stack=self._running)
        server = assemble(settings, context)
        server.start()
        self._running.callback(lambda: server.stop(0).wait(10))

    def stop(self) -> None:
        """Answer no more."""
        self._running.close()

    def records(self) -> dict[int, directory_pb2.Record]:
        """What tokyo published, by kind."""
        caller = self.federation.party("spiffe://tokyo.example/operator/main")
        target = processes.target(self.port, self.spiffe_id)
        with client.connect(caller, target) as channel:
            stub = directory_pb2_grpc.DirectoryServiceStub(channel)
            request = directory_pb2.QueryRecordsRequest(cloud_id="tokyo")
            found = client.call(stub.QueryRecords, request).records
        return {record.key.kind: record for record in found}


Federated = tuple[Hub, Cloud, Cloud]


@pytest.fixture
def federated(federation: Federation, tmp_path: Path) -> Iterator[Federated]:
    """A directory, and two clouds that know each other only through it."""
    hub = Hub(federation, tmp_path)
    hub.start()
    with two_clouds(federation, tmp_path) as (tokyo, osaka):
        tokyo.agent.add(VM, "web-1")
        for cloud in (tokyo, osaka):
            cloud.change(peers={}, directories=(hub.endpoint,))
            cloud.start()
        try:
            yield hub, tokyo, osaka
        finally:
            hub.stop()


def problem(cloud: Cloud) -> str:
    """The reason that GetCloudStatus gives for the directory; empty when all is well."""
    request = manager_pb2.GetCloudStatusRequest()
    return client.call(cloud.operator.GetCloudStatus, request).directory_problem.reason


def test_a_cloud_publishes_itself_its_offer_its_room_and_its_hosts(federated: Federated) -> None:
    hub, tokyo, _ = federated
    eventually(lambda: len(hub.records()) == 4, "four kinds are published")
    records = hub.records()
    cloud = records[directory_pb2.RECORD_KIND_CLOUD].cloud
    assert cloud.manager.spiffe_id == tokyo.manager_id
    assert cloud.manager.address == tokyo.settings.address
    assert "driver:shelf" in cloud.capabilities
    assert records[directory_pb2.RECORD_KIND_OFFER].offer.prices.version == 1
    capacity = records[directory_pb2.RECORD_KIND_CAPACITY].capacity
    assert (capacity.total.vcpus, capacity.free.vcpus) == (8, 6)
    assert records[directory_pb2.RECORD_KIND_HOST].host.largest_fit.vcpus == 6


def test_room_that_changes_is_published_and_room_that_does_not_is_not(
    federated: Federated,
) -> None:
    hub, tokyo, _ = federated
    kind = directory_pb2.RECORD_KIND_CAPACITY
    eventually(lambda: kind in hub.records(), "it is published")
    before = hub.records()[directory_pb2.RECORD_KIND_CLOUD].generation
    tokyo.agent.guests[VM].resources.vcpus = 5
    eventually(lambda: hub.records()[kind].capacity.free.vcpus == 3, "the change is published")
    assert hub.records()[directory_pb2.RECORD_KIND_CLOUD].generation == before


def test_a_machine_moves_to_a_cloud_that_only_the_directory_knows(federated: Federated) -> None:
    _, tokyo, osaka = federated
    eventually(lambda: problem(osaka) == "", "osaka is published")
    tokyo.wait_state(migrate_when_known(tokyo), "SUCCEEDED")
    assert VM in osaka.vms()


def migrate_when_known(cloud: Cloud) -> str:
    """Ask for a migration once the directory has the other cloud."""
    found: list[str] = []

    def known() -> bool:
        try:
            found.append(cloud.migrate("web-1", "osaka").migration_id)
        except errors.NotFound:
            return False
        return True

    eventually(known, "the directory has the cloud")
    return found[0]


def test_a_cloud_that_the_directory_does_not_know_is_not_found(federated: Federated) -> None:
    _, tokyo, _ = federated
    with pytest.raises(errors.NotFound) as caught:
        tokyo.migrate("web-1", "kyoto")
    assert caught.value.reason == "CLOUD_NOT_FOUND"


def test_without_the_directory_known_clouds_are_reached_and_its_outage_is_shown(
    federated: Federated,
) -> None:
    hub, tokyo, osaka = federated
    tokyo.wait_state(migrate_when_known(tokyo), "SUCCEEDED")
    osaka.wait_state(osaka.migrate("web-1", "tokyo").migration_id, "SUCCEEDED")
    hub.stop()
    eventually(lambda: problem(tokyo) == "PEER_UNAVAILABLE", "the outage is shown")
    tokyo.stop()
    tokyo.start()
    tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "SUCCEEDED")
    with pytest.raises(errors.Unavailable):
        osaka.migrate("web-1", "kyoto")


def knows(cloud: Cloud, other: str) -> bool:
    """Whether a manager has noted where another cloud's manager is."""
    with closing(sqlite3.connect(cloud.settings.store.path)) as connection:
        query = "SELECT count(*) FROM peers WHERE cloud_id = ?"
        return bool(connection.execute(query, (other,)).fetchone()[0])


def test_a_cloud_that_was_never_dealt_with_is_reached_without_the_directory(
    federated: Federated,
) -> None:
    hub, tokyo, osaka = federated
    for cloud in (tokyo, osaka):
        cloud.stop()
        cloud.change(publish=PublishSettings(learn_seconds=0.1))
        cloud.start()
    eventually(lambda: knows(osaka, "tokyo") and knows(tokyo, "osaka"), "they know each other")
    hub.stop()
    tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "SUCCEEDED")


def test_a_directory_that_lost_its_memory_is_told_everything_again(federated: Federated) -> None:
    hub, tokyo, _ = federated
    eventually(lambda: len(hub.records()) == 4, "it is published")
    hub.stop()
    hub.start("another.sqlite")
    eventually(lambda: len(hub.records()) == 4, "it is published again")
    eventually(lambda: problem(tokyo) == "", "all is well")


def test_a_publisher_that_is_cut_off_after_its_lease_publishes_later(
    federation: Federation, tmp_path: Path
) -> None:
    hub = Hub(federation, tmp_path)
    hub.start()
    try:
        with two_clouds(federation, tmp_path) as (tokyo, _):
            tokyo.change(directories=(hub.endpoint,))
            with failpoint.armed("manager.publisher.after_lease", "1*error(SERVER_UNAVAILABLE)"):
                tokyo.start()
                eventually(lambda: len(hub.records()) == 4, "it is published")
    finally:
        hub.stop()
