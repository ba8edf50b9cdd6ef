"""kill -9 of any process at any step leaves one usable copy, and a restart ends the migration."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.points import ELSEWHERE, ON_THE_WAY, ON_THE_WAY_BACK
from tests.support import local
from tests.support.local import Local, check_one_usable_copy
from tests.support.shelves import MIB, Content
from watari import failpoint
from watari.v1 import manager_pb2

DISK = Content(12 * MIB, ((0, 6 * MIB), (9 * MIB, 2 * MIB)))


def cases(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(victim, point) for victim, names in table.items() for point in names]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    yield from local.running(tmp_path_factory.mktemp("federation"))


@pytest.fixture
def machine(federation: Local, tmp_path: Path) -> tuple[str, Path]:
    """A machine in tokyo, and a copy of its disk."""
    name = f"vm-{time.monotonic_ns()}"
    vm_id = federation.put(name, DISK)
    original = tmp_path / "original.raw"
    shutil.copyfile(federation.shelf("tokyo") / "vms" / name / "vda.raw", original)
    return vm_id, original


def arm(federation: Local, victim: str, point: str) -> int:
    """Restarts one process so that it kills itself when it reaches the point, and tells its id."""
    federation.kill(victim)
    federation.up(WATARI_FAILPOINTS=f"{point}=1*kill")
    pid = federation.pid(victim)
    assert pid is not None, f"{victim} reached {point} before the migration was asked for"
    return pid


def await_death(federation: Local, victim: str, armed: int) -> None:
    """The fail point must have been reached, or the case proves nothing.

    A process that died while it answered may run again by now, under another id.
    """
    local.wait_until(lambda: federation.pid(victim) != armed, 90, lambda: federation.log(victim))


@pytest.mark.parametrize(("victim", "point"), cases(ON_THE_WAY))
def test_a_process_killed_at_any_step_loses_nothing(
    federation: Local, machine: tuple[str, Path], victim: str, point: str
) -> None:
    vm_id, original = machine
    if point == "agent.receiving.offer_answered":  # there has to be something to compare with
        federation.wait_ended(federation.migrate(federation.put(f"earlier-{vm_id[:8]}", DISK)))
    armed = arm(federation, victim, point)
    migration_id = federation.migrate(vm_id)
    await_death(federation, victim, armed)
    federation.up()
    migration = check_one_usable_copy(federation, vm_id, migration_id, original)
    assert migration.state == manager_pb2.MIGRATION_STATE_SUCCEEDED, migration.problem


@pytest.mark.parametrize(("victim", "point"), cases(ON_THE_WAY_BACK))
def test_a_process_killed_while_a_migration_is_cancelled_loses_nothing(
    federation: Local, machine: tuple[str, Path], victim: str, point: str
) -> None:
    vm_id, original = machine
    armed = arm(federation, victim, point)
    migration_id = federation.migrate(vm_id, limit_bytes_per_second=MIB)
    local.wait_until(lambda: federation.migration(migration_id).progress.done_bytes > 0, 60)
    with federation.manager("tokyo") as manager:
        try:
            manager.cancel(migration_id)
        except local.errors.Unavailable:
            assert victim == "tokyo-manager"
    await_death(federation, victim, armed)
    federation.up()
    migration = check_one_usable_copy(federation, vm_id, migration_id, original)
    assert migration.state == manager_pb2.MIGRATION_STATE_CANCELLED, migration


@pytest.mark.parametrize("victim", local.NAMES)
def test_any_process_killed_while_data_moves_loses_nothing(
    federation: Local, machine: tuple[str, Path], victim: str
) -> None:
    vm_id, original = machine
    migration_id = federation.migrate(vm_id, limit_bytes_per_second=4 * MIB)
    local.wait_until(lambda: federation.migration(migration_id).progress.done_bytes > 0, 60)
    federation.kill(victim)
    federation.up()
    migration = check_one_usable_copy(federation, vm_id, migration_id, original)
    assert migration.state == manager_pb2.MIGRATION_STATE_SUCCEEDED, migration.problem


def test_every_process_killed_at_once_loses_nothing(
    federation: Local, machine: tuple[str, Path]
) -> None:
    vm_id, original = machine
    migration_id = federation.migrate(vm_id, limit_bytes_per_second=4 * MIB)
    local.wait_until(lambda: federation.migration(migration_id).progress.done_bytes > 0, 60)
    for name in local.NAMES:
        federation.kill(name)
    federation.up()
    check_one_usable_copy(federation, vm_id, migration_id, original)


def test_every_fail_point_has_a_case() -> None:
    """A new fail point must be placed in one of the tables above."""
    services = ("agent.__main__", "broker.__main__", "directory.__main__", "manager.__main__")
    for module in (*services, "directory.stores.etcd_store"):
        __import__(module)
    tabled = {point for _, point in cases(ON_THE_WAY) + cases(ON_THE_WAY_BACK)} | ELSEWHERE
    declared = {name for name in failpoint.names() if name.split(".")[0] in local_services()}
    assert declared == tabled


def local_services() -> set[str]:
    return {"agent", "broker", "directory", "manager"}
