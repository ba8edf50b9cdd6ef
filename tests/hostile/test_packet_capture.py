"""Who records every packet of a migration finds nothing of its disks or of its definition there."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import captured

CAPTURE_SECONDS_MAX = 120
MARKER = f"marker-{secrets.token_hex(12)}"
"""A machine's name, and what its disks hold in random, in repeating and in mostly empty context."""


Recorded = tuple[Path, dict[captured.Stream, bytes], dict[str, int]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """The capture of a whole migration, its connections put together, and the ports in it."""
    folder = tmp_path_factory.mktemp("capture")
    alone = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    command = [*alone, sys.executable, "-m", "tests.support.captured", str(folder), MARKER]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=CAPTURE_SECONDS_MAX
    )
    assert done.returncode == 0, done.stderr
    capture = folder / "capture.pcapng"
    return capture, captured.streams(capture), json.loads(done.stdout.splitlines()[-1])


def with_marker(streams: dict[captured.Stream, bytes]) -> set[str]:
    """The connections that carry the marker, as it is or in other guises of text."""
    guises = [MARKER.encode(), MARKER.encode("utf-16-le"), MARKER.encode().hex().encode()]
    return {
        number
        for (number, _), content in streams.items()
        if any(guise in content for guise in guises)
    }


def test_what_is_said_in_clear_is_found_though_it_comes_in_two_packets(recorded: Recorded) -> None:
    capture, streams, ports = recorded
    assert with_marker(streams) & captured.to_port(capture, ports["clear"])


def test_nothing_of_disks_or_definition_is_found_in_anything_else(recorded: Recorded) -> None:
    capture, streams, ports = recorded
    assert with_marker(streams) == captured.to_port(capture, ports["clear"])
    assert capture.read_bytes().count(MARKER.encode()) == 0


def test_the_whole_transfer_was_captured(recorded: Recorded) -> None:
    """The random disk cannot be made smaller, so its bytes must be among those that were seen."""
    capture, streams, ports = recorded
    data = captured.to_port(capture, ports["data"])
    carried = sum(len(content) for (number, _), content in streams.items() if number in data)
    assert carried > captured.DISK_BYTES
    assert any(b"watari-session" in content for (n, _), content in streams.items() if n in data)
