"""Runs QEMU's tools: bounded in time and in what is read of them."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from watari import errors

LOCK_SECONDS_MAX = 10.0
"""How long to wait for whoever has the image locked: a predecessor that is just being killed."""

TEXT_BYTES_MAX = 4096
"""What is read of a tool's messages."""

_LOCK_POLL_SECONDS = 0.1

_T = TypeVar("_T")


class ToolError(Exception):
    """A tool of QEMU failed; the text is what it said, without the folder of the image."""


def run(command: list[str], path: Path, seconds_max: float) -> tuple[int, str]:
    """Runs a tool on an image; returns its exit status and the first line that it said. Raises
    ToolError when it took too long or the image stayed locked, FailedPrecondition CONFIG_INVALID.
    """
    require(command[0])

    def once() -> tuple[int, str]:
        status, said = _run(command, seconds_max)
        line = tidy(said, path)
        if status and locked(ToolError(line)):
            raise ToolError(line)
        return status, line

    return unlocked(once)


def unlocked(attempt: Callable[[], _T]) -> _T:
    """What `attempt` returns; it is repeated for a while as long as the image is locked."""
    deadline = time.monotonic() + LOCK_SECONDS_MAX
    while True:
        try:
            return attempt()
        except ToolError as error:
            if not locked(error) or time.monotonic() > deadline:
                raise
        time.sleep(_LOCK_POLL_SECONDS)


def _run(command: list[str], seconds_max: float) -> tuple[int, bytes]:
    read_end, write_end = pipe()
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=write_end,
            env=environment(),
            start_new_session=True,
            timeout=seconds_max,
            check=False,
        )
        return ended.returncode, text(read_end)
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{command[0]} took more than {seconds_max:g} s") from error
    except OSError as error:
        raise ToolError(error.strerror) from error
    finally:
        os.close(write_end)
        os.close(read_end)


def locked(error: ToolError) -> bool:
    """Whether a tool failed because another process has the image open."""
    said = str(error)  # 'Failed to get "write" lock' or 'Failed to get shared "write" lock'
    return "Failed to get" in said and " lock" in said


def require(tool: str) -> None:
    """Raises FailedPrecondition CONFIG_INVALID unless the host has `tool`."""
    if shutil.which(tool) is None:
        raise errors.FailedPrecondition(
            "CONFIG_INVALID",
            f"this host has no {tool}, which qcow2 disks need",
            hint="install the package qemu-utils, or use raw disks",
        )


def tidy(text: bytes, path: Path) -> str:
    """A tool's first line, fit to be shown: the image by its name, and printable."""
    line = text.decode(errors="replace").strip().partition("\n")[0]
    line = line.replace(str(path.absolute()), path.name)
    shown = "".join(each if each.isprintable() else "?" for each in line[:300])
    return shown or "the tool ended without a word"


def environment() -> dict[str, str]:
    """The agent's own, with messages in the language that `locked` knows."""
    return {**os.environ, "LC_ALL": "C"}


def pipe() -> tuple[int, int]:
    """(read end, write end) for a tool's messages. What does not fit is lost: the tool never waits
    for a reader, and the agent never holds more than a pipe's 64 KiB.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(write_end, False)
    os.set_blocking(read_end, False)
    return read_end, write_end


def text(read_end: int) -> bytes:
    """What a tool has said so far."""
    try:
        return os.read(read_end, TEXT_BYTES_MAX)
    except BlockingIOError:
        return b""
