"""agent.hooks: real programs at every stage, in order, within their bounds, or not at all."""

import json
import os
import signal
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from agent.hooks import Hooks, Stage, document
from agent.hypervisors import Guest
from agent.settings import HookSettings, Settings
from watari import config, errors
from watari.v1 import common_pb2

XML = """<domain type='qemu'><name>web</name><uuid>6f1f2d2e-0000-4000-8000-000000000001</uuid>
<memory unit='MiB'>512</memory><vcpu>2</vcpu><os><type>hvm</type></os><devices>
<interface type='network'><mac address='52:54:00:AA:bb:01'/><source network='front'/></interface>
<interface type='bridge'><source bridge='br0'/></interface>
<interface type='user'><mac address='52:54:00:aa:bb:03'/></interface>
</devices></domain>"""
GUEST = Guest("6f1f2d2e-0000-4000-8000-000000000001", "web", "acme", 2, 1 << 29, (), XML, epoch=3)
WAIT_SECONDS_MAX = 30.0
"""Far less than hooks sleep here."""
MIGRATION = "0f1f2d2e-0000-4000-8000-000000000002"

Put = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "hooks"
    path.mkdir(mode=0o755)
    return path


@pytest.fixture
def put(folder: Path) -> Put:
    """Puts a shell script at a stage."""

    def write(stage: Stage, name: str, script: str, mode: int = 0o755) -> Path:
        path = folder / f"{stage}.d" / name
        path.parent.mkdir(mode=0o755, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(mode)
        return path

    return write


def hooks(folder: Path | None, failure: Mapping[str, str] | None = None, **changed: float) -> Hooks:
    settings = HookSettings(folder=folder, failure=dict(failure or {}), **changed)  # type: ignore[arg-type]
    due = folder.parent / "due" if folder is not None else Path("/nowhere")
    return Hooks(settings, cloud="tokyo", host="host-1", due=due)


def run(made: Hooks, stage: Stage = Stage.BEFORE_STOP) -> list[errors.WatariError]:
    told = made.document(GUEST, migration_id=MIGRATION, peer_cloud="osaka")
    return made.run(stage, told)


def failed(made: Hooks, stage: Stage = Stage.BEFORE_STOP) -> errors.FailedPrecondition:
    with pytest.raises(errors.FailedPrecondition) as caught:
        run(made, stage)
    assert caught.value.reason == "HOOK_FAILED"
    assert caught.value.metadata["stage"] == stage
    assert caught.value.hint
    return caught.value


def failed_in_time(begun: Path, folder: Path, **settings: float) -> errors.FailedPrecondition:
    """How a hook failed whose time was over once it had written `begun`; on a machine that is slow
    to begin programs it gets more of it.
    """
    for seconds_max in (0.3, 3.0, WAIT_SECONDS_MAX):
        error = failed(hooks(folder, seconds_max=seconds_max, **settings))
        assert f"after {seconds_max:g} s" in error.message
        if begun.exists() and begun.read_text():
            return error
    raise AssertionError("it did not begin")


def gone(pid: int) -> bool:
    """Whether a process ends, as it must within moments; one that nobody reaps counts."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_hooks_of_a_stage_are_run_in_the_order_of_their_names(
    folder: Path, put: Put, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    for name in ("20-b", "10-z", "10-a"):
        put(Stage.BEFORE_STOP, name, f"echo {name} >> {log}")
    put(Stage.AFTER_STOP, "10-other", f"echo other >> {log}")
    for no_hook in ("10-a~", ".10-a.swp", "README", "1-a", "10-a."):
        put(Stage.BEFORE_STOP, no_hook, f"echo wrong >> {log}")
    assert run(hooks(folder)) == []
    assert log.read_text().split() == ["10-a", "10-z", "20-b"]


def test_without_a_folder_or_a_stages_folder_every_stage_passes(folder: Path) -> None:
    for stage in Stage:
        assert run(hooks(None), stage) == []
        assert run(hooks(folder), stage) == []


def test_a_hook_reads_the_document_on_standard_input(
    folder: Path, put: Put, tmp_path: Path
) -> None:
    put(Stage.AFTER_START, "10-keep", f"cat > {tmp_path}/told")
    made = hooks(folder)
    told = made.document(
        GUEST,
        migration_id=MIGRATION,
        mode=common_pb2.MIGRATION_MODE_WARM,
        peer_cloud="osaka",
        epoch=4,
        addresses=["192.0.2.7"],
    )
    made.run(Stage.AFTER_START, told)
    assert json.loads((tmp_path / "told").read_text()) == {
        "version": 1,
        "stage": "after-start",
        "migration_id": MIGRATION,
        "vm_id": GUEST.vm_id,
        "vm_name": "web",
        "tenant": "acme",
        "cloud": "tokyo",
        "host": "host-1",
        "peer_cloud": "osaka",
        "mode": "warm",
        "epoch": 4,
        "interfaces": [
            {"mac": "52:54:00:aa:bb:01", "type": "network", "network": "front"},
            {"mac": "", "type": "bridge", "network": "br0"},
            {"mac": "52:54:00:aa:bb:03", "type": "user", "network": ""},
        ],
        "addresses": ["192.0.2.7"],
    }


def test_a_definition_that_cannot_be_read_has_no_interfaces() -> None:
    bomb = '<!DOCTYPE d [<!ENTITY a "b">]>' + XML
    for xml in ("", "<domain", bomb):
        broken = Guest(GUEST.vm_id, "web", "acme", 1, 1, (), xml)
        told = document(broken, migration_id=MIGRATION, cloud="tokyo", host="host-1")
        assert (told.interfaces, told.epoch, told.mode) == ((), 0, "")


def test_a_hook_that_fails_before_something_stops_it_and_later_hooks_are_not_run(
    folder: Path, put: Put, tmp_path: Path
) -> None:
    put(Stage.BEFORE_STOP, "10-check", "echo fine; echo the pool is full >&2; exit 3")
    put(Stage.BEFORE_STOP, "20-later", f"touch {tmp_path}/later")
    error = failed(hooks(folder))
    assert error.metadata["hook"] == "10-check"
    assert "exit status 3: the pool is full" in error.message
    assert not (tmp_path / "later").exists()


@pytest.mark.parametrize("stage", [each for each in Stage if each.startswith("after")])
def test_a_hook_that_fails_after_something_warns_and_later_hooks_are_run(
    folder: Path, put: Put, tmp_path: Path, stage: Stage
) -> None:
    put(stage, "10-fails", "kill -9 $$")
    put(stage, "20-later", f"touch {tmp_path}/later")
    (warning,) = run(hooks(folder), stage)
    assert "signal 9" in warning.message
    assert (tmp_path / "later").exists()
    with pytest.raises(errors.InvalidArgument, match="has happened already"):
        hooks(folder, {str(stage): "stop"})


def test_a_stage_before_something_can_be_told_to_warn(folder: Path, put: Put) -> None:
    put(Stage.BEFORE_START, "10-fails", "exit 1")
    assert failed(hooks(folder), Stage.BEFORE_START)
    (warning,) = run(hooks(folder, {"before-start": "warn"}), Stage.BEFORE_START)
    assert warning.reason == "HOOK_FAILED"


@pytest.mark.parametrize("failure", [{"before-lunch": "stop"}, {"before-stop": "explode"}])
def test_settings_that_make_no_sense_are_refused_at_the_start(
    folder: Path, failure: dict[str, str]
) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        hooks(folder, failure)
    assert caught.value.reason == "CONFIG_INVALID"


def test_a_hook_that_takes_too_long_is_ended_with_all_that_it_began(
    folder: Path, put: Put, tmp_path: Path
) -> None:
    put(
        Stage.BEFORE_STOP,
        "10-slow",
        f"trap '' TERM; (trap '' TERM; sleep 60) & echo $! > {tmp_path}/child; sleep 60; sleep 60",
    )
    began = time.monotonic()
    failed_in_time(tmp_path / "child", folder, term_seconds_max=0.2)
    assert time.monotonic() - began < 60
    assert gone(int((tmp_path / "child").read_text()))


def test_a_hook_may_tidy_up_when_its_time_is_over(folder: Path, put: Put, tmp_path: Path) -> None:
    script = (
        f"trap 'touch {tmp_path}/tidied; exit 0' TERM; echo up > {tmp_path}/up; sleep 60 & wait"
    )
    put(Stage.BEFORE_STOP, "10-slow", script)
    failed_in_time(tmp_path / "up", folder, term_seconds_max=WAIT_SECONDS_MAX)
    assert (tmp_path / "tidied").exists()


def test_what_a_hook_leaves_in_the_background_ends_with_it_and_is_not_waited_for(
    folder: Path, put: Put, tmp_path: Path
) -> None:
    put(Stage.AFTER_START, "10-leaves", f"sleep 60 & echo $! > {tmp_path}/child")
    began = time.monotonic()
    assert run(hooks(folder), Stage.AFTER_START) == []
    assert time.monotonic() - began < WAIT_SECONDS_MAX
    assert gone(int((tmp_path / "child").read_text()))


def test_what_a_hook_hides_in_a_session_of_its_own_ends_with_it_too(
    folder: Path, put: Put, tmp_path: Path
) -> None:
    """It is nobody's child, and in no group that the agent knows."""
    daemon = tmp_path / "daemon"
    daemon.write_text(f"trap '' TERM HUP; echo $$ > {tmp_path}/hidden; sleep 60; sleep 60")
    put(
        Stage.AFTER_START,
        "10-hides",
        f"setsid sh -c 'sh {daemon} &' & until test -s {tmp_path}/hidden; do sleep 0.02; done",
    )
    assert run(hooks(folder), Stage.AFTER_START) == []
    assert gone(int((tmp_path / "hidden").read_text()))


def test_all_hooks_of_a_stage_have_one_time_together(
    folder: Path, put: Put, tmp_path: Path
) -> None:
    put(Stage.AFTER_START, "10-slow", "sleep 60")
    put(Stage.AFTER_START, "20-slow", "sleep 60")
    put(Stage.AFTER_START, "30-late", f"touch {tmp_path}/late")
    began = time.monotonic()
    made = hooks(folder, seconds_max=0.4, stage_seconds_max=0.6)
    warnings = run(made, Stage.AFTER_START)
    assert time.monotonic() - began < WAIT_SECONDS_MAX
    assert [each.metadata["hook"] for each in warnings] == ["10-slow", "20-slow", "30-late"]
    assert "is not run" in warnings[2].message
    assert not (tmp_path / "late").exists()


def test_a_flood_of_output_is_read_and_dropped(
    folder: Path, put: Put, capsys: pytest.CaptureFixture[str]
) -> None:
    put(Stage.BEFORE_STOP, "10-flood", "head -c 20000000 /dev/zero | tr '\\0' x; echo; exit 1")
    error = failed(hooks(folder, output_bytes_max=1000))
    assert len(error.message) < 400
    assert len(capsys.readouterr().out) < 5000


def test_one_that_prints_for_ever_is_ended_in_time(folder: Path, put: Put) -> None:
    put(Stage.BEFORE_STOP, "10-yes", "exec yes")
    began = time.monotonic()
    assert "after 0.3 s" in failed(hooks(folder, seconds_max=0.3)).message
    assert time.monotonic() - began < WAIT_SECONDS_MAX


def test_control_characters_of_a_hook_never_reach_who_reads_the_error(
    folder: Path, put: Put
) -> None:
    put(Stage.BEFORE_STOP, "10-evil", "printf '\\033[2Jowned'; exit 1")
    assert "\x1b" not in failed(hooks(folder)).message


def test_the_environment_has_nothing_of_the_agents_own(
    folder: Path, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATARI_AGENT_SECRET", "hush")
    monkeypatch.setenv("LD_PRELOAD", "")
    put(Stage.BEFORE_STOP, "10-env", f"env > {tmp_path}/env; ls -l /proc/self/fd > {tmp_path}/fds")
    kept = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(kept, True)
    try:
        run(hooks(folder))
    finally:
        os.close(kept)
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {
        "PATH",
        "LANG",
        "HOME",
        "WATARI_RUN",
        "WATARI_STAGE",
    }
    assert f"-> {tmp_path}\n" not in (tmp_path / "fds").read_text()


@pytest.mark.parametrize("what", ["hook", "stage", "folder"])
@pytest.mark.parametrize("mode", [stat.S_IWGRP, stat.S_IWOTH])
def test_what_others_may_write_to_is_not_run(
    folder: Path, put: Put, tmp_path: Path, what: str, mode: int
) -> None:
    hook = put(Stage.BEFORE_STOP, "10-open", f"touch {tmp_path}/ran")
    made = hooks(folder)
    path = {"hook": hook, "stage": hook.parent, "folder": folder}[what]
    path.chmod(stat.S_IMODE(path.stat().st_mode) | mode)
    error = failed(made)
    assert "may write to it" in error.message
    assert f"chmod go-w {path}" in error.hint
    with pytest.raises(errors.InvalidArgument) as caught:
        hooks(folder)
    assert caught.value.reason == "CONFIG_INVALID"
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_belongs_to_somebody_else_is_not_run(folder: Path, put: Put) -> None:
    hook = put(Stage.BEFORE_STOP, "10-theirs", "true")
    made = hooks(folder)
    os.chown(hook, 12345, 12345)
    assert "belongs to user 12345" in failed(made).message


def test_links_and_what_is_no_program_are_refused(folder: Path, put: Put) -> None:
    made = hooks(folder)
    hook = put(Stage.BEFORE_STOP, "10-plain", "true", mode=0o644)
    assert "not executable" in failed(made).message
    hook.unlink()
    hook.symlink_to("/bin/true")
    assert "is a link" in failed(made).message
    hook.unlink()
    hook.mkdir(mode=0o755)
    assert "no regular file" in failed(made).message
    hook.rmdir()
    hook.write_text("no first line says what runs this")
    hook.chmod(0o755)
    assert "check its first line" in failed(made).hint


def test_too_many_hooks_of_a_stage_are_refused(folder: Path, put: Put) -> None:
    made = hooks(folder)
    for number in range(33):
        put(Stage.BEFORE_STOP, f"{number:02}-one", "true")
    assert "33 hooks" in failed(made).message


def test_a_hook_that_is_refused_after_something_warns(folder: Path, put: Put) -> None:
    made = hooks(folder)
    put(Stage.AFTER_RETIRE, "10-open", "true", mode=0o777)
    (warning,) = run(made, Stage.AFTER_RETIRE)
    assert warning.metadata["hook"] == "10-open"


def test_signals_reach_hooks_as_if_they_were_started_anew(
    folder: Path, put: Put, tmp_path: Path
) -> None:
    """The agent ignores or handles some; a program that inherited that could not be ended."""
    put(Stage.BEFORE_STOP, "10-pipe", f"grep SigIgn /proc/$$/status > {tmp_path}/ignored")
    run(hooks(folder))
    ignored = int((tmp_path / "ignored").read_text().split()[1], 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGTERM - 1))


def test_the_settings_are_read_as_they_are_documented(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        '[agent.hooks]\nfolder = "/etc/watari/hooks"\nseconds_max = 10\n'
        '[agent.hooks.failure]\nbefore-start = "warn"\n'
        '[agent]\ncloud_id = "tokyo"\nhost_id = "host-1"\nshelf = "/srv/shelf"\n'
        'manager = "spiffe://tokyo.example/manager/main"\n'
        '[agent.identity]\ncertificate = "c"\nkey = "k"\ntrust = "t"\n'
    )
    settings = config.load(Settings, file, {}, "agent").hooks
    assert settings.folder == Path("/etc/watari/hooks")
    assert (settings.seconds_max, settings.failure) == (10, {"before-start": "warn"})
