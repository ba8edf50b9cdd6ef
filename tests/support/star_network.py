"""Hosts in network namespaces of their own, on a bridge whose ports can be cut.

The process that makes it must be in a namespace of its own (`unshare --net`): the bridge is there,
and all of it is gone when that process has ended.
"""

import contextlib
import subprocess
from pathlib import Path

PREFIX = "10.78.0"
BRIDGE_ADDRESS = f"{PREFIX}.1"
COMMAND_SECONDS_MAX = 60.0


class Host:
    """A place to run processes in, with an address of its own."""

    def __init__(self, number: int) -> None:
        self.address = f"{PREFIX}.{10 + number}"
        self._port = f"port{number}"
        # Holds the namespace; dies with the process that made it.
        hold = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]
        self._holder = subprocess.Popen(hold)
        self._await_namespace()
        self.prefix = (
            *("setpriv", "--pdeathsig", "KILL"),
            *("nsenter", f"--net=/proc/{self._holder.pid}/ns/net"),
        )
        cable = ("type", "veth", "peer", "name", "eth0", "netns", str(self._holder.pid))
        _ip("link", "add", self._port, *cable)
        _ip("link", "set", self._port, "master", "bridge", "up")
        for command in (
            ("link", "set", "lo", "up"),
            ("address", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            _ip(*command, prefix=self.prefix)

    def cut(self) -> None:
        """Nothing passes any more; nobody is told."""
        _ip("link", "set", self._port, "nomaster")

    def join(self) -> None:
        """It is back."""
        _ip("link", "set", self._port, "master", "bridge")

    def close(self) -> None:
        """Ends the namespace."""
        self._holder.kill()
        self._holder.wait(COMMAND_SECONDS_MAX)

    def _await_namespace(self) -> None:
        ours = Path("/proc/self/ns/net").readlink()
        while self._holder.poll() is None:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{self._holder.pid}/ns/net").readlink() != ours:
                    return
        raise AssertionError("no namespace; this needs root")


def make_bridge() -> None:
    """In the namespace of this process, which has nothing else."""
    command = ["ip", "-o", "link"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert found.count("\n") == 1, f"run it with unshare --net; this namespace has\n{found}"
    _ip("link", "set", "lo", "up")
    _ip("link", "add", "bridge", "type", "bridge")
    _ip("address", "add", f"{BRIDGE_ADDRESS}/24", "dev", "bridge")
    _ip("link", "set", "bridge", "up")


def _ip(*arguments: str, prefix: tuple[str, ...] = ()) -> None:
    subprocess.run([*prefix, "ip", *arguments], check=True, timeout=COMMAND_SECONDS_MAX)
