"""An assignment under construction: room and groups kept up to date move by move. Pure."""

import numpy as np

from broker.batch.problem import NOWHERE, Bools, Ints, Problem


class State:
    """Who is where, how much room is left, and which places a group's rule leaves open."""

    def __init__(self, problem: Problem, assignment: Ints | None = None) -> None:
        self.problem = problem
        self.assignment: Ints = np.full(problem.machines, NOWHERE, np.int64)
        self.free: Ints = problem.free.copy()
        clouds = int(problem.cloud.max(initial=-1)) + 1
        self._in_cloud = np.zeros((len(problem.groups), clouds), np.int64)
        self._placed = [0] * len(problem.groups)
        self._domain = [NOWHERE] * len(problem.groups)
        if assignment is not None:
            for machine in np.flatnonzero(assignment != NOWHERE):
                self.put(int(machine), int(assignment[machine]))

    def fits(self, machine: int, place: int) -> bool:
        """Whether the machine, which is nowhere now, may be put there."""
        problem = self.problem
        if not problem.allowed[machine, place]:
            return False
        if not problem.stays[machine, place] and (problem.need[machine] > self.free[place]).any():
            return False
        return bool(problem.group[machine] == NOWHERE or self.open_by_rule(machine)[place])

    def options(self, machine: int) -> Bools:
        """(M,) where the machine, which is nowhere now, may be put."""
        problem = self.problem
        room = (problem.need[machine] <= self.free).all(axis=1) | problem.stays[machine]
        found: Bools = problem.allowed[machine] & room
        return found if problem.group[machine] == NOWHERE else found & self.open_by_rule(machine)

    def put(self, machine: int, place: int) -> None:
        """Puts a machine that is nowhere; the caller has asked `fits` or `options`."""
        problem = self.problem
        self.assignment[machine] = place
        if not problem.stays[machine, place]:
            self.free[place] -= problem.need[machine]
        group = problem.group[machine]
        if group != NOWHERE:
            self._in_cloud[group, problem.cloud[place]] += 1
            self._placed[group] += 1
            together = problem.groups[group].together
            if together is not None:
                self._domain[group] = int(problem.domains[together, place])

    def take(self, machine: int) -> int:
        """Takes a machine out; returns where it was."""
        problem, place = self.problem, int(self.assignment[machine])
        self.assignment[machine] = NOWHERE
        if not problem.stays[machine, place]:
            self.free[place] += problem.need[machine]
        group = problem.group[machine]
        if group != NOWHERE:
            self._in_cloud[group, problem.cloud[place]] -= 1
            self._placed[group] -= 1
        return place

    def open_by_rule(self, machine: int) -> Bools:
        """(M,) which places the rule of the machine's group leaves open."""
        problem, group = self.problem, int(self.problem.group[machine])
        rule, found = problem.groups[group], np.ones(problem.places, np.bool_)
        if rule.per_cloud_max:
            found &= self._in_cloud[group, problem.cloud] < rule.per_cloud_max
        if rule.together is not None and self._placed[group]:
            found &= problem.domains[rule.together] == self._domain[group]
        return found
