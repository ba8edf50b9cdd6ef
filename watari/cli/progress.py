"""How a migration's progress looks: a bar on a terminal, a few plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from watari import units
from watari.cli.output import Output, clean
from watari.cli.plain import enum_name
from watari.cli.views import words
from watari.clock import Clock
from watari.v1 import common_pb2, manager_pb2

LINE_SECONDS_MIN = 5.0
"""Between two plain lines in the same state: what goes to a file stays readable."""

LINE_COLUMNS = 200
"""Of what a plain line tells beside the state: all of it."""

TAKING_BACK = "it is the source's again: its hold is being ended"
"""What is said of a migration whose destination gave the machine back."""

_BAR_COLUMNS = 10
"""Short: a terminal of 80 columns has room for amount, rate and time left beside it."""


class Display(Protocol):
    """Something that shows a migration's latest state."""

    def show(self, migration: manager_pb2.Migration) -> None:
        """Takes an update."""


@contextmanager
def display(output: Output, clock: Clock) -> Iterator[Display]:
    """The display that suits where the output goes."""
    if output.is_json:
        yield _Silent()
    elif output.err.is_terminal and not output.err.is_dumb_terminal:
        bar = _Bar(output)
        with bar.progress:
            yield bar
    else:
        yield _Lines(output, clock)


def state_of(migration: manager_pb2.Migration) -> str:
    """The state in words."""
    return words(enum_name(manager_pb2.MigrationState.DESCRIPTOR, migration.state))


def detail(migration: manager_pb2.Migration, columns: int) -> str:
    """What is worth saying beside the state, the most important first, in so many columns."""
    if migration.HasField("waiting_for"):
        return f"waiting: {clean(migration.waiting_for.message)}"[:columns]
    if migration.state == manager_pb2.MIGRATION_STATE_TAKING_BACK:
        return TAKING_BACK[:columns]
    text = ""
    for part in _parts(migration.progress, migration.state == manager_pb2.MIGRATION_STATE_COPYING):
        longer = f"{text}, {part}" if text else part
        if len(longer) > columns:
            break
        text = longer
    return text


def _parts(done: common_pb2.Progress, copying: bool) -> Iterator[str]:
    if not done.total_bytes:
        return
    amount = f"{units.format_bytes(done.done_bytes)} of {units.format_bytes(done.total_bytes)}"
    yield f"{_round(done)}: {amount}" if done.round else amount
    if copying and done.rate_bytes_per_second:
        yield units.format_rate(done.rate_bytes_per_second)
    if copying and done.eta_seconds >= 0:
        yield f"{units.format_duration(done.eta_seconds)} left"
    if copying and done.downtime_seconds_estimated and not done.last_round:
        yield f"{units.format_duration(done.downtime_seconds_estimated)} downtime expected"
    if copying and done.changed_bytes:
        yield f"{units.format_bytes(done.changed_bytes)} changed"
    if done.wire_bytes:
        yield f"{units.format_bytes(done.wire_bytes)} sent"
    if copying and done.bottleneck:
        yield enum_name(common_pb2.Bottleneck.DESCRIPTOR, done.bottleneck) + "-bound"
    if done.attempt > 1:
        yield f"attempt {done.attempt}"
    yield from _finer(done, copying)


def _round(done: common_pb2.Progress) -> str:
    return "last round, machine stopped" if done.last_round else f"round {done.round}"


def _finer(done: common_pb2.Progress, copying: bool) -> Iterator[str]:
    if done.needed_bytes:
        yield f"{units.format_bytes(done.needed_bytes)} needed"
    if done.deduplicated_bytes:
        yield f"{units.format_bytes(done.deduplicated_bytes)} there already"
    if done.zero_bytes:
        yield f"{units.format_bytes(done.zero_bytes)} zeros"
    if copying and done.streams:
        plural = "s" if done.streams > 1 else ""
        yield f"{done.streams} connection{plural}, zstd {done.compression_level}"


class _Silent:
    def show(self, migration: manager_pb2.Migration) -> None:
        """Programs get the result only."""


class _Bar:
    def __init__(self, output: Output) -> None:
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(_BAR_COLUMNS),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[detail]}", markup=False, style="dim"),
            console=output.err,
            transient=True,
        )
        self._columns = output.err.width
        self._task: TaskID | None = None

    def show(self, migration: manager_pb2.Migration) -> None:
        """Redraws the bar; it pulses until the amount is known."""
        done = migration.progress
        total = done.total_bytes or None
        text = f"{clean(migration.vm_name)}: {state_of(migration)}"
        if self._task is None:
            self._task = self.progress.add_task(text, total=total, detail="")
        self.progress.update(
            self._task,
            description=text,
            total=total,
            completed=done.done_bytes,
            # Spinner, percentage and the gaps between the columns take the rest of the line.
            detail=detail(migration, self._columns - len(text) - _BAR_COLUMNS - 12),
        )


class _Lines:
    def __init__(self, output: Output, clock: Clock) -> None:
        self._output = output
        self._clock = clock
        self._state = manager_pb2.MIGRATION_STATE_UNSPECIFIED
        self._shown_at = 0.0

    def show(self, migration: manager_pb2.Migration) -> None:
        """Prints a line for a new state, and now and then within one."""
        now = self._clock.monotonic()
        same = migration.state == self._state
        if same and now - self._shown_at < LINE_SECONDS_MIN:
            return
        self._state, self._shown_at = migration.state, now
        parts = [f"{migration.vm_name}: {state_of(migration)}", detail(migration, LINE_COLUMNS)]
        self._output.err.print(Text(", ".join(filter(None, parts))))
