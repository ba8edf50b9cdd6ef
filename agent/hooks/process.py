"""One run of one program: its time, what it begins, and what it prints are bounded.

What a program begins inherits its environment, and with it the mark of the run, wherever it goes:
into a group or session of its own, or to another parent.
"""

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

POLL_SECONDS = 0.02
"""Between two looks whether the program has ended."""

KILL_SECONDS_MAX = 5.0
"""What SIGKILL has ended is waited for so long; a process in an uninterruptible wait may take
longer and is left to the system."""

MARK = "WATARI_RUN"
"""Variable that marks all processes of a run."""

SWEEPS_MAX = 20
"""Looks for marked processes, as some may be beginning others meanwhile."""

_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    """Exit status; negative is the signal that ended it."""

    in_time: bool
    output: bytes
    """The beginning of what it printed, both streams together."""

    dropped_bytes: int
    """What it printed beyond that."""

    seconds: float


def run(
    program: Path,
    document: bytes,
    environ: dict[str, str],
    *,
    seconds_max: float,
    term_seconds_max: float,
    output_bytes_max: int,
) -> Ended:
    """Runs a program with a document on standard input.

    After `seconds_max` its process group gets SIGTERM, after `term_seconds_max` more SIGKILL; what
    is left of the group when the program itself has ended is killed too, and whatever else it began
    and has its mark still. Raises OSError when it cannot be started.
    """
    began = time.monotonic()
    mark = str(uuid.uuid4())
    with tempfile.TemporaryFile() as given:  # a pipe could block, and break when nobody reads
        given.write(document)
        given.seek(0)
        process = subprocess.Popen(
            [program],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environ | {MARK: mark},
            cwd="/",
            umask=0o077,
            start_new_session=True,
        )
    assert process.stdout is not None  # noqa: S101 - it was asked for
    with process.stdout as pipe:
        output = _Output(pipe.fileno(), output_bytes_max)
        in_time = output.follow(process, began + seconds_max)
        if not in_time:
            _signal(process, signal.SIGTERM)
            output.follow(process, time.monotonic() + term_seconds_max)
        # The program is not reaped yet, so that its number is nobody else's.
        _signal(process, signal.SIGKILL)
        _kill_marked(f"{MARK}={mark}".encode())
        output.follow(process, time.monotonic() + KILL_SECONDS_MAX)
        output.read()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(KILL_SECONDS_MAX)
    code = -signal.SIGKILL if process.returncode is None else process.returncode
    return Ended(code, in_time, output.kept, output.dropped_bytes, time.monotonic() - began)


class _Output:
    """Keeps the beginning of what comes out of a pipe, and lets the rest go."""

    def __init__(self, descriptor: int, bytes_max: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._bytes_max = bytes_max
        self._ended = False
        self.kept = b""
        self.dropped_bytes = 0

    def follow(self, process: "subprocess.Popen[bytes]", until: float) -> bool:
        """Reads until the program has ended, or that moment of monotonic time; whether it has."""
        while not _has_ended(process):
            left = until - time.monotonic()
            if left <= 0:
                return False
            pause = min(left, POLL_SECONDS)
            if self._ended:
                time.sleep(pause)
            elif select.select([self._descriptor], [], [], pause)[0]:
                self.read()
        return True

    def read(self) -> None:
        """What is there, one piece at most: who prints for ever keeps nobody here."""
        try:
            chunk = os.read(self._descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return
        self._ended = not chunk
        room = self._bytes_max - len(self.kept)
        self.kept += chunk[:room]
        self.dropped_bytes += len(chunk[room:])


def _has_ended(process: "subprocess.Popen[bytes]") -> bool:
    """Looks without reaping."""
    looked = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return looked is not None


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _kill_marked(mark: bytes) -> None:
    """Kills whoever has the mark among its variables. One that took it away is not found, nor one
    of another user; of a program that has ended nothing is left to be found.
    """
    for _ in range(SWEEPS_MAX):
        found = [each for each in map(_opened_if, Path("/proc").iterdir(), repeat(mark)) if each]
        for each in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(each, signal.SIGKILL)
            os.close(each)
        if not found:
            return
        time.sleep(POLL_SECONDS)


def _opened_if(folder: Path, mark: bytes) -> int | None:
    """A marked process's descriptor: its number may be another one's when it is signalled."""
    if not folder.name.isdecimal():
        return None
    try:
        descriptor = os.pidfd_open(int(folder.name))
    except OSError:
        return None
    try:
        if mark in (folder / "environ").read_bytes().split(b"\0"):
            return descriptor
    except OSError:  # it has ended, or is another user's
        pass
    os.close(descriptor)
    return None
