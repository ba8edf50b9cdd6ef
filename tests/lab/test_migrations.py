"""Running guests move between two real hosts, in every mode, with every format, there and back."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Federation
from tests.lab import moving
from tests.lab.clouds import Clouds, wait_until
from tests.lab.conftest import MakeGuest
from tests.lab.console import Boot, Dirtied, Mounted
from tests.lab.image import Image
from tests.lab.link import Lab
from watari.rpc import client
from watari.v1 import common_pb2, manager_pb2

COLD = common_pb2.MIGRATION_MODE_COLD
SUSPEND = common_pb2.MIGRATION_MODE_SUSPEND
WARM = common_pb2.MIGRATION_MODE_WARM
SLOW_BYTES_PER_SECOND = 256 * 1024


@pytest.fixture(params=["raw", "qcow2"])
def kind(request: pytest.FixtureRequest) -> str:
    """Format of the disks, at home and where they arrive."""
    return str(request.param)


@pytest.fixture
def clouds(
    kind: str, lab: Lab, lab_image: Image, federation: Federation, tmp_path: Path
) -> Iterator[Clouds]:
    """Both clouds, whose hosts store what arrives in that format."""
    more = {"agent": f'disk_format = "{kind}"'}
    with Clouds(lab, federation, tmp_path / "clouds", lab_image, more) as clouds:
        yield clouds


def mounts(traveller: moving.Traveller) -> list[Mounted]:
    """How the disks were found at each boot, the first one left out."""
    events = traveller.said()
    first = next(at for at, event in enumerate(events) if isinstance(event, Boot))
    return [event for event in events[first:] if isinstance(event, Mounted)]


def check_disks(traveller: moving.Traveller, kind: str) -> None:
    """Shuts the guest down and has e2fsck look at its disks, which it may not have to repair."""
    request = manager_pb2.StopVmRequest(vm=traveller.vm_id, timeout_seconds=60)
    client.call(traveller.at.calls.StopVm, request, timeout_seconds=90)
    listed = traveller.at.host.virsh("domblklist", traveller.guest.spec.name)
    disks = [Path(line.split()[1]) for line in listed.splitlines() if line.split()[1:]]
    assert len(disks) == len(traveller.guest.spec.disks)
    for disk in disks:
        raw = disk.with_suffix(".checked")
        subprocess.run(["qemu-img", "convert", "-f", kind, "-O", "raw", disk, raw], check=True)
        done = subprocess.run(["e2fsck", "-fn", raw], capture_output=True, text=True, check=False)
        raw.unlink()
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("mode", [COLD, SUSPEND, WARM], ids=["cold", "suspend", "warm"])
def test_a_running_guest_goes_there_and_comes_back(
    mode: int, kind: str, clouds: Clouds, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo, disks={"vda": kind, "vdb": kind})
    traveller = moving.settle(clouds, guest)
    for _ in range(2):
        before = traveller.console.wait_ack()
        ended = traveller.move(mode)
        assert ended.mode == mode
        assert ended.downtime_seconds > 0
        after = next(ack for ack in traveller.console.acks() if ack.n > before.n)
        if mode == SUSPEND:
            assert after.boot_id == before.boot_id, "it goes on where it was"
            assert after.uptime_seconds > before.uptime_seconds
        else:
            assert after.boot_id != before.boot_id
        traveller.check()
    assert traveller.at is clouds.tokyo
    assert all(not each.recovered for each in mounts(traveller)), "no journal had to be replayed"
    check_disks(traveller, kind)


def test_a_guest_that_powers_itself_off_in_a_round_arrives_off(
    kind: str, clouds: Clouds, lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo, disks={"vda": kind}, parameters={"dirty_mbps": 4})
    traveller = moving.settle(clouds, guest)
    vm_id, tokyo = guest.spec.vm_id, clouds.tokyo
    wait_until(lambda: any(isinstance(each, Dirtied) for each in traveller.said()), 60)
    migration_id = tokyo.migrate(vm_id, WARM, limit_bytes_per_second=SLOW_BYTES_PER_SECOND)
    wait_until(lambda: tokyo.migration(migration_id).progress.sent_bytes > 0, 60)
    guest.shutdown()
    assert tokyo.migration(migration_id).progress.round == 1
    limit = manager_pb2.SetMigrationLimitRequest(migration_id=migration_id)
    client.call(tokyo.calls.SetMigrationLimit, limit)
    ended = tokyo.wait_ended(migration_id)
    assert ended.state == manager_pb2.MIGRATION_STATE_SUCCEEDED, ended
    assert moving.state_on(lab.osaka, guest) == "shut off"
    clouds.osaka.wait_owns(vm_id, "shut off")
    start = manager_pb2.StartVmRequest(vm=vm_id)
    client.call(clouds.osaka.calls.StartVm, start, timeout_seconds=60)
    traveller.arrived()
    traveller.console.wait_ack()
    traveller.check()
