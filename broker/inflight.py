"""Room that this broker has decided about and that the directory does not show yet. Pure.

Between a decision and the capacity record that shows it some seconds pass, in which every other
request would find the same room and choose the same cloud. A ledger holds those decisions, and
`Ledger.adjusted` takes them off what a snapshot shows. It is an estimate that orders candidates; it
never says no: whether there is room, the destination's manager decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType

from broker import amounts
from broker.snapshot import Capacity, Cloud, Snapshot

Place = tuple[str, str]
"""A cloud id and a region: what one capacity record is about."""


@dataclass(frozen=True)
class InFlightSettings:
    """How long decisions count beside the directory's records."""

    seconds_max: float = field(default=30.0, metadata={"min": 0.0})
    """A decision counts for this many seconds at most: a manager reserves within seconds of it, or
    has failed to. 0 counts none."""

    shown_after_seconds: float = field(default=2.0, metadata={"min": 0.0})
    """A capacity record that changed this many seconds after a decision, or later, is taken to show
    it: an earlier change may be about something else. A difference between the directory's clock
    and the broker's adds to it."""

    decisions_max: int = field(default=10_000, metadata={"min": 1})
    """Decisions held; the oldest gives way. It bounds the broker's memory."""


@dataclass(frozen=True)
class Decision:
    """That a machine goes to a cloud."""

    decision_id: str
    """The migration's id: deciding again replaces what was decided before."""
    cloud_id: str
    region: str
    needed: amounts.Amounts
    decided_at: datetime


@dataclass(frozen=True)
class Ledger:
    """Decisions in the order in which they were made."""

    decisions: Mapping[str, Decision] = field(default_factory=dict)
    """By their id."""

    def noted(self, decision: Decision, decisions_max: int) -> "Ledger":
        """With `decision` as the newest, instead of an earlier one of its id."""
        others = [one for key, one in self.decisions.items() if key != decision.decision_id]
        kept = [*others, decision][-decisions_max:]
        return Ledger(MappingProxyType({one.decision_id: one for one in kept}))

    def without(self, decision_id: str) -> "Ledger":
        """Without the decision of that id, if there is one."""
        if decision_id not in self.decisions:
            return self
        return Ledger(
            MappingProxyType({k: one for k, one in self.decisions.items() if k != decision_id})
        )

    def current(self, snapshot: Snapshot, now: datetime, settings: InFlightSettings) -> "Ledger":
        """Without decisions that are too old, or that `snapshot` is taken to show."""
        life = timedelta(seconds=settings.seconds_max)
        shown_after = timedelta(seconds=settings.shown_after_seconds)

        def counts(decision: Decision) -> bool:
            if now - decision.decided_at >= life:
                return False
            cloud = snapshot.clouds.get(decision.cloud_id)
            capacity = None if cloud is None else cloud.capacities.get(decision.region)
            # Without a record there is nothing to take from now; a later snapshot may have it.
            return capacity is None or capacity.updated_at - decision.decided_at < shown_after

        return Ledger(
            MappingProxyType({key: one for key, one in self.decisions.items() if counts(one)})
        )

    def taken(self) -> Mapping[Place, amounts.Amounts]:
        """What the decisions need together, by cloud and region."""
        sums: dict[Place, dict[str, int]] = {}
        for decision in self.decisions.values():
            of_place = sums.setdefault((decision.cloud_id, decision.region), {})
            for kind, amount in decision.needed.items():
                of_place[kind] = of_place.get(kind, 0) + amount
        return sums

    def adjusted(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with that much less room; the same object when nothing is in flight."""
        taken = self.taken()
        touched = {cloud_id for cloud_id, _ in taken} & snapshot.clouds.keys()
        if not touched:
            return snapshot
        less = {cloud_id: _less_room(snapshot.clouds[cloud_id], taken) for cloud_id in touched}
        return snapshot.with_room(less)


def _less_room(cloud: Cloud, taken: Mapping[Place, amounts.Amounts]) -> Cloud:
    capacities = dict(cloud.capacities)
    for region, capacity in cloud.capacities.items():
        here = taken.get((cloud.cloud_id, region))
        if here is not None:
            capacities[region] = _less(capacity, here)
    return replace(cloud, capacities=MappingProxyType(capacities))


def _less(capacity: Capacity, taken: amounts.Amounts) -> Capacity:
    """Less is free; the largest machine shrinks once all that is free is smaller than it.

    Which host a machine goes to is not known here, so a host may in truth have less room still.
    """
    free = {kind: max(0, amount - taken.get(kind, 0)) for kind, amount in capacity.free.items()}
    largest = {
        kind: min(amount, free.get(kind, 0)) if taken.get(kind) else amount
        for kind, amount in capacity.largest_fit.items()
    }
    return replace(capacity, free=MappingProxyType(free), largest_fit=MappingProxyType(largest))
