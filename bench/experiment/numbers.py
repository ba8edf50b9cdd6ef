"""What follows from the results of an experiment: medians, spreads, floors, crossings. Pure."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import floor


@dataclass(frozen=True)
class Point:
    """Repetitions of one method over one link."""

    rtt_ms: float
    seconds: tuple[float, ...]
    wire_bytes: tuple[int, ...]
    stages: Mapping[str, float]
    """Median seconds of each stage."""
    identical: bool

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def median_wire_bytes(self) -> float:
        """Bytes that the link was given."""
        return statistics.median(self.wire_bytes)

    @property
    def spread(self) -> tuple[float, float]:
        """From the least to the most, as distances from the median."""
        return self.median - min(self.seconds), max(self.seconds) - self.median


Lines = Mapping[str, Sequence[Point]]
"""Points by method, in order of the round trip."""


def groups(record: Mapping[str, Any]) -> list[tuple[str, float]]:
    """(image, rate in Mbit/s) that there are results for."""
    return sorted({(each["image"], each["rate_mbit"]) for each in record["cases"].values()})


def round_trips_ms(lines: Lines) -> list[float]:
    """All that any method has."""
    return sorted({point.rtt_ms for points in lines.values() for point in points})


def lines(record: Mapping[str, Any], image: str, rate_mbit: float) -> Lines:
    """All methods over one rate."""
    found: dict[str, dict[float, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for case in record["cases"].values():
        if case["image"] == image and case["rate_mbit"] == rate_mbit:
            found[case["method"]][case["rtt_ms"]].append(case["result"])
    return {
        method: [_point(rtt, results) for rtt, results in sorted(points.items())]
        for method, points in found.items()
    }


def floor_seconds(record: Mapping[str, Any], image: str, rate_mbit: float, rtt_ms: float) -> float:
    """The least time, for what `zstd -3` makes of the image."""
    compressed = int(record["images"][image]["compressed_bytes"])
    return floor.seconds(compressed, rate_mbit * 1e6 / 8, rtt_ms / 1000)


def shares(one: Sequence[Point], other: Sequence[Point]) -> list[tuple[float, float]]:
    """(round trip, `one` as a share of `other`) wherever both have been measured."""
    medians = {point.rtt_ms: point.median for point in other}
    return [(p.rtt_ms, p.median / medians[p.rtt_ms]) for p in one if p.rtt_ms in medians]


def crossing_ms(one: Sequence[Point], other: Sequence[Point]) -> float | None:
    """Round trip from which `one` is faster than `other`, between two points on straight lines;
    None when it never is, or from the first point on.
    """
    medians = {point.rtt_ms: point.median for point in other}
    both = [(p.rtt_ms, p.median - medians[p.rtt_ms]) for p in one if p.rtt_ms in medians]
    for (left, before), (right, after) in itertools.pairwise(both):
        if before > 0 >= after:
            return left + (right - left) * before / (before - after)
    return None


def _point(rtt_ms: float, results: Sequence[Mapping[str, Any]]) -> Point:
    names = {name for each in results for name in each["stages"]}
    stages = {
        name: statistics.median(each["stages"].get(name, 0.0) for each in results)
        for name in sorted(names, key=lambda name: _order(results, name))
    }
    return Point(
        rtt_ms,
        tuple(float(each["seconds"]) for each in results),
        tuple(int(each["wire_bytes"]) for each in results),
        stages,
        all(each["identical"] for each in results),
    )


def _order(results: Sequence[Mapping[str, Any]], name: str) -> int:
    """Stages as they followed each other."""
    return min(list(each["stages"]).index(name) for each in results if name in each["stages"])
