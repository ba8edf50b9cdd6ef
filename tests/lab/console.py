"""What a guest has said, and what may not be true of it. Pure but for `Console`.

`guest_init.c` has the lines. To judge a guest that has moved, concatenate the events of the
hosts in the order in which it was there.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.02
ACK_SECONDS_MAX = 60.0
"""A boot under emulation on a busy machine, and the first count."""


@dataclass(frozen=True)
class Mounted:
    """How a disk was found at a boot."""

    disk: str
    mounts: int
    clean: bool
    recovery_needed: bool
    """By the superblock."""
    recovered: bool
    """By the kernel's log."""
    n: int


@dataclass(frozen=True)
class Boot:
    """The guest has begun, from the least number on its disks."""

    boot_id: str
    n: int


@dataclass(frozen=True)
class Ack:
    """`n` is durable on all disks."""

    boot_id: str
    uptime_seconds: float
    n: int


@dataclass(frozen=True)
class Dirtied:
    """What the workload has written since the boot."""

    boot_id: str
    uptime_seconds: float
    written_bytes: int


@dataclass(frozen=True)
class Down:
    """A graceful end, disks unmounted."""

    boot_id: str
    n: int


@dataclass(frozen=True)
class Failure:
    """The guest's program could not go on."""

    text: str


Event = Mounted | Boot | Ack | Dirtied | Down | Failure

_DISK = re.compile(r"DISK (\w+) mounts=(\d+) clean=(\d) recovery=(\d) recovered=(\d) n=(\d+)")
_TIMED = re.compile(r"(ACK|DIRTY) (\w+) ([\d.]+) (\d+)")
_UNTIMED = re.compile(r"(BOOT|DOWN) (\w+) (\d+)")


def events(text: str) -> list[Event]:
    """All that was said, without what the firmware and the kernel say and a last half line."""
    return list(_events(text.split("\n")[:-1]))


def problems(said: Sequence[Event]) -> list[str]:
    """Acknowledged numbers that a later boot does not know, numbers that came twice or in another
    order, a copy that went on beside another one, and failures.
    """
    found: list[str] = []
    acknowledged, current = 0, ""
    ended: set[str] = set()
    for event in said:
        if isinstance(event, Failure):
            found.append(event.text)
        elif isinstance(event, Boot):
            if event.n < acknowledged:
                found.append(f"boot {event.boot_id} lost {event.n + 1} to {acknowledged}")
            ended.add(current)
            current = event.boot_id
        elif isinstance(event, Ack):
            if event.boot_id in ended:
                found.append(f"{event.boot_id} goes on at {event.n} beside {current}")
            elif event.n <= acknowledged:
                found.append(f"{event.boot_id} counts {event.n} after {acknowledged}")
            acknowledged = max(acknowledged, event.n)
        elif isinstance(event, Down):
            ended.add(event.boot_id)
    return found


class Console:
    """The file that a guest's serial port writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def text(self) -> str:
        """Everything so far."""
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def events(self) -> list[Event]:
        """Everything that was said so far."""
        return events(self.text())

    def acks(self) -> list[Ack]:
        """In order."""
        return [event for event in self.events() if isinstance(event, Ack)]

    def boots(self) -> list[Boot]:
        """In order."""
        return [event for event in self.events() if isinstance(event, Boot)]

    @property
    def last_n(self) -> int:
        """The last number that was acknowledged here; 0 when there is none."""
        acks = self.acks()
        return acks[-1].n if acks else 0

    def wait_ack(self, more_than: int | None = None, seconds: float = ACK_SECONDS_MAX) -> Ack:
        """The next acknowledgement of a number over `more_than`, by default of one to come. Raises
        TimeoutError with the console's end.
        """
        least = self.last_n if more_than is None else more_than
        found = self.wait(
            lambda said: [each for each in said if isinstance(each, Ack) and each.n > least],
            f"no acknowledgement over {least}",
            seconds,
        )
        return next(each for each in found if isinstance(each, Ack) and each.n > least)

    def wait(
        self, wanted: Callable[[list[Event]], object], otherwise: str, seconds: float
    ) -> list[Event]:
        """The events, when `wanted` is true of them. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while True:
            said = self.events()
            if wanted(said):
                return said
            if time.monotonic() > deadline:
                raise TimeoutError(f"{otherwise} in {seconds} s: {self.text()[-1000:]!r}")
            time.sleep(POLL_SECONDS)


def _events(lines: Sequence[str]) -> Iterator[Event]:
    for line in lines:
        if found := _TIMED.fullmatch(line):
            kind = Ack if found[1] == "ACK" else Dirtied
            yield kind(found[2], float(found[3]), int(found[4]))
        elif found := _UNTIMED.fullmatch(line):
            yield (Boot if found[1] == "BOOT" else Down)(found[2], int(found[3]))
        elif found := _DISK.fullmatch(line):
            clean, needed, recovered = (found[each] == "1" for each in (3, 4, 5))
            yield Mounted(found[1], int(found[2]), clean, needed, recovered, int(found[6]))
        elif line.startswith("FAIL "):
            yield Failure(line)
