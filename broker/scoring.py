"""The best of many candidates: scores as doubles over all, exact only for those that are shown.

Pure. Most scores are the same for all candidates of one region of a cloud, a room: they are
reckoned once for each room, and looked up by it. Prices are doubles until the choice is narrow, and
whole 10^-9 of a unit from then on. The chosen are ordered by their exact scores.
"""

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from broker import choosing, feasible, rank
from broker.choosing import Part
from broker.columns import Bools, Floats
from broker.price_score import PriceScore
from broker.rank import Field, Ranked
from broker.scorers import OF_OFFERS, OF_ROOMS
from broker.screening import Screening

SPARE = 2
"""Candidates ranked beyond those asked for: with exact scores some may go before others."""

Rows = npt.NDArray[np.intp]
Ends = tuple[int, int]
"""Places of the worst and the best, or their rows."""


def best(screening: Screening, count: int) -> tuple[Ranked, ...]:
    """At most so many candidates, best first."""
    rows = screening.fits
    if not len(rows):
        return ()
    question, columns = screening.question, screening.columns
    currency, comparable = _compared(screening, rows)
    # Every candidate has a room: without one it misses `capacity`.
    rooms = columns.rows.room.take(rows)
    used = _used(rooms, len(columns.rooms.stale))
    of_rooms = np.zeros(len(columns.rooms.stale))
    parts: list[Part] = []
    outermost: dict[str, Ends] = {}
    for name in rank.shown(question):
        weight = float(getattr(question.criteria.weights, name))
        if name == "price":
            price = PriceScore(screening.asked.costs, rows, comparable)
            parts.append(price.part(weight))
            ends = price.ends
        elif name in OF_ROOMS:
            raw = OF_ROOMS[name](screening).take(used)
            ends = _ends(raw)
            of_rooms[used] += weight * _normalised(raw, ends)
            ends = ends and _rows_of(used.take(ends), rooms, rows)
        else:
            raw = OF_OFFERS[name](screening, rows)
            ends = _ends(raw)
            parts.append(Part(weight * _normalised(raw, ends)))
            ends = ends and _rows(rows, ends)
        if ends is not None:
            outermost[name] = ends
    chosen = choosing.highest([Part(of_rooms.take(rooms)), *parts], count + SPARE)
    picked = rows.take(chosen).tolist()
    needed = {*picked, *(row for ends in outermost.values() for row in ends)}
    fits = {row: feasible.fit(question, *columns.offer(row)) for row in needed}
    extremes: dict[str, tuple[Fraction, Fraction]] = {}
    for name, pair in outermost.items():
        found = rank.measure(name, [fits[row] for row in pair], question, currency)
        raws = [end.raw for end in found if end.raw is not None]
        if raws:
            extremes[name] = min(raws), max(raws)
    field = Field(currency, extremes)
    return rank.rank([fits[row] for row in picked], question, field)[:count]


def _ends(raw: Floats) -> Ends | None:
    """None without any known value."""
    worst, top = int(raw.argmin()), int(raw.argmax())
    if not np.isnan(raw[worst]):  # which would be the first NaN, if there were one
        return worst, top
    if np.isnan(raw).all():
        return None
    return int(np.nanargmin(raw)), int(np.nanargmax(raw))


def _normalised(raw: Floats, ends: Ends | None) -> Floats:
    """As `rank.normalise`."""
    if ends is None or raw[ends[1]] <= raw[ends[0]]:
        return (~np.isnan(raw)).astype(np.float64)
    worst, top = raw[list(ends)]
    share: Floats = (raw - worst) / (top - worst)
    share[np.isnan(share)] = 0.0
    return share


def _used(rooms: Rows, count: int) -> Rows:
    """Places of the rooms that candidates have, in order."""
    found = np.zeros(count, bool)
    found[rooms] = True
    return np.flatnonzero(found)


def _rows_of(pair: Rows, rooms: Rows, rows: Rows) -> Ends:
    """Of each of two rooms, any candidate."""
    worst, top = (int((rooms == room).argmax()) for room in pair)
    return _rows(rows, (worst, top))


def _rows(rows: Rows, places: Ends) -> Ends:
    return int(rows[places[0]]), int(rows[places[1]])


def _compared(screening: Screening, rows: Rows) -> tuple[str, Bools | None]:
    """The currency in which prices compare, as `rank.currency_of`, and which do; None is all."""
    ceiling = screening.question.criteria.ceiling
    if ceiling is not None:
        return ceiling.currency, None  # others miss `price`
    names = screening.columns.words["currency"]
    codes = screening.columns.rows.currency.take(rows)
    counts = np.bincount(codes + 1, minlength=len(names) + 1)[1:].tolist()
    counted = [(-counts[code], str(name), code) for code, name in enumerate(names)]
    most, currency, code = min(counted, default=(0, "", 0))
    if not most:
        return "", np.zeros(len(rows), bool)
    return currency, None if -most == len(rows) else codes == code
