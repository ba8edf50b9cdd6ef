"""Evacuations through kill -9: of the manager at every step, and of agents in the middle."""

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Federation
from tests.faults.cut_off import process
from tests.support import local
from tests.support.clouds import VM, Cloud, assert_one_owner, eventually, two_clouds
from tests.support.local import Local
from tests.support.scripted_agent import HANGS
from tests.support.shelves import KIB, MIB, Content, identical, put_machine
from watari import errors, failpoint
from watari.cli.operating import Operating
from watari.rpc import client
from watari.v1 import manager_pb2

MACHINES = 100
AT_A_TIME = 8
DISK = Content(2 * MIB, ((0, 256 * KIB), (MIB, 64 * KIB)))
EIGHT_AT_A_TIME = {
    "WATARI_MANAGER_MIGRATIONS__CONCURRENT_MAX": str(AT_A_TIME),
    "WATARI_MANAGER_MIGRATIONS__RETRY_MAX_SECONDS": "1",
    "WATARI_MANAGER_EVACUATIONS__CHECK_SECONDS": "0.2",
    "WATARI_MANAGER_EVACUATIONS__RETRY_INITIAL_SECONDS": "0.5",
    "WATARI_AGENT_TRANSFER__SENDING_MAX": str(AT_A_TIME),
    "WATARI_AGENT_TRANSFER__RECEIVING_MAX": str(AT_A_TIME),
}
SECOND_VM = "6f1f2d2e-0000-4000-8000-000000000002"


@pytest.fixture
def clouds(federation: Federation, tmp_path: Path) -> Iterator[tuple[Cloud, Cloud]]:
    """tokyo with two machines, and osaka, whose manager runs."""
    with two_clouds(federation, tmp_path) as (tokyo, osaka):
        tokyo.agent.add(VM, "web-1")
        tokyo.agent.add(SECOND_VM, "web-2")
        osaka.start()
        yield tokyo, osaka


@pytest.mark.parametrize("step", ["after_request", "after_claim", "after_start"])
def test_a_manager_that_is_killed_at_a_step_of_an_evacuation_goes_on_with_it(
    clouds: tuple[Cloud, Cloud], step: str
) -> None:
    tokyo, osaka = clouds
    evacuation_id = str(uuid.uuid4())
    with process(tokyo) as manager:
        manager.start({failpoint.ENVIRONMENT_VARIABLE: f"manager.evacuation.{step}=1*kill"})
        with contextlib.suppress(errors.Unavailable):
            tokyo.evacuate(evacuation_id)
        manager.wait_killed(20)
        manager.start()
        assert tokyo.evacuate(evacuation_id).evacuation_id == evacuation_id
        done = tokyo.wait_evacuated(evacuation_id)
        assert (done.succeeded, done.failed, len(done.migration_ids)) == (2, 0, 2)
        for vm_id in (VM, SECOND_VM):
            assert_one_owner(vm_id, osaka, tokyo)
            assert osaka.vms()[vm_id].epoch == 2
        told = [each.action for each in tokyo.audit() if each.subject == evacuation_id]
        assert told == ["evacuation.started", "evacuation.ended"]


def test_a_manager_that_is_killed_as_it_cancels_an_evacuation_has_cancelled_it(
    clouds: tuple[Cloud, Cloud],
) -> None:
    tokyo, osaka = clouds
    tokyo.agent.script.append(HANGS)
    with process(tokyo) as manager:
        manager.start({failpoint.ENVIRONMENT_VARIABLE: "manager.evacuation.after_cancel=1*kill"})
        evacuation_id = tokyo.evacuate(concurrency=1, first=["web-1"]).evacuation_id
        eventually(lambda: tokyo.agent.attempts == 1, "it copies")
        request = manager_pb2.CancelEvacuationRequest(evacuation_id=evacuation_id)
        with pytest.raises(errors.Unavailable):
            client.call(tokyo.operator.CancelEvacuation, request)
        manager.wait_killed(20)
        tokyo.agent.stop()  # breaks the transfer, which is then tried again and succeeds
        tokyo.agent.start()
        manager.start()
        done = tokyo.wait_evacuated(evacuation_id)
        assert (done.cancelled, done.succeeded, done.remaining) == (True, 1, 1)
        assert set(osaka.vms()) == {VM}


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Local]:
    """A federation that may move eight at a time, with all machines in tokyo."""
    yield from local.running(tmp_path / "federation", EIGHT_AT_A_TIME)


