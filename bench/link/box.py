"""The process that is the network: two namespaces, a TUN device in each, and the loop between.

Runs as `python -m bench.link.box SHAPE`, SHAPE in JSON. It answers one JSON line on stdout for each
line on stdin, and ends when stdin does. Its namespaces have no names: they are open files of this
process, so nothing is left when it and what runs inside are gone.
"""

import contextlib
import ctypes
import fcntl
import json
import math
import os
import random
import select
import struct
import sys
import time
from typing import Any

from bench.link.direction import Direction
from bench.link.packets import FRAME_BYTES_MAX
from bench.link.shape import DEVICE, Shape

READS_MAX = 64
"""Frames read from one device before the other gets its turn."""

WAIT_SECONDS_MAX = 3600.0
PRIORITY = 10
"""Real-time priority: a network does not wait for the hosts' processors."""

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Serves until stdin ends."""
    shape = Shape(**json.loads(sys.argv[1]))
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    sides = [_namespace_with_device(home) for _ in range(2)]
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(PRIORITY))
    box = Box(shape, (sides[0][1], sides[1][1]))
    _answer({"pid": os.getpid(), "namespaces": [side[0] for side in sides]})
    box.run()


def _namespace_with_device(home: int) -> tuple[int, int]:
    """Descriptors of a new network namespace and of a TUN device in it."""
    _check(_libc.unshare(_CLONE_NEWNET), "unshare")
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), flags))
    fcntl.ioctl(device, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4)
    _check(_libc.setns(home, _CLONE_NEWNET), "setns")
    return namespace, device


def _check(result: int, call: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


class Box:
    """The loop. `devices` are the source's and the destination's."""

    def __init__(self, shape: Shape, devices: tuple[int, int]) -> None:
        rng = random.Random(shape.seed)
        self._devices = devices
        self._there = Direction(shape, random.Random(rng.random()))
        self._back = Direction(shape, random.Random(rng.random()))
        self._unwritten = 0
        self._commands = b""

    def run(self) -> None:
        """Until stdin ends. select(2), for its microseconds: epoll waits in milliseconds."""
        source, destination = self._devices
        ways = ((self._there, source, destination), (self._back, destination, source))
        stdin = sys.stdin.fileno()
        while True:
            now = time.monotonic()
            wait = min(self._there.next_due, self._back.next_due, now + WAIT_SECONDS_MAX) - now
            ready, _, _ = select.select([source, destination, stdin], [], [], max(0.0, wait))
            for direction, entry, way_out in ways:
                if entry in ready:
                    self._take(direction, entry)
                for frame in direction.due(time.monotonic()):
                    self._give(way_out, frame)
            if stdin in ready and not self._command(stdin):
                return

    def _take(self, direction: Direction, device: int) -> None:
        for _ in range(READS_MAX):
            try:
                frame = os.read(device, FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            direction.offer(time.monotonic(), frame)

    def _give(self, device: int, frame: bytes) -> None:
        try:
            os.write(device, frame)
        except OSError:  # a device that is down; TCP sends it again
            self._unwritten += 1

    def _command(self, stdin: int) -> bool:
        received = os.read(stdin, 65_536)
        if not received:
            return False
        *lines, self._commands = (self._commands + received).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))
        return True

    def _obey(self, command: dict[str, Any]) -> None:
        directions = {"there": self._there, "back": self._back}
        outage = command.get("outage")
        if outage is not None:
            start = time.monotonic() + outage["at_seconds"]
            for name in outage["directions"]:
                directions[name].add_outage(start, start + outage["for_seconds"])
        shape = Shape(**command["shape"]) if "shape" in command else None
        for direction in directions.values():
            if command.get("heal"):
                direction.end_outages()
            if shape is not None:
                direction.reshape(shape)
        _answer(
            {
                "there": self._there.counters.as_dict(),
                "back": self._back.counters.as_dict(),
                "unwritten_frames": self._unwritten,
                "cpu_seconds": time.process_time(),
                "idle": math.isinf(min(self._there.next_due, self._back.next_due)),
            }
        )


def _answer(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
