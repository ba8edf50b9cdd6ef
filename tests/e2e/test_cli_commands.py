"""Every reading command in both formats, imports, and what is answered to a wrong request."""

import base64
import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.clouds import eventually
from tests.support.command_line import CommandLine
from tests.support.processes import free_port
from watari.cli.exits import Exit
from watari.v1 import directory_pb2

NOBODY = "c5b0a6d4-8d0f-4c5b-9f43-1fd3e25c3ad4"

Make = Callable[[str], str]


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("cloud", "list"),
        ("cloud", "show", "tokyo"),
        ("cloud", "links"),
        ("offer", "list"),
        ("vm", "list"),
        ("migration", "list"),
        ("migration", "list", "--active", "--cloud", "tokyo"),
        ("usage",),
        ("place",),
        ("directory", "verify"),
    ],
    ids=" ".join,
)
def test_every_command_prints_one_json_value_or_text_without_colours(
    watari: CommandLine, command: tuple[str, ...]
) -> None:
    assert isinstance(watari.json(*command), list | dict)
    ended = watari.run(*command)
    assert ended.out.strip()
    assert "\x1b" not in ended.out


def test_a_cloud_is_shown_with_its_hosts(watari: CommandLine) -> None:
    cloud = watari.json("cloud", "show", "osaka")
    assert cloud["provider_domain"] == "osaka.internal"
    assert [host["host_id"] for host in cloud["hosts"]] == ["host-1"]
    assert cloud["status"]["cloud_id"] == "osaka"


def test_another_directory_is_asked_when_the_first_does_not_answer(
    watari: CommandLine, tmp_path: Path
) -> None:
    own = watari.state / "client.toml"
    settings = tomllib.loads(own.read_text())["client"]
    address = settings["directory"]["address"]
    text = own.read_text().replace(address, f"127.0.0.1:{free_port()}")
    further = f'address = "{address}", spiffe_id = "{settings["directory"]["spiffe_id"]}"'
    table = f"[client]\nfurther_directories = [{{ {further} }}]\n"
    changed = own.with_name("client-with-two-directories.toml")
    assert "[client]\n" not in text
    changed.write_text(table + text)
    clouds = watari.json("cloud", "list", "--config", str(changed))
    assert {one["cloud_id"] for one in clouds} == {"osaka", "tokyo"}


def test_the_catalogue_is_dumped_whole_and_later_compared_with(
    watari: CommandLine, tmp_path: Path
) -> None:
    file = tmp_path / "catalogue.jsonl"
    head = watari.json("directory", "dump", str(file))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0]["revision"] == head["revision"] > 0
    assert len(lines) == 1 + head["records"]
    names = [line["record"] for line in lines[1:]]
    assert {"cloud osaka/main", "cloud tokyo/main", "host tokyo/host-1"} <= set(names)
    assert watari.json("directory", "verify", "--against", str(file)) == []
    taken = watari.run("directory", "dump", str(file), "-o", "json", code=Exit.REFUSED)
    assert "does not exist yet" in taken.error["hint"]


def test_a_catalogue_older_than_its_dump_fails_the_check(
    watari: CommandLine, tmp_path: Path
) -> None:
    file = tmp_path / "catalogue.jsonl"
    watari.run("directory", "dump", str(file))
    head, *lines = file.read_text().splitlines()
    record = directory_pb2.Record.FromString(base64.b64decode(json.loads(lines[0])["raw"]))
    record.revision += 1_000_000
    newer = json.loads(lines[0]) | {"raw": base64.b64encode(record.SerializeToString()).decode()}
    file.write_text("\n".join([head, json.dumps(newer), *lines[1:]]) + "\n")
    ended = watari.run("directory", "verify", "--against", str(file), code=Exit.FAILED)
    assert "in the dump" in ended.out
    file.write_text("\n".join([head, *lines[1:]]) + "\n")
    cut = watari.run("directory", "verify", "--against", str(file), "-o", "json", code=Exit.USAGE)
    assert "it was cut off" in cut.error["message"]


