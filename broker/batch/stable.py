"""Stable matching: machines and places both have preferences. Pure, but for HiGHS on small cases.

After Xu and Li, "Egalitarian stable matching for VM migration in cloud computing" (INFOCOM
workshops 2011, doi 10.1109/INFCOMW.2011.5928889), which prefers, among the stable matchings, the
one with the least sum of ranks, since deferred acceptance favours whoever proposes. Here a machine
takes room in several classes, and groups have rules.

A pair (machine, place) blocks when the machine, or nobody, would rather be there than where it is,
its group's rule allows it, and the place could take it by sending away only machines that it
likes less. With machines of one size and no rules a stable matching always exists; otherwise it may
not, and the pairs that still block are counted.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import highspy
import numpy as np

from broker.batch.problem import NOWHERE, Bools, Floats, Ints, Problem
from broker.batch.state import State

PAIRS_EXACT_MAX = 2000
"""Up to so many pairs of equal machines and places the least sum of ranks is exact."""

REPAIRS_MAX_FACTOR = 4
"""Blocking pairs that are satisfied one after another, times the number of machines, at most: each
may make others block, and nothing says that it ends."""


@dataclass(frozen=True)
class Matching:
    """A matching and how both sides fare; ranks begin with 1."""

    assignment: Ints
    blocking_pairs: int
    rank_sum: int
    """Over pairs: the machine's rank of the place and the place's rank of the machine."""
    rank_max: int


class Preferences:
    """Both sides' rankings of whom they may have."""

    def __init__(self, problem: Problem) -> None:
        liked = -problem.cost if problem.vm_score is None else problem.vm_score
        wanted = place_scores(problem) if problem.place_score is None else problem.place_score
        self.of_machine = _ranks(liked, problem.allowed)
        """(N, M) 1 is best; equal scores by number, so that nothing is a tie."""
        self.of_place = _ranks(wanted.T, problem.allowed.T).T


def place_scores(problem: Problem) -> Floats:
    """(N, M) what a place gets for the scarcest share of its room; its own machines come first."""
    room = np.maximum(problem.free, 1).astype(np.float64)
    share = (problem.need[:, None, :] / room[None, :, :]).max(axis=2, initial=1e-12)
    earned = np.where(problem.allowed, problem.cost, 0.0) / np.maximum(share, 1e-12)
    first = earned.max(initial=0.0) + 1.0
    scores: Floats = earned + np.where(problem.stays, first, 0.0)
    return scores


def solve(
    problem: Problem,
    running: Callable[[], bool] = lambda: True,
    limit_seconds: float = math.inf,
) -> Matching:
    """The best of the matchings found: least blocking pairs, then least sum of ranks."""
    likes = Preferences(problem)
    found = [_machines_propose(problem, likes, running), _places_propose(problem, likes, running)]
    if equal_sizes(problem):
        if problem.machines * problem.places <= PAIRS_EXACT_MAX:
            found += _egalitarian(problem, likes, limit_seconds)
    else:
        found = [_repaired(problem, likes, one, running) for one in found]
    return min(
        (judged(problem, likes, one) for one in found),
        key=lambda one: (one.blocking_pairs, (one.assignment == NOWHERE).sum(), one.rank_sum),
    )


def judged(problem: Problem, likes: Preferences, assignment: Ints) -> Matching:
    """An assignment as a matching, with its ranks and what blocks it."""
    rows = np.flatnonzero(assignment != NOWHERE)
    places = assignment[rows]
    mine, theirs = likes.of_machine[rows, places], likes.of_place[rows, places]
    return Matching(
        assignment=assignment,
        blocking_pairs=int(blocking(problem, likes, assignment).sum()),
        rank_sum=int(mine.sum() + theirs.sum()),
        rank_max=int(max(mine.max(initial=0), theirs.max(initial=0))),
    )


