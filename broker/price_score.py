"""Prices compared over all candidates: as doubles at first, exactly where that decides. Pure."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from broker.charges import ERROR, Costs
from broker.choosing import Part
from broker.columns import Bools, Floats

Places = npt.NDArray[np.intp]
_End = tuple[int, float]
"""A row, and its price in 10^-9 of a unit."""
_NANOS = 1e9


@dataclass(frozen=True)
class PriceScore:
    """Cheaper is better, from 0 to 1; what has no price that compares gets 0."""

    costs: Costs
    rows: Places
    """Of the candidates."""
    known: Bools | None
    """Whose prices compare; None is all."""

    @cached_property
    def ends(self) -> tuple[int, int] | None:
        """The rows of the dearest and the cheapest candidate; None when no price compares."""
        return self._ends and (self._ends[0][0], self._ends[1][0])

    def part(self, weight: float) -> Part:
        """Its share of the score of each candidate."""
        if self._ends is None or not weight:
            return Part(np.zeros(len(self.rows)))
        (_, dearest), (_, cheapest) = self._ends

        def exactly(places: Places) -> Floats:
            known = None if self.known is None else self.known.take(places)
            return _normalised(self._nanos(places), known, dearest, cheapest, weight)

        about = _normalised(self._about, self.known, self._high, self._low, weight)
        # An end is off by half a nano and its double's error, and so is every price between.
        off = 0.5 + self._high * _NANOS * ERROR
        span = (self._high - self._low) * _NANOS
        error = min(1.0, 4 * off / (span - 2 * off)) if span > 2 * off else 1.0
        return Part(about, weight * error, exactly)

    @cached_property
    def _about(self) -> Floats:
        about: Floats = self.costs.about.take(self.rows)
        return about

    @cached_property
    def _low(self) -> float:
        known = self.known
        return float((self._about if known is None else np.where(known, self._about, np.inf)).min())

    @cached_property
    def _high(self) -> float:
        known = self.known
        return float((self._about if known is None else np.where(known, self._about, -1.0)).max())

    @cached_property
    def _ends(self) -> tuple[_End, _End] | None:
        if self.known is not None and not self.known.any():
            return None
        # Of two that differ by less than they err either may be the outermost in truth.
        slack = 1 + 4 * ERROR
        dear = self._comparable(self._about >= self._high / slack)
        cheap = self._comparable(self._about <= self._low * slack)
        dearest, cheapest = self._nanos(dear), self._nanos(cheap)
        most, least = int(dearest.argmax()), int(cheapest.argmin())
        return (
            (int(self.rows[dear[most]]), float(dearest[most])),
            (int(self.rows[cheap[least]]), float(cheapest[least])),
        )

    def _comparable(self, those: Bools) -> Places:
        return np.flatnonzero(those if self.known is None else those & self.known)

    def _nanos(self, places: Places) -> Floats:
        return self.costs.nanos(self.rows.take(places))


def _normalised(
    prices: Floats, known: Bools | None, dearest: float, cheapest: float, weight: float
) -> Floats:
    if dearest <= cheapest:
        return np.full(len(prices), weight) if known is None else known * np.float64(weight)
    share: Floats = dearest - prices
    share *= weight / (dearest - cheapest)
    return share if known is None else np.where(known, share, 0.0)
