"""The two ends of a link as the bench uses them: commands inside, addresses, counters, outages."""

import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.link.shape import DEVICE, MTU_BYTES, Shape

ADDRESSES = ("10.77.0.1", "10.77.0.2")
"""Of source and destination on the link. Every link has its own namespaces, so all can use them."""

DIRECTIONS = ("there", "back")
TCP_SETTINGS = ("tcp_congestion_control", "tcp_wmem", "tcp_rmem")
DEVICE_QUEUE_PACKETS = 10_000
"""Between kernel and box. The link's queue is the box's; here nothing should ever be dropped."""

ANSWER_SECONDS_MAX = 10.0
_CONTROL_SUBNETS = 1 << 15  # of /30 in 10.222.0.0/15
_sequence = itertools.count()


@dataclass(frozen=True)
class Side:
    """One end."""

    address: str
    """On the link."""
    control: str
    """Where the bench reaches it beside the link, without delay and uncounted."""
    prefix: tuple[str, ...] = ()
    """Command that runs another one in the namespace."""

    def command(self, *arguments: object) -> list[str]:
        """A command line that runs at this end, and dies with the bench."""
        # setpriv: also when the bench is killed in a way that no handler sees.
        dies = ("setpriv", "--pdeathsig", "KILL")
        return [*dies, *self.prefix, *(str(each) for each in arguments)]

    def run(self, *arguments: object) -> str:
        """Runs a command to its end and returns its output. Raises CalledProcessError."""
        command = self.command(*arguments)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Link:
    """A running link; use it as a context manager."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._lock = threading.Lock()
        self._cables: list[str] = []
        command = [sys.executable, "-m", "bench.link.box", json.dumps(asdict(shape))]
        self._box = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": _root()},
        )
        try:
            started = self._read()
            self.source, self.destination = (
                self._side(started["pid"], descriptor, number)
                for number, descriptor in enumerate(started["namespaces"])
            )
            self.settings = self._tcp_settings()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the box."""
        return self._box.pid

    def close(self) -> None:
        """Ends the box; the namespaces end with it and with what runs inside."""
        # Connections that nobody answers keep a namespace for some two minutes, but no cable.
        for name in self._cables:
            subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)
        for pipe in (self._box.stdin, self._box.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._box.wait(ANSWER_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._box.kill()
            self._box.wait()

    def counters(self) -> dict[str, Any]:
        """What passed so far in `there` and `back`, and the box's CPU seconds."""
        return self._ask({})

    def outage(self, at_seconds: float, for_seconds: float) -> None:
        """From `at_seconds` from now on nothing passes, for `for_seconds`."""
        self._outage(at_seconds, for_seconds, DIRECTIONS)

    def cut(self, *directions: str) -> None:
        """Nothing passes any more until `heal`, and nobody is told; with "there" (from source to
        destination) or "back", in that direction only.
        """
        self._outage(0.0, math.inf, directions or DIRECTIONS)

    def heal(self) -> None:
        """Ends cuts and outages, also those to come."""
        self._ask({"heal": True})

    def reshape(self, shape: Shape) -> None:
        """Another rate, delay, queue and loss from now on; congestion control stays."""
        self._ask({"shape": asdict(shape)})
        self.shape = replace(shape, congestion=self.shape.congestion)

    def _outage(self, at_seconds: float, for_seconds: float, directions: Sequence[str]) -> None:
        times = {"at_seconds": at_seconds, "for_seconds": for_seconds}
        self._ask({"outage": {**times, "directions": list(directions)}})

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            assert self._box.stdin is not None  # noqa: S101 - for the type checker
            self._box.stdin.write(json.dumps(command) + "\n")
            self._box.stdin.flush()
            return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._box.stdout is not None  # noqa: S101 - for the type checker
        line = self._box.stdout.readline()
        if not line:
            raise RuntimeError("the link's process ended; it needs root and /dev/net/tun")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _side(self, box: int, descriptor: int, number: int) -> Side:
        prefix = ("nsenter", f"--net=/proc/{box}/fd/{descriptor}")
        side = Side(ADDRESSES[number], "", prefix)
        peer = ADDRESSES[1 - number]
        side.run("ip", "link", "set", "lo", "up")
        side.run("ip", "address", "add", side.address, "peer", peer, "dev", DEVICE)
        queue = ("mtu", MTU_BYTES, "txqueuelen", DEVICE_QUEUE_PACKETS)
        side.run("sysctl", "-q", f"net.ipv6.conf.{DEVICE}.disable_ipv6=1")
        side.run("ip", "link", "set", DEVICE, *queue, "up")
        if self.shape.congestion:
            # By the route: the kernel lets a namespace's setting name only unrestricted ones.
            chosen = ("congctl", self.shape.congestion)
            side.run("ip", "route", "replace", peer, "dev", DEVICE, "src", side.address, *chosen)
        cable = f"wb{os.getpid() % 10**7}x{next(_sequence) % 10**4}"
        self._cables.append(cable)
        return Side(side.address, _join(side, cable), prefix)

    def _tcp_settings(self) -> dict[str, str]:
        def read(name: str) -> str:
            return self.source.run("cat", f"/proc/sys/net/ipv4/{name}").strip()

        settings = {name: " ".join(read(name).split()) for name in TCP_SETTINGS}
        if self.shape.congestion:
            settings["tcp_congestion_control"] = self.shape.congestion
        return settings


def _join(side: Side, cable: str) -> str:
    """Joins a namespace to the bench's own by a virtual cable; returns its address there."""
    ours, theirs = next(_free_subnets())
    kind = ("type", "veth", "peer", "name", cable, "netns", os.getpid())
    side.run("ip", "link", "add", "control", *kind)
    side.run("ip", "address", "add", f"{theirs}/30", "dev", "control")
    side.run("ip", "link", "set", "control", "up")
    here = Side("", "")
    here.run("ip", "address", "add", f"{ours}/30", "dev", cable)
    here.run("ip", "link", "set", cable, "up")
    return theirs


def _free_subnets() -> Iterator[tuple[str, str]]:
    """Pairs of addresses that nothing on this machine has, each bench beginning elsewhere."""
    used = Side("", "").run("ip", "-4", "-o", "address")
    first = os.getpid() * 16 + next(_sequence)
    for number in range(first, first + _CONTROL_SUBNETS):
        base = number % _CONTROL_SUBNETS * 4
        prefix = f"10.{222 + (base >> 16)}.{base >> 8 & 0xFF}"
        ours, theirs = f"{prefix}.{(base & 0xFF) + 1}", f"{prefix}.{(base & 0xFF) + 2}"
        if f" {ours}/" not in used:
            yield ours, theirs
    raise RuntimeError("no address is free for reaching the namespaces")


def _root() -> str:
    return str(Path(__file__).resolve().parents[2])
