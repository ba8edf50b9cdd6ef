"""Batch placement: validity of every solver, optima against brute force, stability."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.batch import checking, dual, greedy, kinds, polish, samples, solve, stable
from broker.batch.problem import NOWHERE, Group, Level, Problem
from broker.batch.solve import Solver, Unplaced

LIMIT_SECONDS = 5.0
RULES = st.one_of(
    st.builds(Group, together=st.sampled_from([None, *Level]), per_cloud_max=st.integers(0, 2)),
)


@st.composite
def problems(draw: Any, machines_max: int = 6, places_max: int = 4) -> Problem:
    machines, places = draw(st.integers(1, machines_max)), draw(st.integers(1, places_max))
    groups = draw(st.lists(RULES, max_size=2))

    def table(rows: int, columns: int, values: st.SearchStrategy[Any]) -> Any:
        return np.array(
            draw(
                st.lists(
                    st.lists(values, min_size=columns, max_size=columns),
                    min_size=rows,
                    max_size=rows,
                )
            )
        ).reshape(rows, columns)

    clouds = table(1, places, st.integers(0, 2))[0]
    return Problem(
        need=table(machines, 2, st.integers(0, 4)),
        current=table(1, machines, st.integers(-1, 2))[0],
        group=table(1, machines, st.integers(-1, len(groups) - 1))[0],
        weight=table(1, machines, st.sampled_from([1.0, 3.0]))[0],
        feasible=table(machines, places, st.sampled_from([True, True, True, False])),
        cost=table(machines, places, st.integers(0, 9).map(float)),
        free=table(places, 2, st.integers(0, 8)),
        largest=table(places, 2, st.integers(0, 6)),
        domains=np.array([clouds, clouds // 2, clouds // 3]),
        groups=tuple(groups),
    )


def assignments(problem: Problem) -> list[Any]:
    """Every valid assignment, by the independent checker."""
    options = [
        [NOWHERE, *np.flatnonzero(problem.feasible[machine])] for machine in range(problem.machines)
    ]
    every = (np.array(one, np.int64) for one in itertools.product(*options))
    return [one for one in every if not checking.violations(problem, one)]


@pytest.mark.parametrize("solver", Solver)
@given(problem=problems(machines_max=12))
def test_no_solver_breaks_a_rule(solver: Solver, problem: Problem) -> None:
    solution = solve.solve(problem, solver, LIMIT_SECONDS)
    assert checking.violations(problem, solution.assignment) == []
    assert solution.bound <= solution.objective + 1e-6
    assert set(solution.unplaced) == set(np.flatnonzero(solution.assignment == NOWHERE))


@pytest.mark.parametrize("solver", Solver)
@pytest.mark.parametrize("seed", [1, 2])
def test_no_solver_breaks_a_rule_at_size(solver: Solver, seed: int) -> None:
    problem = samples.sample(seed, machines=200, clouds=25)
    solution = solve.solve(problem, solver, 3.0)
    assert checking.violations(problem, solution.assignment) == []
    assert solution.bound <= solution.objective


@settings(max_examples=60)
@given(problem=problems(machines_max=5, places_max=3))
def test_the_program_finds_what_brute_force_finds_and_bounds_are_bounds(problem: Problem) -> None:
    best = min(problem.objective(one) for one in assignments(problem))
    solution = solve.solve(problem, Solver.MILP, LIMIT_SECONDS)
    assert solution.objective == pytest.approx(best, rel=2e-4, abs=1e-6)
    assert solution.bound <= best + 1e-6
    assert problem.simple_bound() <= best + 1e-6
    bound = dual.solve(problem, kinds.kinds(problem), best, lambda: True).bound
    assert bound <= best + 1e-6


@given(problem=problems(machines_max=10))
def test_local_search_never_makes_it_worse(problem: Problem) -> None:
    before = greedy.solve(problem)
    after = polish.better(problem, before, lambda: True)
    assert problem.objective(after) <= problem.objective(before) + 1e-9
    assert checking.violations(problem, after) == []


@given(problem=problems(machines_max=10))
def test_kinds_hold_every_machine_that_may_go_somewhere_once(problem: Problem) -> None:
    every = sorted(int(m) for kind in kinds.kinds(problem) for m in kind.machines)
    assert every == list(np.flatnonzero(problem.allowed.any(axis=1)))


def unit_sizes(problem: Problem) -> Problem:
    """The same with machines of one size, nobody anywhere yet, and no rules."""
    nowhere = np.full(problem.machines, NOWHERE)
    return replace(
        problem, need=np.full_like(problem.need, 2), group=nowhere, groups=(), current=nowhere
    )


@settings(max_examples=150)
@given(problem=problems(machines_max=5, places_max=3).map(unit_sizes))
def test_equal_machines_are_matched_stably_with_the_least_sum_of_ranks(problem: Problem) -> None:
    likes = stable.Preferences(problem)
    found = stable.solve(problem)
    assert found.blocking_pairs == 0
    judged = [stable.judged(problem, likes, one) for one in assignments(problem)]
    assert found.rank_sum == min(one.rank_sum for one in judged if not one.blocking_pairs)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_equal_machines_are_matched_stably(seed: int) -> None:
    problem = unit_sizes(samples.sample(seed, machines=200, clouds=30))
    problem = replace(problem, free=problem.free % 20, largest=np.full_like(problem.free, 20))
    assert stable.solve(problem).blocking_pairs == 0


@settings(max_examples=300)
@given(problem=problems(machines_max=5, places_max=2), data=st.data())
def test_a_pair_blocks_as_the_definition_says(problem: Problem, data: Any) -> None:
    # The fullest first: those are where somebody has to go.
    valid = sorted(assignments(problem), key=lambda one: int((one == NOWHERE).sum()))
    assignment = data.draw(st.sampled_from(valid))
    likes = stable.Preferences(problem)
    blocked = stable.blocking(problem, likes, assignment)
    for machine, place in np.argwhere(problem.allowed):
        now = assignment[machine]
        better = now == NOWHERE or likes.of_machine[machine, place] < likes.of_machine[machine, now]
        # Everybody whom the place likes less goes; those in the machine's own group stay, to rule.
        trial = assignment.copy()
        trial[machine] = place
        less = (assignment == place) & (likes.of_place[:, place] > likes.of_place[machine, place])
        alone = trial.copy()
        alone[less & ~problem.stays[:, place]] = NOWHERE
        room = not checking.violations(replace(problem, groups=(Group(),) * 2), alone)
        rule = not any("group" in one for one in checking.violations(problem, trial))
        assert blocked[machine, place] == (better and room and rule)


def test_who_is_left_out_is_told_why() -> None:
    problem = Problem(
        need=np.array([[2], [2], [9], [1], [1]]),
        current=np.full(5, NOWHERE),
        group=np.array([NOWHERE, NOWHERE, NOWHERE, 0, 0]),
        weight=np.ones(5),
        feasible=np.array([[1, 0], [1, 0], [1, 1], [0, 1], [0, 1]], bool),
        cost=np.ones((5, 2)),
        free=np.array([[3], [8]]),
        largest=np.array([[4], [4]]),
        domains=np.array([[0, 1], [0, 1], [0, 0]]),
        groups=(Group(per_cloud_max=1),),
    )
    for solver in Solver:
        told = solve.solve(problem, solver, LIMIT_SECONDS).unplaced
        assert sorted(told.values(), key=lambda one: one.value) == [
            Unplaced.GROUP,
            Unplaced.NOWHERE_ALLOWED,
            Unplaced.ROOM,
        ]


@pytest.mark.parametrize(
    ("liked", "needed", "blocks"),
    [(2.5, 4, True), (1.5, 3, True), (1.5, 4, False), (0.5, 1, False)],
)
def test_only_who_is_liked_less_makes_way(liked: float, needed: int, blocks: bool) -> None:
    """Two machines fill a place; a third comes by."""
    problem = Problem(
        need=np.array([[1], [3], [needed]]),
        current=np.full(3, NOWHERE),
        group=np.full(3, NOWHERE),
        weight=np.ones(3),
        feasible=np.ones((3, 1), bool),
        cost=np.ones((3, 1)),
        free=np.array([[4]]),
        largest=np.array([[4]]),
        domains=np.zeros((3, 1), np.int64),
        place_score=np.array([[2.0], [1.0], [liked]]),
    )
    likes = stable.Preferences(problem)
    blocked = stable.blocking(problem, likes, np.array([0, 0, NOWHERE]))
    assert blocked.ravel().tolist() == [False, False, blocks]
