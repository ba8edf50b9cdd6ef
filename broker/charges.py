"""What a machine costs by every offer at once, exactly. Pure.

Doubles decide wherever they are far enough from where rounding or a limit would change the answer;
the few that are not are reckoned exactly by `broker.pricing`, once for each sheet among them.
"""

from collections.abc import Callable
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from broker import amounts, pricing
from broker.columns import Bools, Columns, Floats

HOUR = 3600
"""Seconds of an hour: a ceiling is a budget for one."""

_ERROR = 4e-15
"""A double of a price errs by less than this share of it: three products and sums of positive
numbers, each within 2^-53, which is 1.1e-16."""
_GIB = 1024**3
_WHOLE_MAX = 2.0**53
"""Doubles below are exact as whole numbers."""
Places = npt.NDArray[np.int64]
_Amount = Callable[[pricing.Price], Decimal]


def hourly_nanos(columns: Columns, needed: amounts.Amounts, rows: Places) -> Floats:
    """The hourly price at some rows in 10^-9 of the currency's unit, a whole number, exact below
    2^53; of an offer without usable prices something without meaning.
    """
    about = _about(columns.rows.prices[:, rows], needed)
    about *= 1e9
    nanos = np.rint(about)
    # Where another double of the same price could round the other way.
    unsure = np.abs(np.abs(about - nanos) - 0.5) <= about * _ERROR
    if unsure.any():
        unsure &= (about < _WHOLE_MAX) & (columns.rows.sheet[rows] >= 0)
        places = rows[unsure]
        nanos[unsure] = _exactly(columns, needed, places, lambda price: price.amount.scaleb(9))
    return nanos


def dearer(columns: Columns, needed: amounts.Amounts, limit: pricing.Price, seconds: int) -> Bools:
    """Of each offer, whether it costs more than the limit in so many seconds, or in a currency
    that does not compare, or nobody knows what.
    """
    rows = columns.rows
    known = columns.where("currency", np.maximum(rows.currency, 0), limit.currency.__eq__)
    known &= rows.currency >= 0
    cost, most = _about(rows.prices, needed), float(limit.amount)
    if seconds != HOUR:
        cost *= seconds / HOUR
    # An hour is rounded to 10^-9 first, and a longer time multiplies that.
    near = np.abs(cost - most) <= (cost + most) * _ERROR + 2e-9 * (1 + seconds / HOUR)
    over = cost > most
    near &= known
    if near.any():
        over[near] = _exactly(
            columns,
            needed,
            np.flatnonzero(near),
            lambda hourly: Decimal(pricing.over(hourly, seconds).amount > limit.amount),
        ).astype(bool)
    return over | ~known


def _about(prices: Floats, needed: amounts.Amounts) -> Floats:
    """The hourly price in units, as a double."""
    about: Floats = prices[0] * needed["vcpus"]
    about += prices[1] * (needed["memory"] / _GIB)
    about += prices[2] * (needed["disk"] / _GIB / pricing.HOURS_PER_MONTH)
    return about


def _exactly(columns: Columns, needed: amounts.Amounts, rows: Places, of: _Amount) -> Floats:
    """A number of the exact price of each of the rows, in their order."""
    codes, first, inverse = np.unique(
        columns.rows.sheet[rows], return_index=True, return_inverse=True
    )
    found = np.zeros(len(codes))
    for place, row in enumerate(rows[first].tolist()):
        sheet = columns.offer(row)[1].prices
        if sheet is not None:
            found[place] = float(of(pricing.hourly(sheet, needed)))
    exact: Floats = found[inverse]
    return exact
