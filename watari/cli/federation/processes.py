"""Detached server processes: started, recognised later, and stopped, from whatever process.

A process is recognised by its id together with the moment it started (in clock ticks since the
boot, from /proc) and the boot itself, so an id that was given to another process is never taken for
ours; and it is signalled through a descriptor that pins it.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import watari
from watari.clock import Clock

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_TIME_AT = 19  # field 22 of proc_pid_stat(5), counted from the state, which is field 3


@dataclass(frozen=True)
class Running:
    """A process, for good: no other one ever equals it."""

    pid: int
    started_ticks: int
    """Clock ticks from the boot to its start."""
    boot_id: str
    """Which boot."""


def start(module: str, settings: Path, log: Path, record: Path, environ: Mapping[str, str]) -> None:
    """Starts `python -m module --config settings`, detached, and records which process it is.

    One that ends at once leaves no record. Raises OSError.
    """
    # The servers of this very installation, also when it is a source tree.
    packages = str(Path(watari.__file__).parents[1])
    inherited = environ.get("PYTHONPATH")
    path = f"{packages}{os.pathsep}{inherited}" if inherited else packages
    record.unlink(missing_ok=True)
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, "--config", str(settings)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=settings.parent,
            env={**environ, "PYTHONPATH": path},
            start_new_session=True,  # the terminal's Ctrl-C and hang-up are not for it
        )
    running = _identify(process.pid)
    if running is not None:
        partial = record.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(running)))
        partial.replace(record)


def find(record: Path, settings: Path) -> Running | None:
    """The recorded process if it still runs, else None.

    Where there is none, a process of ours that was started with these settings: whoever started it
    was killed before it could record it.
    """
    try:
        running = Running(**json.loads(record.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return _search(settings)
    return running if is_alive(running) else _search(settings)


def is_alive(running: Running) -> bool:
    """Whether this very process runs. One that has ended but was not reaped does not."""
    return _identify(running.pid) == running


def stop(
    stopping: Iterable[Running], clock: Clock, *, grace_seconds: float, kill_seconds: float
) -> list[Running]:
    """Asks processes to end, waits up to `grace_seconds` for all of them, then kills the rest.

    Returns those that had to be killed; after `kill_seconds` they are not waited for any longer.
    """
    with ExitStack() as stack:
        pinned = {}
        for running in stopping:
            with suppress(ProcessLookupError):
                descriptor = os.pidfd_open(running.pid)
                stack.callback(os.close, descriptor)
                # Only now: the descriptor stays with whatever process had the id just then.
                if is_alive(running):
                    pinned[descriptor] = running
        left = _end(set(pinned), signal.SIGTERM, grace_seconds, clock)
        _end(left, signal.SIGKILL, kill_seconds, clock)
        return [pinned[descriptor] for descriptor in left]


def _end(descriptors: set[int], number: signal.Signals, seconds: float, clock: Clock) -> set[int]:
    """Signals processes and waits for them; returns those that are left."""
    for descriptor in descriptors:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, number)
    left, deadline = set(descriptors), clock.monotonic() + seconds
    while left and (remaining := deadline - clock.monotonic()) > 0:
        ended, _, _ = select.select(left, [], [], remaining)
        left -= set(ended)
    return left


def _search(settings: Path) -> Running | None:
    ending = b"\0--config\0" + bytes(settings) + b"\0"
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            ours = entry.stat().st_uid == os.getuid()
            if ours and (entry / "cmdline").read_bytes().endswith(ending):
                return _identify(int(entry.name))
    return None


def _identify(pid: int) -> Running | None:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name stands in parentheses and may hold anything, parentheses too.
    state, *fields = status.rpartition(")")[2].split()
    if state in "ZX":
        return None
    boot_id = _BOOT_ID.read_text().strip()
    return Running(pid, int(fields[_START_TIME_AT - 1]), boot_id)
