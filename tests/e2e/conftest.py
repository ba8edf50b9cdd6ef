"""One local federation of real processes for all tests of this folder that only use one."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine

MIB = 1024 * 1024


@pytest.fixture(scope="session")
def watari(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """The command line, with `watari up` done. What a test stops it starts again with `up`."""
    command_line = CommandLine(tmp_path_factory.mktemp("shared") / "federation")
    command_line.run("up")
    yield command_line
    command_line.run("down")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A sparse raw image with 4 MiB of content that does not compress and that no host has yet."""
    path = tmp_path / "disk.raw"
    with path.open("xb") as file:
        file.truncate(32 * MIB + 512)
        for offset in (MIB, 30 * MIB + 512):
            file.seek(offset)
            file.write(os.urandom(2 * MIB))
    return path


@pytest.fixture
def machine(watari: CommandLine, disk: Path) -> Callable[[str], str]:
    """Makes a machine in a cloud, once a test; returns its name, which no other test uses."""

    def make(cloud: str) -> str:
        name = f"vm-{uuid.uuid4().hex[:8]}"
        watari.run("vm", "import", "--cloud", cloud, "--name", name, "--image", str(disk))
        return name

    return make
