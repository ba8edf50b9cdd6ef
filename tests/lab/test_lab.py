"""The lab is what its tests take it for: hosts apart, guests that count, a link that obeys."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import libvirt
import pytest

from bench.link import Shape
from tests.lab import console, emulator, guests, namespaces
from tests.lab.conftest import MakeGuest
from tests.lab.console import Boot, Down, Mounted
from tests.lab.guests import RAW_AND_QCOW2
from tests.lab.hosts import Host
from tests.lab.image import Image
from tests.lab.link import Lab

SHUTDOWN_SECONDS_MAX = 60.0
GONE_SECONDS_MAX = 30.0
REFUSED_PORT = 9
ROOT = Path(__file__).resolve().parents[2]

T = TypeVar("T")

ASK = """
import socket, sys, time
start = time.monotonic()
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3]))
except ConnectionRefusedError:
    print(time.monotonic() - start)
"""

BEGIN = """
import pathlib, sys, time
from tests.lab.link import Lab
with Lab(pathlib.Path(sys.argv[1])) as lab:
    lab.tokyo.popen(["sleep", "1000"])
    print(lab.tokyo.pid_namespace, lab.osaka.pid_namespace, lab.link.pid, flush=True)
    time.sleep(1000)
"""


def test_the_hosts_are_two_and_do_not_see_each_others_machines(
    lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo, disks={"vda": "raw"})
    found = {}
    for host in lab.hosts:
        connection = libvirt.open(host.uri)
        try:
            names = [domain.name() for domain in connection.listAllDomains()]
            found[host.name] = (connection.getHostname(), names)
            assert f"<uuid>{host.uuid}</uuid>" in connection.getCapabilities()
        finally:
            connection.close()
    assert found == {"tokyo": ("tokyo", [guest.spec.name]), "osaka": ("osaka", [])}
    assert lab.tokyo.uuid != lab.osaka.uuid
    assert lab.tokyo.libvirtd_pid not in lab.osaka.pids()


def test_what_is_started_in_a_host_sees_that_host_only(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "said").write_text("of osaka")
    server = (sys.executable, "-m", "http.server", "7700")
    log = (tmp_path / "log").open("wb")
    with log:
        process = lab.osaka.popen(server, cwd=tmp_path, stdout=log, stderr=log)
    url = f"http://{lab.osaka_control}:7700/said"
    assert _eventually(lambda: _read(url)) == b"of osaka"
    inside = (
        "import urllib.request as r; print(r.urlopen('http://osaka:7700/said').read().decode())"
    )
    assert lab.tokyo.run([sys.executable, "-c", inside]).stdout == "of osaka\n"
    assert lab.tokyo.run(["hostname"]).stdout == "tokyo\n"
    seen = lab.tokyo.run(["ps", "-e", "-o", "args="]).stdout
    assert "libvirtd" in seen
    assert "http.server" not in seen
    process.terminate()
    assert process.wait(GONE_SECONDS_MAX) == -signal.SIGTERM


def test_a_command_that_fails_says_what_and_where(lab: Lab) -> None:
    with pytest.raises(RuntimeError, match=r"tokyo: ls /nowhere: 2: .*No such file"):
        lab.tokyo.run(["ls", "/nowhere"])


@pytest.mark.parametrize(
    "disks", [RAW_AND_QCOW2, {"vda": "raw"}, {"vda": "qcow2"}], ids=["both", "raw", "qcow2"]
)
def test_a_guest_counts_shuts_down_and_goes_on_where_it_was(
    lab: Lab, make_guest: MakeGuest, disks: dict[str, str]
) -> None:
    guest = make_guest(lab.tokyo, disks=disks)
    guest.start()
    guest.console.wait_ack(more_than=5)
    began = time.monotonic()
    guest.shutdown(SHUTDOWN_SECONDS_MAX)
    assert time.monotonic() - began < SHUTDOWN_SECONDS_MAX
    last = guest.console.last_n
    assert isinstance(guest.console.events()[-1], Down)

    guest.start()
    assert guest.console.wait_ack().n > last
    guest.shutdown(SHUTDOWN_SECONDS_MAX)
    said = guest.console.events()
    assert console.problems(said) == []
    boots = guest.console.boots()
    assert [boot.n for boot in boots] == [0, last]
    for target, kind in disks.items():
        kept = console.events(guests.read_file(guest.disk(target), kind, "boots"))
        assert kept == boots
    mounted = [event for event in said if isinstance(event, Mounted)]
    assert [each.disk for each in mounted] == [*disks, *disks]
    assert not any(each.recovery_needed or each.recovered for each in mounted)


def test_a_guest_whose_plug_was_pulled_recovers_its_journal_and_all_that_it_acknowledged(
    lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo)
    guest.start()
    guest.console.wait_ack(more_than=5)
    guest.destroy()
    guest.start()
    guest.console.wait_ack()
    said = guest.console.events()
    assert console.problems(said) == []
    last = [event for event in said if isinstance(event, Mounted)][-2:]
    assert [each.disk for each in last if each.recovery_needed and each.recovered] == ["vda", "vdb"]


def test_a_saved_guest_goes_on_in_the_same_boot(
    lab: Lab, make_guest: MakeGuest, tmp_path: Path
) -> None:
    guest = make_guest(lab.tokyo)
    guest.start()
    guest.console.wait_ack(more_than=5)
    guest.save(tmp_path / "memory")
    assert guest.state() == "shut off"
    last = guest.console.last_n
    guest.restore(tmp_path / "memory")
    assert guest.console.wait_ack(more_than=last).n == last + 1
    assert len(guest.console.boots()) == 1
    assert console.problems(guest.console.events()) == []


def test_a_guest_migrates_live_by_libvirt_alone_and_goes_on(
    lab: Lab, make_guest: MakeGuest, tmp_path: Path
) -> None:
    here = make_guest(lab.tokyo, emulator=emulator.write(tmp_path))
    there = guests.Guest(lab.osaka, here.image, here.spec, tmp_path / "arrived")
    there.folder.mkdir()
    for target, kind in here.spec.disks.items():
        guests.make_disk(there.disk(target), kind, here.spec.disk_bytes)
    definition = tmp_path / "there.xml"
    definition.write_text(guests.definition_xml(there))
    here.start()
    here.console.wait_ack()
    how = ("--live", "--copy-storage-all", "--xml", definition)
    here.host.virsh("migrate", here.spec.name, lab.osaka.peer_uri, *how)
    last = here.console.last_n
    there.console.wait_ack(more_than=last)
    assert console.problems([*here.console.events(), *there.console.events()]) == []
    assert there.console.boots() == []
    assert (here.state(), there.state()) == ("shut off", "running")


def test_a_workload_writes_at_its_rate(lab: Lab, make_guest: MakeGuest) -> None:
    parameters = {"dirty_mbps": 5, "dirty_mb": 32, "dirty_disk": "vda"}
    guest = make_guest(lab.tokyo, disks={"vda": "raw"}, parameters=parameters)
    guest.start()

    def dirtied(said: list[console.Event]) -> list[console.Dirtied]:
        return [event for event in said if isinstance(event, console.Dirtied)]

    said = guest.console.wait(lambda said: len(dirtied(said)) >= 4, "no workload", 60)
    first, last = dirtied(said)[0], dirtied(said)[-1]
    rate = (last.written_bytes - first.written_bytes) / (last.uptime_seconds - first.uptime_seconds)
    assert rate == pytest.approx(5e6, rel=0.4)
    guest.shutdown(SHUTDOWN_SECONDS_MAX)
    assert console.problems(guest.console.events()) == []


def test_the_link_has_the_delay_that_was_asked_for(lab: Lab) -> None:
    lab.link.reshape(Shape(rate_bits=1e8, round_trip_seconds=0.2))
    assert 0.2 <= _round_trip_seconds(lab.tokyo, "osaka") < 0.35
    lab.heal()
    assert _round_trip_seconds(lab.osaka, "tokyo") < 0.15


@pytest.mark.parametrize("directions", [(), ("there",), ("back",)])
def test_the_link_can_be_cut_and_healed(lab: Lab, directions: tuple[str, ...]) -> None:
    lab.cut(*directions)
    with pytest.raises(RuntimeError, match="timed out"):
        _round_trip_seconds(lab.tokyo, "osaka", timeout_seconds=0.5)
    lab.heal()
    assert _round_trip_seconds(lab.tokyo, "osaka") > 0


def test_a_killed_libvirtd_leaves_the_guest_running_and_its_successor_finds_it(
    lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo)
    guest.start()
    guest.console.wait_ack()
    before = lab.tokyo.libvirtd_pid
    lab.tokyo.kill_libvirtd()
    assert lab.tokyo.libvirtd_pid == 0
    guest.console.wait_ack()
    lab.tokyo.start_libvirtd()
    assert lab.tokyo.libvirtd_pid not in (0, before)
    assert guest.state() == "running"
    guest.shutdown(SHUTDOWN_SECONDS_MAX)
    assert len(guest.console.boots()) == 1


def test_a_host_that_lost_its_power_still_knows_its_machines(
    lab: Lab, make_guest: MakeGuest
) -> None:
    guest = make_guest(lab.tokyo)
    guest.start()
    guest.console.wait_ack(more_than=5)
    lab.tokyo.close()
    lab.tokyo.start()
    assert guest.state() == "shut off"
    guest.start()
    guest.console.wait_ack()
    assert console.problems(guest.console.events()) == []


def test_a_closed_host_leaves_no_process_and_no_mount(tmp_path: Path, lab_image: Image) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    with Host("alone", tmp_path) as host:
        guest = guests.Guest(host, lab_image, guests.Spec("guest", {"vda": "raw"})).create()
        guest.start()
        host.popen(["sleep", "1000"])
        namespace = host.pid_namespace
        assert len(host.pids()) >= 4  # init, libvirtd, QEMU, sleep
    assert namespaces.members(namespace) == []
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_nothing_is_left_of_a_lab_whose_maker_was_killed(tmp_path: Path) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    maker = subprocess.Popen(
        [sys.executable, "-c", BEGIN, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with maker:
        assert maker.stdout is not None
        tokyo, osaka, box = maker.stdout.readline().split()
        assert len(namespaces.members(tokyo)) >= 3
        maker.kill()
    assert _eventually(
        lambda: (
            not namespaces.members(tokyo)
            and not namespaces.members(osaka)
            and not Path(f"/proc/{box}/ns").exists()
        )
    )
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_lost_and_doubled_work_is_noticed() -> None:
    good = "BOOT a 0\nnoise\nACK a 1.0 1\nACK a 1.1 2\nDOWN a 2\nBOOT b 2\nACK b 1.0 3\nACK b 1."
    assert console.events(good)[0] == Boot("a", 0)
    assert console.problems(console.events(good)) == []
    for wrong, said in {
        "ACK a 1.0 1\nACK a 1.1 2\nBOOT b 1\n": "boot b lost 2 to 2",
        "BOOT a 0\nACK a 1.0 1\nACK a 1.0 1\n": "a counts 1 after 1",
        "BOOT a 0\nACK a 1.0 1\nBOOT b 1\nACK a 1.1 2\n": "a goes on at 2 beside b",
        "BOOT a 0\nFAIL a write 5\n": "FAIL a write 5",
    }.items():
        assert console.problems(console.events(wrong)) == [said]


def _round_trip_seconds(host: Host, peer: str, timeout_seconds: float = 5.0) -> float:
    """A connection to a port where nobody listens is refused after one round trip, and what a busy
    machine takes besides: the shortest of several counts.
    """
    asked = [sys.executable, "-c", ASK, peer, REFUSED_PORT, timeout_seconds]
    return min(float(host.run(asked).stdout) for _ in range(3))


def _read(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - our own server
            return bytes(answer.read())
    except OSError:
        return None


def _eventually(wanted: Callable[[], T]) -> T:
    deadline = time.monotonic() + GONE_SECONDS_MAX
    while not (found := wanted()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
