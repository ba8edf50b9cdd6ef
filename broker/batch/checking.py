"""Whether an assignment is valid: written from the rules, not from the solvers. Pure.

Slow and plain on purpose; it shares nothing with `state`, so that one finds the other's faults.
Python integers do not overflow.
"""

from collections import Counter, defaultdict

from broker.batch.problem import NOWHERE, Ints, Problem


def violations(problem: Problem, assignment: Ints) -> list[str]:
    """Every rule that the assignment breaks, in words; empty when it is valid."""
    found = []
    used: dict[int, list[int]] = defaultdict(lambda: [0] * problem.need.shape[1])
    members: dict[int, list[int]] = defaultdict(list)
    for machine, place in enumerate(int(value) for value in assignment):
        if place == NOWHERE:
            continue
        if not problem.feasible[machine, place]:
            found.append(f"machine {machine} may not be in place {place}")
        group = int(problem.group[machine])
        if group != NOWHERE:
            members[group].append(place)
        if problem.current[machine] != NOWHERE and problem.current[machine] == problem.cloud[place]:
            continue
        for kind, needed in enumerate(problem.need[machine]):
            used[place][kind] += int(needed)
            if needed > problem.largest[place, kind]:
                found.append(f"machine {machine} is larger than any host of place {place}")
    for place, amounts in used.items():
        for kind, amount in enumerate(amounts):
            if amount > int(problem.free[place, kind]):
                found.append(f"place {place} has less of class {kind} than {amount}")
    for group, places in members.items():
        rule = problem.groups[group]
        counts = Counter(int(problem.cloud[place]) for place in places)
        if rule.per_cloud_max and max(counts.values()) > rule.per_cloud_max:
            found.append(f"group {group} has more than {rule.per_cloud_max} in one cloud")
        if rule.together is not None:
            shared = {int(problem.domains[rule.together, place]) for place in places}
            if len(shared) > 1:
                found.append(f"group {group} is not together")
    return found
