"""watari.cli.progress: what is said of a running migration, how much of it and how often."""

import io

import pytest
from rich.console import Console

from watari.cli import progress
from watari.cli.output import PIPED_COLUMNS, Format, Output
from watari.clock import FakeClock
from watari.v1 import common_pb2, manager_pb2

GIB = 1024**3
REQUESTED = manager_pb2.Migration(vm_name="web-1", state=manager_pb2.MIGRATION_STATE_REQUESTED)


def copying(done: float = 0.5) -> manager_pb2.Migration:
    migration = manager_pb2.Migration(vm_name="web-1", state=manager_pb2.MIGRATION_STATE_COPYING)
    migration.progress.MergeFrom(
        common_pb2.Progress(
            total_bytes=4 * GIB,
            done_bytes=int(4 * GIB * done),
            wire_bytes=GIB // 2,
            rate_bytes_per_second=200 * 1024**2,
            eta_seconds=10,
            bottleneck=common_pb2.BOTTLENECK_NETWORK,
            attempt=2,
            needed_bytes=GIB,
            deduplicated_bytes=GIB // 4,
            zero_bytes=GIB * 2,
            streams=4,
            compression_level=3,
        )
    )
    return migration


def console(*, terminal: bool, kind: str = "xterm-256color") -> Console:
    return Console(
        file=io.StringIO(),
        width=120 if terminal else PIPED_COLUMNS,
        force_terminal=terminal,
        markup=False,
        highlight=False,
        _environ={"TERM": kind},
    )


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_everything_worth_knowing_is_said_where_there_is_room() -> None:
    assert progress.detail(copying(), 200) == (
        "2.0 GiB of 4.0 GiB, 200.0 MiB/s, 10.0 s left, 512.0 MiB sent, network-bound, attempt 2, "
        "1.0 GiB needed, 256.0 MiB there already, 2.0 GiB zeros, 4 connections, zstd 3"
    )


@pytest.mark.parametrize("columns", [0, 17, 18, 40, 60, 80])
def test_the_less_important_gives_way_where_there_is_less(columns: int) -> None:
    said = progress.detail(copying(), columns)
    assert len(said) <= columns
    assert progress.detail(copying(), 200).startswith(said)


def test_an_unknown_time_left_is_not_said() -> None:
    migration = copying()
    migration.progress.eta_seconds = -1
    assert "left" not in progress.detail(migration, 200)


def test_what_a_migration_waits_for_is_said_instead_of_numbers() -> None:
    migration = copying()
    migration.waiting_for.message = "osaka does not answer"
    assert progress.detail(migration, 200) == "waiting: osaka does not answer"


def test_a_file_gets_a_line_for_each_state_and_few_within_one() -> None:
    err, clock = console(terminal=False), FakeClock()
    output = Output(Format.TABLE, console(terminal=False), err)
    with progress.display(output, clock) as display:
        display.show(REQUESTED)
        for step in range(100):
            display.show(copying(step / 100))
            clock.advance(progress.LINE_SECONDS_MIN / 10)
    lines = text(err).splitlines()
    assert lines[0] == "web-1: requested"
    assert len(lines) == 1 + 10
    assert all(line.startswith("web-1: copying, ") for line in lines[1:])


def test_a_terminal_gets_a_bar() -> None:
    err = console(terminal=True)
    output = Output(Format.TABLE, console(terminal=True), err)
    with progress.display(output, FakeClock()) as display:
        display.show(REQUESTED)
        display.show(copying())
    assert "web-1: copying" in text(err)
    assert "50 %" in text(err)


def test_a_dumb_terminal_gets_lines() -> None:
    err = console(terminal=True, kind="dumb")
    output = Output(Format.TABLE, console(terminal=True, kind="dumb"), err)
    with progress.display(output, FakeClock()) as display:
        display.show(REQUESTED)
        display.show(copying())
    assert "web-1: copying" in text(err)


def test_a_program_gets_no_progress() -> None:
    err = console(terminal=True)
    output = Output(Format.JSON, console(terminal=True), err)
    with progress.display(output, FakeClock()) as display:
        display.show(copying())
    assert not text(err)
