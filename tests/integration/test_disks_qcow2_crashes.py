"""qcow2 when the agent, its server or its host dies: what survives, and what ends with it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.disks import DiskWriter, open_reader, open_writer
from tests.support.disks import KIB, MIB, new_image, run, servers_of
from watari import errors

WAIT_SECONDS_MAX = 60.0

CHILD = """
import sys, time
from pathlib import Path
from agent.disks import open_reader, open_writer
path, role = Path(sys.argv[1]), sys.argv[2]
if role == "reader":
    disk = open_reader(path, "qcow2")
else:
    disk = open_writer(path, "qcow2", 4 << 20, keep=False)
    disk.write(0, b"flushed" * 1000)
    disk.flush()
    disk.write(1 << 20, b"not flushed" * 1000)
print("ready", flush=True)
time.sleep(600)
"""


def write_on(writer: DiskWriter) -> None:
    """Until it fails: a server that is being killed may answer once more."""
    while True:
        writer.write(7 * MIB, b"x")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)


def start_child(path: Path, role: str, temporary: Path) -> "subprocess.Popen[str]":
    """A process of its own that has the image open."""
    environ = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(Path.cwd())}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), role],
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize("role", ["reader", "writer"])
def test_an_agent_that_is_killed_leaves_no_server_no_lock_and_no_file(
    tmp_path: Path, role: str
) -> None:
    path = tmp_path / "disk.qcow2"
    if role == "reader":
        new_image(path, 4 * MIB)
    temporary = tmp_path / "t"
    temporary.mkdir()
    child = start_child(path, role, temporary)
    try:
        (served,) = servers_of(child.pid)
        assert [each.stat().st_mode & 0o777 for each in temporary.iterdir()] == [0o700]
        child.kill()
        wait_for(lambda: not served.is_running())
        wait_for(lambda: list(temporary.iterdir()) == [])
    finally:
        child.kill()
        child.communicate()
    again = open_writer(path, "qcow2", 4 * MIB, keep=True)
    try:
        assert again.kept
        if role == "writer":
            assert again.read(0, 7000) == b"flushed" * 1000
    finally:
        again.close()


def test_a_server_that_hangs_is_killed_with_its_agent(tmp_path: Path) -> None:
    path = new_image(tmp_path / "disk.qcow2", 4 * MIB)
    temporary = tmp_path / "t"
    temporary.mkdir()
    child = start_child(path, "writer", temporary)
    (served,) = servers_of(child.pid)
    try:
        served.suspend()
        child.kill()
        wait_for(lambda: not served.is_running())
        wait_for(lambda: list(temporary.iterdir()) == [])
    finally:
        child.kill()
        child.communicate()
        if served.is_running():
            served.kill()


def test_a_server_leaves_with_its_last_client_when_its_guard_is_killed_too(tmp_path: Path) -> None:
    path = new_image(tmp_path / "disk.qcow2", 4 * MIB)
    child = start_child(path, "reader", tmp_path)
    try:
        (served,) = servers_of(child.pid)
        guard = served.parent()
        assert guard is not None
        assert guard.name() == "sh"
        guard.kill()
        time.sleep(0.1)
        assert served.is_running()
        child.kill()
        wait_for(lambda: not served.is_running())
    finally:
        child.kill()
        child.communicate()


def test_a_thread_that_ends_does_not_take_the_server_along(tmp_path: Path) -> None:
    """The kernel's parent-death signal would."""
    path = new_image(tmp_path / "disk.qcow2")
    opened = []
    opener = threading.Thread(target=lambda: opened.append(open_reader(path, "qcow2")))
    opener.start()
    opener.join()
    time.sleep(0.1)
    with opened[0] as reader:
        assert reader.read(0, 7) == b"content"


def test_what_was_flushed_survives_a_kill_of_the_server(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    writer = open_writer(path, "qcow2", 8 * MIB, keep=False)
    flushed = os.urandom(300_000)
    writer.write(100_000, flushed)
    writer.flush()
    writer.write(4 * MIB, os.urandom(2 * MIB))
    (served,) = servers_of(os.getpid())
    served.send_signal(signal.SIGKILL)
    with pytest.raises(errors.DataLoss) as caught:
        write_on(writer)
    assert caught.value.reason == "DISK_IO"
    with pytest.raises(errors.DataLoss):
        writer.flush()
    writer.close()
    again = open_writer(path, "qcow2", 8 * MIB, keep=True)
    try:
        assert again.kept
        assert again.read(100_000, 300_000) == flushed
        again.write(7 * MIB, b"goes on")
        again.flush()
    finally:
        again.close()
    run("qemu-img", "check", path)


def test_lost_clusters_of_an_interrupted_try_are_freed(tmp_path: Path) -> None:
    path = new_image(tmp_path / "disk.qcow2", 4 * MIB)
    clean = path.stat().st_size
    # A cluster that is counted as used and belongs to nothing, as a crash leaves it.
    with path.open("r+b") as image:
        image.truncate(clean + 64 * KIB)
        image.seek(48)
        table = int.from_bytes(image.read(8), "big")
        image.seek(table)
        counts = int.from_bytes(image.read(8), "big")
        image.seek(counts + 2 * (-(-clean // (64 * KIB))))
        image.write((1).to_bytes(2, "big"))
    status = subprocess.run(["qemu-img", "check", path], capture_output=True, check=False)
    assert status.returncode == 3, status.stdout
    writer = open_writer(path, "qcow2", 4 * MIB, keep=True)
    assert writer.kept
    writer.close()
    run("qemu-img", "check", path)


def test_an_image_that_is_beyond_repair_is_started_anew(tmp_path: Path) -> None:
    path = new_image(tmp_path / "disk.qcow2", 4 * MIB)
    with path.open("r+b") as image:
        image.seek(40)
        table = int.from_bytes(image.read(8), "big")
        image.seek(table)
        image.write(b"\x80" + b"\xff" * 6 + b"\x00")  # the first level points to nowhere
    writer = open_writer(path, "qcow2", 4 * MIB, keep=True)
    try:
        assert not writer.kept
        assert writer.read(0, 7) == bytes(7)
    finally:
        writer.close()
