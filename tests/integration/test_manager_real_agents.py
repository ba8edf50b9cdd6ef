"""Managers over real agents: content moves from shelf to shelf, through crashes of every party."""

import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from manager.settings.hosts import AgentSettings
from tests.conftest import OSAKA, TOKYO, Federation
from tests.support.agents import AgentHost
from tests.support.clouds import FAST, Cloud, eventually, two_clouds
from tests.support.shelves import MIB, Content, identical, put_machine
from watari import errors, failpoint
from watari.rpc import client
from watari.v1 import agent_pb2, common_pb2, manager_pb2

DISK = Content(48 * MIB, ((0, 8 * MIB), (40 * MIB, 2 * MIB)))
FAST_COPY = common_pb2.TransferOptions()
SLOW = common_pb2.TransferOptions(limit_bytes_per_second=4 * MIB)


class Place:
    """A cloud with one real host."""

    def __init__(self, cloud: Cloud, host: AgentHost) -> None:
        self.cloud = cloud
        self.host = host
        host.process.start()
        agents = {"host1": AgentSettings(f"127.0.0.1:{host.port}", host.spiffe_id)}
        cloud.change(agents=agents)
        cloud.start()

    def has(self, vm_id: str) -> bool:
        """Whether the host has the machine, unheld."""
        guests = client.call(self.host.stub.ListGuests, agent_pb2.ListGuestsRequest()).guests
        return any(guest.vm_id == vm_id and not guest.held_by for guest in guests)


@pytest.fixture
def places(federation: Federation, tmp_path: Path) -> Iterator[tuple[Place, Place]]:
    """tokyo and osaka, each a manager in this process and an agent in its own."""
    hosts = [
        AgentHost(federation, domain, tmp_path / f"host-{domain}") for domain in (TOKYO, OSAKA)
    ]
    with two_clouds(federation, tmp_path) as (tokyo, osaka):
        try:
            yield Place(tokyo, hosts[0]), Place(osaka, hosts[1])
        finally:
            tokyo.stop()
            osaka.stop()
            for host in hosts:
                host.close()


def start(place: Place, migration_id: str, options: common_pb2.TransferOptions = SLOW) -> None:
    """A slow migration of the machine web to osaka."""
    request = manager_pb2.MigrateVmRequest(
        migration_id=migration_id, vm="web", to_cloud="osaka", options=options
    )
    eventually(lambda: "web" in {vm.name for vm in place.cloud.vms().values()}, "it is adopted")
    client.call(place.cloud.operator.MigrateVm, request)


def wait_moving(place: Place, migration_id: str) -> None:
    """Until some content has crossed."""
    eventually(
        lambda: place.cloud.migration(migration_id).progress.done_bytes > MIB, "content crosses"
    )


def assert_arrived(tokyo: Place, osaka: Place, vm_id: str, before: Path) -> None:
    """osaka has it, byte by byte, and tokyo does not."""
    assert osaka.has(vm_id)
    assert not tokyo.has(vm_id)
    assert set(osaka.cloud.vms()) == {vm_id}
    assert not tokyo.cloud.vms()
    assert identical(before, osaka.host.disk(vm_id, "vda"))
    (left,), (arrived,) = tokyo.cloud.usage(), osaka.cloud.usage()
    assert left.receipt_root == arrived.receipt_root != b""
    assert left.raw_bytes == DISK.size


def told(place: Place, count: int) -> list[str]:
    """What the host told of machines and transfers, once that is so much."""
    cloud = place.cloud
    eventually(lambda: len(cloud.usage_events()) >= count, "events are recorded")
    return [
        agent_pb2.HostEventKind.Name(each.event.kind).removeprefix("HOST_EVENT_KIND_")
        for each in cloud.usage_events()
    ]


def put(tokyo: Place, keep: Path) -> str:
    """The machine web on tokyo's shelf, and a copy of its disk to compare with."""
    vm_id = put_machine(tokyo.host.shelf, "web", {"vda": DISK})
    shutil.copyfile(tokyo.host.shelf / "vms" / "web" / "vda.raw", keep)
    return vm_id


def test_a_machine_moves_with_its_content(places: tuple[Place, Place], tmp_path: Path) -> None:
    tokyo, osaka = places
    vm_id, migration_id = put(tokyo, tmp_path / "before"), str(uuid.uuid4())
    start(tokyo, migration_id)
    ended = tokyo.cloud.wait_state(migration_id, "SUCCEEDED")
    assert ended.progress.done_bytes == ended.progress.total_bytes == DISK.size
    assert_arrived(tokyo, osaka, vm_id, tmp_path / "before")
    assert sorted(told(tokyo, 3)) == ["APPEARED", "DEPARTED", "SENT"]
    assert told(osaka, 2) == ["RECEIVED", "ARRIVED"]
    assert {each.tenant_domain for each in osaka.cloud.usage_events()} == {TOKYO}


