"""Situations of automatic placement, small enough to be reckoned by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from broker.policies import deciding, ledger, reckoning
from broker.policies.forecast import Forecaster
from broker.policies.model import (
    HOUR,
    Automation,
    Decision,
    Machine,
    Move,
    MoveCost,
    Outlook,
    Policy,
    Proposal,
    Situation,
    Standing,
    Stay,
)

NOW = 1_767_225_600.0
"""A midnight, UTC."""

POLICY = Policy(
    "p",
    "t",
    automation=Automation.AUTOMATIC,
    horizon_seconds=100 * HOUR,
    discount_per_day=0.0,
    hysteresis=0.25,
    confidence=1.0,
    patience=0.5,
    residency_seconds_min=6 * HOUR,
)
"""Savings over 100 hours."""


def machine(vm_id: str = "vm", cloud_id: str = "a", since: float = NOW - 48 * HOUR) -> Machine:
    return Machine(vm_id, cloud_id, since)


def standing(
    home: str = "a", regret: float = 100.0, allowance: float = 100.0, arrival: float | None = None
) -> Standing:
    """One that keeps nobody from moving."""
    clouds = dict.fromkeys("abcdefgh", regret)
    return Standing(home, clouds, allowance, arrival)


def situation(
    prices: Mapping[str, float],
    machines: Sequence[Machine] = (),
    *,
    policy: Policy = POLICY,
    move: float = 4.0,
    standings: Mapping[str, Standing] | None = None,
    unfit: Mapping[str, str] | None = None,
    room: Mapping[str, int] | None = None,
    taints: Mapping[str, str] | None = None,
    taint_ends: Mapping[str, float] | None = None,
    outlooks: Mapping[str, Outlook] | None = None,
    recent: Sequence[Move] = (),
    latencies: Mapping[str, float] | None = None,
    now: float = NOW,
) -> Situation:
    machines = machines or [machine()]

    def feasible(_: Machine, cloud_id: str, incoming: Sequence[Machine]) -> str:
        if room is not None and len(incoming) >= room.get(cloud_id, 99):
            return "is full"
        return (unfit or {}).get(cloud_id, "")

    if standings is None:
        standings = {each.vm_id: standing(each.cloud_id) for each in machines}
    return Situation(
        now=now,
        policy=policy,
        clouds=tuple(prices),
        machines=machines,
        standings=standings,
        feasible=feasible,
        price=lambda _, cloud_id: prices.get(cloud_id),
        move_cost=lambda _, __: MoveCost(egress=move),
        taints=taints or {},
        taint_ends=taint_ends or {},
        outlooks=outlooks or {},
        latency=(lambda _, cloud_id: latencies.get(cloud_id)) if latencies is not None else None,
        recent=recent,
    )


def one_move(situation: Situation) -> Proposal:
    decision = deciding.decide(situation)
    assert not decision.stays
    (move,) = decision.moves
    return move


def one_stay(situation: Situation) -> Stay:
    decision = deciding.decide(situation)
    assert not decision.moves
    (stay,) = decision.stays
    return stay


class Life:
    """One machine through a series of prices: the product's code, and every amount it pays.

    Each period of an hour: look, decide, move at once, pay the hour. With whole prices all amounts
    are whole numbers, so that floats are exact. With `outlooks` prices are forecast from those
    that were seen; without, they are believed to stay for ever.
    """

    def __init__(
        self, policy: Policy, clouds: Sequence[str], move: float, *, outlooks: bool = False
    ) -> None:
        self.policy, self.clouds, self.move = policy, clouds, move
        self.at, self.since = clouds[0], NOW - 1000 * HOUR
        self.standing: Standing | None = None
        self.hour = 0
        self.running = self.moving = self.stayed = self.excess = 0.0
        self.moves: list[float] = []
        self.charged = 0.0
        """Cost of the moves for a saving."""
        self.regret_max = 0.0
        self.lowest_allowance = 0.0
        self.decisions: list[Decision] = []
        self._forecasts = {cloud: Forecaster() for cloud in clouds} if outlooks else {}

    def live(self, prices: Sequence[float]) -> None:
        """An hour at these prices, in the clouds' order."""
        now = NOW + self.hour * HOUR
        offers = dict(zip(self.clouds, prices, strict=True))
        here = Machine("vm", self.at, self.since, moves=tuple(self.moves))
        view = situation(offers, [here], policy=self.policy, move=self.move, now=now)
        burdens = reckoning.burdens(view, here)
        if self.standing is None:
            self.standing = ledger.begin(self.at, burdens, offers[self.at], self.policy)
        self._forecasts = {
            cloud: history.seen(now, offers[cloud]) for cloud, history in self._forecasts.items()
        }
        ahead = {
            cloud: history.outlook(self.policy.horizon_seconds, self.policy.discount_per_day)
            for cloud, history in self._forecasts.items()
        }
        view = replace(view, standings={"vm": self.standing}, outlooks=ahead)
        decision = deciding.decide(view)
        for proposal in decision.moves:
            cost = proposal.reckoning.move_cost.total
            self.moving += cost
            self.charged += cost if proposal.cause == "saving" else 0.0
            self.at, self.since = proposal.to_cloud, now
            self.moves.append(now)
            self.standing = ledger.arrived(
                self.standing, proposal.cause, self.at, cost, offers[self.at]
            )
        self.running += offers[self.at]
        self.stayed += offers[self.clouds[0]]
        self.excess += offers[self.at] - min(prices)
        self.standing = ledger.advance(self.standing, self.at, burdens, 1.0, self.policy)
        self.regret_max = max(self.regret_max, *self.standing.regret.values(), 0.0)
        self.lowest_allowance = min(self.lowest_allowance, self.standing.allowance)
        self.decisions.append(decision)
        self.hour += 1

    @property
    def total(self) -> float:
        return self.running + self.moving


def best_in_hindsight(prices: Sequence[Sequence[float]], move: float) -> float:
    """The least that any way through the clouds costs, from the first one; moves come first."""
    best = [0.0 if place == 0 else move for place in range(len(prices[0]))]
    for hour in prices:
        cheapest = min(best) + move
        best = [min(one, cheapest) + price for one, price in zip(best, hour, strict=True)]
    return min(best)
