"""The agent is killed before and after every change that it makes; repeating the call goes on.

See `tests.lab.kills` for how.
"""

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import console, drivers, guests
from tests.lab.conftest import MakeGuest
from tests.lab.drivers import COLD, STOP_SECONDS_MAX, SUSPEND, Agent
from tests.lab.image import Image
from tests.lab.kills import Killed, killed_at, killed_in_process
from tests.lab.link import Lab
from watari.v1 import agent_pb2

SMALL_BYTES = 16 << 20
STEPS_MIN = 5
"""A call that changes less has not been watched."""

RETIRE_STEPS_MIN = 3
"""Of a machine that was off: the record, the epoch, the hold."""


def at_every_step(agent: Agent, call: Callable[[], object]) -> Iterator[None]:
    """Runs `call` again and again, killed at one step later each time and then repeated by a new
    agent; yields after each for the test to look and to set back.
    """
    for number in itertools.count():
        killed = False
        with killed_at(number) as seen:
            try:
                call()
            except Killed:
                killed = True
        if killed:
            agent.crash()
            call()
        yield
        if not killed:
            assert number // 2 >= STEPS_MIN, seen
            return


@pytest.fixture
def tokyo(lab: Lab, lab_image: Image, tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(lab.tokyo, tmp_path / "a", lab_image)
    yield agent
    agent.driver.close()


@pytest.fixture
def osaka(lab: Lab, lab_image: Image, tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(lab.osaka, tmp_path / "b", lab_image)
    yield agent
    agent.driver.close()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", [COLD, SUSPEND])
def test_quiesce_is_killed_anywhere(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest, mode: int
) -> None:
    guest = make_guest(lab.tokyo, disks={"vda": "raw"})
    vm_id, migration = guest.spec.vm_id, drivers.new_id()
    guest.boot()
    tokyo.driver.hold(vm_id, migration, mode)
    for _ in at_every_step(tokyo, lambda: tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)):
        assert lab.tokyo.virsh("list", "--all", "--name") == ""
        found = tokyo.driver.guest(vm_id)
        assert found.stopped_by_hold
        with tokyo.driver.still_view(vm_id, migration) as view:
            assert set(view.disks) == {each.disk_id for each in found.disks}
        tokyo.driver.unhold(vm_id, migration)
        guest.console.wait_ack()
        tokyo.driver.hold(vm_id, migration, mode)
    assert console.problems(guest.console.events()) == []
    if mode == SUSPEND:
        assert len(guest.console.boots()) == 1


@pytest.mark.timeout(400)
def test_unhold_comes_after_a_quiesce_that_was_killed_anywhere(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo, disks={"vda": "raw"})
    vm_id, migration = guest.spec.vm_id, drivers.new_id()
    guest.boot()
    for mode in (SUSPEND, COLD):
        for number in itertools.count():
            tokyo.driver.hold(vm_id, migration, mode)
            killed = False
            with killed_at(number):
                try:
                    tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
                except Killed:
                    killed = True
            tokyo.crash()
            tokyo.driver.unhold(vm_id, migration)
            assert tokyo.driver.guest(vm_id).state == agent_pb2.GUEST_STATE_RUNNING
            assert not list((tokyo.folder / "held").iterdir())
            guest.console.wait_ack()
            if not killed:
                break
        assert console.problems(guest.console.events()) == []
        if mode == SUSPEND:
            assert len(guest.console.boots()) == 1


@pytest.mark.timeout(400)
def test_unhold_is_killed_anywhere(tokyo: Agent, lab: Lab, make_guest: MakeGuest) -> None:
    guest = make_guest(lab.tokyo, disks={"vda": "raw"})
    vm_id, migration = guest.spec.vm_id, drivers.new_id()
    guest.boot()
    tokyo.driver.hold(vm_id, migration, SUSPEND)
    tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
    for _ in at_every_step(tokyo, lambda: tokyo.driver.unhold(vm_id, migration)):
        guest.console.wait_ack()
        assert console.problems(guest.console.events()) == []
        assert not list((tokyo.folder / "held").iterdir())
        tokyo.driver.hold(vm_id, migration, SUSPEND)
        tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
    assert len(guest.console.boots()) == 1


@pytest.mark.timeout(400)
def test_an_arrival_is_killed_anywhere(
    tokyo: Agent, osaka: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo, disks={"vda": "raw"})
    vm_id, migration = guest.spec.vm_id, drivers.new_id()
    guest.boot()
    tokyo.driver.hold(vm_id, migration, SUSPEND)
    found = tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
    copies: dict[str, bytearray] = {}
    with tokyo.driver.still_view(vm_id, migration) as view:
        drivers.copy_round(view, copies)

    def arrive() -> None:
        """As `agent.transfer.sessions` does."""
        arrived = drivers.arrived(osaka.stage_path(migration), vm_id, found.definition_xml)
        if osaka.driver.arrived_by(migration) is None:
            osaka.driver.activate(arrived, provisional=True)
        osaka.driver.prepare(vm_id)

    drivers.stage_copies(osaka.stage(migration), found.disks, copies)
    for _ in at_every_step(osaka, arrive):
        assert osaka.driver.guest(vm_id).state == agent_pb2.GUEST_STATE_PAUSED
        assert osaka.console(migration).events() == []
        assert osaka.driver.forget(migration)
        assert lab.osaka.virsh("list", "--all", "--name") == ""
        drivers.stage_copies(osaka.stage(migration), found.disks, copies)
    arrive()
    began = 0
    with killed_at(1), contextlib.suppress(Killed):
        osaka.driver.start(vm_id, migration)
        began = 1
    assert began == 0
    osaka.crash()
    assert not osaka.driver.forget(migration)
    osaka.driver.start(vm_id, migration)
    osaka.console(migration).wait_ack()
    tokyo.driver.retire(vm_id, migration)
    said = [*guest.console.events(), *osaka.console(migration).events()]
    assert console.problems(said) == []
    assert len([each for each in said if isinstance(each, console.Boot)]) == 1


@pytest.mark.timeout(400)
def test_what_arrived_is_forgotten_by_an_agent_that_is_killed_anywhere(
    tokyo: Agent, osaka: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo, disks={"vda": "raw"}, disk_bytes=SMALL_BYTES)
    vm_id, migration = guest.spec.vm_id, drivers.new_id()
    xml = tokyo.driver.guest(vm_id).definition_xml
    for number in itertools.count():
        shutil.copyfile(guest.disk("vda"), osaka.stage(migration) / "vda.raw")
        arrived = drivers.arrived(osaka.stage_path(migration), vm_id, xml)
        osaka.driver.activate(arrived, provisional=True)
        osaka.driver.prepare(vm_id)
        killed = killed_in_process(osaka, number, "forget", migration)
        assert osaka.driver.forget(migration)
        assert lab.osaka.virsh("list", "--all", "--name") == ""
        assert not list((osaka.folder / "machines").iterdir())
        if not killed:
            break
    assert number // 2 >= STEPS_MIN


@pytest.mark.timeout(400)
def test_a_machine_is_retired_and_purged_by_agents_that_are_killed_anywhere(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo, disks={"vda": "raw", "vdb": "raw"}, disk_bytes=SMALL_BYTES)
    vm_id, steps = guest.spec.vm_id, {"retire": 0, "purge": 0}
    for call in steps:
        for number in itertools.count():
            migration = drivers.new_id()
            tokyo.driver.hold(vm_id, migration, COLD)
            tokyo.driver.quiesce(vm_id, migration, 0)
            if call == "retire":
                killed = killed_in_process(tokyo, number, "retire", vm_id, migration)
            first = tokyo.driver.retire(vm_id, migration)
            assert tokyo.driver.retained() == [first]
            assert tokyo.driver.guests() == []
            assert not list((tokyo.folder / "held").iterdir())
            assert guest.disk("vda").exists()
            if call == "purge":
                killed = killed_in_process(tokyo, number, "purge", migration)
            tokyo.driver.purge(migration)
            assert tokyo.driver.retained() == []
            assert not guest.disk("vda").exists()
            assert not guest.disk("vdb").exists()
            assert not list((tokyo.folder / "retained").iterdir())
            for target in guest.spec.disks:
                guests.make_disk(guest.disk(target), "raw", SMALL_BYTES)
            guest.define()
            steps[call] = number // 2
            if not killed:
                break
    assert min(steps.values()) >= RETIRE_STEPS_MIN, steps


def test_a_host_that_loses_power_while_a_machine_is_kept_from_it_starts_none(
    tokyo: Agent, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo, disks={"vda": "raw"})
    vm_id, migration = guest.spec.vm_id, drivers.new_id()
    guest.boot()
    lab.tokyo.virsh("autostart", guest.spec.name)
    tokyo.driver.hold(vm_id, migration, SUSPEND)
    tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
    lab.tokyo.close()
    lab.tokyo.start()
    tokyo.crash()
    assert lab.tokyo.virsh("list", "--all", "--name") == ""
    assert tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX).stopped_by_hold
    tokyo.driver.unhold(vm_id, migration)
    guest.console.wait_ack()
    assert console.problems(guest.console.events()) == []
    assert len(guest.console.boots()) == 1
    lab.tokyo.virsh("autostart", "--disable", guest.spec.name)