def test_offers_are_filtered_by_the_directory(watari: CommandLine) -> None:
    assert {one["cloud_id"] for one in watari.json("offer", "list")} == {"osaka", "tokyo"}
    west = watari.json("offer", "list", "--filter", 'region = "jp-west"')
    assert {one["cloud_id"] for one in west} == {"osaka"}


def test_the_cheaper_cloud_is_the_better_candidate(watari: CommandLine) -> None:
    placement = watari.json("place", "--vcpus", "2", "--memory", "4GiB")
    assert [one["cloud_id"] for one in placement["candidates"]] == ["osaka", "tokyo"]
    table = watari.run("place").out.splitlines()
    assert table[2].split()[1] == "osaka"


def test_placing_a_machine_leaves_out_where_it_is(watari: CommandLine, machine: Make) -> None:
    placement = watari.json("place", "--vm", machine("osaka"))
    assert [one["cloud_id"] for one in placement["candidates"]] == ["tokyo"]


def test_when_no_cloud_fits_each_says_what_would(watari: CommandLine) -> None:
    ended = watari.run("place", "--vcpus", "4000", "-o", "json", code=Exit.NO_ROOM)
    assert ended.error["reason"] == "NO_CANDIDATE"
    assert not ended.json["candidates"]
    assert {one["cloud_id"] for one in ended.json["rejections"]} == {"osaka", "tokyo"}
    assert any(one["would_fit"] for one in ended.json["rejections"])


