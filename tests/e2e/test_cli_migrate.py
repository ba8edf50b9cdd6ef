"""Machines cross between two local clouds by the command line."""

import json
import os
import signal
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.clouds import eventually
from tests.support.command_line import CommandLine
from watari.cli import sparse
from watari.cli.exits import Exit

SLOW, SLOWER = "1MiB", "64KiB"
"""Rates at which the 4 MiB of a test's disk take some seconds, and a minute. The second is the
lowest that there is, for migrations that are cancelled or let go faster.
"""

STATE_SECONDS_MAX = 60.0

Make = Callable[[str], str]


def cloud_of(watari: CommandLine, name: str) -> str:
    cloud: str = watari.json("vm", "show", name)["cloud_id"]
    return cloud


def await_state(watari: CommandLine, migration_id: str, states: set[str]) -> dict[str, Any]:
    deadline = time.monotonic() + STATE_SECONDS_MAX
    while True:
        migration: dict[str, Any] = watari.json("migration", "show", migration_id)
        if migration["state"] in states:
            return migration
        assert time.monotonic() < deadline, migration
        time.sleep(0.05)


def test_a_machine_crosses_to_a_named_cloud_with_every_byte(
    watari: CommandLine, machine: Make, disk: Path
) -> None:
    name = machine("tokyo")
    migration = watari.json("migrate", name, "--to", "osaka")
    assert migration["state"] == "succeeded"
    assert migration["receipt"]["signed_by"] == "spiffe://osaka.internal/agent/host-1"
    there = watari.json("vm", "show", name)
    assert (there["cloud_id"], there["epoch"]) == ("osaka", migration["source_epoch"] + 1)
    arrived = watari.state / "data" / "osaka-agent" / "shelf" / "vms" / there["vm_id"] / "vda.raw"
    assert sparse.first_difference(disk, arrived) is None


def test_both_clouds_meter_a_crossing_with_one_receipt(watari: CommandLine, machine: Make) -> None:
    name = machine("osaka")
    migration = watari.json("migrate", name, "--to", "tokyo")
    records = watari.json("usage", "--vm", migration["vm_id"])
    assert {(one["cloud_id"], one["kind"]) for one in records} == {
        ("osaka", "left"),
        ("tokyo", "arrived"),
    }
    assert {one["receipt_root"] for one in records} == {migration["receipt"]["root"]}
    assert len({(one["raw_bytes"], one["wire_bytes"], one["occurred_at"]) for one in records}) == 1


def test_hosts_tell_what_a_crossing_took(watari: CommandLine, machine: Make) -> None:
    name = machine("osaka")
    vm_id = watari.json("migrate", name, "--to", "tokyo")["vm_id"]

    def told() -> dict[tuple[str, str], dict[str, Any]]:
        events = watari.json("usage", "--events", "--vm", vm_id)
        return {(one["cloud_id"], one["event"]["kind"]): one["event"] for one in events}

    eventually(lambda: len(told()) == 5, "both clouds have recorded it")
    events = told()
    assert set(events) == {
        ("osaka", "appeared"),
        ("osaka", "sent"),
        ("osaka", "departed"),
        ("tokyo", "received"),
        ("tokyo", "arrived"),
    }
    sent, received = events["osaka", "sent"], events["tokyo", "received"]
    assert sent["wire_bytes"] == received["wire_bytes"] > 0
    assert sent["raw_bytes"] == received["raw_bytes"]
    shown = watari.run("usage", "--events", "--vm", vm_id).out
    assert "departed" in shown
    assert name in shown


def test_the_broker_chooses_the_cloud_and_says_why(watari: CommandLine, machine: Make) -> None:
    name = machine("tokyo")
    migration = watari.json("migrate", name, "--place", "--streams", "1", "--cipher-bits", "256")
    assert (migration["state"], migration["to_cloud"]) == ("succeeded", "osaka")
    assert migration["options"]["cipher_key_bits"] == 256
    assert [one["cloud_id"] for one in migration["placement"]["candidates"]] == ["osaka"]
    assert {one["cloud_id"] for one in migration["placement"]["rejections"]} == {"tokyo"}
    (attempt,) = migration["attempts"]
    assert (attempt["cloud_id"], attempt["problem"]) == ("osaka", None)


def test_people_read_the_course_and_the_end_of_a_migration(
    watari: CommandLine, machine: Make
) -> None:
    name = machine("tokyo")
    ended = watari.run("migrate", name, "--to", "osaka", "--from", "tokyo")
    assert f"{name} is in osaka now" in ended.out
    assert f"{name}: succeeded" in ended.err
    assert "\x1b" not in ended.out + ended.err


def test_a_watch_is_a_json_object_a_line_up_to_the_final_state(
    watari: CommandLine, machine: Make
) -> None:
    name = machine("tokyo")
    started = watari.json("migrate", name, "--to", "osaka", "--detach", "--limit", SLOWER)
    migration_id, states = started["migration_id"], []
    with watari.start("migration", "watch", migration_id, "-o", "json") as watch:
        assert watch.stdout is not None
        while states.count("copying") < 2:  # progress within one
            states.append(json.loads(watch.stdout.readline())["state"])
        watari.run("migration", "limit", migration_id, "0")
        states += [json.loads(line)["state"] for line in watch.stdout]
    assert states[-1] == "succeeded"
    assert watch.returncode == Exit.OK


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_a_migration_goes_on_without_the_command_that_started_it(
    watari: CommandLine, machine: Make, number: signal.Signals
) -> None:
    name, migration_id = machine("tokyo"), str(uuid.uuid4())
    command = watari.start("migrate", name, "--to", "osaka", "--limit", SLOW, "--id", migration_id)
    assert command.stderr is not None
    while "copying" not in command.stderr.readline():
        assert command.poll() is None
    left_at = datetime.now(UTC)
    command.send_signal(number)
    out, err = command.communicate(timeout=60)
    if number is signal.SIGINT:
        assert command.returncode == Exit.INTERRUPTED, (out, err)
        assert "goes on" in err
        assert f"watari migration watch {migration_id}" in err
    migration = await_state(watari, migration_id, {"succeeded"})
    assert datetime.fromisoformat(migration["ended_at"]) > left_at
    assert cloud_of(watari, name) == "osaka"


