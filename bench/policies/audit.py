"""The books again, from a run's log and its world alone: not from anything that the run added up.

Raises ArithmeticError where the log is impossible, where a budget was exceeded or where the amounts
are others. That no strategy is charged differently is what this shows.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.policies import charges
from bench.policies import world as worlds
from bench.policies.running import Bill, Event, Happening
from broker.policies.model import Policy


@dataclass(frozen=True)
class Audit:
    """What the log says."""

    price: float
    moving: float
    standstill: float
    moves: int
    moves_per_vm_day: int
    """The most of one machine that began within any 24 hours."""
    moves_per_cloud_hour: int
    """The most into and out of one cloud within an hour."""
    moves_per_hour: int

    @property
    def total(self) -> float:
        """EUR."""
        return self.price + self.moving + self.standstill


def audit(world: worlds.World, policy: Policy, log: Sequence[Event]) -> Audit:
    """Everything once more, machine by machine."""
    events: dict[str, list[Event]] = defaultdict(list)
    for event in log:
        events[event.vm_id].append(event)
    books = _Books(world, policy)
    for machine in world.machines:
        books.enter(machine, events.pop(machine.name, []))
    _require(not events, f"machines that there are not: {sorted(events)}")
    for (cloud, hour), vcpus in books.taken.items():
        _require(vcpus <= world.clouds[cloud].vcpus, f"{cloud} is overfull in hour {hour}")
    return Audit(
        price=math.fsum(books.price),
        moving=math.fsum(books.moving),
        standstill=math.fsum(books.standstill),
        moves=sum(books.hours.values()),
        moves_per_vm_day=books.vm_day,
        moves_per_cloud_hour=max(books.cloud_hours.values(), default=0),
        moves_per_hour=max(books.hours.values(), default=0),
    )


def compare(found: Audit, bill: Bill) -> None:
    """The run's own sums must be those of the log."""
    for name in ("price", "moving", "standstill", "moves", "total"):
        ours, theirs = getattr(found, name), getattr(bill, name)
        same = math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-9)
        _require(same, f"{name} is {ours} by the log, {theirs} by the bill")


def within_budgets(found: Audit, policy: Policy) -> None:
    """No machine, no cloud and no hour had more moves than it may."""
    for name in ("moves_per_vm_day", "moves_per_cloud_hour", "moves_per_hour"):
        most, limit = getattr(found, name), getattr(policy, f"{name}_max")
        _require(most <= limit, f"{name} is {most}, at most {limit} are allowed")


class _Books:
    def __init__(self, world: worlds.World, policy: Policy) -> None:
        self.world = world
        self.policy = policy
        self.price: list[float] = []
        self.moving: list[float] = []
        self.standstill: list[float] = []
        self.hours: Counter[int] = Counter()
        self.cloud_hours: Counter[tuple[str, int]] = Counter()
        self.vm_day = 0
        self.taken: Counter[tuple[str, int]] = Counter()
        """vCPUs at the end of an hour's decisions, those of machines on their way included."""

    def enter(self, machine: worlds.Machine, events: Sequence[Event]) -> None:
        """One machine's life."""
        life = f"{machine.name} arrives at {machine.arrives} and leaves at {machine.leaves}"
        hours = [event.hour for event in events if event.what is Happening.ARRIVES]
        _require(hours == [machine.arrives] and events[0].what is Happening.ARRIVES, life)
        ends = [event.hour for event in events if event.what is Happening.LEAVES]
        _require(ends == [machine.leaves] * (machine.leaves < self.world.hours), life)
        last = Event(machine.leaves, machine.name, Happening.LEAVES, "")
        here, coming, since = events[0].from_cloud, "", machine.arrives
        self._open(here, machine.arrives)
        for event in [*events[1:], *([last] if not ends else [])]:
            self._stood(machine, here, coming, range(since, event.hour))
            since = event.hour
            if event.what is Happening.BEGINS:
                self._begins(machine, event, here, coming)
                coming = event.to_cloud
            elif event.what in (Happening.MOVED, Happening.FAILED):
                _require((event.from_cloud, event.to_cloud) == (here, coming), f"{event}")
                here = coming if event.what is Happening.MOVED else here
                coming = ""
        began = [event.hour for event in events if event.what is Happening.BEGINS]
        days = (sum(end - 24 < hour <= end for hour in began) for end in began)
        self.vm_day = max(self.vm_day, *days, 0)

    def _begins(self, machine: worlds.Machine, event: Event, here: str, coming: str) -> None:
        way = event.from_cloud, event.to_cloud
        _require(not coming, f"{machine.name} is in two moves")
        _require(way[0] == here != way[1], f"{event}: it is at {here}")
        self._open(way[1], event.hour)
        self.moving.append(charges.paid(self.world, self.policy, machine, way, event.hour))
        self.hours[event.hour] += 1
        for cloud in way:
            self.cloud_hours[cloud, event.hour] += 1

    def _stood(self, machine: worlds.Machine, here: str, coming: str, hours: range) -> None:
        cloud = self.world.clouds[here]
        self.price.append(machine.unit * math.fsum(cloud.levels[hours.start : hours.stop]))
        out = len(cloud.out.intersection(hours))
        self.standstill.append(out * self.policy.downtime_hour_price)
        for place in filter(None, (here, coming)):
            for hour in hours:
                self.taken[place, hour] += machine.vcpus

    def _open(self, cloud: str, hour: int) -> None:
        closed: Mapping[str, frozenset[int]] = {
            "marked": self.world.clouds[cloud].tainted,
            "out": self.world.clouds[cloud].out,
        }
        for why, hours in closed.items():
            _require(hour not in hours, f"{cloud} was given a machine in hour {hour}, it was {why}")


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ArithmeticError(problem)