def test_an_import_shows_the_machine_with_its_disks(
    watari: CommandLine, disk: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second.raw"
    second.write_bytes(bytes(1024 * 1024))
    arguments = ["--name", "pair", "--image", str(disk), "--image", str(second), "--vcpus", "3"]
    vm = watari.json("vm", "import", "--cloud", "osaka", "--memory", "2GiB", *arguments)
    assert (vm["name"], vm["cloud_id"], vm["resources"]["vcpus"]) == ("pair", "osaka", 3)
    assert vm["resources"]["memory_bytes"] == 2 * 1024**3
    assert [one["disk_id"] for one in vm["disks"]] == ["vda", "vdb"]
    assert [one["size_bytes"] for one in vm["disks"]] == [disk.stat().st_size, 1024 * 1024]
    again = watari.run("vm", "import", "--cloud", "osaka", *arguments, "-o", "json", code=4)
    assert again.error["reason"] == "VM_NAME_AMBIGUOUS"


def test_a_moved_image_is_gone(watari: CommandLine, tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(b"boot" * 1024)
    watari.run(
        *("vm", "import", "--cloud", "tokyo", "--name", "moved", "--image", str(image), "--move")
    )
    assert not image.exists()


WRONG = [
    (("vm", "show", "nobody"), Exit.NOT_FOUND, "VM_NOT_FOUND"),
    (("vm", "list", "--cloud", "mars"), Exit.NOT_FOUND, "CLOUD_NOT_FOUND"),
    (("cloud", "show", "mars"), Exit.NOT_FOUND, "CLOUD_NOT_FOUND"),
    (("migrate", "nobody", "--to", "osaka"), Exit.NOT_FOUND, "VM_NOT_FOUND"),
    (("migrate", "nobody", "--place"), Exit.NOT_FOUND, "VM_NOT_FOUND"),
    (("migration", "show", NOBODY), Exit.NOT_FOUND, "MIGRATION_NOT_FOUND"),
    (("migration", "watch", NOBODY), Exit.NOT_FOUND, "MIGRATION_NOT_FOUND"),
    (("migration", "cancel", NOBODY), Exit.NOT_FOUND, "MIGRATION_NOT_FOUND"),
    (("migration", "show", "not-a-uuid"), Exit.USAGE, "INVALID_ID"),
    (("offer", "list", "--filter", "region ="), Exit.USAGE, "FILTER_INVALID"),
    (("place", "--memory", "much"), Exit.USAGE, "INVALID_QUANTITY"),
    (
        ("vm", "import", "--cloud", "tokyo", "--name", "a", "--image", "/nonexistent.raw"),
        Exit.NOT_FOUND,
        "IMAGE_UNREADABLE",
    ),
]


@pytest.mark.parametrize(
    ("command", "code", "reason"),
    WRONG,
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else None,
)
def test_a_wrong_request_is_refused_with_its_reason_and_a_next_step(
    watari: CommandLine, command: tuple[str, ...], code: Exit, reason: str
) -> None:
    ended = watari.run(*command, "-o", "json", code=code)
    assert not ended.out
    assert ended.error["reason"] == reason
    assert ended.error["hint"]


def test_a_person_is_told_what_happened_and_what_to_do_next(watari: CommandLine) -> None:
    ended = watari.run("vm", "show", "nobody", code=Exit.NOT_FOUND)
    what, next_step = ended.err.splitlines()
    assert what == "Error: there is no machine nobody in osaka, tokyo"
    assert next_step == "Next: `watari vm list` shows what there is"


def test_a_cloud_that_is_not_there_or_already_the_machines_own_is_refused(
    watari: CommandLine, machine: Make
) -> None:
    name = machine("tokyo")
    nowhere = watari.run("migrate", name, "--to", "mars", "-o", "json", code=Exit.NOT_FOUND)
    assert nowhere.error["reason"] == "CLOUD_NOT_FOUND"
    here = watari.run("migrate", name, "--to", "tokyo", "-o", "json", code=Exit.REFUSED)
    assert here.error["reason"] == "VM_ALREADY_THERE"
    none = watari.run("migrate", name, "--place", "--region", "eu", "-o", "json", code=Exit.NO_ROOM)
    assert none.error["reason"] == "NO_CANDIDATE"


def test_an_import_to_a_cloud_that_is_not_there_is_refused(watari: CommandLine, disk: Path) -> None:
    ended = watari.run(
        *("vm", "import", "--cloud", "mars", "--name", "a", "--image", str(disk), "-o", "json"),
        code=Exit.NOT_FOUND,
    )
    assert ended.error["reason"] == "CLOUD_NOT_FOUND"


def test_a_name_in_two_clouds_is_ambiguous_until_the_cloud_is_named(
    watari: CommandLine, disk: Path
) -> None:
    for cloud in ("tokyo", "osaka"):
        watari.run("vm", "import", "--cloud", cloud, "--name", "twin", "--image", str(disk))
    ended = watari.run("vm", "show", "twin", "-o", "json", code=Exit.REFUSED)
    assert ended.error["reason"] == "VM_NAME_AMBIGUOUS"
    assert watari.json("vm", "show", "twin", "--cloud", "osaka")["cloud_id"] == "osaka"


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(watari: CommandLine) -> None:
    command = watari.start("vm", "list", "-o", "json")
    assert command.stdout is not None
    assert command.stderr is not None
    command.stdout.close()
    assert command.wait(30) == Exit.FAILED
    assert command.stderr.read() == ""
    command.stderr.close()


def test_settings_elsewhere_may_be_named(watari: CommandLine, tmp_path: Path) -> None:
    elsewhere = CommandLine(
        tmp_path / "nothing", {"WATARI_CLIENT_CONFIG": str(watari.state / "client.toml")}
    )
    named, own = elsewhere.json("cloud", "list"), watari.json("cloud", "list")
    assert [one["manager"] for one in named] == [one["manager"] for one in own]


def test_clouds_measure_the_ways_to_each_other(watari: CommandLine) -> None:
    def links() -> set[tuple[str, str]]:
        return {(one["from_cloud_id"], one["to_cloud_id"]) for one in watari.json("cloud", "links")}

    eventually(lambda: links() == {("tokyo", "osaka"), ("osaka", "tokyo")}, "both were measured")
    assert all(0 < one["rtt_ms"] < 1000 for one in watari.json("cloud", "links"))
    assert " ms" in watari.run("cloud", "links").out
