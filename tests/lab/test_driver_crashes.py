"""The agent is killed before and after every change that it makes; repeating the call goes on.

Killed is what a test does to the driver: an exception that nothing catches, and a new driver. What
libvirt was asked for goes on, as it would.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from agent import files
from agent.hypervisors.virt.records import Folder
from tests.lab import console, drivers
from tests.lab.conftest import MakeGuest
from tests.lab.drivers import COLD, STOP_SECONDS_MAX, SUSPEND, Agent
from tests.lab.image import Image
from tests.lab.link import Lab
from watari.v1 import agent_pb2

STEPS_MIN = 5
"""A call that changes less has not been watched."""

CHANGES: tuple[tuple[Any, str], ...] = (
    (libvirt.virDomain, "create"),
    (libvirt.virDomain, "createWithFlags"),
    (libvirt.virDomain, "destroyFlags"),
    (libvirt.virDomain, "resume"),
    (libvirt.virDomain, "saveFlags"),
    (libvirt.virDomain, "setAutostart"),
    (libvirt.virDomain, "shutdown"),
    (libvirt.virDomain, "undefineFlags"),
    (libvirt.virConnect, "defineXML"),
    (libvirt.virConnect, "restoreFlags"),
    (Folder, "put_hold"),
    (Folder, "put_kept"),
    (Folder, "put_origin"),
    (files, "remove"),
    (files, "rename"),
)


class Killed(BaseException):
    """Nobody handles it."""


@contextlib.contextmanager
def killed_at(number: int) -> Iterator[list[str]]:
    """Raises Killed around change `number`, from 0: before it when even, after it when odd. Yields
    the changes that there were.
    """
    seen: list[str] = []

    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            at, after = divmod(number, 2)
            if len(seen) - 1 == at and not after:
                raise Killed
            answer = original(*arguments, **options)
            if len(seen) - 1 == at:
                raise Killed
            return answer

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CHANGES:
            patch.setattr(owner, name, watched(name, getattr(owner, name)))
        yield seen


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
        forgotten = iter(at_every_step(osaka, lambda: osaka.driver.forget(migration)))
        next(forgotten)
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
    for _ in at_every_step(tokyo, lambda: tokyo.driver.retire(vm_id, migration)):
        assert [each.vm_id for each in tokyo.driver.retained()] == [vm_id]
        assert tokyo.driver.guests() == []
        break
    said = [*guest.console.events(), *osaka.console(migration).events()]
    assert console.problems(said) == []
    assert len([each for each in said if isinstance(each, console.Boot)]) == 1


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
