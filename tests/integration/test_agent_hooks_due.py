"""Hooks after a step that an agent was killed right behind: the repeated step runs them."""

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from agent.events.log import EventLog
from agent.events.recorder import Recorder
from agent.events.serving import Events
from agent.hooks import Hooks, Stage
from agent.hypervisors.shelf import Shelf
from agent.service import AgentService
from agent.settings import EventSettings, HookSettings
from tests.support.shelves import MIB, Content, put_machine
from watari import clock, errors, failpoint
from watari.identity import SpiffeId
from watari.v1 import agent_pb2

KILLED = "error(SERVER_UNAVAILABLE)"


class Host:
    """An agent's service over a shelf, with hooks that write down what they are told."""

    def __init__(self, folder: Path) -> None:
        self.shelf = Shelf(folder / "shelf", clock.SystemClock(), 3600)
        self.told = folder / "told"
        self.due = folder / "due"
        self.hooks = folder / "hooks"
        for stage in (Stage.AFTER_STOP, Stage.AFTER_UNHOLD, Stage.AFTER_RETIRE):
            path = self.hooks / f"{stage}.d" / "10-tell"
            path.parent.mkdir(parents=True)
            path.write_text(f"#!/bin/sh\ngrep -h '\"stage\\|epoch' >> {self.told}\n")
            path.chmod(0o755)
        self.migration_id = str(uuid.uuid4())
        self.vm_id = put_machine(folder / "shelf", "web", {"vda": Content(MIB)})
        self.shelf.hold(self.vm_id, self.migration_id)
        log = EventLog(folder / "events", EventSettings(), clock.SystemClock())
        recorder = Recorder(log, self.shelf, 60, clock.SystemClock())
        self.events = Events(log, recorder, SpiffeId.parse("spiffe://tokyo.example/manager/main"))
        self.close = log.close

    def agent(self) -> tuple[AgentService, Hooks]:
        """One that has just been started."""
        settings = HookSettings(folder=self.hooks)
        hooks = Hooks(settings, cloud="tokyo", host="host1", due=self.due)
        none = cast("Any", None)
        served = AgentService(none, self.shelf, none, none, hooks, self.events, threading.Event())
        return served, hooks

    def unhold(self, epoch: int = 0) -> None:
        request = agent_pb2.UnholdGuestRequest(
            vm_id=self.vm_id, migration_id=self.migration_id, epoch=epoch
        )
        self.agent()[0].UnholdGuest(request, cast("Any", None))

    def retire(self) -> None:
        request = agent_pb2.RetireGuestRequest(vm_id=self.vm_id, migration_id=self.migration_id)
        self.agent()[0].RetireGuest(request, cast("Any", None))

    def heard(self) -> str:
        return " ".join(self.told.read_text().split()) if self.told.exists() else ""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    found = Host(tmp_path)
    yield found
    found.close()
    found.shelf.close()


def test_hooks_that_an_agent_did_not_come_to_are_run_when_its_step_is_repeated(host: Host) -> None:
    with (
        failpoint.armed("agent.hooks.before_due", KILLED),
        pytest.raises(errors.Unavailable),
    ):
        host.unhold(epoch=3)
    assert host.shelf.guest(host.vm_id).held_by == ""
    assert host.heard() == ""
    host.unhold(epoch=3)
    assert host.heard() == '"stage": "after-unhold", "epoch": 3,'
    host.unhold(epoch=3)
    assert host.heard() == '"stage": "after-unhold", "epoch": 3,'
    assert not list(host.due.iterdir())


def test_the_hooks_of_a_retirement_are_not_lost_either(host: Host) -> None:
    with (
        failpoint.armed("agent.hooks.before_due", KILLED),
        pytest.raises(errors.Unavailable),
    ):
        host.retire()
    assert host.shelf.guests() == []
    for _ in range(2):
        host.retire()
        assert host.heard() == '"stage": "after-retire", "epoch": 0,'


def test_a_step_that_failed_is_followed_by_no_hooks(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = errors.FailedPrecondition("VM_LIFECYCLE_FAILED", "it does not start")

    def fails(*_: object) -> None:
        raise broken

    with monkeypatch.context() as patch:
        patch.setattr(host.shelf, "unhold", fails)
        with pytest.raises(errors.FailedPrecondition):
            host.unhold()
    assert host.heard() == ""
    host.unhold()
    assert host.heard() == '"stage": "after-unhold", "epoch": 0,'


def test_a_machine_that_came_back_is_not_said_to_stand_still(host: Host) -> None:
    _, hooks = host.agent()
    document = hooks.document(host.shelf.guest(host.vm_id), migration_id=host.migration_id)
    hooks.owe(Stage.AFTER_STOP, document)
    host.unhold()
    hooks.settle(Stage.AFTER_STOP, host.migration_id)
    assert "after-stop" not in host.heard()


def test_a_stage_that_runs_is_not_run_beside_itself(host: Host) -> None:
    """The manager has waited long enough, and repeats the order."""
    _, hooks = host.agent()
    script = host.hooks / "after-stop.d" / "10-tell"
    script.write_text(f"#!/bin/sh\necho once >> {host.told}\nsleep 1\n")
    document = hooks.document(host.shelf.guest(host.vm_id), migration_id=host.migration_id)
    hooks.owe(Stage.AFTER_STOP, document)
    first = threading.Thread(target=hooks.settle, args=(Stage.AFTER_STOP, host.migration_id))
    first.start()
    while host.heard() != "once":
        assert first.is_alive()
    hooks.settle(Stage.AFTER_STOP, host.migration_id)
    first.join()
    assert host.heard() == "once"
