"""The highest of many sums of doubles, some of which are cheap to have roughly only. Pure.

Sums are compared in steps of 10^-9, so that the choice does not depend on how one was rounded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from broker.columns import Floats

STEPS = 1e9
"""Sums that round to the same one of these are equal."""

STRIPES = 32
"""The places are dealt out to lists of so many: the best of each bound the best of all, and are
found in one pass."""

Places = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Part:
    """One summand, shape (places,)."""

    values: Floats
    error: float = 0.0
    """The most by which a value is off."""
    exactly: Callable[[Places], Floats] | None = None
    """The values at some places, without that error."""


def highest(parts: Sequence[Part], count: int) -> Places:
    """At most so many places, the highest sums first; of equal ones the first places."""
    total, error = _sum([part.values for part in parts]), sum(part.error for part in parts)
    # Of two whose order counts, each may be off by the error.
    likely = _at_least(total, _bound(total, count), error)
    if len(likely) > STRIPES * count:
        below = total.take(likely)
        likely = likely[_at_least(below, _bound(below, count), error)]
    return likely[_first(_sum([_exact(part, likely) for part in parts]), count)]


def _bound(total: Floats, count: int) -> float:
    """A number that at least `count` are not below, if there are so many."""
    length = len(total) // STRIPES
    if length >= count:
        total = total[: length * STRIPES].reshape(STRIPES, length).max(axis=0)
    elif len(total) <= count:
        return float(total.min())
    place = len(total) - count
    return float(np.partition(total, place)[place])


def _at_least(total: Floats, bound: float, error: float) -> Places:
    return np.flatnonzero(total >= bound - 2 * error - 2 / STEPS)


def _exact(part: Part, places: Places) -> Floats:
    return part.exactly(places) if part.exactly else part.values.take(places)


def _sum(summands: Sequence[Floats]) -> Floats:
    total = summands[0].copy()
    for summand in summands[1:]:
        total += summand
    return total


def _first(total: Floats, count: int) -> Places:
    steps = np.rint(total * STEPS)
    return np.argsort(-steps, kind="stable")[:count]
