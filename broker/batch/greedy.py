"""Greedy with regret: who would lose most by waiting is placed first. Pure.

The regret of a machine is what its second best place costs more than its best, with being left out
as the last choice. Groups with affinity go first, as one: each into the domain where most of its
weight fits, at the least cost.
"""

import heapq
from collections.abc import Callable

import numpy as np

from broker.batch.problem import NOWHERE, Floats, Ints, Problem
from broker.batch.state import State


def solve(problem: Problem, running: Callable[[], bool] = lambda: True) -> Ints:
    """An assignment (N,). Ends early, with what it has, once `running` says no."""
    state = State(problem)
    for group in _together(problem):
        if running():
            _place_group(state, group)
    grouped = np.array([rule.together is not None for rule in problem.groups] + [False])
    fill(state, np.flatnonzero(~grouped[problem.group]), running)
    return state.assignment


def fill(state: State, machines: Ints, running: Callable[[], bool]) -> None:
    """Places those of `machines` that are nowhere, most regret first.

    Room only shrinks, so a regret only grows or its machine is left out: an entry of the heap that
    is out of date is computed again when it comes up.
    """
    problem = state.problem
    heap = []
    size = _size(problem)
    for machine in (int(one) for one in machines):
        if state.assignment[machine] == NOWHERE:
            place, regret = _best(state, machine)
            if place != NOWHERE:
                heap.append((-regret, -size[machine], machine, place))
    heapq.heapify(heap)
    while heap and running():
        regret, _, machine, place = heapq.heappop(heap)
        now_place, now_regret = _best(state, machine)
        if now_place == NOWHERE:
            continue
        if now_place != place or now_regret > -regret * (1 + 1e-9) + 1e-12:
            heapq.heappush(heap, (-now_regret, -size[machine], machine, now_place))
        else:
            state.put(machine, now_place)


def _best(state: State, machine: int) -> tuple[int, float]:
    """The cheapest place open to the machine, and its regret."""
    problem = state.problem
    costs: Floats = np.where(state.options(machine), problem.cost[machine], np.inf)
    best = int(costs.argmin()) if problem.places else NOWHERE
    if best == NOWHERE or not np.isfinite(costs[best]):
        return NOWHERE, 0.0
    cheapest = float(costs[best])
    costs[best] = np.inf
    second = min(float(costs.min()), float(problem.penalty[machine]))
    return best, second - cheapest


def _size(problem: Problem) -> Floats:
    """(N,) the share of all room that a machine takes, in its scarcest class."""
    total = np.maximum(problem.free.sum(axis=0, dtype=np.float64), 1.0)
    found: Floats = (problem.need / total).max(axis=1, initial=0.0)
    return found


def _together(problem: Problem) -> list[int]:
    """Groups with affinity, the largest first."""
    size = _size(problem)
    sums = {
        group: float(size[problem.group == group].sum())
        for group, rule in enumerate(problem.groups)
        if rule.together is not None
    }
    return sorted(sums, key=lambda group: (-sums[group], group))


def _place_group(state: State, group: int) -> None:
    problem = state.problem
    together = problem.groups[group].together
    members = np.flatnonzero(problem.group == group)
    if together is None or not members.size:
        return
    members = members[np.argsort(-_size(problem)[members], kind="stable")]
    best: tuple[float, list[tuple[int, int]]] = (float("inf"), [])
    reachable = problem.allowed[members].any(axis=0)
    for domain in np.unique(problem.domains[together][reachable]):
        inside = problem.domains[together] == domain
        trial, total = [], 0.0
        for machine in (int(one) for one in members):
            costs = np.where(state.options(machine) & inside, problem.cost[machine], np.inf)
            place = int(costs.argmin())
            if np.isfinite(costs[place]):
                state.put(machine, place)
                trial.append((machine, place))
                total += float(costs[place])
            else:
                total += float(problem.penalty[machine])
        for machine, _ in trial:
            state.take(machine)
        best = min(best, (total, trial), key=lambda one: one[0])
    for machine, place in best[1]:
        state.put(machine, place)
