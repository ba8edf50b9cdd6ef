"""What the paper says of its measurements, and the same of ours. Pure.

Its text gives these figures (section 4 and figures 6 to 9); its graphs' values are not printed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.experiment import numbers
from bench.experiment.numbers import Lines, Point

CLAIM_SHARE = 0.70
"""Of the existing method's time, that the meaningful part takes at most from CLAIM_MS on."""

CLAIM_MS = 120.0


@dataclass(frozen=True)
class Row:
    """One figure of the paper's."""

    what: str
    paper: str
    ours: str


def rows(lines: Lines) -> list[Row]:
    """Those that there are results for."""
    part, whole = lines.get("paper_part", ()), lines.get("paper_whole", ())
    existing, free = lines.get("paper_ipsec", ()), lines.get("paper_plain", ())
    found = []
    if part:
        packing = _range([_sum(each, "compress", "decompress") for each in part])
        lowest = f"{part[0].median:.0f} s at {part[0].rtt_ms:g} ms"
        found.append(Row("part: compress and decompress", "about 4 min", packing))
        found.append(Row("part: all, over a short way", "more than 5 min", lowest))
    if whole:
        sealing = _range([_sum(each, "encrypt", "decrypt") for each in whole])
        told = ", ".join(f"{each.median:.0f} s at {each.rtt_ms:g} ms" for each in whole)
        found.append(Row("whole VM: encrypt and decrypt", "about 5 min", sealing))
        found.append(Row("whole VM: all", "more than 20 min from 160 ms on", told))
    if part and existing:
        claim = "between 60 and 80 ms"
        found.append(Row("part becomes faster than existing", claim, crossing(part, existing)))
        if shares := _shares(part, existing):
            claim = "at most about 70 % from 120 ms on"
            found.append(Row("part, of existing's time", claim, shares))
    if part and free:
        what = "part becomes faster than existing if IPsec were free"
        found.append(Row(what, "not measured", crossing(part, free)))
    return found


def crossing(one: Sequence[Point], other: Sequence[Point]) -> str:
    """From which round trip on `one` is faster than `other`, in words."""
    at = numbers.crossing_ms(one, other)
    if at is not None:
        return f"at {at:.0f} ms"
    found = numbers.shares(one, other)
    if not found:
        return "not measured at the same round trips"
    return "at every round trip" if found[0][1] <= 1 else "at none"


def _shares(part: Sequence[Point], existing: Sequence[Point]) -> str:
    shares = [share for trip, share in numbers.shares(part, existing) if trip >= CLAIM_MS]
    return f"{min(shares):.0%} to {max(shares):.0%}" if shares else ""


def _sum(point: Point, *stages: str) -> float:
    return sum(point.stages.get(each, 0.0) for each in stages)


def _range(seconds: Sequence[float]) -> str:
    low, high = f"{min(seconds):.0f}", f"{max(seconds):.0f}"
    return f"{low} s" if low == high else f"{low} to {high} s"
