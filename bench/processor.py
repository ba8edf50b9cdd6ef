"""Processor time of processes, as the kernel counts it in proc(5), of all their threads: seconds.

It says what some work costs where the clock only says how busy the machine was with other work.
"""

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def seconds(pid: int) -> float:
    """What a process has used so far; 0 when it is gone."""
    try:
        fields = _fields(pid)
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def seconds_of_family(pid: int) -> float:
    """The same with its descendants, those included that have ended and were waited for."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents.setdefault(int(_fields(int(entry.name))[1]), []).append(int(entry.name))
            except OSError:
                continue
    total, pending = 0.0, [pid]
    while pending:
        each = pending.pop()
        pending += parents.get(each, [])
        try:
            total += sum(map(int, _fields(each)[11:15])) / _TICKS
        except OSError:
            continue
    return total


def _fields(pid: int) -> list[str]:
    """Of `stat`, from the state on: the name before it may have any characters in it."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
