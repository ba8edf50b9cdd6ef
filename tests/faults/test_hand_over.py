"""The manager that works is killed, or stands still, at every step; the one that stands by goes on.

Both clouds have two managers on one PostgreSQL, behind one address each. Agents are real. Each case
ends with one usable copy, one owner, and every step recorded once.
"""

import os
import shutil
import subprocess
import sys
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from manager.lease import EXIT_LEASE_LOST
from manager.settings.store import StoreSettings
from tests.faults.points import ON_THE_WAY
from tests.support import local, postgresql, processes
from tests.support.local import Local, check_one_usable_copy
from tests.support.managers import Rows
from tests.support.processes import Process
from tests.support.shelves import MIB, Content
from watari import audit, errors
from watari.cli import settings as client_settings
from watari.cli.federation import configs, control
from watari.cli.federation.layout import Layout
from watari.clock import SystemClock
from watari.identity import Identity
from watari.rpc import Target, client
from watari.v1 import manager_pb2, manager_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
DISK = Content(6 * MIB, ((0, 3 * MIB), (5 * MIB, MIB)))
LEASE_SECONDS = 4.0
"""A manager that a busy machine keeps from its processor for a second does not lose its turn."""
IDLE_SECONDS_MAX = 2.0
"""So soon PostgreSQL takes the lock of writes from a manager that stands still with it."""

TAKEN_OVER_SECONDS_MAX = 90.0
ENVIRON = {**os.environ, **local.ROOMY}
TOKYO, OSAKA = "tokyo-manager", "osaka-manager"

EVERY = os.environ.get("WATARI_HAND_OVERS") == "all"
"""`make hand-over`: all cases, a quarter of a minute each; else a part of them."""

KILLED = [(name, point) for name in (TOKYO, OSAKA) for point in ON_THE_WAY[name]][
    :: 1 if EVERY else 4
]
STOPPED = [
    (TOKYO, "manager.saga.after_reserve"),
    (TOKYO, "manager.saga.before_start_transfer"),
    (TOKYO, "manager.saga.before_commit"),
    (TOKYO, "manager.saga.in_commit"),
    (TOKYO, "manager.saga.after_commit"),
    (TOKYO, "manager.saga.after_hand_over"),
    (OSAKA, "manager.reservation.after_reserve"),
    (OSAKA, "manager.handover.before_record"),
    (OSAKA, "manager.handover.after_activate"),
][:: 1 if EVERY else 3]


@dataclass
class Pair:
    """Two manager processes of one cloud, of which one works."""

    processes: tuple[Process, Process]
    targets: tuple[Target, Target]
    caller: Identity
    rows: Rows
    """Their database."""

    def arm(self, failpoint: str) -> Process:
        """Starts both anew: the one that works has the fail point, the other one stands by."""
        first, second = self.processes
        for each in self.processes:
            each.end()
        first.launch({**ENVIRON, "WATARI_FAILPOINTS": failpoint})
        _await(first.serving, first)
        second.launch(ENVIRON)
        _await(lambda: second.said("standing by"), second)
        return first

    def begin_anew(self) -> None:
        """One works and the other one stands by, whatever an earlier case left of them."""
        self.arm("")

    def ask_first(self) -> object:
        """What the first process answers to who asks it."""
        with client.connect(self.caller, self.targets[0]) as channel:
            stub = manager_pb2_grpc.ManagerServiceStub(channel)
            return client.call(stub.ListVms, manager_pb2.ListVmsRequest())


def _await(condition: Callable[[], bool], process: Process) -> None:
    deadline = time.monotonic() + TAKEN_OVER_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, process.log()
        time.sleep(0.05)


