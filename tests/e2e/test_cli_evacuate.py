"""Clouds are emptied, and what they keep is deleted, by the command line."""

import json
import signal
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.test_cli_migrate import SLOW, SLOWER, await_state, cloud_of
from tests.support.command_line import CommandLine
from tests.support.local import ROOMY
from watari.cli.exits import Exit

Make = Callable[[str], str]


@pytest.fixture(scope="module")
def watari(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A federation of these tests' own: they fill osaka, where others need room."""
    command_line = CommandLine(tmp_path_factory.mktemp("evacuated") / "federation", ROOMY)
    command_line.run("up")
    yield command_line
    command_line.run("down")


@pytest.fixture
def empty(watari: CommandLine) -> None:
    """tokyo has no machine that another test left."""
    watari.run("evacuate", "tokyo", "--to", "osaka", "--concurrency", "8")
    assert watari.json("vm", "list", "--cloud", "tokyo") == []


@pytest.fixture
def two(empty: None, machine: Make) -> list[str]:
    """Two machines in tokyo, and nothing else there."""
    return [machine("tokyo"), machine("tokyo")]


def test_a_whole_cloud_is_emptied_and_people_read_how_far_it_is(
    watari: CommandLine, two: list[str]
) -> None:
    ended = watari.run("evacuate", "tokyo", "--to", "osaka", "--first", two[1])
    assert "Nothing is left: 2 machines moved." in ended.out
    assert "2 machines of tokyo to osaka" in ended.err
    assert "2 of 2 machines moved" in ended.err
    assert "\x1b" not in ended.out + ended.err
    assert [cloud_of(watari, name) for name in two] == ["osaka", "osaka"]


def test_a_host_is_named_with_its_cloud(watari: CommandLine, two: list[str]) -> None:
    ambiguous = watari.run("evacuate", "host-1", "--to", "osaka", "-o", "json", code=Exit.REFUSED)
    assert ambiguous.error["reason"] == "VM_NAME_AMBIGUOUS"
    assert "--cloud" in ambiguous.error["hint"]
    done = watari.json("evacuate", "host-1", "--cloud", "tokyo", "--to", "osaka")
    assert (done["host_id"], done["succeeded"], done["done"]) == ("host-1", 2, True)
    assert len(done["migration_ids"]) == 2
    nobody = watari.run("evacuate", "host-9", "--to", "osaka", "-o", "json", code=Exit.NOT_FOUND)
    assert "no host and no cloud 'host-9'" in nobody.error["message"]


def test_an_evacuation_goes_on_without_its_command_and_is_watched_again(
    watari: CommandLine, two: list[str]
) -> None:
    new_id = str(uuid.uuid4())
    command = watari.start(*("evacuate", "tokyo", "--to", "osaka", "--id", new_id, "--limit", SLOW))
    assert command.stderr is not None
    while "0 of 2 machines moved" not in command.stderr.readline():
        assert command.poll() is None
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=60)
    assert command.returncode == Exit.INTERRUPTED
    assert "the evacuation, which goes on" in err
    assert f"watari evacuation watch {new_id}" in err
    watched = watari.run("evacuation", "watch", new_id, "-o", "json")
    last = json.loads(watched.out.splitlines()[-1])
    assert (last["succeeded"], last["remaining"], last["done"]) == (2, 0, True)
    shown = watari.run("evacuation", "show", new_id).out
    assert "all of tokyo" in shown
    assert "ended" in shown


def test_a_cancelled_evacuation_leaves_what_has_not_begun(
    watari: CommandLine, two: list[str]
) -> None:
    started = watari.json(
        *("evacuate", "tokyo", "--to", "osaka", "--concurrency", "1", "--first", two[0]),
        *("--detach", "--limit", SLOWER),
    )
    evacuation_id = started["evacuation_id"]
    assert started["remaining"] == 2

    def begun() -> list[str]:
        ids: list[str] = watari.json("evacuation", "show", evacuation_id)["migration_ids"]
        return ids

    while not begun():
        pass
    await_state(watari, begun()[0], {"copying"})
    assert (
        "1 machines stay; 1 migrations go on"
        in watari.run("evacuation", "cancel", evacuation_id).out
    )
    watari.run("migration", "limit", begun()[0], "0")
    ended = watari.run("evacuation", "watch", evacuation_id, "-o", "json", code=Exit.CANCELLED)
    assert "1 machines moved, 1 stay" in ended.error["message"]
    assert [cloud_of(watari, name) for name in two] == ["osaka", "tokyo"]