def test_repeating_a_command_with_its_id_joins_the_migration(
    watari: CommandLine, machine: Make
) -> None:
    name, migration_id = machine("tokyo"), str(uuid.uuid4())
    arguments = ("migrate", name, "--to", "osaka", "--id", migration_id)
    first = watari.json(*arguments, "--detach", "--limit", SLOW)
    assert first["state"] != "succeeded"
    second = watari.json(*arguments)
    third = watari.json(*arguments)
    assert second["state"] == third["state"] == "succeeded"
    assert second["ended_at"] == third["ended_at"]


def test_a_cancelled_migration_leaves_the_machine_where_it_was(
    watari: CommandLine, machine: Make
) -> None:
    name = machine("tokyo")
    started = watari.json("migrate", name, "--to", "osaka", "--detach", "--limit", SLOWER)
    migration_id = started["migration_id"]
    await_state(watari, migration_id, {"copying"})
    watari.run("migration", "cancel", migration_id)
    ended = watari.run("migration", "watch", migration_id, "-o", "json", code=Exit.CANCELLED)
    assert ended.error["reason"] == "CANCELLED"
    assert f"{name} is still in tokyo" in ended.error["message"]
    assert cloud_of(watari, name) == "tokyo"
    moved = watari.json("migrate", name, "--to", "osaka")["migration_id"]
    late = watari.run("migration", "cancel", moved, "-o", "json", code=Exit.REFUSED)
    assert late.error["reason"] in ("MIGRATION_STATE", "MIGRATION_COMMITTED")


def test_a_running_migration_can_be_let_go_faster(watari: CommandLine, machine: Make) -> None:
    name = machine("tokyo")
    started = watari.json("migrate", name, "--to", "osaka", "--detach", "--limit", SLOWER)
    migration_id = started["migration_id"]
    await_state(watari, migration_id, {"copying"})
    refused = watari.run("migration", "limit", migration_id, "fast", "-o", "json", code=Exit.USAGE)
    assert refused.error["reason"] == "INVALID_QUANTITY"
    slow = watari.run("migration", "limit", migration_id, "1KiB", "-o", "json", code=Exit.USAGE)
    assert slow.error["metadata"]["field"] == "limit_bytes_per_second"
    assert "65536" in slow.error["hint"]
    assert "no limit" in watari.run("migration", "limit", migration_id, "0").out
    watari.run("migration", "watch", migration_id)
    assert cloud_of(watari, name) == "osaka"
    watari.run("migration", "limit", migration_id, "1M/s", code=Exit.REFUSED)


def test_machines_move_by_hand_while_directory_and_broker_are_down(
    watari: CommandLine, machine: Make
) -> None:
    name = machine("tokyo")
    servers = {server["name"]: server["pid"] for server in watari.json("status")["servers"]}
    try:
        for server in ("directory", "broker"):
            os.kill(servers[server], signal.SIGKILL)
        assert name in {vm["name"] for vm in watari.json("vm", "list")}
        assert watari.json("migrate", name, "--to", "osaka")["state"] == "succeeded"
        assert watari.json("vm", "list", "--cloud", "osaka")
        for command in (("cloud", "list"), ("offer", "list"), ("place",)):
            ended = watari.run(*command, "-o", "json", code=Exit.UNAVAILABLE)
            assert ended.error["reason"] == "PEER_UNAVAILABLE"
    finally:
        watari.run("up")


def test_a_watch_outlives_a_restart_of_the_manager(watari: CommandLine, machine: Make) -> None:
    name = machine("tokyo")
    started = watari.json("migrate", name, "--to", "osaka", "--detach", "--limit", SLOW)
    watch = watari.start("migration", "watch", started["migration_id"])
    assert watch.stderr is not None
    while "copying" not in watch.stderr.readline():
        assert watch.poll() is None
    servers = {server["name"]: server["pid"] for server in watari.json("status")["servers"]}
    os.kill(servers["tokyo-manager"], signal.SIGKILL)
    watari.run("up")
    out, err = watch.communicate(timeout=60)
    assert watch.returncode == Exit.OK, err
    assert f"{name} is in osaka now" in out


def test_the_other_cloud_is_listed_while_one_is_away(watari: CommandLine, machine: Make) -> None:
    name = machine("osaka")
    servers = {server["name"]: server["pid"] for server in watari.json("status")["servers"]}
    try:
        os.kill(servers["tokyo-manager"], signal.SIGKILL)
        ended = watari.run("vm", "list", "-o", "json", code=Exit.UNAVAILABLE)
        assert name in {vm["name"] for vm in ended.json}
        assert "the manager of tokyo" in ended.error["message"]
        assert cloud_of(watari, name) == "osaka"
        missing = watari.run("vm", "show", "nobody", "-o", "json", code=Exit.UNAVAILABLE)
        assert "the manager of tokyo" in missing.error["message"]
    finally:
        watari.run("up")
