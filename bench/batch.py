"""Batch placement: every solver within a time limit, and the cost solver with ten times as much.

Measured on problems by chance (`broker/batch/samples.py`), in this process: objective, proven
bound, gap, and the clock's and the thread's processor time. `best_known` is the best objective of
all runs and `optimum_bound` the best bound: the optimum lies between them.
"""

import os
import time
from dataclasses import dataclass
from typing import Any

from broker.batch import checking, kinds, samples, solve
from broker.batch.problem import Problem
from broker.batch.solve import Solution, Solver

LONG_FACTOR = 10
"""How much longer the run for comparison may take."""


@dataclass(frozen=True)
class Size:
    """Of what is asked."""

    seed: int = 1
    machines: int = 1000
    clouds: int = 100
    tightness: float = 0.95
    distinct: float = 0.2
    limit_seconds: float = 10.0
    long_run: bool = True
    by_processor: bool = False
    """Limits are of processor time: for machines that others keep busy."""


def run(size: Size) -> dict[str, Any]:
    """All of it, as numbers for JSON."""
    _hush()
    problem = samples.sample(
        size.seed, size.machines, size.clouds, size.tightness, distinct=size.distinct
    )
    now = time.thread_time if size.by_processor else time.monotonic
    found = {
        solver.value: _row(problem, solve.solve(problem, solver, size.limit_seconds, now=now))
        for solver in Solver
    }
    if size.long_run:
        seconds = size.limit_seconds * LONG_FACTOR
        found["milp_long"] = _row(problem, solve.solve(problem, Solver.MILP, seconds, now=now))
    best = min(row["objective"] for row in found.values())
    for row in found.values():
        row["above_best_known"] = row["objective"] / best - 1
    return {
        "kinds": len(kinds.kinds(problem)),
        "groups": len(problem.groups),
        "best_known": best,
        "optimum_bound": max(row["bound"] for row in found.values()),
        "solvers": found,
    }


def _row(problem: Problem, solution: Solution) -> dict[str, Any]:
    broken = checking.violations(problem, solution.assignment)
    if broken:
        raise ArithmeticError(f"{solution.solver.value}: {broken[0]}")
    row: dict[str, Any] = {
        "objective": solution.objective,
        "bound": solution.bound,
        "gap": solution.gap,
        "unplaced": len(solution.unplaced),
        "wall_seconds": solution.wall_seconds,
        "cpu_seconds": solution.cpu_seconds,
    }
    if solution.matching is not None:
        row["blocking_pairs"] = solution.matching.blocking_pairs
        row["rank_sum"] = solution.matching.rank_sum
        row["rank_max"] = solution.matching.rank_max
    return row


def _hush() -> None:
    """HiGHS greets on stdout when it is first made, before it could be told not to."""
    import highspy  # noqa: PLC0415 - made here first, with stdout away

    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        highspy.Highs()  # type: ignore[no-untyped-call]
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)