def test_outside_of_its_window_an_evacuation_says_what_it_waits_for(
    watari: CommandLine, two: list[str]
) -> None:
    # A minute that is not now, whatever time it is: one of these two windows is shut.
    for window in ("00:00-00:01", "12:00-12:01"):
        started = watari.json(
            *("evacuate", "tokyo", "--to", "osaka", "--window", window, "--detach")
        )
        waiting = ""
        for _ in range(20):
            shown = watari.json("evacuation", "show", started["evacuation_id"])
            waiting = (shown["waiting_for"] or {}).get("message", "")
            if waiting:
                break
        watari.run("evacuation", "cancel", started["evacuation_id"])
        if waiting:
            assert window in waiting
            return
    raise AssertionError("neither window was shut")


def test_what_is_kept_of_a_machine_that_went_away_can_be_deleted(
    watari: CommandLine, machine: Make
) -> None:
    name = machine("tokyo")
    migration_id = watari.json("migrate", name, "--to", "osaka")["migration_id"]
    (kept,) = (
        each
        for each in watari.json("vm", "retained", "--cloud", "tokyo")
        if each["retained"]["migration_id"] == migration_id
    )
    assert kept["retained"]["name"] == name
    assert kept["retained"]["allocated_bytes"] > 0
    refused = watari.run("vm", "purge", name, "-o", "json", code=Exit.USAGE)
    assert "--yes" in refused.error["message"]
    unsure = watari.run("vm", "purge", name, code=Exit.CANCELLED)
    assert f"of disks of {name} will be deleted in tokyo" in unsure.err
    purged = watari.json("vm", "purge", name, "--yes")["purged"]
    assert [each["retained"]["migration_id"] for each in purged] == [migration_id]
    gone = watari.run("vm", "purge", name, "--yes", "-o", "json", code=Exit.NOT_FOUND)
    assert "watari vm retained" in gone.error["hint"]
    assert cloud_of(watari, name) == "osaka"


def test_a_shelf_runs_no_machine_and_says_so(watari: CommandLine, machine: Make) -> None:
    name = machine("tokyo")
    ended = watari.run("vm", "start", name, "-o", "json", code=Exit.REFUSED)
    assert ended.error["reason"] == "NOT_SERVED"
    assert watari.json("vm", "stop", name)["state"] == "shut off"
    assert f"{name} is shut off in tokyo" in watari.run("vm", "stop", name, "--timeout", "0").out


def test_a_dry_run_tells_what_stands_against_it_and_what_it_would_take(
    watari: CommandLine, machine: Make
) -> None:
    name = machine("tokyo")
    said = watari.json("migrate", name, "--to", "osaka", "--dry-run")
    assert (said["mode"], said["findings"], said["compared"]) == ("cold", [], True)
    assert "warnings" in said
    moving = watari.json("migrate", name, "--to", "osaka", "--detach", "--limit", SLOWER)
    refused = watari.run(
        *("migrate", name, "--to", "osaka", "--mode", "warm", "--downtime-target", "2s"),
        "--dry-run",
        code=Exit.REFUSED,
    )
    assert "WHAT STANDS AGAINST IT" in refused.out
    assert moving["migration_id"] in refused.out
    assert "warm" in refused.out
    watari.run("migration", "cancel", moving["migration_id"])


def test_only_what_is_committed_can_be_resolved(watari: CommandLine, machine: Make) -> None:
    name = machine("tokyo")
    migration_id = watari.json("migrate", name, "--to", "osaka")["migration_id"]
    arguments = ("migration", "resolve", migration_id, "--justification", "a test")
    both = watari.run(*arguments, "--cloud", "tokyo", "-o", "json", code=Exit.USAGE)
    assert "--keep-here or --give-up-here" in both.error["message"]
    unsure = watari.run(*arguments, "--cloud", "tokyo", "--keep-here", code=Exit.CANCELLED)
    assert f"there are two of {name}" in unsure.err
    refused = watari.run(
        *arguments, "--cloud", "tokyo", "--keep-here", "--yes", "-o", "json", code=Exit.REFUSED
    )
    assert refused.error["reason"] == "MIGRATION_STATE"
    there = watari.run(*arguments, "--cloud", "osaka", "--give-up-here", code=Exit.CANCELLED)
    assert "osaka, the destination" in there.out
    assert "This is safe" in there.err
    assert cloud_of(watari, name) == "osaka"