def blocking(problem: Problem, likes: Preferences, assignment: Ints) -> Bools:
    """(N, M) which pairs block."""
    if not problem.places:
        return np.zeros((problem.machines, 0), np.bool_)
    state = State(problem, assignment)
    now = np.where(
        assignment == NOWHERE,
        problem.places + 1,
        likes.of_machine[np.arange(problem.machines), assignment],
    )
    found: Bools = problem.allowed & (likes.of_machine < now[:, None])
    for place in range(problem.places):
        there = np.flatnonzero((assignment == place) & ~problem.stays[:, place])
        there = there[np.argsort(-likes.of_place[there, place])]
        # Room when the k least liked are gone, for k = 0, 1, ...
        room = state.free[place] + np.vstack(
            [np.zeros_like(problem.free[:1, :]).reshape(1, -1), problem.need[there]]
        ).cumsum(axis=0)
        gone = np.searchsorted(
            -likes.of_place[there, place], -likes.of_place[:, place], side="left"
        )
        enough = (problem.need <= room[gone]).all(axis=1) | problem.stays[:, place]
        found[:, place] &= enough
    for machine in np.flatnonzero(found.any(axis=1) & (problem.group != NOWHERE)):
        found[machine] &= _open(state, int(machine))
    return found


def equal_sizes(problem: Problem) -> bool:
    """Whether every machine counts the same everywhere, and no rule holds."""
    same = (problem.need == problem.need[:1]).all() if problem.machines else True
    ruled = (problem.group != NOWHERE).any()
    return bool(same and not ruled and not (problem.stays & problem.allowed).any())


def _ranks(scores: Floats, allowed: Bools) -> Ints:
    """(A, B) each row's order of its columns, 1 for the highest; what is not allowed comes last."""
    order = np.argsort(np.where(allowed, -scores, np.inf), axis=1, kind="stable")
    ranks = np.empty(order.shape, np.int64)
    np.put_along_axis(ranks, order, np.arange(1, order.shape[1] + 1)[None, :], axis=1)
    return ranks


def _open(state: State, machine: int) -> Bools:
    """Where its group's rule lets a machine be, with everybody else where they are."""
    before = state.take(machine) if state.assignment[machine] != NOWHERE else NOWHERE
    found = state.open_by_rule(machine)
    if before != NOWHERE:
        state.put(machine, before)
    return found


def _machines_propose(problem: Problem, likes: Preferences, running: Callable[[], bool]) -> Ints:
    """Deferred acceptance; a place sends the least liked away until the rest fit."""
    state = State(problem)
    turn = np.argsort(np.where(problem.allowed, likes.of_machine, problem.places + 1), axis=1)
    choices = problem.allowed.sum(axis=1)
    asked = np.zeros(problem.machines, np.int64)
    waiting = list(range(problem.machines))[::-1]
    while waiting and running():
        machine = waiting.pop()
        if asked[machine] >= choices[machine]:
            continue
        place = int(turn[machine, asked[machine]])
        asked[machine] += 1
        sent = _admit(state, likes, machine, place)
        waiting.extend([machine] if sent is None else sent)
    return state.assignment


def _admit(state: State, likes: Preferences, machine: int, place: int) -> list[int] | None:
    """Puts the machine there; who was sent away for it. None when it is not taken."""
    problem = state.problem
    if problem.group[machine] != NOWHERE and not state.open_by_rule(machine)[place]:
        return None
    if state.fits(machine, place):
        state.put(machine, place)
        return []
    there = np.flatnonzero((state.assignment == place) & ~problem.stays[:, place])
    less = there[likes.of_place[there, place] > likes.of_place[machine, place]]
    less = less[np.argsort(-likes.of_place[less, place])]
    room = state.free[place] + problem.need[less].cumsum(axis=0)
    enough = np.flatnonzero((problem.need[machine] <= room).all(axis=1))
    if not enough.size:
        return None
    sent = [int(one) for one in less[: enough[0] + 1]]
    for one in sent:
        state.take(one)
    state.put(machine, place)
    return sent


def _places_propose(problem: Problem, likes: Preferences, running: Callable[[], bool]) -> Ints:
    """Places ask the machines that they like most and have room for; each keeps its best offer."""
    state = State(problem)
    order = np.argsort(np.where(problem.allowed, likes.of_place, problem.machines + 1), axis=0)
    waiting = list(range(problem.places))[::-1]
    asked = np.zeros(problem.places, np.int64)
    choices = problem.allowed.sum(axis=0)
    while waiting and running():
        place = waiting.pop()
        while asked[place] < choices[place]:
            machine = int(order[asked[place], place])
            now = int(state.assignment[machine])
            if now != NOWHERE and likes.of_machine[machine, now] < likes.of_machine[machine, place]:
                asked[place] += 1
                continue
            if now != NOWHERE:
                state.take(machine)
            if state.fits(machine, place):
                state.put(machine, place)
                if now != NOWHERE and now not in waiting:
                    waiting.append(now)
            elif now != NOWHERE:
                state.put(machine, now)
            if state.assignment[machine] != place and _full(state, place):
                break
            asked[place] += 1
    return state.assignment


