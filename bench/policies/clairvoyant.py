"""A bound from below: what the best hindsight would pay. NumPy.

Each machine alone, by dynamic programming over hours and clouds: everything is known, every cloud
has room, moves take no time, never fail, are as cheap as chance ever makes them, and no budget
holds. Nobody can be better; whether anybody can be as good is not said.
"""

import numpy as np
from numpy.typing import NDArray

from bench.policies import world as worlds
from bench.policies.running import Run
from broker.policies.model import Policy


def total(world: worlds.World, policy: Policy) -> float:
    """EUR of all machines together."""
    names = list(world.clouds)
    levels = np.array([world.clouds[name].levels for name in names]).T
    standstill = np.zeros_like(levels)
    closed: NDArray[np.bool_] = np.zeros(levels.shape, dtype=np.bool_)
    for place, name in enumerate(names):
        standstill[sorted(world.clouds[name].out), place] = worlds.STANDSTILL_HOUR
        closed[sorted(world.clouds[name].tainted), place] = True
    return sum(
        _alone(world, policy, machine, levels, standstill, closed) for machine in world.machines
    )


def _alone(
    world: worlds.World,
    policy: Policy,
    machine: worlds.Machine,
    levels: NDArray[np.float64],
    standstill: NDArray[np.float64],
    closed: NDArray[np.bool_],
) -> float:
    costs = machine.unit * levels + standstill
    moves = _moves(world, policy, machine)
    # It begins wherever is best: the placement at its arrival is nobody's decision here.
    best = np.where(closed[machine.arrives], np.inf, 0.0) + costs[machine.arrives]
    for hour in range(machine.arrives + 1, machine.leaves):
        arriving = np.min(best[:, None] + moves, axis=0)
        arriving[closed[hour]] = np.inf
        best = np.minimum(best, arriving) + costs[hour]
    return float(best.min())


def _moves(world: worlds.World, policy: Policy, machine: worlds.Machine) -> NDArray[np.float64]:
    """From row to column, as cheap as they can be: the overlap is left out."""
    run = Run(world, policy)
    names = list(world.clouds)
    found = np.zeros((len(names), len(names)))
    for row, here in enumerate(names):
        for column, there in enumerate(names):
            if here != there:
                cost = run.move_cost(machine, here, there)
                found[row, column] = worlds.NOISE[0] * (cost.total - cost.overlap)
    return found
