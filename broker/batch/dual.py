"""A bound that is proven, and prices of room: the Lagrangian dual, by subgradients. Pure.

Room is relaxed with multipliers v >= 0 per place and class. What remains falls apart:

    L(v) = sum over kinds and groups of their cheapest choice at c_tm + a_t v_m  -  sum b_m v_m

A kind without a rule takes its cheapest place; a group with affinity the domain in which its
members are cheapest together, which the linear relaxation would split over domains; an
anti-affinity group of equal machines its cheapest clouds, so many in each. Rules of mixed groups
are dropped here, which only lowers the bound. For every v, L(v) is at most the optimum: the best
one seen is the bound, however the search went.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from broker.batch.kinds import Kind
from broker.batch.problem import NOWHERE, Floats, Ints, Level, Problem

STEPS_MAX = 1500
"""Subgradient steps, of about a millisecond each for a thousand machines and a hundred places."""

PATIENCE = 30
"""Steps without a better bound after which steps become half as long."""

STEP_FIRST, STEP_LEAST = 1.5, 2e-3
"""Polyak's factor, at first and when the search ends."""


@dataclass(frozen=True)
class Dual:
    """What the search came to."""

    bound: float
    """No solution costs less."""
    reduced: Floats
    """(K, M) what each kind pays for a place when room has its price; else infinite."""


class _Relaxed:
    """The relaxed problem, laid out so that one evaluation is a few array operations."""

    def __init__(self, problem: Problem, kinds: list[Kind]) -> None:
        self.problem, self.kinds = problem, kinds
        one = np.array([kind.one for kind in kinds], np.int64)
        self.count = np.array([kind.count for kind in kinds], np.float64)
        self.cost = np.where(problem.allowed[one], problem.cost[one], np.inf)
        self.penalty = problem.penalty[one]
        scale = np.maximum(problem.need.max(axis=0, initial=1), 1).astype(np.float64)
        self.takes = np.where(problem.stays[one], 0.0, 1.0)
        self.need = problem.need[one] / scale
        self.room = np.maximum(problem.free, 0) / scale
        together = [_together(problem, kind) for kind in kinds]
        apart = np.array([_limit(problem, kind, kinds) for kind in kinds], np.int64)
        self.apart = np.flatnonzero(apart > 0)
        self.limit = apart[self.apart]
        self.alone = np.flatnonzero(np.array([level is None for level in together]) & (apart == 0))
        self.levels = [
            (level, np.array(sorted(at, key=lambda one: kinds[one].group)))
            for level in Level
            if (at := [one for one, told in enumerate(together) if told is level])
        ]

    def reduced(self, prices: Floats) -> Floats:
        paid: Floats = self.cost + self.takes * (self.need @ prices.T)
        return paid

    def value(self, prices: Floats) -> tuple[float, Floats]:
        """L(prices), and its subgradient: what is used of each place beyond its room (M, R)."""
        paid = self.reduced(prices)
        used = -self.room
        total = float((used * prices).sum())
        for part in (self._alone, self._apart):
            total += part(paid, used)
        for level, rows in self.levels:
            total += self._together(paid, used, level, rows)
        return total, used

    def _take(self, used: Floats, rows: Ints, places: Ints, counts: Floats) -> None:
        amounts = self.need[rows] * (counts * self.takes[rows, places])[:, None]
        np.add.at(used, places, amounts)

    def _alone(self, paid: Floats, used: Floats) -> float:
        rows = self.alone
        places = paid[rows].argmin(axis=1)
        least = paid[rows, places]
        inside = least < self.penalty[rows]
        self._take(used, rows[inside], places[inside], self.count[rows[inside]])
        return float((np.minimum(least, self.penalty[rows]) * self.count[rows]).sum())

    def _apart(self, paid: Floats, used: Floats) -> float:
        if not self.apart.size:
            return 0.0
        rows = self.apart
        places, least = _cheapest(paid[rows], self.problem.domains[Level.CLOUD])
        order = np.argsort(least, axis=1)
        sorted_least = np.take_along_axis(least, order, axis=1)
        sorted_places = np.take_along_axis(places, order, axis=1)
        limit, count = self.limit[:, None], self.count[rows][:, None]
        counts = np.clip(count - limit * np.arange(order.shape[1]), 0, limit)
        inside = sorted_least < self.penalty[rows][:, None]
        counts = np.where(inside, counts, 0.0)
        total = float((np.where(inside, sorted_least, 0.0) * counts).sum())
        total += float(((self.count[rows] - counts.sum(axis=1)) * self.penalty[rows]).sum())
        some = np.nonzero(counts)
        self._take(used, rows[some[0]], sorted_places[some], counts[some])
        return total

    def _together(self, paid: Floats, used: Floats, level: Level, rows: Ints) -> float:
        places, least = _cheapest(paid[rows], self.problem.domains[level])
        inside = least < self.penalty[rows][:, None]
        each = np.where(inside, least, self.penalty[rows][:, None]) * self.count[rows][:, None]
        groups = np.array([self.kinds[row].group for row in rows])
        starts = np.flatnonzero(np.diff(groups, prepend=-2))
        sums = np.add.reduceat(each, starts, axis=0)
        chosen = sums.argmin(axis=1)
        domain = np.repeat(chosen, np.diff(starts, append=len(rows)))
        at = np.flatnonzero(inside[np.arange(len(rows)), domain])
        self._take(used, rows[at], places[at, domain[at]], self.count[rows[at]])
        return float(sums.min(axis=1).sum())


