"""The problem as a mixed-integer linear program, solved by HiGHS.

For kinds t of n_t machines, places m, classes r, groups g and their domains d:

    min   sum c_tm x_tm + sum p_t u_t
    s.t.  sum_m x_tm + u_t = n_t                      every machine is placed or left out
          sum_t a_tr x_tm <= b_mr                     room; those that stay take none
          sum_(t in g, m in cloud) x_tm <= k_g G_t    anti-affinity, G_t equal groups
          sum_(m in d) x_tm <= n_t y_gd, sum_d y_gd <= 1            affinity
          x, u integer, y binary

Amounts of a class are divided by their greatest common divisor, so that 64 GiB is 64 and not
68,719,476,736: exact in integers, and small enough for the solver's tolerances.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import highspy
import numpy as np

from broker.batch.kinds import Kind, deal
from broker.batch.problem import NOWHERE, Bools, Ints, Problem
from broker.batch.state import State

GAP_MIN = 1e-4
"""A solution proven this near to the optimum is not bettered any further."""

THREADS = 1
"""Of one run; runs beside each other and the broker's other work have the remaining processors."""

_ROUND = 0.5


@dataclass(frozen=True)
class Found:
    """What a run came to."""

    assignment: Ints | None
    """None when the solver has no solution of its own, not even the one that it was given."""
    bound: float
    """No solution of the program costs less; minus infinity when not even that is known."""
    optimal: bool
    """Whether the run came to its end."""


@dataclass
class _Rows:
    """Rows of the constraint matrix, as they are added."""

    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    start: list[int] = field(default_factory=lambda: [0])
    index: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)

    def add(self, lower: float, upper: float, index: Sequence[int], value: Sequence[float]) -> None:
        self.lower.append(lower)
        self.upper.append(upper)
        self.index.extend(index)
        self.value.extend(value)
        self.start.append(len(self.index))


