"""`watari demo`: a whole crossing, and nothing left behind."""

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.support.command_line import CommandLine
from watari.cli import image
from watari.cli.exits import Exit

MIB = 1024 * 1024
SMALL = ("--size", "128MiB", "--data", "16MiB")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the demo makes its folder."""
    made = tmp_path / "tmp"
    made.mkdir()
    return made


@pytest.fixture
def watari_in(folder: Path, tmp_path: Path) -> CommandLine:
    """The command line of a user whose own state folder a demo must not touch."""
    return CommandLine(tmp_path / "own", {"TMPDIR": str(folder)})


def processes_of(folder: Path) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(part.startswith(f"{folder}/") for part in process.info["cmdline"] or ())
    ]


def test_the_demo_reports_one_object_and_leaves_nothing_behind(
    watari_in: CommandLine, folder: Path
) -> None:
    report = watari_in.json("demo", *SMALL)
    assert (report["vm"], report["from_cloud"], report["to_cloud"]) == ("web-1", "tokyo", "osaka")
    assert report["identical"] is True
    assert report["accounts_agree"] is True
    assert report["raw_bytes"] == 128 * MIB + 64 * MIB + 512
    assert 8 * MIB < report["wire_bytes"] < 40 * MIB
    assert report["seconds"] > 0
    assert len(bytes.fromhex(report["receipt_root"])) == 32
    assert 0 < report["allocated_destination_bytes"] <= report["allocated_source_bytes"]
    assert float(report["hourly_price"]["amount"]) > 0
    assert list(folder.iterdir()) == []
    assert processes_of(folder) == []
    assert not watari_in.state.exists()


def test_the_demo_takes_an_image_of_the_users_and_leaves_it_alone(
    watari_in: CommandLine, folder: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.raw"
    image.make_data_disk(own, 24 * MIB + 512, 2 * MIB)
    before = own.read_bytes()
    ended = watari_in.run("demo", "--image", str(own))
    assert "every byte is that of the original" in ended.out
    assert own.read_bytes() == before
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_an_interrupted_demo_stops_its_servers_and_removes_its_folder(
    watari_in: CommandLine, folder: Path, number: signal.Signals
) -> None:
    demo = watari_in.start("demo", *SMALL)
    deadline = time.monotonic() + 60
    while len(processes_of(folder)) < 3:
        assert time.monotonic() < deadline
        assert demo.poll() is None
        time.sleep(0.05)
    demo.send_signal(number)
    _, err = demo.communicate(timeout=60)
    assert demo.returncode == Exit.INTERRUPTED, err
    assert "Traceback" not in err
    assert processes_of(folder) == []
    assert list(folder.iterdir()) == []


def test_a_kept_demo_can_be_gone_on_with(watari_in: CommandLine, folder: Path) -> None:
    ended = watari_in.run("demo", *SMALL, "--keep")
    (kept,) = folder.glob("watari-demo-*/federation")
    assert str(kept) in ended.err
    assert processes_of(folder) == []
    again = CommandLine(kept)
    try:
        again.run("up")
        assert [vm["cloud_id"] for vm in again.json("vm", "list")] == ["osaka"]
    finally:
        again.run("down")


def test_a_demo_that_cannot_be_made_says_so_before_it_starts(
    watari_in: CommandLine, folder: Path
) -> None:
    ended = watari_in.run("demo", "--size", "20MiB", "-o", "json", code=Exit.USAGE)
    assert ended.error["reason"] == "INVALID_FIELD"
    ended = watari_in.run("demo", "--image", "/nonexistent.raw", "-o", "json", code=Exit.NOT_FOUND)
    assert ended.error["reason"] == "IMAGE_UNREADABLE"
    assert list(folder.iterdir()) == []
