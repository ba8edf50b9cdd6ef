"""The whole local federation as real processes, with a hand on each of them."""

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.shelves import Content, identical, put_machine
from watari import errors
from watari.cli import settings as client_settings
from watari.cli.clients import Clients, Manager
from watari.cli.federation import control, processes
from watari.cli.federation import layout as layouts
from watari.cli.federation.layout import Layout
from watari.clock import SystemClock
from watari.v1 import common_pb2, manager_pb2

FINAL = (
    manager_pb2.MIGRATION_STATE_SUCCEEDED,
    manager_pb2.MIGRATION_STATE_FAILED,
    manager_pb2.MIGRATION_STATE_CANCELLED,
)
ROOMY = {
    "WATARI_AGENT_HOST__VCPUS": "10000",
    "WATARI_AGENT_HOST__MEMORY_BYTES": "64TiB",
    "WATARI_AGENT_HOST__DISK_BYTES": "64TiB",
}
"""Hosts with room for every machine of a test module."""

NAMES = tuple(process.name for process in layouts.LOCAL.processes())


@dataclass
class Local:
    """A running federation of tokyo and osaka, all calls made with the user's own credentials."""

    layout: Layout

    def up(self, **environ: str) -> None:
        """Starts what does not run, with further environment variables."""
        given = {**os.environ, **ROOMY, **environ}
        control.up(self.layout, SystemClock(), given, lambda _: None)

    def kill(self, name: str) -> None:
        """kill -9 of one process, and waits for its end."""
        running = self._running(name)
        assert running is not None, f"{name} does not run"
        os.kill(running.pid, 9)
        wait_until(lambda: self._running(name) is None, 30)

    def pid(self, name: str) -> int | None:
        """The process's id, while it runs."""
        running = self._running(name)
        return running.pid if running is not None else None

    def address(self, name: str) -> str:
        """Where a process listens for control calls."""
        (status,) = (each for each in control.status(self.layout) if each.process.name == name)
        return status.address

    def log(self, name: str) -> str:
        """The end of its log."""
        return (self.layout.root / "logs" / f"{name}.log").read_text()[-4000:]

    @contextmanager
    def manager(self, cloud_id: str) -> Iterator[Manager]:
        """A cloud's manager."""
        clients = Clients(client_settings.load(self.layout.client, os.environ))
        try:
            yield clients.manager(cloud_id)
        finally:
            clients.close()

    def shelf(self, cloud_id: str) -> Path:
        """A cloud's shelf."""
        return self.layout.shelf(cloud_id)

    def put(self, name: str, content: Content, cloud_id: str = "tokyo") -> str:
        """Puts a machine of one disk into a cloud and waits until its manager knows it. Its content
        is no other machine's, or there would be nothing to send.
        """
        own = replace(content, seed=name)
        vm_id = put_machine(self.shelf(cloud_id), name, {"vda": own})
        with self.manager(cloud_id) as manager:
            wait_until(lambda: any(vm.vm_id == vm_id for vm in manager.vms()), 60)
        return vm_id

    def migrate(self, vm_id: str, migration_id: str = "", **options: int) -> str:
        """Starts a migration from tokyo to osaka; the same id is used again after a lost answer."""
        migration_id = migration_id or str(uuid.uuid4())
        request = manager_pb2.MigrateVmRequest(
            migration_id=migration_id,
            vm=vm_id,
            to_cloud="osaka",
            options=common_pb2.TransferOptions(**options),
        )
        with self.manager("tokyo") as manager:
            try:
                manager.migrate(request)
            except errors.Unavailable:  # the manager was killed while it answered
                self.up()
                manager.migrate(request)
        return migration_id

    def migration(self, migration_id: str) -> manager_pb2.Migration:
        """A migration as its manager tells it."""
        with self.manager("tokyo") as manager:
            return manager.migration(migration_id)

    def wait_ended(self, migration_id: str, seconds: float = 90) -> manager_pb2.Migration:
        """Waits for a final state."""
        with self.manager("tokyo") as manager:

            def ended() -> bool:
                return manager.migration(migration_id).state in FINAL

            wait_until(ended, seconds, lambda: str(manager.migration(migration_id)))
            return manager.migration(migration_id)

    def _running(self, name: str) -> processes.Running | None:
        (process,) = (each for each in layouts.LOCAL.processes() if each.name == name)
        return processes.find(self.layout.record(process), self.layout.settings(process))


def wait_until(
    condition: Callable[[], bool],
    seconds: float,
    describe: Callable[[], str] = lambda: "it did not happen",
) -> None:
    """Waits for a condition; a service that is away counts as "not yet"."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except errors.WatariError as error:
            if not error.retryable:
                raise
        assert time.monotonic() < deadline, describe()
        time.sleep(0.05)


def running(folder: Path, environ: Mapping[str, str] | None = None) -> Iterator[Local]:
    """A federation that is stopped in the end, whatever happened."""
    local = Local(Layout(folder))
    try:
        local.up(**(environ or {}))
        yield local
    finally:
        control.down(local.layout, SystemClock())


def check_one_usable_copy(
    local: Local, vm_id: str, migration_id: str, original: Path
) -> manager_pb2.Migration:
    """After recovery: one owner, one usable copy, nothing half-made, ledgers that agree."""
    migration = local.wait_ended(migration_id)
    arrived = migration.state == manager_pb2.MIGRATION_STATE_SUCCEEDED
    home, away = ("osaka", "tokyo") if arrived else ("tokyo", "osaka")
    with local.manager(home) as owner, local.manager(away) as other:
        wait_until(lambda: not owner.vm(vm_id).migration_id, 60, lambda: str(owner.vm(vm_id)))
        assert not owner.vm(vm_id).HasField("problem")
        wait_until(lambda: all(vm.vm_id != vm_id for vm in other.vms()), 60)
        kinds = [record.kind for record in owner.usage(vm_id=vm_id)]
        assert kinds == ([manager_pb2.USAGE_KIND_ARRIVED] if arrived else [])
        kinds = [record.kind for record in other.usage(vm_id=vm_id)]
        assert kinds == ([manager_pb2.USAGE_KIND_LEFT] if arrived else [])
        for manager in (owner, other):
            wait_until(lambda each=manager: _holds_nothing(each), 60)  # type: ignore[misc]
    copies = [
        disk for cloud in ("tokyo", "osaka") for disk in _disks(local.shelf(cloud) / "vms", vm_id)
    ]
    assert len(copies) == 1, copies
    assert copies[0].is_relative_to(local.shelf(home))
    assert identical(copies[0], original)
    wait_until(lambda: not _incoming(local), 60, lambda: str(_incoming(local)))
    return migration


def _disks(vms: Path, vm_id: str) -> list[Path]:
    return [
        folder / "vda.raw"
        for folder in vms.iterdir()
        if vm_id in (folder / "domain.xml").read_text()
    ]


def _incoming(local: Local) -> list[Path]:
    return [
        each
        for cloud in ("tokyo", "osaka")
        for each in (local.shelf(cloud) / "incoming").iterdir()
        if not each.name.startswith(".")
    ]


def _holds_nothing(manager: Manager) -> bool:
    return all(not each.held.disk_bytes for each in manager.inventories())