def test_a_cancelled_copy_leaves_the_machine_usable_and_nothing_at_the_destination(
    places: tuple[Place, Place], tmp_path: Path
) -> None:
    tokyo, osaka = places
    vm_id, migration_id = put(tokyo, tmp_path / "before"), str(uuid.uuid4())
    start(tokyo, migration_id)
    wait_moving(tokyo, migration_id)
    tokyo.cloud.cancel(migration_id)
    tokyo.cloud.wait_state(migration_id, "CANCELLED")
    assert tokyo.has(vm_id)
    request = agent_pb2.ListIncomingRequest()
    eventually(
        lambda: not client.call(osaka.host.stub.ListIncoming, request).incoming,
        "what had arrived is discarded",
    )


@pytest.mark.parametrize("victim", ["source agent", "destination agent"])
def test_an_agent_that_is_killed_while_it_copies_is_waited_for(
    places: tuple[Place, Place], tmp_path: Path, victim: str
) -> None:
    tokyo, osaka = places
    tokyo.cloud.stop()
    patient = replace(FAST, transfer_attempts_max=1000)
    tokyo.cloud.change(migrations=patient)
    tokyo.cloud.start()
    vm_id, migration_id = put(tokyo, tmp_path / "before"), str(uuid.uuid4())
    start(tokyo, migration_id)
    wait_moving(tokyo, migration_id)
    process = (tokyo if victim == "source agent" else osaka).host.process
    process.kill()
    process.start()
    tokyo.cloud.wait_state(migration_id, "SUCCEEDED")
    assert_arrived(tokyo, osaka, vm_id, tmp_path / "before")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_manager_that_restarts_during_a_copy_takes_it_up_again(
    places: tuple[Place, Place], tmp_path: Path, victim: int
) -> None:
    tokyo, osaka = places
    vm_id, migration_id = put(tokyo, tmp_path / "before"), str(uuid.uuid4())
    start(tokyo, migration_id)
    wait_moving(tokyo, migration_id)
    places[victim].cloud.stop()
    places[victim].cloud.start()
    ended = tokyo.cloud.wait_state(migration_id, "SUCCEEDED")
    assert not ended.HasField("problem")
    assert_arrived(tokyo, osaka, vm_id, tmp_path / "before")


def test_the_bandwidth_cap_of_a_running_copy_can_be_lifted(
    places: tuple[Place, Place], tmp_path: Path
) -> None:
    tokyo, osaka = places
    vm_id, migration_id = put(tokyo, tmp_path / "before"), str(uuid.uuid4())
    crawl = common_pb2.TransferOptions(limit_bytes_per_second=64 * 1024)
    start(tokyo, migration_id, crawl)
    tokyo.cloud.wait_state(migration_id, "COPYING")
    request = manager_pb2.SetMigrationLimitRequest(migration_id=migration_id)
    client.call(tokyo.cloud.operator.SetMigrationLimit, request)
    ended = tokyo.cloud.wait_state(migration_id, "SUCCEEDED")
    assert ended.options.limit_bytes_per_second == 0
    assert_arrived(tokyo, osaka, vm_id, tmp_path / "before")
    with pytest.raises(errors.FailedPrecondition) as caught:
        client.call(tokyo.cloud.operator.SetMigrationLimit, request)
    assert caught.value.reason == "MIGRATION_STATE"


def test_a_machine_that_was_given_back_is_usable_and_moves_again_without_any_clean_up(
    places: tuple[Place, Place], tmp_path: Path
) -> None:
    tokyo, osaka = places
    vm_id, migration_id = put(tokyo, tmp_path / "before"), str(uuid.uuid4())
    with failpoint.armed("manager.handover.before_record", "error(SERVER_UNAVAILABLE)"):
        start(tokyo, migration_id, FAST_COPY)
        tokyo.cloud.wait_state(migration_id, "HANDED_OVER")
        resolve = manager_pb2.ResolveMigrationRequest(
            migration_id=migration_id,
            resolution=manager_pb2.RESOLUTION_GIVE_UP_HERE,
            justification="the host is being rebuilt",
        )
        client.call(osaka.cloud.operator.ResolveMigration, resolve)
    failed = tokyo.cloud.wait_state(migration_id, "FAILED")
    assert failed.problem.reason == "VM_RELINQUISHED"
    assert tokyo.has(vm_id)
    assert not osaka.has(vm_id)
    assert tokyo.cloud.vms()[vm_id].epoch == 3
    guest = client.call(tokyo.host.stub.GetGuest, agent_pb2.GetGuestRequest(vm_id=vm_id)).guest
    assert guest.epoch == 3
    again = str(uuid.uuid4())
    start(tokyo, again, FAST_COPY)
    tokyo.cloud.wait_state(again, "SUCCEEDED")
    assert_arrived(tokyo, osaka, vm_id, tmp_path / "before")
    assert osaka.cloud.vms()[vm_id].epoch == 4
