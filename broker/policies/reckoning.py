"""What a move would save, how sure that is, and what it would have to. Pure."""

import math

from broker.policies.model import HOUR, Machine, Objective, Outlook, Policy, Reckoning, Situation

_CERTAIN = Outlook()


def discounted_hours(policy: Policy) -> float:
    """How many hours of now the horizon is worth: the integral of the discount over it."""
    hours = policy.horizon_seconds / HOUR
    if policy.discount_per_day == 0.0:
        return hours
    rate = -math.log1p(-policy.discount_per_day) / 24
    return -math.expm1(-rate * hours) / rate


def burden(situation: Situation, machine: Machine, cloud_id: str) -> float | None:
    """Money an hour that the machine costs there, as the policy sees it; None: not comparable."""
    parts = _parts(situation, machine, cloud_id)
    return None if parts is None else sum(parts)


def burdens(situation: Situation, machine: Machine) -> dict[str, float]:
    """The burden of every cloud that can be compared; what the ledger is advanced with."""
    found = {}
    for cloud_id in situation.clouds:
        one = burden(situation, machine, cloud_id)
        if one is not None:
            found[cloud_id] = one
    return found


def reckon(situation: Situation, machine: Machine, to_cloud: str) -> Reckoning | None:
    """The move to `to_cloud`; None where a price, a latency or a link is not known."""
    policy = situation.policy
    here = _parts(situation, machine, machine.cloud_id)
    there = _parts(situation, machine, to_cloud)
    cost = situation.move_cost(machine, to_cloud)
    if here is None or there is None or cost is None:
        return None
    ours = situation.outlooks.get(machine.cloud_id, _CERTAIN)
    theirs = situation.outlooks.get(to_cloud, _CERTAIN)
    worth = discounted_hours(policy)
    saving = worth * (here[0] * ours.mean - there[0] * theirs.mean + here[1] - there[1])
    # As if independent. Where prices move together the doubt is less than this.
    deviation = worth * math.hypot(here[0] * ours.deviation, there[0] * theirs.deviation)
    return Reckoning(
        hourly_saving=sum(here) - sum(there),
        saving=saving,
        deviation=deviation,
        sure_saving=saving - policy.confidence * deviation,
        move_cost=cost,
        needed=(1 + policy.hysteresis) * cost.total + policy.saving_min,
    )


def _parts(situation: Situation, machine: Machine, cloud_id: str) -> tuple[float, float] | None:
    """The price, and what the latency is worth."""
    price = situation.price(machine, cloud_id)
    if price is None:
        return None
    policy = situation.policy
    if policy.objective is not Objective.LATENCY or situation.latency is None:
        return price, 0.0
    latency_ms = situation.latency(machine, cloud_id)
    return None if latency_ms is None else (price, latency_ms * policy.latency_ms_hour_price)
