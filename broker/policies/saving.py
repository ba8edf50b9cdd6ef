"""Moves that have to pay: for a saving, and home again. Pure."""

from dataclasses import dataclass, replace

from broker.policies import reckoning, words
from broker.policies.model import Machine, Objective, Policy, Reckoning, Situation, Standing

SAVES = frozenset({Objective.COST, Objective.LATENCY, Objective.CONSOLIDATE})
"""Objectives for which machines move when that pays."""


@dataclass(frozen=True)
class Option:
    """A cloud that a machine may be better off in."""

    cloud_id: str
    reckoning: Reckoning
    rule: str = ""
    """What forbids it; empty if nothing does."""
    reason: str = ""
    moves: str = ""
    """What would make it move, or stay, in words."""
    has: float = 0.0
    """Money that the rule looked at,"""
    wants: float = 0.0
    """and what it wants of it."""


def options(situation: Situation, machine: Machine, standing: Standing) -> list[Option]:
    """Clouds where it would pay less now, best first: what may be chosen, then what may not."""
    policy = situation.policy
    here = reckoning.burden(situation, machine, machine.cloud_id)
    if here is None or policy.objective not in SAVES:
        return []
    found = []
    for place, cloud_id in enumerate(situation.clouds):
        if cloud_id == machine.cloud_id or cloud_id in situation.taints:
            continue
        there = reckoning.burden(situation, machine, cloud_id)
        if there is None or there >= here:
            continue
        one = reckoning.reckon(situation, machine, cloud_id)
        if one is None:
            continue
        extra = 0.0
        if policy.objective is Objective.CONSOLIDATE and cloud_id not in situation.used:
            extra = policy.presence_hour_price * reckoning.discounted_hours(policy)
        found.append((place, _judged(situation, machine, standing, cloud_id, one, extra)))
    found.sort(key=lambda each: (bool(each[1].rule), -each[1].reckoning.margin, each[0]))
    return [option for _, option in found]


def due_home(situation: Situation, machine: Machine, standing: Standing) -> Option | None:
    """The way home, when what may still be lost just pays for it."""
    if standing.home in (machine.cloud_id, "") or standing.home in situation.taints:
        return None
    if situation.policy.objective not in SAVES:
        return None
    back = reckoning.reckon(situation, machine, standing.home)
    if back is None or back.hourly_saving <= 0.0 or standing.allowance >= back.move_cost.total:
        return None
    left = words.money(standing.allowance, situation.policy.currency)
    cost = words.money(back.move_cost.total, situation.policy.currency)
    away = words.money(back.hourly_saving, situation.policy.currency)
    reason = (
        f"has {left} left to lose, the way home costs {cost}, and it pays {away} an hour more here"
    )
    lack = words.money(back.move_cost.total - standing.allowance, situation.policy.currency)
    return Option(standing.home, back, reason=reason, moves=f"stays with {lack} more to lose")


def _judged(
    situation: Situation,
    machine: Machine,
    standing: Standing,
    cloud_id: str,
    one: Reckoning,
    extra: float,
) -> Option:
    """The first of the rules that forbids it: does it pay, is it patient, can it be afforded."""
    policy = situation.policy
    if extra:
        one = replace(one, needed=one.needed + extra)
    if one.margin <= 0.0:
        return Option(cloud_id, one, "saving")
    regret = standing.regret.get(cloud_id, 0.0)
    threshold = policy.patience * one.move_cost.total
    if regret < threshold:
        return Option(cloud_id, one, "patience", has=regret, wants=threshold)
    round_trip = one.move_cost.total
    if cloud_id != standing.home:
        there = replace(machine, cloud_id=cloud_id)
        away = situation.move_cost(there, standing.home)
        round_trip += away.total if away is not None else one.move_cost.total
    if standing.allowance < round_trip:
        return Option(cloud_id, one, "allowance", has=standing.allowance, wants=round_trip)
    return Option(cloud_id, one)


def explained(option: Option, policy: Policy) -> Option:
    """With its words, which few options need."""
    if option.reason:
        return option
    one = option.reckoning
    said = words.compared(one, policy)
    has, wants, lack = (
        words.money(each, policy.currency)
        for each in (option.has, option.wants, option.wants - option.has)
    )
    match option.rule:
        case "patience":
            said += f"; has paid {has} too much so far, waits for {wants}"
            moves = f"moves after {lack} more paid too much"
        case "allowance":
            said += f"; may lose {has}, there and home again costs {wants}"
            moves = f"moves with {lack} more to lose"
        case "saving":
            moves = words.moves_when(one, policy)
        case _:
            moves = words.stays_when(one, policy)
    return replace(option, reason=said, moves=moves)
