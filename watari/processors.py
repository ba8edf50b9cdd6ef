"""Which of the machine's processors a process keeps to.

A server in Python runs one thread at a time: they take turns at the interpreter's lock. Where two
processors take turns as well, each handing over wakes the other one up, which costs more than many
a turn is long (docs/performance.md has what it came to). A process that keeps to one processor
leaves the others to those beside it, its database for one.
"""

import os
from collections.abc import Collection

from watari import errors


def keep_to(processors: Collection[int]) -> None:
    """The calling thread, and all that are started from now on, run on these only; none: on all.

    Raises InvalidArgument CONFIG_INVALID for one that this process may not use.
    """
    if not processors:
        return
    there = os.sched_getaffinity(0)
    if strange := sorted(set(processors) - there):
        raise errors.InvalidArgument(
            "CONFIG_INVALID",
            f"processors: there is no {strange[0]}",
            hint=f"of those that this process may use: {', '.join(map(str, sorted(there)))}",
        )
    os.sched_setaffinity(0, processors)
