"""A federation of real processes in which every pair of them talks through a relay of its own.

    cli --- tokyo-manager --- tokyo-agent
             |    |  \\            ||  control, data
    broker --+    |   +-------- osaka-manager --- osaka-agent
             directory ---------+

A process stops itself where it is told to (fail point `stop`); what happens to the others meanwhile
is the test's choice, and nothing depends on luck.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import local, processes
from tests.support.local import Local
from tests.support.relays import Relay
from tests.support.shelves import MIB, Content
from watari.cli.federation import configs, control
from watari.cli.federation import layout as layouts
from watari.cli.federation.layout import Layout
from watari.cli.operating import Operating
from watari.clock import SystemClock
from watari.v1 import manager_pb2

DISK = Content(3 * MIB, ((0, MIB), (2 * MIB, 4096)))
STOPPED_SECONDS_MAX = 90.0
CLI = "cli"

PAIRS = (
    "cli - tokyo-manager",
    "broker - tokyo-manager",
    "tokyo-manager - tokyo-agent",
    "osaka-manager - osaka-agent",
    "tokyo-manager - osaka-manager",
    "tokyo-agent - osaka-agent",
    "managers - directory",
)

PATIENCE: Mapping[str, str] = {
    "WATARI_MANAGER_MIGRATIONS__RETRY_MAX_SECONDS": "1",
    "WATARI_MANAGER_MIGRATIONS__WATCH_SECONDS_MAX": "2",
    "WATARI_MANAGER_MIGRATIONS__PEER_CALL_SECONDS_MAX": "2",
    "WATARI_MANAGER_MIGRATIONS__HAND_OVER_SECONDS_MAX": "3",
    "WATARI_MANAGER_MIGRATIONS__ROLLBACK_WAIT_SECONDS_MAX": "1",
    "WATARI_MANAGER_HOSTS__CALL_SECONDS_MAX": "3",
    "WATARI_MANAGER_JANITOR_SECONDS": "0.5",
    "WATARI_MANAGER_ORPHANS_SECONDS": "2",
    "WATARI_AGENT_TRANSFER__STALL_SECONDS_MAX": "3",
    "WATARI_AGENT_TRANSFER__CONNECT_SECONDS_MAX": "3",
}
"""Times that a test has; longer than a cut of 5 s where a migration is to outlast one."""


class World(Local):
    """The federation, with its relays."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Layout(folder))
        self.relays: dict[str, list[Relay]] = {pair: [] for pair in PAIRS}
        self._cli: subprocess.Popen[bytes] | None = None
        self.layout.create(None)
        configs.ensure(self.layout, SystemClock())
        self._rewire()
        self.up()

    def up(self, **environ: str) -> None:
        """Starts what does not run."""
        super().up(**{**PATIENCE, **environ})

    def machine(self, folder: Path) -> tuple[str, Path]:
        """A machine in tokyo, and a copy of its disk."""
        name = f"vm-{uuid.uuid4().hex[:12]}"
        vm_id = self.put(name, DISK)
        original = folder / f"{name}.raw"
        shutil.copyfile(self.shelf("tokyo") / "vms" / name / "vda.raw", original)
        return vm_id, original

    def arm(self, name: str, point: str, passes: int) -> None:
        """Restarts a process so that it stops itself when it has passed the point so often."""
        self.kill(name)
        self.up(WATARI_FAILPOINTS=f"{point}={passes}*off->1*stop")

    def begin(self, vm_id: str, migration_id: str) -> None:
        """`watari migrate --place`, so that command line and broker are part of it."""
        command = [sys.executable, "-m", "watari.cli", "migrate", vm_id]
        with (self.layout.root / "logs" / "cli.log").open("ab") as log:
            self._cli = subprocess.Popen(
                [*command, "--place", "--from", "tokyo", "--id", migration_id, "-o", "json"],
                env={**os.environ, "WATARI_CLIENT_CONFIG": str(self.layout.client)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def await_stopped(self, name: str, vm_id: str, migration_id: str) -> None:
        """Until a process has stopped itself; one that does not proves nothing. A broker that has
        not heard yet that the clouds are back finds no place, and is asked again.
        """
        running = self._running(name)
        assert running is not None, self.log(name)

        def stopped() -> bool:
            if _state(running.pid) in "Tt":
                return True
            if self._cli is not None and self._cli.poll():
                self.begin(vm_id, migration_id)
            return False

        told = self.layout.root / "logs" / "cli.log"
        local.wait_until(
            stopped, STOPPED_SECONDS_MAX, lambda: f"{self.log(name)}\n{told.read_text()[-1500:]}"
        )

    def go_on(self, name: str) -> None:
        """Lets a stopped process go on, if it is still there."""
        running = self._running(name)
        if running is not None:
            os.kill(running.pid, signal.SIGCONT)

    def resolve(self, migration_id: str) -> None:
        """What an operator does after the commit, whose two managers will never speak again: who
        can see both knows which copy is to live.
        """
        vm_id = self.migration(migration_id).vm_id
        with self.manager("osaka") as osaka:
            arrived = any(vm.vm_id == vm_id for vm in osaka.vms())
        why = "the way between them is gone"
        here = manager_pb2.RESOLUTION_GIVE_UP_HERE if arrived else manager_pb2.RESOLUTION_KEEP_HERE
        with self.manager("tokyo") as tokyo:
            Operating(tokyo).resolve(migration_id, here, why)
        if not arrived:
            with self.manager("osaka") as osaka:
                gone = manager_pb2.RESOLUTION_GIVE_UP_HERE
                Operating(osaka).resolve(migration_id, gone, why)

    def kill_any(self, name: str) -> None:
        """kill -9 of a server or of the command line."""
        if name != CLI:
            self.kill(name)
        elif self._cli is not None:
            self._cli.kill()

    def begin_anew(self) -> None:
        """Every process is started anew, whatever an earlier case left of them."""
        self.heal(drop=True)
        self.end_cli()
        for process in layouts.LOCAL.processes():
            if self.pid(process.name) is not None:
                self.kill(process.name)
        self.up()

    def end_cli(self) -> None:
        """The command line is not waited for: it only watches."""
        if self._cli is not None:
            self._cli.kill()
            self._cli.wait()
            self._cli = None

    def cut(self, pair: str) -> None:
        """Nothing passes between two processes."""
        for relay in self.relays[pair]:
            relay.cut()

    def heal(self, *, drop: bool = False) -> None:
        """Everything passes; with `drop` over new connections."""
        for relay in self._all():
            relay.heal()
            if drop:
                relay.drop()

    def close(self) -> None:
        """Nothing of it is left."""
        self.end_cli()
        control.down(self.layout, SystemClock())
        for relay in self._all():
            relay.close()

    def _all(self) -> Iterator[Relay]:
        for relays in self.relays.values():
            yield from relays

    def _rewire(self) -> None:
        """Puts a relay wherever one process is told where another one is."""
        own = {process.name: self._settings(process.name) for process in layouts.LOCAL.processes()}
        for cloud in ("tokyo", "osaka"):
            agent = own[f"{cloud}-agent"]["agent"]
            manager = own[f"{cloud}-manager"]["manager"]
            pair = "tokyo-agent - osaka-agent"
            agent["advertised_address"] = self._relay(pair, agent["address"])
            agent["advertised_data_address"] = self._relay(pair, agent["data_address"])
            host = manager["agents"]["host-1"]
            host["address"] = self._relay(f"{cloud}-manager - {cloud}-agent", host["address"])
            manager["advertise_address"] = self._relay(
                "tokyo-manager - osaka-manager", manager["address"]
            )
            for each in manager["directories"]:
                each["address"] = self._relay("managers - directory", each["address"])
        for name, settings in own.items():
            self.layout.config.joinpath(f"{name}.toml").write_text(configs.toml(settings))
        client = tomllib.loads(self.layout.client.read_text())
        for each in client["client"]["clouds"].values():
            each["manager"]["address"] = self._relay(
                "cli - tokyo-manager", each["manager"]["address"]
            )
        self.layout.client.write_text(configs.toml(client))

    def _settings(self, name: str) -> dict[str, Any]:
        return tomllib.loads(self.layout.config.joinpath(f"{name}.toml").read_text())

    def _relay(self, pair: str, address: str) -> str:
        port = processes.free_port()
        self.relays[pair].append(Relay(int(address.rpartition(":")[2]), port))
        return f"127.0.0.1:{port}"


@contextmanager
def running(folder: Path) -> Iterator[World]:
    """A world that ends, whatever happened."""
    world = World(folder)
    try:
        yield world
    finally:
        world.close()


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _state(pid: int) -> str:
    """The process's state, of proc_pid_stat(5); empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""