def solve(problem: Problem, kinds: list[Kind], upper: float, running: Callable[[], bool]) -> Dual:
    """The best bound found; `upper` is the objective of some solution, which sets the steps."""
    if not kinds:
        return Dual(0.0, np.empty((0, problem.places)))
    relaxed = _Relaxed(problem, kinds)
    prices: Floats = np.zeros((problem.places, problem.need.shape[1]))
    best, best_prices, factor, since = -np.inf, prices, STEP_FIRST, 0
    direction: Floats = np.zeros_like(prices)
    for _ in range(STEPS_MAX):
        value, slope = relaxed.value(prices)
        if value > best:
            best, best_prices, since = value, prices, 0
        else:
            since += 1
        if since >= PATIENCE:
            factor, since, prices = factor / 2, 0, best_prices
            direction = np.zeros_like(prices)
            if factor < STEP_LEAST:
                break
            continue
        if upper - best <= 1e-6 * abs(upper) or not running():
            break
        # What pushes a price below 0 is no direction; a part of the last one steadies the path.
        slope = np.where((prices <= 0) & (slope < 0), 0.0, slope)
        direction = slope + 0.3 * direction
        length = float((direction * direction).sum())
        if length <= 0:
            break
        prices = np.maximum(0.0, prices + factor * (upper - value) / length * direction)
    # A hair below what floating point says, so that the bound stays one.
    return Dual(best - 1e-9 * abs(best), relaxed.reduced(best_prices))


def _cheapest(paid: Floats, domains: Ints) -> tuple[Ints, Floats]:
    """For rows of (K, M): the cheapest place of each domain (K, D), and what it costs."""
    order = np.argsort(domains, kind="stable")
    _, starts = np.unique(domains[order], return_index=True)
    least = np.minimum.reduceat(paid[:, order], starts, axis=1)
    places = np.empty(least.shape, np.int64)
    ends = [*starts[1:], len(order)]
    for at, (start, end) in enumerate(zip(starts, ends, strict=True)):
        places[:, at] = order[start + paid[:, order[start:end]].argmin(axis=1)]
    return places, least


def _together(problem: Problem, kind: Kind) -> Level | None:
    return None if kind.group == NOWHERE else problem.groups[kind.group].together


def _limit(problem: Problem, kind: Kind, kinds: list[Kind]) -> int:
    """How many of an anti-affinity kind a cloud may hold; 0 where another rule holds, or none."""
    if kind.group == NOWHERE:
        return 0
    rule = problem.groups[kind.group]
    mixed = rule.together is not None or sum(one.group == kind.group for one in kinds) > 1
    return 0 if mixed else rule.per_cloud_max * kind.families
