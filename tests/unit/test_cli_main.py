"""The command line before any server is asked: usage, help, and a federation that is not there."""

import json
from pathlib import Path
from typing import Any

import pytest

from watari.cli import main
from watari.cli.exits import Exit


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No federation, and none of the user's own."""
    monkeypatch.setenv("WATARI_STATE_DIR", str(tmp_path / "nothing"))
    monkeypatch.delenv("WATARI_CLIENT_CONFIG", raising=False)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


COMMANDS: list[tuple[str, ...]] = [
    ("up",),
    ("down",),
    ("status",),
    ("demo",),
    ("place",),
    ("place-batch",),
    ("migrate",),
    ("usage",),
    ("quota", "list"),
    ("quota", "set"),
    ("quota", "delete"),
    ("quote",),
    ("manager", "audit"),
    ("audit", "list"),
    ("audit", "export"),
    ("audit", "verify"),
    ("cloud", "list"),
    ("cloud", "show"),
    ("offer", "list"),
    ("vm", "list"),
    ("vm", "show"),
    ("vm", "import"),
    ("migration", "list"),
    ("migration", "show"),
    ("migration", "watch"),
    ("migration", "cancel"),
    ("migration", "resolve"),
    ("vm", "start"),
    ("vm", "stop"),
    ("vm", "retained"),
    ("vm", "purge"),
    ("evacuate",),
    ("evacuation", "show"),
    ("evacuation", "watch"),
    ("evacuation", "cancel"),
    ("reservation", "list"),
    ("reservation", "show"),
    ("reservation", "release"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_tells_its_output_option_and_exit_codes(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    code, out, _ = run(capsys, *command, "--help")
    assert code == Exit.OK
    assert "--output" in out
    assert "Exit codes" in out
    assert "usage or bad input" in out


READING: list[tuple[str, ...]] = [
    ("status",),
    ("cloud", "list"),
    ("cloud", "show", "tokyo"),
    ("offer", "list"),
    ("vm", "list"),
    ("vm", "show", "web-1"),
    ("place",),
    ("migrate", "web-1", "--to", "osaka"),
    ("migration", "list"),
    ("migration", "show", "c5b0a6d4-8d0f-4c5b-9f43-1fd3e25c3ad4"),
    ("migration", "watch", "c5b0a6d4-8d0f-4c5b-9f43-1fd3e25c3ad4"),
    ("migration", "cancel", "c5b0a6d4-8d0f-4c5b-9f43-1fd3e25c3ad4"),
    ("usage",),
    ("usage", "--events"),
    ("vm", "retained"),
    ("evacuate", "host-1", "--to", "osaka"),
    ("evacuation", "show", "c5b0a6d4-8d0f-4c5b-9f43-1fd3e25c3ad4"),
    ("reservation", "list"),
]


@pytest.mark.parametrize("command", READING, ids=lambda command: " ".join(command[:2]))
def test_without_a_federation_every_command_says_how_to_start_one(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    code, out, err = run(capsys, *command, "-o", "json")
    assert code == Exit.UNAVAILABLE
    assert not out
    error: dict[str, Any] = json.loads(err)["error"]
    assert error["reason"] == "FEDERATION_DOWN"
    assert "watari up" in error["hint"]


def test_stopping_what_does_not_run_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "down")
    assert (code, out) == (Exit.OK, "Nothing was running.\n")


@pytest.mark.parametrize(
    "wrong",
    [
        ("vm", "lst"),
        ("vm", "list", "--nonsense"),
        ("vm", "show"),
        ("vm", "list", "-o", "yaml"),
        ("place", "--vcpus", "many"),
        ("migrate", "web-1", "--to", "osaka", "--streams", "17"),
        ("migrate", "web-1", "--to", "osaka", "--cipher-bits", "64"),
        ("migrate", "web-1"),
        ("migrate", "web-1", "--to", "osaka", "--place"),
        ("migrate", "web-1", "--to", "osaka", "--region", "jp-west"),
        ("migrate", "web-1", "--to", "osaka", "--id", "not-a-uuid"),
        ("migrate", "web-1", "--to", "osaka", "--mode", "hot"),
        ("migrate", "web-1", "--to", "osaka", "--downtime-target", "2s"),
        ("evacuate", "host-1"),
        ("evacuate", "host-1", "--to", "osaka", "--concurrency", "33"),
        ("evacuate", "host-1", "--to", "osaka", "--window", "at night"),
        ("migration", "resolve", "c5b0a6d4-8d0f-4c5b-9f43-1fd3e25c3ad4", "--keep-here"),
        ("vm", "stop", "web-1", "--timeout", "2h"),
        ("demo", "--size", "huge"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_said_to_be_wrong(
    capsys: pytest.CaptureFixture[str], wrong: tuple[str, ...]
) -> None:
    code, out, err = run(capsys, *wrong)
    assert code == Exit.USAGE
    assert not out
    assert err.startswith("Error: ")
    assert "Next: " in err


def test_a_wrong_command_line_is_one_json_object_for_a_program(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = run(capsys, "vm", "lst", "-o", "json")
    assert code == Exit.USAGE
    assert not out
    assert json.loads(err)["error"]["reason"] == "INVALID_FIELD"


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    assert code == Exit.USAGE
    assert "Virtual machines" in out + err


def test_an_unexpected_exception_is_one_line_with_a_way_to_see_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: object, _environ: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("watari.cli.settings.load", fail)
    code, _, err = run(capsys, "vm", "list")
    assert code == Exit.FAILED
    assert "unexpected ZeroDivisionError: by zero" in err
    assert "WATARI_DEBUG=1" in err
    assert "Traceback" not in err


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--version")
    assert code == Exit.OK
    assert out.startswith("watari ")
