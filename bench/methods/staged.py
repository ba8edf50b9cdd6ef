"""Methods whose steps run one after another on whole files, each timed: the paper's.

Every step is a command at one end of the link. What it writes is flushed before the next begins, so
that no step hands its disk writes to another one's time.
"""

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.link import Side

SECONDS_MAX = 7200.0
"""Deadline of one step."""


@dataclass(frozen=True)
class Step:
    """One command, and the file that it writes."""

    name: str
    side: Side
    command: Sequence[object]
    writes: Path
    stdout: bool = False
    """Whether the file is the command's output."""
    environ: Mapping[str, str] | None = None
    quiet: bool = False
    """Whether what the command prints is of no use."""


def run(steps: Sequence[Step]) -> dict[str, float]:
    """Seconds of each step. Raises CalledProcessError, TimeoutExpired."""
    seconds: dict[str, float] = {}
    for step in steps:
        began = time.monotonic()
        command = step.side.command(*step.command)
        if step.stdout:
            with step.writes.open("wb") as output:
                _run(command, step, stdout=output)
        else:
            _run(command, step, stdout=subprocess.DEVNULL if step.quiet else None)
        subprocess.run(["sync", str(step.writes)], check=True, timeout=SECONDS_MAX)
        seconds[step.name] = time.monotonic() - began
    return seconds


def _run(command: list[str], step: Step, stdout: object = None) -> None:
    subprocess.run(
        command,
        check=True,
        timeout=SECONDS_MAX,
        stdout=stdout,  # type: ignore[call-overload]
        env=dict(step.environ) if step.environ is not None else None,
    )
