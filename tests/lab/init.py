"""Process 1 of a host: mounts what is the host's own, and then reaps what others leave behind.

Runs as `unshare ... python -I init.py NAME FOLDER` in new namespaces, says "ready" on stdout, and
ends when stdin does, or by SIGKILL; the kernel then ends everything in the host. It imports nothing
of the project.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

PRIVATE = {
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "etc": "/etc/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
}
"""Folder of the host, and where it is to be seen inside."""

FILES = {"hosts": "/etc/hosts", "passwd": "/etc/passwd", "group": "/etc/group"}
"""File of the host, and what it stands for inside."""

HIDDEN = ("/run/dbus", "/run/systemd")
"""Where the machine's own services are; libvirt must not find them."""


def main() -> None:
    """Until stdin ends."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    socket.sethostname(name)
    _mount("--make-rprivate", "/")
    _mount("-t", "proc", "proc", "/proc")
    with contextlib.suppress(subprocess.CalledProcessError):  # a container may not
        _mount("-t", "sysfs", "sysfs", "/sys")
    for source, target in PRIVATE.items():
        Path(target).mkdir(parents=True, exist_ok=True)
        _mount("--bind", str(folder / source), target)
    for target in HIDDEN:
        if Path(target).is_dir():
            _mount("-t", "tmpfs", "tmpfs", target)
    for source, target in FILES.items():
        if not Path(target).exists():  # a small system has no /etc/hosts
            Path(target).touch()
        _mount("--bind", str(folder / source), target)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    signal.signal(signal.SIGCHLD, _reap)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while os.read(0, 4096):
        pass


def _reap(number: int, frame: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    main()
