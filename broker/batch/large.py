"""The cost solver: exact where the program is small, else guided by prices of room and bettered
piece by piece.

    greedy -> dual -> greedy at the dual's prices -> local search -> HiGHS on neighbourhoods

A thousand machines and a hundred places are fifty thousand columns, whose relaxation alone takes
HiGHS longer than a caller waits. So the bound comes from the Lagrangian dual, its prices of room
lead greedy to within about a percent, and HiGHS solves what remains in pieces: some machines that
pay more than they would at those prices, everybody else fixed (large neighbourhood search).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from broker.batch import dual, greedy, kinds, milp, polish
from broker.batch.problem import NOWHERE, Bools, Floats, Ints, Problem
from broker.batch.state import State

COLUMNS_EXACT_MAX = 4000
"""Programs of up to so many columns go to HiGHS whole."""

PLACES_KEPT = 12
"""Cheapest places of a machine, at the dual's prices, that a neighbourhood looks at."""

DOMAINS_KEPT = 6
"""The same of domains for a group with affinity."""

PIECE_FIRST, PIECE_LEAST, PIECE_MAX = 60, 15, 400
"""Machines of a neighbourhood: fewer after a run that was cut off, more after one in vain."""

PIECE_SECONDS_MAX = 2.0
"""Longest run on one neighbourhood."""

IDLE_MAX = 60
"""Neighbourhoods in a row without a gain after which the search ends early."""

DUAL_SHARE, GUIDED_SHARE, POLISH_SHARE = 0.25, 0.5, 0.6
"""Of the time limit, after which each step yields to the next. On a free processor each ends long
before, by itself; the shares matter where others keep it busy."""

_LEAST = 1e-9


@dataclass(frozen=True)
class Bettered:
    """The assignment, and what it cannot be below."""

    assignment: Ints
    bound: float


def solve(
    problem: Problem,
    limit_seconds: float,
    seed: int = 0,
    now: Callable[[], float] = time.monotonic,
) -> Bettered:
    """The best assignment found within about `limit_seconds`, at least as good as greedy's."""
    begin = now()

    def within(share: float) -> Callable[[], bool]:
        return lambda: now() - begin < share * limit_seconds

    best = greedy.solve(problem, within(1.0))
    same = kinds.kinds(problem)
    bounds = dual.solve(problem, same, problem.objective(best), within(DUAL_SHARE))
    priced = _priced(problem, same, bounds.reduced)
    guided = greedy.solve(replace(problem, cost=priced), within(GUIDED_SHARE))
    best = min(best, guided, key=problem.objective)
    best = polish.better(problem, best, within(POLISH_SHARE))
    columns = int(np.isfinite(bounds.reduced).sum())
    bound = max(bounds.bound, problem.simple_bound())
    left = limit_seconds - (now() - begin)
    if left > 0 and columns <= COLUMNS_EXACT_MAX:
        found = milp.Model(problem, same, np.isfinite(bounds.reduced)).solve(best, left)
        bound = max(bound, found.bound)
        best = _better(problem, best, found.assignment)
    elif left > 0:
        best = _pieces(problem, priced, best, bound, lambda: begin + limit_seconds - now(), seed)
    return Bettered(best, min(bound, problem.objective(best)))


def _priced(problem: Problem, same: list[kinds.Kind], reduced: Floats) -> Floats:
    """(N, M) costs with room at its price."""
    priced = problem.cost.copy()
    for at, kind in enumerate(same):
        priced[kind.machines] = np.where(
            np.isfinite(reduced[at]), reduced[at], problem.cost[kind.one]
        )
    return priced


def _better(problem: Problem, one: Ints, other: Ints | None) -> Ints:
    if other is None or problem.objective(other) >= problem.objective(one) - _LEAST:
        return one
    return other


