"""A bound from below: no strategy pays less, whatever it knows. NumPy.

Each machine alone, by dynamic programming over hours and clouds. Every rule of `running` is kept or
loosened, none is added, so that whatever a strategy did is among the ways that are looked through,
and costs at least as much as here:

* everything is known, every cloud has room, no budget holds, and no move fails;
* a move takes no time, and costs what it would if chance were as kind as it can be; the overlap,
  which depends on the hour, is left out;
* as in `running`, none ends while either of its clouds is out. What is only marked may be gone to:
  there it may be marked after a move has begun;
* who arrives in the first hour is where the world puts it, before anybody decides; who arrives
  later begins wherever is best, since that depends on the room that decisions left.

Whether anybody can be as good is not said.
"""

import numpy as np
from numpy.typing import NDArray

from bench.policies import charges
from bench.policies import world as worlds
from bench.policies.running import Run
from broker.policies.model import Policy


def total(world: worlds.World, policy: Policy) -> float:
    """EUR of all machines together."""
    begun = Run(world, policy)
    begun.arrive()
    names = list(world.clouds)
    first = {name: names.index(guest.cloud) for name, guest in begun.guests.items()}
    levels = np.array([world.clouds[name].levels for name in names]).T
    out = np.array(
        [[hour in world.clouds[name].out for name in names] for hour in range(world.hours)]
    )
    return sum(
        _alone(world, policy, machine, levels, out, first.get(machine.name))
        for machine in world.machines
    )


def _alone(
    world: worlds.World,
    policy: Policy,
    machine: worlds.Machine,
    levels: NDArray[np.float64],
    out: NDArray[np.bool_],
    first: int | None,
) -> float:
    """`levels` and `out` are (hours, clouds)."""
    costs = machine.unit * levels + out * policy.downtime_hour_price
    moves = _moves(world, policy, machine)
    best = costs[machine.arrives].copy()
    if first is not None:
        best[np.arange(len(best)) != first] = np.inf
    for hour in range(machine.arrives + 1, machine.leaves):
        leaving = np.where(out[hour], np.inf, best)
        coming = np.min(leaving[:, None] + moves, axis=0)
        coming[out[hour]] = np.inf
        best = np.minimum(best, coming) + costs[hour]
    return float(best.min())


def _moves(world: worlds.World, policy: Policy, machine: worlds.Machine) -> NDArray[np.float64]:
    """EUR from row to column, as little as it can be."""
    names = list(world.clouds)
    found = np.zeros((len(names), len(names)))
    for row, here in enumerate(names):
        for column, there in enumerate(names):
            if here != there:
                cost = charges.estimate(world, policy, machine, (here, there), machine.arrives)
                found[row, column] = worlds.NOISE[0] * (cost.total - cost.overlap)
    return found
