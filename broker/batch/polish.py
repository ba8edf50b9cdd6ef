"""Local search: an assignment gets no worse and stays valid. Pure.

Three moves: put in who is left out, shift one machine to a cheaper place, and let one machine take
the place of another that goes elsewhere (an ejection chain of length two).
"""

from collections.abc import Callable

import numpy as np

from broker.batch import greedy
from broker.batch.problem import NOWHERE, Ints, Problem
from broker.batch.state import State

ROUNDS_MAX = 30
"""Passes over all machines; most searches end after a few, with nothing left to better."""

CHAIN_MAX = 24
"""Machines of a place that one move tries to send elsewhere, those that lose least first."""

TARGETS_MAX = 4
"""Full places that a machine tries to get into, the cheapest first."""

_LEAST = 1e-9
"""Smaller gains are rounding."""


def better(problem: Problem, assignment: Ints, running: Callable[[], bool]) -> Ints:
    """The assignment after moves that each lower the objective."""
    state = State(problem, assignment)
    for _ in range(ROUNDS_MAX):
        greedy.fill(state, np.flatnonzero(state.assignment == NOWHERE), running)
        gained = 0.0
        for machine in range(problem.machines):
            if not running():
                return state.assignment
            if problem.allowed[machine].any():
                gained += _shift(state, machine) or _eject(state, machine)
        if gained <= _LEAST:
            break
    return state.assignment


def _now(state: State, machine: int) -> float:
    place = state.assignment[machine]
    problem = state.problem
    return float(problem.penalty[machine] if place == NOWHERE else problem.cost[machine, place])


def _shift(state: State, machine: int) -> float:
    """Moves one machine to its cheapest open place; what that gains."""
    before, now = int(state.assignment[machine]), _now(state, machine)
    if not (state.problem.cost[machine][state.problem.allowed[machine]] < now - _LEAST).any():
        return 0.0
    if before != NOWHERE:
        state.take(machine)
    costs = np.where(state.options(machine), state.problem.cost[machine], np.inf)
    place = int(costs.argmin())
    if costs[place] < now - _LEAST:
        state.put(machine, place)
        return now - float(costs[place])
    if before != NOWHERE:
        state.put(machine, before)
    return 0.0


def _eject(state: State, machine: int) -> float:
    """Lets one machine into a cheaper place that another leaves; what both together gain."""
    problem, now = state.problem, _now(state, machine)
    costs = np.where(problem.allowed[machine], problem.cost[machine], np.inf)
    targets = np.argsort(costs, kind="stable")[:TARGETS_MAX]
    for place in (int(one) for one in targets if costs[one] < now - _LEAST):
        gain = now - float(costs[place])
        there = np.flatnonzero(state.assignment == place)
        others = np.where(problem.allowed[there], problem.cost[there], np.inf)
        others[:, place] = np.inf
        loss = others.min(axis=1, initial=np.inf) - problem.cost[there, place]
        order = np.argsort(loss, kind="stable")[:CHAIN_MAX]
        for at in order:
            if loss[at] >= gain - _LEAST:
                break
            won = _exchange(state, machine, int(there[at]), place, gain)
            if won:
                return won
    return 0.0


def _exchange(state: State, machine: int, other: int, place: int, gain: float) -> float:
    problem = state.problem
    before = int(state.assignment[machine])
    if before != NOWHERE:
        state.take(machine)
    state.take(other)
    if state.fits(machine, place):
        state.put(machine, place)
        costs = np.where(state.options(other), problem.cost[other], np.inf)
        target = int(costs.argmin())
        won = gain - (float(costs[target]) - float(problem.cost[other, place]))
        if won > _LEAST:
            state.put(other, target)
            return won
        state.take(machine)
    state.put(other, place)
    if before != NOWHERE:
        state.put(machine, before)
    return 0.0