def _pieces(
    problem: Problem,
    priced: Floats,
    best: Ints,
    bound: float,
    left: Callable[[], float],
    seed: int,
) -> Ints:
    rng, size, idle = np.random.default_rng(seed), PIECE_FIRST, 0
    while left() > 0 and idle < IDLE_MAX:
        if problem.objective(best) - bound <= milp.GAP_MIN * abs(bound):
            break
        chosen = _chosen(problem, priced, best, size, rng)
        seconds = min(PIECE_SECONDS_MAX, left())
        if seconds <= 0 or not chosen.size:
            break
        trial, optimal = _piece(problem, priced, best, chosen, seconds)
        gained = problem.objective(trial) < problem.objective(best) - _LEAST
        best, idle = (trial, 0) if gained else (best, idle + 1)
        if not optimal:
            size = max(PIECE_LEAST, size * 2 // 3)
        elif not gained:
            size = min(PIECE_MAX, size + size // 4)
    return best


def _chosen(
    problem: Problem, priced: Floats, now: Ints, size: int, rng: np.random.Generator
) -> Ints:
    """Machines to place anew: those that pay too much, with chance; groups as a whole."""
    rows = np.arange(problem.machines)
    paid = np.where(now == NOWHERE, problem.penalty, priced[rows, now])
    least = np.where(problem.allowed, priced, np.inf).min(axis=1, initial=np.inf)
    excess = np.maximum(paid - np.minimum(least, problem.penalty), 0.0)
    liking = excess / max(float(excess.mean()), _LEAST) + rng.exponential(1.0, problem.machines)
    liking[~problem.allowed.any(axis=1)] = -1.0
    picked = np.zeros(problem.machines, np.bool_)
    picked[np.argsort(-liking)[:size]] = True
    groups = np.unique(problem.group[picked])
    picked |= np.isin(problem.group, groups[groups != NOWHERE])
    found: Ints = np.flatnonzero(picked)
    return found


def _piece(
    problem: Problem, priced: Floats, now: Ints, chosen: Ints, seconds: float
) -> tuple[Ints, bool]:
    """The assignment with `chosen` placed anew, and whether that was solved to its end.

    Groups are chosen whole, so that the rules of a piece do not depend on who is not in it.
    """
    state = State(problem, now)
    for machine in chosen[now[chosen] != NOWHERE]:
        state.take(int(machine))
    piece = replace(
        problem,
        **{name: getattr(problem, name)[chosen] for name in _OF_MACHINES},
        free=state.free,
        vm_score=None,
        place_score=None,
    )
    same = kinds.kinds(piece)
    keep = _kept(piece, same, priced[chosen], now[chosen])
    found = milp.Model(piece, same, keep).solve(now[chosen], seconds)
    trial = now.copy()
    if found.assignment is not None:
        trial[chosen] = found.assignment
    return trial, found.optimal


_OF_MACHINES = ("need", "current", "group", "weight", "feasible", "cost")


def _kept(piece: Problem, same: list[kinds.Kind], priced: Floats, now: Ints) -> Bools:
    """(K, M) the places of each kind that the program of a piece has."""
    one = np.array([kind.one for kind in same], np.int64)
    paid = np.where(piece.allowed[one], priced[one], np.inf)
    keep = np.zeros(paid.shape, np.bool_)
    groups: dict[int, list[int]] = {}
    for at, kind in enumerate(same):
        places = now[kind.machines]
        keep[at, places[places != NOWHERE]] = True
        if kind.group != NOWHERE and piece.groups[kind.group].together is not None:
            groups.setdefault(kind.group, []).append(at)
        else:
            keep[at, np.argsort(paid[at])[:PLACES_KEPT]] = True
    for group, rows in groups.items():
        together = piece.groups[group].together
        domains = piece.domains[together] if together is not None else piece.cloud
        sums = {
            domain: sum(
                same[row].count
                * min(paid[row][domains == domain].min(), piece.penalty[same[row].one])
                for row in rows
            )
            for domain in np.unique(domains)
        }
        for domain in sorted(sums, key=lambda one: float(sums[one]))[:DOMAINS_KEPT]:
            inside = np.flatnonzero(domains == domain)
            for row in rows:
                keep[row, inside[np.argsort(paid[row][inside])[:PLACES_KEPT]]] = True
    kept: Bools = keep & piece.allowed[one]
    return kept
