"""Machines that cannot be told apart become one kind with a count. Pure.

A solver sees kinds, of which there are far fewer than machines, and no symmetry between equal
machines, which would multiply equally good branches. Members of a group with a rule are a kind of
their own, with one exception: equal groups, each of equal machines with anti-affinity only, are
one kind together. With G such groups a cloud may hold per_cloud_max * G of them, and dealing them
out cloud by cloud, in turn, gives each group at most per_cloud_max of a cloud: nothing is lost.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from broker.batch.problem import NOWHERE, Ints, Problem


@dataclass(frozen=True)
class Kind:
    """Machines that cannot be told apart."""

    machines: Ints
    """In the order in which `deal` hands out places: in turn between `families` groups."""
    group: int
    """The group whose rule holds, the first of several equal ones; or NOWHERE."""
    families: int = 1
    """Number of equal groups in it."""

    @property
    def one(self) -> int:
        """A machine that stands for all."""
        return int(self.machines[0])

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.machines.size)


def kinds(problem: Problem) -> list[Kind]:
    """All machines that have an allowed place, in kinds."""
    looks = _looks(problem)
    members: dict[int, list[int]] = defaultdict(list)
    kept: dict[tuple[int, int], list[int]] = defaultdict(list)
    for machine in (int(one) for one in np.flatnonzero(problem.allowed.any(axis=1))):
        group = int(problem.group[machine])
        if group != NOWHERE and problem.groups[group] != type(problem.groups[group])():
            members[group].append(machine)
        else:
            kept[looks[machine], NOWHERE].append(machine)
    equal: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for group, machines in members.items():
        rule, seen = problem.groups[group], {looks[machine] for machine in machines}
        if rule.together is None and len(seen) == 1:
            equal[seen.pop(), rule.per_cloud_max, len(machines)].append(group)
        else:
            for machine in machines:
                kept[looks[machine], group].append(machine)
    found = [Kind(np.array(machines), group) for (_, group), machines in kept.items()]
    for groups in equal.values():
        turns = np.array([members[group] for group in groups]).T.ravel()
        found.append(Kind(turns, groups[0], len(groups)))
    return sorted(found, key=lambda kind: kind.one)


def deal(kind: Kind, counts: Ints, problem: Problem, assignment: Ints) -> None:
    """Writes the places of a kind's machines, `counts` (M,) to each place, into `assignment`."""
    order = np.argsort(problem.cloud, kind="stable")
    places = np.repeat(order, counts[order])[: kind.count]
    assignment[kind.machines] = NOWHERE
    assignment[kind.machines[: places.size]] = places


def _looks(problem: Problem) -> list[int]:
    """(N,) equal numbers for machines that are equal in all but their group."""
    cost = np.where(problem.allowed, problem.cost, -1.0)
    columns = (problem.need, problem.current, problem.weight, problem.allowed, cost)
    numbers: dict[bytes, int] = {}
    return [
        numbers.setdefault(b"".join(column[machine].tobytes() for column in columns), len(numbers))
        for machine in range(problem.machines)
    ]
