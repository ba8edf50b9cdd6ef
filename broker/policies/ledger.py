"""What staying has cost, and what automatic placement may still lose. Pure.

Two accounts of each machine, in money, advanced with the burdens (money an hour) that held:

    regret[y]  <-  max(0, regret[y] + (burden here - burden of y) * hours)
    allowance  <-  allowance + ((1 + share) * burden at home - burden here) * hours

A move clears the regrets and takes its cost from the allowance. A machine moves for a saving only
when the regret is `patience` times the cost of the move, and when the allowance pays for going
there *and* home again; away from home it returns when the allowance just pays for that. So

1. moves cost at most 1 / patience of what was paid too much, and
2. everything together costs at most (1 + share) times staying at home, and the allowance that it
   began with, and what was lost while a return that was due had to wait.

docs/automatic-placement.md has them in words; tests/unit/test_policies_bounds.py checks them.
"""

from collections.abc import Mapping
from dataclasses import replace

from broker.policies.model import Cause, Policy, Standing

PAID = frozenset({Cause.SAVING, Cause.RETURN})
"""Causes whose moves are paid from the allowance; after any other the machine is at home there."""


def begin(
    cloud_id: str, burdens: Mapping[str, float], price: float | None, policy: Policy
) -> Standing:
    """Of a machine that is watched from now on; `price` is an hour's there."""
    allowance = policy.allowance_hours * burdens.get(cloud_id, 0.0)
    return Standing(home=cloud_id, allowance=allowance, arrival_price=price)


def advance(
    standing: Standing, cloud_id: str, burdens: Mapping[str, float], hours: float, policy: Policy
) -> Standing:
    """After `hours` in `cloud_id` at these burdens by cloud. A cloud without one is forgotten;
    where the machine's own has none, nothing can be compared and nothing changes.
    """
    here = burdens.get(cloud_id)
    if here is None:
        return standing
    before = standing.regret
    regret = {}
    for cloud, burden in burdens.items():
        grown = before.get(cloud, 0.0) + (here - burden) * hours
        if grown > 0.0:
            regret[cloud] = grown
    home = burdens.get(standing.home)
    change = 0.0 if home is None else ((1 + policy.allowance) * home - here) * hours
    return replace(standing, regret=regret, allowance=standing.allowance + change)


def arrived(
    standing: Standing, cause: Cause, to_cloud: str, cost: float, price: float | None
) -> Standing:
    """After a move for `cause` that cost so much; `price` is an hour's there."""
    fresh = replace(standing, regret={}, arrival_price=price)
    if cause in PAID:
        return replace(fresh, allowance=standing.allowance - cost)
    return replace(fresh, home=to_cloud)
