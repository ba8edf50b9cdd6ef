"""What every method measures."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bench.link import Link
from watari.cli import sparse


@dataclass
class Result:
    """One repetition."""

    method: str
    seconds: float
    """From the order to move until the method said that it is done."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of parts, and of what came after the timed part."""
    wire_bytes: int = 0
    """Bytes that entered the link towards the destination, headers and resending included."""
    back_bytes: int = 0
    """The same of the other direction."""
    identical: bool = False
    """Whether the destination has what the source has, byte by byte."""
    further: dict[str, Any] = field(default_factory=dict)
    """What only this method tells: peak memory, CPU seconds, its own counters."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Method(Protocol):
    """The shape of a module in this package."""

    NAME: str

    def run(self, link: Link, image: Path, folder: Path) -> Result:
        """Moves `image` over a fresh link; `folder` is empty and on the destination's disk."""


@dataclass
class Timed:
    """A measurement that runs."""

    link: Link
    seconds: float = 0.0
    wire_bytes: int = 0
    back_bytes: int = 0
    box_cpu_seconds: float = 0.0
    segments_dropped: int = 0
    """By the link's queue, its losses and outages, in both directions."""

    def result(self, method: str, identical: bool, **stages: float) -> Result:
        """As a Result."""
        further = {
            "link_cpu_seconds": round(self.box_cpu_seconds, 3),
            "segments_dropped": self.segments_dropped,
        }
        counted = (self.wire_bytes, self.back_bytes)
        return Result(method, self.seconds, stages, *counted, identical, further)


@contextmanager
def timed(link: Link) -> Iterator[Timed]:
    """Times the block and counts what passes the link in it."""
    before = link.counters()
    measurement = Timed(link)
    start = time.monotonic()
    yield measurement
    measurement.seconds = time.monotonic() - start
    after = link.counters()

    def grown(way: str, name: str) -> int:
        return int(after[way][name]) - int(before[way][name])

    measurement.wire_bytes = grown("there", "offered_bytes")
    measurement.back_bytes = grown("back", "offered_bytes")
    measurement.box_cpu_seconds = after["cpu_seconds"] - before["cpu_seconds"]
    dropped = ("queue_dropped_segments", "lost_segments", "outage_dropped_segments")
    measurement.segments_dropped = sum(
        grown(way, name) for way in ("there", "back") for name in dropped
    )


def same(left: Path, right: Path) -> bool:
    """Whether two files have the same bytes."""
    return right.exists() and sparse.first_difference(left, right) is None