def _full(state: State, place: int) -> bool:
    """Whether no machine at all has room in a place: it asks again once one has left."""
    return bool((state.problem.need.min(axis=0, initial=0) > state.free[place]).any())


def _repaired(
    problem: Problem, likes: Preferences, assignment: Ints, running: Callable[[], bool]
) -> Ints:
    """Satisfies blocking pairs one by one, keeping the matching that fewest blocked."""
    state, best = State(problem, assignment), assignment.copy()
    least = int(blocking(problem, likes, best).sum())
    left = REPAIRS_MAX_FACTOR * problem.machines
    while least and left > 0 and running():
        pairs = np.argwhere(blocking(problem, likes, state.assignment))
        if not pairs.size:
            return state.assignment
        # Each machine once, at the place that it likes most, those with most to gain first.
        pairs = pairs[np.argsort(likes.of_machine[pairs[:, 0], pairs[:, 1]], kind="stable")]
        moved: set[int] = set()
        for machine, place in ((int(one), int(other)) for one, other in pairs):
            if machine in moved or left <= 0:
                continue
            moved.add(machine)
            left -= 1
            before = state.take(machine) if state.assignment[machine] != NOWHERE else NOWHERE
            worse = before != NOWHERE and (
                likes.of_machine[machine, before] < likes.of_machine[machine, place]
            )
            if worse or _admit(state, likes, machine, place) is None:
                _put_back(state, machine, before)
        count = int(blocking(problem, likes, state.assignment).sum())
        if count < least:
            least, best = count, state.assignment.copy()
    return best


def _put_back(state: State, machine: int, before: int) -> None:
    if before != NOWHERE:
        state.put(machine, before)


def _egalitarian(problem: Problem, likes: Preferences, limit_seconds: float) -> list[Ints]:
    """The stable matching with the least sum of ranks, of equal machines: an integer program.

    Empty when that takes longer than the limit.

    A place with q slots does not block with a machine that is at least as well off elsewhere, or
    that finds q machines there which it likes more:

        q * sum over places that i likes no less than m of x_i.
            + sum over machines that m likes more than i of x_.m  >=  q
    """
    size = np.maximum(problem.need[:1], 1)
    slots = np.where(problem.need[:1] > 0, problem.free // size, problem.machines).min(axis=1)
    slots = np.clip(slots, 0, problem.machines)
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("time_limit", limit_seconds)
    pairs = [(int(i), int(m)) for i, m in np.argwhere(problem.allowed)]
    x = {
        (i, m): solver.addBinary(obj=float(likes.of_machine[i, m] + likes.of_place[i, m]))
        for i, m in pairs
    }
    for i in range(problem.machines):
        own = [x[i, m] for m in range(problem.places) if (i, m) in x]
        if own:
            solver.addConstr(solver.qsum(own) <= 1)
    for m in range(problem.places):
        own = [x[i, m] for i in range(problem.machines) if (i, m) in x]
        if own:
            solver.addConstr(solver.qsum(own) <= int(slots[m]))
    for i, m in pairs:
        better = [
            int(slots[m]) * x[i, other]
            for other in range(problem.places)
            if (i, other) in x and likes.of_machine[i, other] <= likes.of_machine[i, m]
        ]
        liked = [
            x[other, m]
            for other in range(problem.machines)
            if (other, m) in x and likes.of_place[other, m] < likes.of_place[i, m]
        ]
        solver.addConstr(solver.qsum([*better, *liked]) >= int(slots[m]))
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return []
    values = np.array(solver.getSolution().col_value)
    assignment: Ints = np.full(problem.machines, NOWHERE, np.int64)
    for number, (i, m) in enumerate(pairs):
        if values[number] > 1 / 2:
            assignment[i] = m
    return [assignment]
