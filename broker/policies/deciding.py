"""Which machines move now, and why the others do not. Pure; the interface is `decide`.

First what must leave, in the order of `Cause`; then what is due home; then savings, the largest
beyond what they need first; then clouds that can be emptied. Each takes from the same budgets.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from broker.policies import consolidating, forcing, saving, waiting, words
from broker.policies.budgets import Budgets
from broker.policies.model import (
    FORCED,
    Cause,
    Decision,
    Machine,
    MoveCost,
    Objective,
    Proposal,
    Reckoning,
    Situation,
    Stay,
)
from broker.policies.saving import Option

_NOTHING = Reckoning(0.0, 0.0, 0.0, 0.0, MoveCost(), 0.0)

ORDER = {cause: place for place, cause in enumerate(Cause)}


@dataclass
class _Wish:
    """A machine that wants to go to the first of several clouds that takes it."""

    machine: Machine
    cause: Cause
    options: list[Option] = field(default_factory=list)

    @property
    def rank(self) -> tuple[int, float, str]:
        margin = self.options[0].reckoning.margin if self.options else 0.0
        return ORDER[self.cause], -margin, self.machine.vm_id


def decide(situation: Situation) -> Decision:
    """Judges every machine once; moves are within all budgets, taken together."""
    wishes, stays = [], []
    for machine in situation.machines:
        one = _judge(situation, machine)
        if isinstance(one, Stay):
            stays.append(one)
        else:
            wishes.append(one)
    planning = _Planning(situation)
    wishes.sort(key=lambda wish: wish.rank)
    stays += [stay for wish in wishes if (stay := planning.grant(wish)) is not None]
    if situation.policy.objective is Objective.CONSOLIDATE:
        stays = planning.empty_clouds(stays)
    return Decision(tuple(planning.moves), tuple(stays))


def _judge(situation: Situation, machine: Machine) -> _Wish | Stay:
    if machine.busy:
        return _stay(machine, "busy", f"is busy: {machine.busy}", "is looked at again afterwards")
    ordered = forcing.order(situation, machine)
    if ordered is None:
        return _voluntary(situation, machine)
    judged = _forced(situation, machine, ordered)
    if ordered.cause is not Cause.TAINT or not isinstance(judged, Stay) or judged.rule != "taint":
        return judged
    # It may wait for the end of the taint; whatever else makes it leave does so all the same.
    further = forcing.order(situation, machine, tainted=False)
    other = (
        _voluntary(situation, machine) if further is None else _forced(situation, machine, further)
    )
    return judged if isinstance(other, Stay) else other


def _forced(situation: Situation, machine: Machine, ordered: forcing.Order) -> _Wish | Stay:
    ways = list(forcing.ways_out(situation, machine, ordered))
    if not ways:
        lack = f"{ordered.reason}; there is no cloud that it may go to"
        return _stay(machine, "feasible", lack, "moves when there is another cloud")
    waits = waiting.waiting(situation, machine) if ordered.cause is Cause.TAINT else None
    options = [
        Option(cloud_id, one, reason=ordered.reason, moves=ordered.counterfactual)
        for cloud_id, one in ways
    ]
    if waits is not None:
        options = [_weighed(situation, machine, each, waits) for each in options]
        leaving = waiting.worth_leaving(ways, waits, forcing.UNKNOWN)
        if not leaving:
            best = min(options, key=_cost)
            leaves = waiting.leaves_when(best.reckoning, machine, situation.policy)
            return _told(machine, best, "taint", best.reason, f"moves when {leaves}")
        clouds = {cloud_id for cloud_id, _ in leaving}
        options = [each for each in options if each.cloud_id in clouds]
    held = _held(situation, machine, ordered.cause, options[0])
    return held or _Wish(machine, ordered.cause, options)


def _weighed(
    situation: Situation, machine: Machine, option: Option, waits: waiting.Waiting
) -> Option:
    """A way out of a taint that is expected to end, with both amounts."""
    if option.reckoning is forcing.UNKNOWN:
        return replace(option, reason=f"{option.reason}; what it costs to leave is not known")
    policy = situation.policy
    told = waiting.compared(waits, option.reckoning, policy)
    waits_when = waiting.waits_when(option.reckoning, machine, policy)
    return replace(
        option, reason=f"{option.reason}; {told}", moves=f"{option.moves}, or {waits_when}"
    )


def _cost(option: Option) -> tuple[bool, float]:
    """What a move there costs; last what nobody knows."""
    return option.reckoning is forcing.UNKNOWN, option.reckoning.move_cost.total


def _voluntary(situation: Situation, machine: Machine) -> _Wish | Stay:
    if situation.policy.objective not in saving.SAVES:
        return _stay(machine, "best", "is where the policy wants it", "moves when it must leave")
    standing = situation.standings.get(machine.vm_id)
    if standing is None:
        return _stay(machine, "unwatched", "is not watched yet", "moves once its costs are known")
    home = saving.due_home(situation, machine, standing)
    if home is not None:
        held = _held(situation, machine, Cause.RETURN, home)
        return held or _Wish(machine, Cause.RETURN, [home])
    options = saving.options(situation, machine, standing)
    if not options:
        return _stay(machine, "best", "no cloud costs less now", "moves when another costs less")
    best = saving.explained(options[0], situation.policy)
    if best.rule:
        return _told(machine, best, best.rule, best.reason, best.moves)
    allowed = [best, *(option for option in options[1:] if not option.rule)]
    return _held(situation, machine, Cause.SAVING, best) or _Wish(machine, Cause.SAVING, allowed)


def _held(situation: Situation, machine: Machine, cause: Cause, option: Option) -> Stay | None:
    """What keeps a machine where it is, wherever it wants to go."""
    policy, now = situation.policy, situation.now
    if machine.failed_at is not None and now < machine.failed_at + policy.cooldown_seconds:
        wait = words.span(machine.failed_at + policy.cooldown_seconds - now)
        reason = f"{option.reason}; its last move failed, it rests for {wait} more"
        return _told(machine, option, "cooldown", reason, f"moves in {wait}")
    if cause not in FORCED and now < machine.since + policy.residency_seconds_min:
        wait = words.span(machine.since + policy.residency_seconds_min - now)
        reason = f"{option.reason}; it came a short time ago and stays for {wait} more"
        return _told(machine, option, "residency", reason, f"moves in {wait}")
    spent = Budgets(policy, (), now).machine(machine, cause)
    if spent:
        reason = f"{option.reason}; {spent}"
        return _told(machine, option, "budget", reason, "moves when the day's budget allows it")
    return None


class _Planning:
    """What is granted so far."""

    def __init__(self, situation: Situation) -> None:
        self.moves: list[Proposal] = []
        self._situation = situation
        self._budgets = Budgets(situation.policy, situation.recent, situation.now)
        self._incoming: dict[str, list[Machine]] = defaultdict(list)

    def grant(self, wish: _Wish) -> Stay | None:
        """Adds the move to the first cloud that takes the machine; else why none does."""
        machine, first = wish.machine, wish.options[0]
        refusals: list[tuple[str, str]] = []
        for option in wish.options:
            over = self._budgets.clouds(machine.cloud_id, option.cloud_id)
            unfit = "" if over else self._unfit(machine, option.cloud_id)
            if not over and not unfit:
                told = saving.explained(option, self._situation.policy)
                self._add(machine, wish.cause, told)
                return None
            refusals.append(("budget", over) if over else ("feasible", unfit))
        rule, why = refusals[0]
        more = f", nor can {len(refusals) - 1} more" if len(refusals) > 1 else ""
        reason = f"{first.reason}; {first.cloud_id} cannot take it: {why}{more}"
        return _told(machine, first, rule, reason, f"moves when {first.cloud_id} can take it")

    def empty_clouds(self, stays: list[Stay]) -> list[Stay]:
        """Moves all machines out of clouds where that pays; what is left of the stays."""
        leaving = {move.vm_id for move in self.moves}
        closings = consolidating.closings(self._situation, leaving, self._unfit, self._waits)
        for closing in closings:
            for machine, option in closing:
                # What an hour's budget does not allow now is planned again in the next.
                if self._budgets.clouds(machine.cloud_id, option.cloud_id):
                    break
                self._add(machine, Cause.CONSOLIDATION, option)
                leaving.add(machine.vm_id)
        return [stay for stay in stays if stay.vm_id not in leaving]

    def _waits(self, machine: Machine) -> bool:
        nowhere = Option("", _NOTHING)
        return _held(self._situation, machine, Cause.CONSOLIDATION, nowhere) is not None

    def _unfit(self, machine: Machine, cloud_id: str, beside: Sequence[Machine] = ()) -> str:
        incoming = [*self._incoming[cloud_id], *beside]
        return self._situation.feasible(machine, cloud_id, incoming)

    def _add(self, machine: Machine, cause: Cause, option: Option) -> None:
        self._budgets.take(machine.cloud_id, option.cloud_id)
        self._incoming[option.cloud_id].append(machine)
        self.moves.append(
            Proposal(
                vm_id=machine.vm_id,
                from_cloud=machine.cloud_id,
                to_cloud=option.cloud_id,
                cause=cause,
                reason=option.reason,
                counterfactual=option.moves,
                reckoning=option.reckoning,
            )
        )


def _stay(machine: Machine, rule: str, reason: str, moves: str) -> Stay:
    return Stay(machine.vm_id, machine.cloud_id, rule, reason, moves)


def _told(machine: Machine, option: Option, rule: str, reason: str, moves: str) -> Stay:
    return Stay(
        machine.vm_id, machine.cloud_id, rule, reason, moves, option.cloud_id, option.reckoning
    )
