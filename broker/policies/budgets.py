"""How many moves there may be. No cause overrides a budget. Pure."""

from collections import Counter
from collections.abc import Iterable

from broker.policies.model import DAY, FORCED, HOUR, Cause, Machine, Move, Policy


class Budgets:
    """What is left, while a plan is made: counts the moves of the last hour and those planned."""

    def __init__(self, policy: Policy, recent: Iterable[Move], now: float) -> None:
        self._policy = policy
        self._now = now
        within = [move for move in recent if now - HOUR < move.began_at]
        self._all = len(within)
        self._clouds = Counter(
            cloud for move in within for cloud in (move.from_cloud, move.to_cloud)
        )

    def machine(self, machine: Machine, cause: Cause) -> str:
        """Why the machine may not be moved once more today; empty if it may."""
        most = self._policy.moves_per_vm_day_max
        spent = sum(self._now - DAY < began for began in machine.moves)
        kept = 1 if most > 1 and cause not in FORCED else 0
        if spent < most - kept:
            return ""
        told = f"it has moved {spent} times within 24 hours, its budget is {most}"
        return f"{told}, of which one is kept for evacuations" if kept else told

    def clouds(self, from_cloud: str, to_cloud: str) -> str:
        """Why no machine may move between the two now; empty if one may."""
        if self._all >= self._policy.moves_per_hour_max:
            return f"there were {self._all} moves within an hour, as many as there may be"
        most = self._policy.moves_per_cloud_hour_max
        for cloud in (from_cloud, to_cloud):
            if self._clouds[cloud] >= most:
                return f"{cloud} had {self._clouds[cloud]} moves within an hour, as many as it may"
        return ""

    def take(self, from_cloud: str, to_cloud: str) -> None:
        """A move is planned."""
        self._all += 1
        self._clouds[from_cloud] += 1
        self._clouds[to_cloud] += 1