class Paired(Local):
    """The local federation, whose managers run in pairs."""

    def __init__(self, layout: Layout, server: postgresql.Server, stack: ExitStack) -> None:
        super().__init__(layout)
        layout.create(None)
        configs.ensure(layout, SystemClock())
        databases = {name: server.database() for name in (TOKYO, OSAKA)}
        for name, url in databases.items():
            config = self._config(name)
            settings = tomllib.loads(config.read_text())
            settings["manager"]["store"] = {
                "url": url,
                "lease_seconds": LEASE_SECONDS,
                "idle_seconds_max": IDLE_SECONDS_MAX,
            }
            config.write_text(configs.toml(settings))
        stack.callback(control.down, layout, SystemClock())
        self.up()
        self.pairs = {name: self._pair(name, url, stack) for name, url in databases.items()}

    def begin_anew(self) -> None:
        """As at first."""
        for pair in self.pairs.values():
            pair.begin_anew()

    def migrate(self, vm_id: str, migration_id: str = "", **_options: int) -> str:
        """Starts a migration: asks with the same id until it is answered."""
        asked = manager_pb2.MigrateVmRequest(
            migration_id=migration_id or str(uuid.uuid4()), vm=vm_id, to_cloud="osaka"
        )

        def begun() -> bool:
            with self.manager("tokyo") as manager:
                manager.migrate(asked)
            return True

        local.wait_until(begun, TAKEN_OVER_SECONDS_MAX)
        return asked.migration_id

    def recorded(self, migration_id: str) -> list[str]:
        """States of a migration as tokyo's audit log has them; the log's chain is sound."""
        entries = self.pairs[TOKYO].rows.audit()
        audit.verify(entries)
        return [
            each.details["state"]
            for each in entries
            if each.subject == migration_id and each.action == "migration.state"
        ]

    def _config(self, name: str) -> Path:
        return self.layout.config / f"{name}.toml"

    def _pair(self, name: str, url: str, stack: ExitStack) -> Pair:
        """In place of the manager that runs, whose address a front has from now on."""
        self.kill(name)
        settings = tomllib.loads(self._config(name).read_text())
        manager = settings["manager"]
        known = manager["advertise_address"] = manager["address"]
        found = client_settings.load(self.layout.client, os.environ)
        cloud = found.clouds[manager["cloud_id"]]
        files = cloud.identity
        caller = Identity.load(files.certificate, files.key, files.trust)
        made, targets = [], []
        for number in (1, 2):
            target = processes.target(processes.free_port(), cloud.manager.spiffe_id)
            manager["address"] = target.address
            own = self._config(f"{name}-{number}")
            own.write_text(configs.toml(settings))
            made.append(Process("manager", own, target, caller))
            targets.append(target)
            stack.callback(made[-1].end)
        front = subprocess.Popen(
            [
                *(sys.executable, str(ROOT / "compose" / "front.py")),
                *(known.rpartition(":")[2], *(target.address for target in targets)),
            ]
        )
        stack.callback(front.wait)
        stack.callback(front.kill)
        rows = Rows(StoreSettings(url=url))
        stack.callback(rows.close)
        return Pair((made[0], made[1]), (targets[0], targets[1]), caller, rows)


@pytest.fixture(scope="module")
def federation(
    tmp_path_factory: pytest.TempPathFactory, postgresql_server: postgresql.Server
) -> Iterator[Paired]:
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("federation")
        yield Paired(Layout(folder), postgresql_server, stack)


@pytest.fixture
def machine(federation: Paired, tmp_path: Path) -> tuple[str, Path]:
    """A machine in tokyo, and a copy of its disk; both pairs are whole."""
    federation.begin_anew()
    name = f"vm-{time.monotonic_ns()}"
    vm_id = federation.put(name, DISK)
    original = tmp_path / "original.raw"
    shutil.copyfile(federation.shelf("tokyo") / "vms" / name / "vda.raw", original)
    return vm_id, original


def check(federation: Paired, vm_id: str, migration_id: str, original: Path) -> None:
    """It arrived, once, and no step was recorded twice."""
    migration = check_one_usable_copy(federation, vm_id, migration_id, original)
    assert migration.state == manager_pb2.MIGRATION_STATE_SUCCEEDED, migration.problem
    states = federation.recorded(migration_id)
    assert len(states) == len(set(states)), states
    audit.verify(federation.pairs[OSAKA].rows.audit())


@pytest.mark.parametrize(("name", "point"), KILLED)
def test_the_standby_goes_on_from_every_step_at_which_the_active_manager_is_killed(
    federation: Paired, machine: tuple[str, Path], name: str, point: str
) -> None:
    vm_id, original = machine
    victim = federation.pairs[name].arm(f"{point}=1*kill")
    migration_id = federation.migrate(vm_id)
    victim.wait_killed(TAKEN_OVER_SECONDS_MAX)
    check(federation, vm_id, migration_id, original)


@pytest.mark.parametrize(("name", "point"), STOPPED)
def test_a_manager_that_was_replaced_while_it_stood_still_changes_nothing(
    federation: Paired, machine: tuple[str, Path], name: str, point: str
) -> None:
    vm_id, original = machine
    pair = federation.pairs[name]
    victim = pair.arm(f"{point}=1*stop")
    migration_id = federation.migrate(vm_id)
    _await(victim.stopped, victim)
    _await(pair.processes[1].serving, pair.processes[1])
    victim.go_on()
    with pytest.raises(errors.Unavailable):
        pair.ask_first()
    assert victim.wait(TAKEN_OVER_SECONDS_MAX) == EXIT_LEASE_LOST, victim.log()
    check(federation, vm_id, migration_id, original)
