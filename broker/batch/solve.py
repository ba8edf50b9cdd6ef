"""One interface to the three solvers."""

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from broker.batch import greedy, large, stable
from broker.batch.problem import NOWHERE, Ints, Problem
from broker.batch.state import State


class Solver(enum.Enum):
    """How a problem is solved."""

    GREEDY = "greedy"
    """Most regret first: some tenths of a second."""
    MILP = "milp"
    """Least cost, with HiGHS: as good as the time limit allows."""
    STABLE = "stable"
    """Stable matching: nobody and no place would both rather have each other."""


class Unplaced(enum.Enum):
    """Why a machine is left out."""

    NOWHERE_ALLOWED = "nowhere_allowed"
    """No place would take it even if it were alone."""
    GROUP = "group"
    """There is room, where its group's rule does not let it be."""
    ROOM = "room"
    """Every place that would take it is full."""
    NOT_WORTH_IT = "not_worth_it"
    """It could be placed: the solver was cut off, or its preferences say otherwise."""


@dataclass(frozen=True)
class Solution:
    """What a solver came to."""

    solver: Solver
    assignment: Ints
    """(N,) place or NOWHERE."""
    unplaced: dict[int, Unplaced]
    objective: float
    """Costs of the placed plus penalties of the others."""
    cost: float
    """Costs of the placed."""
    bound: float
    """No solution has a lower objective."""
    wall_seconds: float
    cpu_seconds: float
    """Of this thread."""
    matching: stable.Matching | None = None
    """Of STABLE only."""

    @property
    def gap(self) -> float:
        """(objective - bound) / objective; 0 is proven optimal."""
        if self.objective <= 0:
            return 0.0
        return max(0.0, (self.objective - self.bound) / self.objective)


def solve(
    problem: Problem,
    solver: Solver,
    limit_seconds: float,
    seed: int = 0,
    now: Callable[[], float] = time.monotonic,
) -> Solution:
    """Solves within about `limit_seconds`; the same seed and enough time give the same answer.

    With `time.thread_time` for `now` the limit is of processor time; HiGHS keeps to the clock.
    """
    begin, cpu, start = time.monotonic(), time.thread_time(), now()
    running: Callable[[], bool] = lambda: now() - start < limit_seconds  # noqa: E731
    bound, matching = problem.simple_bound(), None
    match solver:
        case Solver.GREEDY:
            assignment = greedy.solve(problem, running)
        case Solver.MILP:
            found = large.solve(problem, limit_seconds, seed, now)
            assignment, bound = found.assignment, found.bound
        case Solver.STABLE:
            matching = stable.solve(problem, running, limit_seconds)
            assignment = matching.assignment
    rows = np.flatnonzero(assignment != NOWHERE)
    return Solution(
        solver=solver,
        assignment=assignment,
        unplaced=reasons(problem, assignment),
        objective=problem.objective(assignment),
        cost=float(problem.cost[rows, assignment[rows]].sum()),
        bound=bound,
        wall_seconds=time.monotonic() - begin,
        cpu_seconds=time.thread_time() - cpu,
        matching=matching,
    )


def reasons(problem: Problem, assignment: Ints) -> dict[int, Unplaced]:
    """Why each machine that is nowhere is."""
    state, found = State(problem, assignment), {}
    for machine in (int(one) for one in np.flatnonzero(assignment == NOWHERE)):
        allowed = problem.allowed[machine]
        room = (problem.need[machine] <= state.free).all(axis=1) | problem.stays[machine]
        if not allowed.any():
            found[machine] = Unplaced.NOWHERE_ALLOWED
        elif not (allowed & room).any():
            found[machine] = Unplaced.ROOM
        elif not state.options(machine).any():
            found[machine] = Unplaced.GROUP
        else:
            found[machine] = Unplaced.NOT_WORTH_IT
    return found