class Model:
    """The program of one problem, restricted to the places `columns` (K, M) of each kind.

    The bound of a restricted program is none of the whole one.
    """

    def __init__(self, problem: Problem, kinds: list[Kind], columns: Bools) -> None:
        self.problem, self.kinds, self._open = problem, kinds, columns
        self._cost: list[float] = []
        self._upper: list[float] = []
        self._column: dict[tuple[int, int], int] = {}
        self._left: list[int] = []
        self._choice: dict[tuple[int, int], int] = {}
        self._rows = _Rows()
        self._unit, self._room = _scaled(problem)
        for at, kind in enumerate(self.kinds):
            self._add_kind(at, kind)
        self._add_room()
        self._add_groups()

    def solve(self, start: Ints, limit_seconds: float) -> Found:
        """Runs HiGHS from the assignment `start`, for at most about `limit_seconds`."""
        if not self.kinds:
            return Found(start, 0.0, optimal=True)
        solver = highspy.Highs()  # type: ignore[no-untyped-call]
        solver.setOptionValue("output_flag", False)
        solver.setOptionValue("threads", THREADS)
        solver.setOptionValue("time_limit", limit_seconds)
        solver.setOptionValue("mip_rel_gap", GAP_MIN)
        solver.passModel(self._lp())
        solution = highspy.HighsSolution()
        solution.col_value = self._columns(start)
        solver.setSolution(solution)
        solver.run()
        info = solver.getInfo()
        status = solver.getModelStatus()
        known = info.mip_dual_bound if math.isfinite(info.mip_dual_bound) else -math.inf
        if status == highspy.HighsModelStatus.kInfeasible:  # leaving everybody out is feasible
            raise ArithmeticError("the program has no solution; it always has one")
        values = np.array(solver.getSolution().col_value)
        if values.size != len(self._cost) or not math.isfinite(info.objective_function_value):
            return Found(None, known, optimal=False)
        optimal = status == highspy.HighsModelStatus.kOptimal
        return Found(self._assignment(values), known, optimal)

    def _add_kind(self, at: int, kind: Kind) -> None:
        problem, one = self.problem, kind.one
        index = []
        for place in np.flatnonzero(self._open[at]):
            most = kind.count
            if not problem.stays[one, place]:
                needed = self._unit[one]
                some = needed > 0
                most = min([most, *(self._room[place][some] // needed[some]).tolist()])
            self._column[at, int(place)] = self._variable(float(problem.cost[one, place]), most)
            index.append(self._column[at, int(place)])
        self._left.append(self._variable(float(problem.penalty[one]), kind.count))
        index.append(self._left[-1])
        self._rows.add(kind.count, kind.count, index, [1.0] * len(index))

    def _variable(self, cost: float, upper: float) -> int:
        self._cost.append(cost)
        self._upper.append(upper)
        return len(self._cost) - 1

    def _add_room(self) -> None:
        there: dict[int, list[int]] = defaultdict(list)
        for at, place in self._column:
            if not self.problem.stays[self.kinds[at].one, place]:
                there[place].append(at)
        for place, ats in there.items():
            for kind in range(self._unit.shape[1]):
                needed = [(at, int(self._unit[self.kinds[at].one, kind])) for at in ats]
                needed = [(at, amount) for at, amount in needed if amount]
                room = int(self._room[place, kind])
                if sum(self.kinds[at].count * amount for at, amount in needed) > room:
                    index = [self._column[at, place] for at, _ in needed]
                    self._rows.add(-math.inf, room, index, [float(amount) for _, amount in needed])

    def _add_groups(self) -> None:
        of_group: dict[int, list[int]] = defaultdict(list)
        for at, kind in enumerate(self.kinds):
            if kind.group != NOWHERE:
                of_group[kind.group].append(at)
        for group, ats in of_group.items():
            rule = self.problem.groups[group]
            if rule.per_cloud_max:
                most = rule.per_cloud_max * self.kinds[ats[0]].families
                for index in self._inside(ats, self.problem.cloud).values():
                    self._rows.add(-math.inf, most, index, [1.0] * len(index))
            if rule.together is not None:
                self._add_together(group, ats)

    def _add_together(self, group: int, ats: list[int]) -> None:
        together = self.problem.groups[group].together
        assert together is not None  # noqa: S101 - the caller has looked
        chosen: dict[int, int] = {}
        for at in ats:
            count = self.kinds[at].count
            for domain, index in self._inside([at], self.problem.domains[together]).items():
                if domain not in chosen:
                    chosen[domain] = self._choice[group, domain] = self._variable(0.0, 1.0)
                self._rows.add(
                    -math.inf, 0.0, [*index, chosen[domain]], [1.0] * len(index) + [-count]
                )
        self._rows.add(-math.inf, 1.0, list(chosen.values()), [1.0] * len(chosen))

    def _inside(self, ats: list[int], domains: Ints) -> dict[int, list[int]]:
        """The columns of some kinds by the domain of their place."""
        found: dict[int, list[int]] = defaultdict(list)
        for at in ats:
            for place in np.flatnonzero(self._open[at]):
                found[int(domains[place])].append(self._column[at, int(place)])
        return found

    def _lp(self) -> highspy.HighsLp:
        lp = highspy.HighsLp()
        columns, rows = len(self._cost), self._rows
        lp.num_col_, lp.num_row_ = columns, len(rows.lower)
        lp.col_cost_ = np.array(self._cost)
        lp.col_lower_ = np.zeros(columns)
        lp.col_upper_ = np.array(self._upper, dtype=np.float64)
        lp.row_lower_ = np.array(rows.lower, dtype=np.float64)
        lp.row_upper_ = np.array(rows.upper, dtype=np.float64)
        lp.integrality_ = [highspy.HighsVarType.kInteger] * columns
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.array(rows.start)
        lp.a_matrix_.index_ = np.array(rows.index)
        lp.a_matrix_.value_ = np.array(rows.value, dtype=np.float64)
        return lp

    def _columns(self, assignment: Ints) -> list[float]:
        """An assignment as values of the columns."""
        values = [0.0] * len(self._cost)
        for at, kind in enumerate(self.kinds):
            for place in assignment[kind.machines]:
                column = self._left[at] if place == NOWHERE else self._column[at, int(place)]
                values[column] += 1.0
                rule = self.problem.groups[kind.group] if kind.group != NOWHERE else None
                if place != NOWHERE and rule is not None and rule.together is not None:
                    domain = int(self.problem.domains[rule.together, place])
                    values[self._choice[kind.group, domain]] = 1.0
        return values

    def _assignment(self, values: "np.typing.NDArray[np.float64]") -> Ints:
        """The columns as an assignment; what rounding let in too many is left out."""
        wanted: Ints = np.full(self.problem.machines, NOWHERE, np.int64)
        counts = np.zeros((len(self.kinds), self.problem.places), np.int64)
        for (at, place), column in self._column.items():
            counts[at, place] = math.floor(values[column] + _ROUND)
        for at, kind in enumerate(self.kinds):
            deal(kind, counts[at], self.problem, wanted)
        state = State(self.problem)
        for machine in np.flatnonzero(wanted != NOWHERE):
            if state.fits(int(machine), int(wanted[machine])):
                state.put(int(machine), int(wanted[machine]))
        return state.assignment


def _scaled(problem: Problem) -> tuple[Ints, Ints]:
    """Needs (N, R) and room (M, R) in the greatest unit that makes every need whole."""
    unit = np.gcd.reduce(problem.need, axis=0, initial=0)
    unit = np.maximum(unit, 1)
    return problem.need // unit, np.maximum(problem.free, 0) // unit