def test_a_hundred_machines_arrive_once_each_though_both_agents_are_killed_midway(
    crowded: Local, tmp_path: Path
) -> None:
    originals = put_all(crowded, tmp_path / "originals")
    evacuation_id = str(uuid.uuid4())
    request = manager_pb2.StartEvacuationRequest(
        evacuation_id=evacuation_id, to_clouds=["osaka"], concurrency=AT_A_TIME
    )
    with crowded.manager("tokyo") as manager:
        tokyo = Operating(manager)
        assert tokyo.evacuate(request).remaining == MACHINES
        for victim, arrived in (("osaka-agent", 20), ("tokyo-agent", 50)):
            wait_arrived(tokyo, evacuation_id, arrived)
            assert tokyo.evacuation(evacuation_id).remaining
            crowded.kill(victim)
            crowded.up(**EIGHT_AT_A_TIME)
        wait_arrived(tokyo, evacuation_id, MACHINES)
        local.wait_until(lambda: tokyo.evacuation(evacuation_id).done, 20)
        done = tokyo.evacuation(evacuation_id)
        assert (done.succeeded, done.failed, done.remaining) == (MACHINES, 0, 0), done
        assert not manager.vms()
        left = [each.vm_id for each in manager.usage()]
    check_all_arrived_once(crowded, originals, left)


def put_all(crowded: Local, keep: Path) -> dict[str, Path]:
    """Machines in tokyo, each with content of its own; copies of their disks by UUID."""
    keep.mkdir()
    originals = {}
    for number in range(MACHINES):
        name = f"vm-{number:03}"
        own = Content(DISK.size, DISK.data, seed=name)
        vm_id = put_machine(crowded.shelf("tokyo"), name, {"vda": own})
        originals[vm_id] = keep / vm_id
        shutil.copyfile(crowded.shelf("tokyo") / "vms" / name / "vda.raw", keep / vm_id)
    with crowded.manager("tokyo") as manager:
        local.wait_until(lambda: len(manager.vms()) == MACHINES, 30)
    return originals


def wait_arrived(tokyo: Operating, evacuation_id: str, count: int) -> None:
    """Until so many machines have arrived, and never more at a time than asked."""

    def enough() -> bool:
        now = tokyo.evacuation(evacuation_id)
        assert now.running <= AT_A_TIME
        assert not now.failed, now.failures
        return now.succeeded >= count

    local.wait_until(enough, 150, lambda: str(tokyo.evacuation(evacuation_id).succeeded))


def check_all_arrived_once(crowded: Local, originals: dict[str, Path], left: list[str]) -> None:
    """One owner, one copy with the same content, and one usage record at each side."""
    with crowded.manager("osaka") as osaka:
        vms = {vm.vm_id: vm for vm in osaka.vms()}
        arrived = [each.vm_id for each in osaka.usage()]
    assert set(vms) == set(originals)
    assert {vm.epoch for vm in vms.values()} == {2}
    assert sorted(arrived) == sorted(left) == sorted(originals)
    assert not list((crowded.shelf("tokyo") / "vms").iterdir())
    folders = list((crowded.shelf("osaka") / "vms").iterdir())
    assert sorted(folder.name for folder in folders) == sorted(originals)
    for folder in folders:
        assert identical(folder / "vda.raw", originals[folder.name])
