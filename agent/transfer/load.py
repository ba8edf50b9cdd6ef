"""How busy the machine's processors are, by proc_stat(5): a higher level or more connections are no
gain on a host that has nothing left.
"""

import os
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE, _WAITING = 3, 4
"""Places of the ticks spent idle, and idle while waiting for disks."""


class Load:
    """The share of idle processor time between two looks. For one thread."""

    def __init__(self) -> None:
        self._total, self._idle = _ticks()

    def idle(self) -> float:
        """0 to 1 since the last look; 1 where it cannot be told."""
        total, idle = _ticks()
        passed, rested = total - self._total, idle - self._idle
        self._total, self._idle = total, idle
        return min(1.0, max(0.0, rested / passed)) if passed > 0 else 1.0


def _ticks() -> tuple[int, int]:
    """(all ticks, idle ticks) of all processors since the start of the machine."""
    try:
        descriptor = os.open(_STAT, os.O_RDONLY | os.O_CLOEXEC)
        try:
            line = os.read(descriptor, 4096).split(b"\n", 1)[0]
        finally:
            os.close(descriptor)
        ticks = [int(each) for each in line.split()[1:9]]
        return sum(ticks), ticks[_IDLE] + ticks[_WAITING]
    except (OSError, ValueError, IndexError):
        return 0, 0
