"""`watari up`, `down` and `status`, with six real processes."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.command_line import CommandLine
from watari.cli.exits import Exit

SERVERS = [
    "directory",
    "tokyo-agent",
    "tokyo-manager",
    "osaka-agent",
    "osaka-manager",
    "broker",
]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A federation to be knocked about, apart from the shared one."""
    command_line = CommandLine(tmp_path_factory.mktemp("own") / "federation")
    command_line.run("up")
    yield command_line
    command_line.run("down")


def pids(command_line: CommandLine) -> dict[str, int]:
    servers = command_line.run("status", "-o", "json", code=None).json["servers"]
    return {server["name"]: server["pid"] for server in servers}


def kill(pid: int) -> None:
    """kill -9, and waits for the end."""
    process = psutil.Process(pid)
    process.kill()
    psutil.wait_procs([process], timeout=30)


def servers_of(state: Path) -> list[int]:
    """Every process of this machine that was started with settings below a folder."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(part.startswith(f"{state}/") for part in process.info["cmdline"] or ())
    ]


def test_up_starts_six_servers_that_serve(own: CommandLine) -> None:
    status = own.json("status")
    assert {server["name"]: server["state"] for server in status["servers"]} == dict.fromkeys(
        SERVERS, "serving"
    )
    assert [cloud["cloud_id"] for cloud in status["clouds"]] == ["osaka", "tokyo"]
    assert not any(cloud["problem"] or cloud["directory_problem"] for cloud in status["clouds"])
    assert sorted(servers_of(own.state)) == sorted(pids(own).values())


def test_up_again_starts_nothing(own: CommandLine) -> None:
    before = pids(own)
    again = own.json("up")
    assert {server["name"]: server["pid"] for server in again["servers"]} == before


def test_servers_outlive_the_terminal_that_started_them(own: CommandLine) -> None:
    for pid in pids(own).values():
        assert os.getsid(pid) == pid


def test_up_restarts_just_the_server_that_was_killed(own: CommandLine) -> None:
    before = pids(own)
    for name in SERVERS:
        kill(before[name])
        ended = own.run("status", "-o", "json", code=Exit.UNAVAILABLE)
        assert ended.error["message"] == f"not serving: {name}"
        servers = own.json("up")["servers"]
        assert {server["state"] for server in servers} == {"serving"}
        after = {server["name"]: server["pid"] for server in servers}
        assert {other for other in SERVERS if after[other] != before[other]} == {name}
        before = after


def test_a_server_that_does_not_start_is_reported_with_its_log(own: CommandLine) -> None:
    kill(pids(own)["broker"])
    settings = own.state / "config" / "broker.toml"
    good = settings.read_text()
    settings.write_text(good.replace("refresh_seconds_min", "refresh_seconds_minn"))
    try:
        ended = own.run("up", "-o", "json", code=Exit.UNAVAILABLE)
    finally:
        settings.write_text(good)
    assert ended.error["reason"] == "START_FAILED"
    assert "refresh_seconds_minn" in ended.error["message"]
    assert "broker.log" in ended.error["hint"]
    own.run("up")


def test_down_leaves_no_process_and_up_finds_the_machines_again(
    own: CommandLine, disk: Path
) -> None:
    own.run("vm", "import", "--cloud", "tokyo", "--name", "keeper", "--image", str(disk))
    before = own.json("vm", "show", "keeper")
    stopped = own.json("down")
    assert sorted(stopped["stopped"]) == sorted(SERVERS)
    assert stopped["killed"] == []
    assert servers_of(own.state) == []
    refused = own.run("vm", "list", "-o", "json", code=Exit.UNAVAILABLE)
    assert refused.error["reason"] == "FEDERATION_DOWN"
    own.run("up")
    after = own.json("vm", "show", "keeper")
    assert after["vm_id"] == before["vm_id"]
    assert after["disks"] == before["disks"]
