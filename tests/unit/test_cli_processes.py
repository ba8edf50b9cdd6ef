"""watari.cli.federation.processes: the right process is found and stopped, and no other ever."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from watari.cli.federation import processes
from watari.cli.federation.processes import Running
from watari.clock import SystemClock

CLOCK = SystemClock()
NOWHERE = Path("/nonexistent/settings.toml")


SLEEP = "import time; print('up', flush=True); time.sleep(60)"


def sleeper(code: str = SLEEP, arguments: Sequence[str] = ()) -> "subprocess.Popen[str]":
    """A process that has begun to sleep."""
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.fixture
def bystander() -> Iterator["subprocess.Popen[str]"]:
    """A process that nobody is to touch."""
    process = sleeper()
    with process:
        yield process
        process.kill()


def identified(process: "subprocess.Popen[str]") -> Running:
    running = processes._identify(process.pid)
    assert running is not None
    return running


def test_a_process_is_recognised_by_its_record(
    tmp_path: Path, bystander: "subprocess.Popen[str]"
) -> None:
    record = tmp_path / "one.json"
    record.write_text(json.dumps(asdict(identified(bystander))))
    assert processes.find(record, NOWHERE) == identified(bystander)


@pytest.mark.parametrize(
    "change", [{"started_ticks": 1}, {"boot_id": "another boot"}], ids=["start", "boot"]
)
def test_a_process_that_was_given_a_recorded_id_later_is_not_ours(
    tmp_path: Path, bystander: "subprocess.Popen[str]", change: dict[str, object]
) -> None:
    earlier = replace(identified(bystander), **change)  # type: ignore[arg-type]
    record = tmp_path / "one.json"
    record.write_text(json.dumps(asdict(earlier)))
    assert processes.find(record, NOWHERE) is None
    assert processes.stop([earlier], CLOCK, grace_seconds=1, kill_seconds=1) == []
    time.sleep(0.05)
    assert bystander.poll() is None


@pytest.mark.parametrize("text", ["", "{", "{}", '{"pid": 1}', "[1]"])
def test_a_damaged_record_names_no_process(tmp_path: Path, text: str) -> None:
    record = tmp_path / "one.json"
    record.write_text(text)
    assert processes.find(record, NOWHERE) is None


def test_a_process_that_ended_is_not_running_even_before_it_is_reaped() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    running = processes._identify(process.pid)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and a zombie now
    assert running is None or not processes.is_alive(running)
    process.wait()


def test_stopping_asks_first_and_returns_when_it_is_done() -> None:
    with sleeper() as process:
        assert processes.stop([identified(process)], CLOCK, grace_seconds=30, kill_seconds=1) == []
        assert process.wait(30) == -15


def test_a_process_that_does_not_listen_is_killed() -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('up', flush=True); time.sleep(60)"
    )
    with sleeper(stubborn) as process:
        running = identified(process)
        killed = processes.stop([running], CLOCK, grace_seconds=0.1, kill_seconds=30)
        assert killed == [running]
        assert process.wait(30) == -9


def test_a_process_whose_starter_was_killed_before_recording_it_is_found_all_the_same(
    tmp_path: Path,
) -> None:
    settings = tmp_path / "tool.toml"
    with sleeper(arguments=["--config", str(settings)]) as process:
        found = processes.find(tmp_path / "none.json", settings)
        assert found == identified(process)
        assert processes.find(tmp_path / "none.json", tmp_path / "tool.tom") is None
        processes.stop([found], CLOCK, grace_seconds=30, kill_seconds=1)


def test_a_started_process_is_detached_recorded_and_logs_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text(
        "import os, sys, time\n"
        "print(sys.argv[1:], os.getsid(0) == os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    record, log = tmp_path / "tool.json", tmp_path / "tool.log"
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    processes.start("tool", tmp_path / "tool.toml", log, record, environ)
    running = processes.find(record, NOWHERE)
    assert running is not None
    deadline = time.monotonic() + 30
    while not log.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert log.read_text() == f"['--config', '{tmp_path}/tool.toml'] True\n"
    processes.stop([running], CLOCK, grace_seconds=30, kill_seconds=1)
    assert processes.find(record, NOWHERE) is None
