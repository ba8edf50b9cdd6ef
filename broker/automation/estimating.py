"""Decisions about moves that were estimated: what a move takes is asked before it counts.

The source's manager compares the disks, which takes it and both hosts some work. So only so many
are asked about at one evaluation, and what they said is good for a while.
"""

from collections.abc import Mapping

from broker.automation import costs
from broker.automation.fleet import Fleet
from broker.automation.policy_rows import Held
from broker.automation.settings import AutomationSettings
from broker.automation.situating import Ground, Way3
from broker.policies import deciding
from broker.policies.model import FORCED, Cause, Decision, Proposal, Situation, Stay
from watari import errors, logs
from watari.clock import Clock
from watari.v1 import manager_pb2

ESTIMATES_HELD_MAX = 10_000
"""Estimates that are remembered; the oldest goes first."""

UNKNOWN = "it could not be estimated"
WAITS = "what it would take is asked at the next evaluation"

_log = logs.get(__name__)


class Estimating:
    """What managers said of moves, for as long as it is good. For one thread."""

    def __init__(self, settings: AutomationSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._left = 0
        """Estimates that may still be asked for in this round."""
        self._known: dict[tuple[str, Way3], tuple[float, costs.Estimate | str]] = {}
        """By the currency and the way: until when it is good, and what it was."""

    def begin_round(self) -> None:
        """Another evaluation of all policies, which may ask for so many."""
        self._left = self._settings.estimates_per_round_max

    def decide(self, held: Held, ground: Ground, situation: Situation, fleet: Fleet) -> Decision:
        """The decision, once what it would move was estimated; the ground has the estimates then.

        Each time round settles every move that was not estimated yet, so that it ends.
        """
        estimates = ground.estimates
        self._recall(held, ground)
        while True:
            decision = deciding.decide(situation)
            missing = self._missing(decision, ground)
            if not missing:
                return hold_back(decision, estimates)
            for way in missing:
                if self._left <= 0:
                    estimates[way] = WAITS
                    continue
                self._left -= 1
                estimates[way] = self._estimated(held, way, fleet)

    def _missing(self, decision: Decision, ground: Ground) -> list[Way3]:
        """Ways of which nobody has said what they cost, where the decision hangs on that: of moves
        that have to pay, and of machines that wait for the end of a taint because all that is on
        their disks would cost more to move.
        """
        if not self._settings.estimates_per_round_max:
            return []
        hang: list[Proposal | Stay] = [each for each in decision.moves if each.cause not in FORCED]
        hang += [each for each in decision.stays if each.rule == "taint"]
        ways = [_way(each) for each in hang]
        return [way for way in ways if way not in ground.estimates]

    def _estimated(self, held: Held, way: Way3, fleet: Fleet) -> costs.Estimate | str:
        vm_id, from_cloud, to_cloud = way
        request = manager_pb2.EstimateMigrationRequest(
            vm=vm_id, to_cloud=to_cloud, mode=held.message.mode, delegation=held.document
        )
        try:
            answer = fleet.ask(from_cloud).estimate(request, self._settings.estimate_seconds_max)
        except errors.WatariError as error:
            if isinstance(error, errors.Unavailable):  # too slow is not away
                fleet.heard(from_cloud, error)
            return self._remember(held, way, f"{UNKNOWN}: {error.reason}: {error.message}")
        return self._remember(held, way, costs.estimate_of(answer, held.policy.currency))

    def _remember(self, held: Held, way: Way3, found: costs.Estimate | str) -> costs.Estimate | str:
        """What was found is good for a while; what stood against it is looked at again sooner."""
        good = isinstance(found, costs.Estimate)
        problem = found if isinstance(found, str) else None
        _log.info("move estimated", vm=way[0], from_cloud=way[1], to_cloud=way[2], problem=problem)
        settings = self._settings
        seconds = settings.estimate_valid_seconds if good else settings.refused_seconds
        while len(self._known) >= ESTIMATES_HELD_MAX:
            del self._known[next(iter(self._known))]
        until = self._clock.monotonic() + seconds
        self._known[held.policy.currency, way] = until, found
        return found

    def _recall(self, held: Held, ground: Ground) -> None:
        """Gives the ground the estimates that are still good."""
        now = self._clock.monotonic()
        self._known = {key: each for key, each in self._known.items() if now < each[0]}
        for (currency, way), (_, found) in self._known.items():
            if way[0] in ground.vms and currency == held.policy.currency:
                ground.estimates[way] = found


def _way(one: Proposal | Stay) -> Way3:
    here = one.from_cloud if isinstance(one, Proposal) else one.cloud_id
    return one.vm_id, here, one.to_cloud


def hold_back(decision: Decision, estimates: Mapping[Way3, costs.Estimate | str]) -> Decision:
    """Without moves that are only second best because the best was not estimated yet: another one
    of a machine whose estimate waits, and clouds that are emptied while anything is not known.
    """
    waiting = {way[0] for way, found in estimates.items() if found == WAITS}
    told = [found for found in estimates.values() if isinstance(found, str)]
    unsure = any(found.startswith((WAITS, UNKNOWN)) for found in told)

    def held(move: Proposal) -> bool:
        if move.cause is Cause.CONSOLIDATION:
            return unsure
        return move.cause not in FORCED and move.vm_id in waiting

    stays = [
        Stay(
            move.vm_id,
            move.from_cloud,
            "feasible",
            f"{move.reason}; {WAITS}",
            "moves once that is known",
            move.to_cloud,
            move.reckoning,
        )
        for move in decision.moves
        if held(move)
    ]
    moves = tuple(move for move in decision.moves if not held(move))
    return Decision(moves, (*decision.stays, *stays))
