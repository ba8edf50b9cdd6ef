"""What a machine costs by every offer at once, exactly. Pure.

Doubles decide wherever they are far enough from where rounding or a limit would change the answer;
the few that are not are reckoned exactly by `broker.pricing`, once for each sheet among them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from broker import amounts, pricing
from broker.columns import Bools, Columns, Floats
from broker.pricing import Price, Sheet

HOUR = 3600
"""Seconds of an hour: a ceiling is a budget for one."""

ERROR = 4e-15
"""A double of a price errs by less than this share of it: three products and sums of positive
numbers, each within 2^-53, which is 1.1e-16."""
_GIB = 1024**3
_WHOLE_MAX = 2.0**53
"""Doubles below are exact as whole numbers."""
Places = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Costs:
    """What a machine costs by each offer of some columns."""

    columns: Columns
    needed: amounts.Amounts

    @cached_property
    def about(self) -> Floats:
        """The hourly price in units, to within `ERROR`; without meaning where there is no usable
        price. Not to be written to.
        """
        vcpu_hour, memory_gib_hour, disk_gib_month = self.columns.rows.prices
        about: Floats = vcpu_hour * float(self.needed["vcpus"])
        about += memory_gib_hour * (self.needed["memory"] / _GIB)
        about += disk_gib_month * (self.needed["disk"] / _GIB / pricing.HOURS_PER_MONTH)
        return about

    def nanos(self, rows: Places) -> Floats:
        """The hourly price at some rows in 10^-9 of the currency's unit, a whole number, exact
        below 2^53; of an offer without usable prices something without meaning.
        """
        about = self.about.take(rows)
        about *= 1e9
        nanos = np.rint(about)
        # Where another double of the same price could round the other way.
        unsure = np.abs(np.abs(about - nanos) - 0.5) <= about * ERROR
        if unsure.any():
            unsure &= (about < _WHOLE_MAX) & (self.columns.rows.sheet.take(rows) >= 0)
            nanos[unsure] = self._exactly(rows[unsure], self._nanos)
        return nanos

    def dearer(self, limit: Price, seconds: int) -> Bools:
        """Of each offer, whether it costs more than the limit in so many seconds, or in a currency
        that does not compare, or nobody knows what.
        """
        code = currency_code(self.columns, limit.currency)
        unlike: Bools = self.columns.rows.currency != code
        if code < 0:
            return np.ones(len(unlike), bool)
        most, hours = float(limit.amount), seconds / HOUR
        # An hour is rounded to 10^-9 first, and a longer time multiplies that; the limit and the
        # quotient below are doubles too.
        spare = most * 4 * ERROR + 4e-9 * (1 + hours)
        over: Bools = self.about > (most + spare) / hours
        near = over != (self.about >= (most - spare) / hours)
        near &= ~unlike
        if near.any():
            over[near] = self._exactly(
                np.flatnonzero(near),
                lambda sheet: pricing.over(self._hourly(sheet), seconds).amount > limit.amount,
            ).astype(bool)
        over |= unlike
        return over

    def _hourly(self, sheet: Sheet) -> Price:
        return pricing.hourly(sheet, self.needed)

    def _nanos(self, sheet: Sheet) -> int:
        return pricing.hourly_nanos(sheet, self.needed)

    def _exactly(self, rows: Places, of: Callable[[Sheet], float]) -> Floats:
        """A number of the sheet of each of the rows, in their order."""
        codes, first, inverse = np.unique(
            self.columns.rows.sheet.take(rows), return_index=True, return_inverse=True
        )
        found = np.zeros(len(codes))
        for place, row in enumerate(rows[first].tolist()):
            sheet = self.columns.offer(row)[1].prices
            if sheet is not None:
                found[place] = float(of(sheet))
        exact: Floats = found[inverse]
        return exact


def currency_code(columns: Columns, currency: str) -> int:
    """What stands for a currency; -1 when no offer has it."""
    words = columns.words["currency"]
    return words.index(currency) if currency in words else -1
