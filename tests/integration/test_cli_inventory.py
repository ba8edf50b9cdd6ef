"""Resource classes that are renamed and split while the host goes on saying what it said."""

import functools
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from manager.settings.hosts import ClassSettings
from tests.conftest import OSAKA, Federation
from tests.support.clouds import VM, Cloud, eventually, two_clouds
from tests.support.operators import command_of

GPU, A100 = "accelerator:gpu", "accelerator:a100"
OTHER = "6f1f2d2e-0000-4000-8000-000000000002"

_Run = Callable[..., str]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The servers are in this process: what they log must not stand among what commands print."""
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=io.StringIO()))
    yield
    structlog.reset_defaults()


@pytest.fixture
def osaka(federation: Federation, tmp_path: Path) -> Iterator[Cloud]:
    """Two machines on a host with eight devices: of three, and of two."""
    with two_clouds(federation, tmp_path) as (_, osaka):
        host = replace(osaka.settings.agents["host1"], inventory={GPU: ClassSettings(total=8)})
        osaka.change(agents={"host1": host})
        for vm_id, name, devices in ((VM, "web-1", 3), (OTHER, "web-2", 2)):
            osaka.agent.add(vm_id, name)
            osaka.agent.guests[vm_id].resources.other[GPU] = devices
        osaka.start()
        yield osaka


@pytest.fixture
def run(osaka: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> _Run:
    """What a command of osaka's operator prints."""
    return functools.partial(
        command_of(tmp_path / "client.toml", capsys, OSAKA, [osaka]), "inventory"
    )


def looked_at_again(osaka: Cloud) -> None:
    """Waits until the host was looked at after this call began, from beginning to end."""
    for _ in range(2):
        seen = osaka.vms()[VM].seen_at.ToMicroseconds()
        eventually(
            lambda seen=seen: osaka.vms()[VM].seen_at.ToMicroseconds() > seen, "another look"
        )


def test_a_renamed_class_stays_so_whatever_the_host_says(osaka: Cloud, run: _Run) -> None:
    assert "accelerator:gpu" in run("list")
    told = json.loads(run("rename", GPU, A100, "--dry-run", "-o", "json"))
    assert (told["changed"], told["consumers"]) == (True, 2)
    assert osaka.inventory().allocated.other == {GPU: 5}
    assert "allocations moved" in run("rename", GPU, A100)
    looked_at_again(osaka)
    assert osaka.inventory().allocated.other == {A100: 5}
    assert osaka.vms()[VM].resources.other == {A100: 3}
    osaka.stop()
    osaka.start()
    looked_at_again(osaka)
    assert osaka.inventory().allocated.other == {A100: 5}
    assert not json.loads(run("rename", GPU, A100, "-o", "json"))["changed"]


def test_units_are_split_with_the_machines_that_use_them(osaka: Cloud, run: _Run) -> None:
    error = json.loads(
        run("split", GPU, "--host", "host1", "--to", f"{A100}=4", "-o", "json", code=5)
    )["error"]
    assert (error["reason"], error["metadata"]["free"]) == ("RESHAPE_OVERCOMMITS", "4")
    asked = ["split", GPU, "--host", "host1", "--to", f"{A100}=4", "--move", f"{VM}={A100}"]
    old = run(*asked, "--generation", "1", "-o", "json", code=4)
    assert json.loads(old)["error"]["reason"] == "GENERATION_CONFLICT"
    assert "accelerator:gpu" in run(*asked)
    looked_at_again(osaka)
    shown = osaka.inventory()
    assert (shown.total.other, shown.allocated.other) == ({GPU: 4, A100: 4}, {GPU: 2, A100: 3})
    assert osaka.vms()[VM].resources.other == {A100: 3}
    assert "was so already" in run(*asked)
    assert "NEW=UNITS" in run("split", GPU, "--host", "host1", "--to", "nothing", code=2)


def test_the_log_tells_of_what_was_done(osaka: Cloud, run: _Run) -> None:
    assert "CLASS_NOT_FOUND" in run("rename", "nothing", A100, "-o", "json", code=3)
    run("rename", GPU, A100)
    (entry,) = [each for each in osaka.audit() if each.action == "inventory.reshaped"]
    assert (entry.subject, entry.details["renamed_to"]) == (GPU, A100)
