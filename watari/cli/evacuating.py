"""How an evacuation's progress looks: bars on a terminal, a few plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from watari import units
from watari.cli import progress
from watari.cli.output import Output, clean
from watari.cli.progress import LINE_SECONDS_MIN
from watari.clock import Clock
from watari.v1 import manager_pb2

BARS_MAX = 16
"""Running migrations that are drawn; the others are in the count."""

_BAR_COLUMNS = 10


@dataclass(frozen=True)
class Seen:
    """What one look at an evacuation found."""

    evacuation: manager_pb2.Evacuation
    running: tuple[manager_pb2.Migration, ...] = ()


class Display(Protocol):
    """Something that shows an evacuation's latest state."""

    def show(self, seen: Seen) -> None:
        """Takes an update."""


class Pace:
    """Tells how long the rest takes, from what has gone since the first look."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._first: int | None = None

    def seconds_left(self, evacuation: manager_pb2.Evacuation) -> float | None:
        """Estimated seconds; None while nothing has gone, or nothing is left."""
        if self._first is None:
            self._first = evacuation.succeeded
        gone = evacuation.succeeded - self._first
        if not gone or not evacuation.remaining:
            return None
        return (self._clock.monotonic() - self._began) / gone * evacuation.remaining


@contextmanager
def display(output: Output, clock: Clock) -> Iterator[Display]:
    """The display that suits where the output goes."""
    if output.is_json:
        yield _Silent()
    elif output.err.is_terminal and not output.err.is_dumb_terminal:
        bars = _Bars(output, clock)
        with bars.progress:
            yield bars
    else:
        yield _Lines(output, clock)


def summary(evacuation: manager_pb2.Evacuation, seconds_left: float | None = None) -> str:
    """Such as "12 of 100 machines moved, 8 running, 2 could not be, 3 min 20 s left"."""
    total = evacuation.succeeded + evacuation.failed + evacuation.remaining
    parts = [f"{evacuation.succeeded} of {total} machines moved"]
    if evacuation.running:
        parts.append(f"{evacuation.running} running")
    if evacuation.failed:
        parts.append(f"{evacuation.failed} could not be")
    if evacuation.HasField("waiting_for"):
        parts.append(f"waiting: {clean(evacuation.waiting_for.message)}")
    elif seconds_left is not None:
        parts.append(f"{units.format_duration(seconds_left)} left")
    return ", ".join(parts)


def window(shown: dict[str, Any]) -> str:
    """Such as "01:00-05:00"."""
    times = (shown["from_minute"], shown["to_minute"])
    return "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in times)


def state(row: dict[str, Any]) -> str:
    """In a word."""
    if row["done"]:
        return "cancelled" if row["cancelled"] else "ended"
    return "ending: cancelled" if row["cancelled"] else "running"


class _Silent:
    def show(self, seen: Seen) -> None:
        """Programs get the result only."""


class _Bars:
    def __init__(self, output: Output, clock: Clock) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(_BAR_COLUMNS),
            TextColumn("{task.fields[detail]}", markup=False, style="dim"),
            console=output.err,
            transient=True,
        )
        self._columns = output.err.width
        self._pace = Pace(clock)
        self._whole: TaskID | None = None
        self._tasks: dict[str, TaskID] = {}

    def show(self, seen: Seen) -> None:
        """Redraws the bar of the whole, and one of each running migration."""
        evacuation = seen.evacuation
        total = evacuation.succeeded + evacuation.failed + evacuation.remaining
        if self._whole is None:
            self._whole = self.progress.add_task("evacuation", total=total, detail="")
        said = summary(evacuation, self._pace.seconds_left(evacuation))
        self.progress.update(
            self._whole,
            total=total,
            completed=evacuation.succeeded,
            detail=said[: self._columns - 24],
        )
        drawn = {each.migration_id: each for each in seen.running[:BARS_MAX]}
        for gone in self._tasks.keys() - drawn.keys():
            self.progress.remove_task(self._tasks.pop(gone))
        for migration_id, migration in drawn.items():
            self._draw(migration_id, migration)

    def _draw(self, migration_id: str, migration: manager_pb2.Migration) -> None:
        text = f"  {clean(migration.vm_name)}: {progress.state_of(migration)}"
        if migration_id not in self._tasks:
            self._tasks[migration_id] = self.progress.add_task(text, total=None, detail="")
        self.progress.update(
            self._tasks[migration_id],
            description=text,
            total=migration.progress.total_bytes or None,
            completed=migration.progress.done_bytes,
            detail=progress.detail(migration, max(self._columns - len(text) - 14, 0)),
        )


class _Lines:
    def __init__(self, output: Output, clock: Clock) -> None:
        self._output = output
        self._clock = clock
        self._pace = Pace(clock)
        self._shown_at: float | None = None
        self._said = ""

    def show(self, seen: Seen) -> None:
        """Prints a line when there is news, now and then, and in the end."""
        left = self._pace.seconds_left(seen.evacuation)
        now, said = self._clock.monotonic(), summary(seen.evacuation, left)
        early = self._shown_at is not None and now - self._shown_at < LINE_SECONDS_MIN
        if said == self._said or (early and not seen.evacuation.done):
            return
        self._said, self._shown_at = said, now
        self._output.err.print(Text(said))
