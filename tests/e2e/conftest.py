"""One local federation of real processes for all tests of this folder that only use one."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine


@pytest.fixture(scope="session")
def watari(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """The command line, with `watari up` done. What a test stops it starts again with `up`."""
    command_line = CommandLine(tmp_path_factory.mktemp("shared") / "federation")
    command_line.run("up")
    yield command_line
    command_line.run("down")


@pytest.fixture
def machine(watari: CommandLine, disk: Path) -> Callable[[str], str]:
    """Makes a machine in a cloud, once a test; returns its name, which no other test uses."""

    def make(cloud: str) -> str:
        name = f"vm-{uuid.uuid4().hex[:8]}"
        watari.run("vm", "import", "--cloud", cloud, "--name", name, "--image", str(disk))
        return name

    return make
