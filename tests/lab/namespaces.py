"""Starting a process directly in another PID namespace.

nsenter(1) forks to enter one: its child is somebody else's, and signals and exit codes need a
relay. Here the child is the caller's own, with the process id that the caller sees.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

_CLONE_NEWPID = 0x20000000

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def children_in(pid: int) -> Iterator[None]:
    """What this thread starts meanwhile is in the PID namespace of process `pid`."""
    _children_in_namespace(Path(f"/proc/{pid}/ns/pid"))
    try:
        yield
    finally:
        _children_in_namespace(Path("/proc/self/ns/pid"))


def members(pid_namespace: str) -> list[int]:
    """Process ids of all that is in the namespace of this name, such as "pid:[4026532281]"."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended, or is a zombie
                if str((folder / "ns/pid").readlink()) == pid_namespace:
                    found.append(int(folder.name))
    return found


def _children_in_namespace(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWPID):
            number = ctypes.get_errno()
            raise OSError(number, f"setns: {os.strerror(number)}", str(path))
    finally:
        os.close(descriptor)
