"""Providers from nothing: they join, move machines, renew certificates meanwhile, and part."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine
from tests.support.local import Local, running, wait_until
from tests.support.shelves import MIB, Content, identical
from watari.cli.federation.layout import LOCAL, Layout
from watari.clock import SystemClock
from watari.identity import Authority, Identity, SpiffeId
from watari.v1 import manager_pb2

LEAF_SECONDS = 12
"""How long certificates last here: renewed after four seconds."""


def test_two_providers_come_from_nothing_to_a_first_migration_in_six_commands(
    tmp_path: Path, disk: Path
) -> None:
    """As docs/federation.md shows it; at the end every byte is there."""
    tokyo, osaka = CommandLine(tmp_path / "tokyo"), CommandLine(tmp_path / "osaka")
    try:
        tokyo.run("up", "tokyo.example")  # 1
        inviting = subprocess.Popen(  # 2: waits for who joins
            [sys.executable, "-m", "watari.cli", "federation", "invite", "--wait"],
            env={**os.environ, "WATARI_STATE_DIR": str(tokyo.state)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert inviting.stdout is not None
        assert inviting.stdin is not None
        line = inviting.stdout.readline().strip()
        assert line.startswith("watari://tokyo.example/manager/main@127.0.0.1:")
        osaka.run("up", "osaka.example")  # 3
        answer = threading.Timer(1.0, lambda: inviting.communicate("y\n", timeout=60))
        answer.start()
        osaka.run("federation", "join", line, "--yes")  # 4
        answer.join(60)
        assert inviting.returncode == 0
        tokyo.run("vm", "import", "--cloud", "tokyo", "--name", "web-1", "--image", str(disk))  # 5
        tokyo.run("migrate", "web-1", "--to", "osaka")  # 6
        there = osaka.json("vm", "show", "web-1")
        shelf = osaka.state / "data" / "osaka-agent" / "shelf" / "vms" / there["vm_id"]
        assert identical(shelf / "vda.raw", disk)
        for side, other in ((tokyo, "osaka.example"), (osaka, "tokyo.example")):
            (known,) = side.json("federation", "list")
            assert (known["domain"], known["state"]) == (other, "accepted")
            assert re.fullmatch(r"(\d{4} ){3}\d{4}", known["code"])
    finally:
        for each in (tokyo, osaka):
            each.run("down")


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    """Two joined providers whose certificates last seconds once they are renewed."""
    yield from running(
        tmp_path / "federation",
        {"WATARI_MANAGER_AUTHORITY__LEAF_SECONDS": str(LEAF_SECONDS)},
    )


def identities(layout: Layout) -> list[Identity]:
    """Every server's, as its files have it."""
    return [
        Identity.load_folder(layout.credentials(process.spiffe_id)) for process in LOCAL.processes()
    ]


def shorten(layout: Layout) -> None:
    """Gives every party a certificate that lasts seconds, while it runs."""
    operators = [SpiffeId(domain, "operator", "admin") for domain in LOCAL.domains]
    for party in [*(process.spiffe_id for process in LOCAL.processes()), *operators]:
        authority = Authority.load(layout.authority(party.domain), SystemClock())
        own = Identity.load_folder(layout.credentials(party))
        own.replace(*authority.issue(party, LEAF_SECONDS))


def test_certificates_are_renewed_during_a_transfer_without_interrupting_it(local: Local) -> None:
    layout = local.layout
    vm_id = local.put("long", Content(size=24 * MIB, data=((0, 24 * MIB),)))
    original = local.shelf("tokyo").parent / "original"
    (disk,) = local.shelf("tokyo").glob("vms/*/vda.raw")
    original.write_bytes(disk.read_bytes())
    shorten(layout)
    seen: dict[str, set[int]] = {process.name: set() for process in LOCAL.processes()}
    began = time.monotonic()
    migration_id = local.migrate(vm_id, limit_bytes_per_second=MIB)
    migration = local.migration(migration_id)
    while migration.state != manager_pb2.MIGRATION_STATE_SUCCEEDED:
        assert not migration.HasField("problem"), str(migration.problem)
        assert time.monotonic() - began < 90, migration
        for process, own in zip(LOCAL.processes(), identities(layout), strict=True):
            seen[process.name].add(own.current().certificate.serial_number)
        time.sleep(0.5)
        migration = local.migration(migration_id)
    seconds = time.monotonic() - began
    assert seconds > 1.5 * LEAF_SECONDS, "the transfer must outlive a certificate"
    # Every server had several, and there was one attempt on one session.
    assert all(len(serials) >= 3 for serials in seen.values()), seen
    assert migration.progress.attempt == 1
    (arrived,) = local.shelf("osaka").glob("vms/*/vda.raw")
    assert identical(arrived, original)


def test_removing_a_provider_cuts_a_running_migration_and_nothing_is_lost(local: Local) -> None:
    command_line = CommandLine(local.layout.root)
    vm_id = local.put("cut", Content(size=24 * MIB, data=((0, 24 * MIB),)))
    migration_id = local.migrate(vm_id, limit_bytes_per_second=MIB)
    wait_until(
        lambda: local.migration(migration_id).progress.wire_bytes > 2 * MIB,
        60,
        lambda: str(local.migration(migration_id)),
    )
    command_line.run("federation", "remove", "osaka.internal", "--yes")
    ended = local.wait_ended(migration_id, 60)
    assert ended.state == manager_pb2.MIGRATION_STATE_FAILED
    assert ended.problem.reason == "PROVIDER_UNKNOWN"
    with local.manager("tokyo") as manager:
        vm = manager.vm(vm_id)
        assert (vm.cloud_id, vm.migration_id, vm.HasField("problem")) == ("tokyo", "", False)
    # The other side gives up what has arrived, once it hears of it by itself.
    command_line.run("federation", "remove", "tokyo.internal", "--cloud", "osaka", "--yes")
    assert not list(local.shelf("osaka").glob("vms/*"))
    # They join again by a new invitation, and the machine moves.
    local.up()
    command_line.run("migrate", "cut", "--to", "osaka")
    with local.manager("osaka") as manager:
        assert manager.vm(vm_id).cloud_id == "osaka"
