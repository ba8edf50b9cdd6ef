"""What operators decide on the command line: how a machine moves, what is deleted, who keeps it."""

import io
from typing import Any, cast

import pytest
from rich.console import Console

from tests.unit.test_cli_progress import copying
from watari import errors
from watari.cli import asking, estimate, follow, lifecycle, progress, resolve
from watari.cli.moving import Moving, whole_seconds
from watari.cli.operating import Operating
from watari.cli.output import Format, Output
from watari.cli.plain import plain
from watari.cli.resolve import GIVE_UP, KEEP, Subject
from watari.v1 import agent_pb2, common_pb2, manager_pb2

GIB = 1024**3


def test_how_a_machine_moves_goes_into_the_options() -> None:
    moving = Moving("warm", downtime_target="2s", stop_timeout="1m30s")
    options = moving.into(common_pb2.TransferOptions(streams=3))
    assert moving.value == common_pb2.MIGRATION_MODE_WARM
    assert (options.downtime_seconds_target, options.stop_seconds_max) == (2, 90)
    assert options.streams == 3
    plain_options = Moving().into(common_pb2.TransferOptions())
    assert plain_options == common_pb2.TransferOptions()


@pytest.mark.parametrize(
    "moving",
    [
        Moving("cold", downtime_target="2s"),
        Moving("suspend", downtime_target="2s"),
        Moving("suspend", stop_timeout="2s"),
        Moving("warm", downtime_target="500ms"),
        Moving("warm", downtime_target="0"),
        Moving("warm", stop_timeout="2h"),
        Moving("warm", stop_timeout="soon"),
    ],
)
def test_what_makes_no_sense_in_a_mode_is_refused(moving: Moving) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        moving.into(common_pb2.TransferOptions())
    assert caught.value.hint


def test_a_guest_may_be_given_no_time_at_all() -> None:
    assert whole_seconds("0", "timeout", least=0) == 0


def warm(**more: Any) -> manager_pb2.Migration:
    migration = copying()
    migration.progress.MergeFrom(
        common_pb2.Progress(round=2, changed_bytes=GIB, downtime_seconds_estimated=2.5, **more)
    )
    return migration


def test_the_rounds_of_a_warm_migration_are_told() -> None:
    said = progress.detail(warm(), 300)
    assert said.startswith("round 2: 2.0 GiB of 4.0 GiB, 200.0 MiB/s, 10.0 s left, ")
    assert "2.5 s downtime expected, 1.0 GiB changed" in said
    last = progress.detail(warm(last_round=True), 300)
    assert last.startswith("last round, machine stopped: 2.0 GiB of 4.0 GiB")
    assert "expected" not in last


def test_a_machine_that_is_taken_back_is_said_to_be_the_sources_again() -> None:
    migration = warm()
    migration.state = manager_pb2.MIGRATION_STATE_TAKING_BACK
    assert progress.state_of(migration) == "taking back"
    assert progress.detail(migration, 200) == progress.TAKING_BACK
    migration.waiting_for.message = "host-1 does not answer"
    assert progress.detail(migration, 200) == "waiting: host-1 does not answer"


def test_the_end_tells_how_long_the_machine_stood_still() -> None:
    ended = manager_pb2.Migration()
    ended.ended_at.FromSeconds(10)
    assert "without the machine" not in follow.summary(ended)
    ended.downtime_seconds = 1.84
    assert follow.summary(ended).endswith("10.0 s, of these 1.8 s without the machine")


def test_a_dry_run_shows_what_stands_against_it_and_what_is_worth_knowing() -> None:
    response = manager_pb2.EstimateMigrationResponse(
        findings=[common_pb2.Problem(message="no network front", hint="map it")],
        warnings=[common_pb2.Problem(message="another machine type", hint="none needed")],
    )
    about = {"vm_name": "web", "from_cloud": "tokyo", "to_cloud": "osaka", "mode": "warm"}
    out = Console(file=io.StringIO(), width=120)
    Output(Format.TABLE, out, out).show(*estimate.shown(about | plain(response)))
    said = cast("io.StringIO", out.file).getvalue()
    for part in (
        "WHAT STANDS AGAINST IT",
        "no network front",
        "map it",
        "WORTH KNOWING",
        "another machine type",
        "warm",
    ):
        assert part in said


def kept(name: str, vm_id: str, migration_id: str, cloud: str = "tokyo") -> Any:
    manager = type("Manager", (), {"cloud_id": cloud})()
    operating = cast("Operating", type("Operating", (), {"manager": manager})())
    retained = agent_pb2.Retained(
        vm_id=vm_id, name=name, migration_id=migration_id, allocated_bytes=GIB
    )
    return operating, manager_pb2.RetainedVm(host_id="host-1", retained=retained)


def test_what_is_purged_is_found_by_name_or_uuid_and_never_guessed() -> None:
    found = [
        kept("web", "1", "a"),
        kept("web", "1", "b"),
        kept("db", "2", "c"),
        kept("db", "3", "d"),
        kept("far", "4", "e", "tokyo"),
        kept("far", "4", "f", "osaka"),
    ]
    assert lifecycle.select(found, "web", "") == found[:2]
    assert lifecycle.select(found, "1", "b") == found[1:2]
    assert lifecycle.select(found, "3", "") == found[3:4]
    assert lifecycle.select(found, "nobody", "") == []
    for several in ("db", "far"):
        with pytest.raises(errors.FailedPrecondition, match="several machines"):
            lifecycle.select(found, several, "")
    said = lifecycle.consequence(found[:2])
    assert "2.0 GiB of disks of web will be deleted in tokyo" in said
    assert "there will be none here" in said


@pytest.mark.parametrize("is_source", [True, False])
@pytest.mark.parametrize("resolution", [KEEP, GIVE_UP])
def test_every_resolution_says_what_follows(is_source: bool, resolution: Any) -> None:
    subject = Subject("id", "web", "uuid", "tokyo", "osaka", "handed_over", is_source)
    said = " ".join(resolve.consequences(subject, resolution))
    assert ("there are two of web" in said) is (resolution == KEEP)
    assert ("This is safe" in said) is (resolution == GIVE_UP and not is_source)
    assert ("that copy is all there is" in said) is (resolution == GIVE_UP and is_source)


def test_programs_must_say_yes_beforehand() -> None:
    json_output = Output(Format.JSON, Console(file=io.StringIO()), Console(file=io.StringIO()))
    with pytest.raises(errors.InvalidArgument, match="--yes"):
        asking.require_yes(json_output, yes=False)
    asking.require_yes(json_output, yes=True)


@pytest.mark.parametrize(
    ("typed", "passes"), [("web\n", True), ("wbe\n", False), ("\n", False), ("", False)]
)
def test_the_machines_name_has_to_be_typed(
    monkeypatch: pytest.MonkeyPatch, typed: str, passes: bool
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    if passes:
        asking.confirm_by_name("the name", "web")
        return
    with pytest.raises(errors.Cancelled, match="nothing was done"):
        asking.confirm_by_name("the name", "web")


@pytest.mark.parametrize(("typed", "passes"), [("y\n", True), ("n\n", False), ("", False)])
def test_a_question_wants_a_yes(monkeypatch: pytest.MonkeyPatch, typed: str, passes: bool) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    if passes:
        asking.confirm("Sure?")
        return
    with pytest.raises(errors.Cancelled):
        asking.confirm("Sure?")
