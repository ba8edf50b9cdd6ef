"""A federation for the length of a block: in a temporary folder, and gone after it."""

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from watari import errors, units
from watari.cli.exits import Exit
from watari.cli.federation import control
from watari.cli.federation.layout import Layout
from watari.cli.output import Output
from watari.clock import Clock

FREE_BYTES_MIN = 512 * 1024 * 1024
"""Room beside the disks: databases, journals, logs."""


@contextmanager
def temporary(output: Output, clock: Clock, *, keep: bool) -> Iterator[Layout]:
    """The layout of a federation that is not started yet, in a new folder.

    On leaving, for whatever reason short of a kill, its servers are stopped and the folder is
    removed, unless `keep`.
    """
    layout = Layout(Path(tempfile.mkdtemp(prefix="watari-demo-")) / "federation")
    previous = signal.signal(signal.SIGTERM, _end)
    try:
        yield layout
    finally:
        # Once more would leave servers behind. What follows is bounded.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            with output.working("stopping the servers"):
                control.down(layout, clock)
            if keep:
                output.note(f"Kept. Go on with: watari up --state-dir {layout.root}")
            else:
                shutil.rmtree(layout.root.parent)
        finally:
            signal.signal(signal.SIGINT, interrupt)
            signal.signal(signal.SIGTERM, previous)


def require_room(folder: Path, needed_bytes: int) -> None:
    """Raises Exhausted DISK_FULL when the folder's file system has too little room."""
    free = shutil.disk_usage(folder).free
    needed = needed_bytes + FREE_BYTES_MIN
    if free < needed:
        raise errors.Exhausted(
            "DISK_FULL",
            f"{folder} has {units.format_bytes(free)} free of {units.format_bytes(needed)} needed",
            hint="set TMPDIR to a folder with more room, or use a smaller --data",
            free_bytes=free,
            needed_bytes=needed,
        )


def _end(_number: int, _frame: FrameType | None) -> None:
    """Unwinds the stack, so that the block above cleans up."""
    sys.exit(Exit.INTERRUPTED)
