"""Moves that need not pay: out of a tainted cloud, a cloud grown dear, to the schedule's. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from broker.policies import reckoning, words
from broker.policies.model import (
    DAY,
    Cause,
    Machine,
    MoveCost,
    Objective,
    Reckoning,
    Situation,
    Window,
)


@dataclass(frozen=True)
class Order:
    """A machine must leave."""

    cause: Cause
    reason: str
    counterfactual: str
    clouds: tuple[str, ...] = ()
    """Only to these; empty is anywhere."""


def order(situation: Situation, machine: Machine, *, tainted: bool = True) -> Order | None:
    """The first of the causes that holds, if any does; without `tainted` of all but a taint."""
    here, policy = machine.cloud_id, situation.policy
    window = covering(situation)
    wanted = window.clouds if window is not None else ()
    if tainted and here in situation.taints:
        reason = f"{here}: {situation.taints[here]}"
        return Order(Cause.TAINT, reason, f"stays when {here} is no longer marked", wanted)
    if policy.price_rise_max is not None:
        standing = situation.standings.get(machine.vm_id)
        price = situation.price(machine, here)
        before = standing.arrival_price if standing is not None else None
        if price is not None and before is not None:
            ceiling = before * (1 + policy.price_rise_max)
            if price > ceiling:
                asked, most = (words.money(each, policy.currency) for each in (price, ceiling))
                reason = f"{here} asks {asked}/h, at most {most}/h is agreed to since arrival"
                stays = f"stays at {most}/h or less"
                return Order(Cause.PRICE_CHANGE, reason, stays, wanted)
    if window is not None and here not in wanted:
        until = f"{window.to_minute // 60:02}:{window.to_minute % 60:02} UTC"
        reason = f"the schedule has it in {', '.join(wanted)} until {until}"
        return Order(Cause.SCHEDULE, reason, f"stays if the schedule names {here}", wanted)
    return None


def covering(situation: Situation) -> Window | None:
    """The schedule's window of now."""
    if situation.policy.objective is not Objective.SCHEDULE:
        return None
    minute = int(situation.now % DAY // 60)
    return next((each for each in situation.policy.schedule if each.covers(minute)), None)


def ways_out(
    situation: Situation, machine: Machine, ordered: Order
) -> Iterator[tuple[str, Reckoning]]:
    """Where it may go, cheapest over the horizon first; what cannot be compared goes last."""
    found = []
    for place, cloud_id in enumerate(situation.clouds):
        if cloud_id == machine.cloud_id or cloud_id in situation.taints:
            continue
        if ordered.clouds and cloud_id not in ordered.clouds:
            continue
        one = reckoning.reckon(situation, machine, cloud_id)
        rank = (one is None, -(one.saving - one.move_cost.total) if one else 0.0, place)
        if ordered.cause is Cause.PRICE_CHANGE and (one is None or one.hourly_saving <= 0.0):
            continue
        found.append((rank, cloud_id, one or UNKNOWN))
    for _, cloud_id, one in sorted(found, key=lambda each: each[0]):
        yield cloud_id, one


UNKNOWN = Reckoning(0.0, 0.0, 0.0, 0.0, MoveCost(), 0.0)
"""Where no price or link is known: a machine that must leave may go there all the same."""
