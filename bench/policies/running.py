"""One strategy through one world, hour by hour: what it costs, and a log of all that happened.

In each hour: migrations end, machines leave, machines arrive (where it is cheapest then, among the
clouds with room), the strategy decides, its moves begin, and everything that is there is charged.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from bench.policies import charges
from bench.policies import world as worlds
from broker.policies import model
from broker.policies.model import HOUR, Cause, MoveCost, Policy, Proposal

EPOCH = 1_767_225_600.0
"""The first hour, 2026-01-01 UTC: a midnight."""


class Happening(StrEnum):
    """What happens to a machine."""

    ARRIVES = "arrives"
    BEGINS = "begins"
    """A move."""
    MOVED = "moved"
    FAILED = "failed"
    LEAVES = "leaves"


@dataclass(frozen=True)
class Event:
    """A line of the log."""

    hour: int
    vm_id: str
    what: Happening
    from_cloud: str
    """Where it is; for ARRIVES where it comes to."""
    to_cloud: str = ""
    """Of BEGINS, MOVED and FAILED."""


@dataclass
class Guest:
    """A machine that is there, as the world has it."""

    machine: worlds.Machine
    cloud: str
    since: int
    began: list[float] = field(default_factory=list)
    failed_at: float | None = None
    moving: "Moving | None" = None


@dataclass(frozen=True)
class Moving:
    """A migration that runs."""

    to_cloud: str
    ends: int
    fails: bool
    cost: float
    cause: Cause


@dataclass
class Bill:
    """EUR, by what for."""

    price: float = 0.0
    moving: float = 0.0
    """Egress, flat, overlap, and the standstill of moves."""
    standstill: float = 0.0
    """Of machines whose cloud was out."""
    moves: int = 0
    failed: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    hourly: list[float] = field(default_factory=list)
    """All of it, to the end of each hour."""

    @property
    def total(self) -> float:
        """EUR."""
        return self.price + self.moving + self.standstill


class Strategy(Protocol):
    """Says which machines move in an hour."""

    def decide(self, run: "Run", /) -> Sequence[Proposal]:
        """Moves to begin now, of guests that do not move already."""
        ...

    def arrived(self, run: "Run", guest: Guest, moving: Moving, /) -> None:
        """A move of its own has ended well."""
        ...


class Run:
    """The state of a world that is being lived through."""

    def __init__(self, world: worlds.World, policy: Policy) -> None:
        self.world = world
        self.policy = policy
        self.hour = 0
        self.guests: dict[str, Guest] = {}
        self.used: Counter[str] = Counter()
        """vCPUs by cloud, those of machines on their way included."""
        self.recent: list[model.Move] = []
        self.bill = Bill()
        self.log: list[Event] = []
        self._coming = sorted(world.machines, key=lambda each: (each.arrives, each.name))

    @property
    def now(self) -> float:
        """Seconds since 1970."""
        return EPOCH + self.hour * HOUR

    def price(self, machine: worlds.Machine, cloud: str) -> float:
        """EUR an hour, now."""
        return charges.running(self.world, machine, cloud, self.hour)

    def move_cost(self, machine: worlds.Machine, here: str, there: str) -> MoveCost:
        """As estimated."""
        return charges.estimate(self.world, self.policy, machine, (here, there), self.hour)

    def unfit(self, cloud: str, vcpus: int) -> str:
        """Why a cloud does not take so much more; empty if it does."""
        there = self.world.clouds[cloud]
        if self.hour in there.tainted or self.hour in there.out:
            return "it takes nobody new"
        free = there.vcpus - self.used[cloud]
        return "" if vcpus <= free else f"needs {vcpus} vCPUs, {free} are free"

    def live(self, strategy: Strategy) -> Bill:
        """All hours."""
        for hour in range(self.world.hours):
            self.hour = hour
            self._end_migrations(strategy)
            self._depart()
            self.arrive()
            for proposal in strategy.decide(self):
                self._begin(proposal)
            self._charge()
        return self.bill

    def arrive(self) -> None:
        """Who is due now gets the cheapest cloud with room, whatever the strategy."""
        while self._coming and self._coming[0].arrives <= self.hour:
            machine = self._coming.pop(0)
            fits = [name for name in self.world.clouds if not self.unfit(name, machine.vcpus)]
            if not fits:
                raise RuntimeError(f"no cloud has room for {machine.name} in hour {self.hour}")
            cloud = min(fits, key=lambda name: (self.price(machine, name), name))
            self.used[cloud] += machine.vcpus
            self.guests[machine.name] = Guest(machine, cloud, self.hour)
            self._note(machine.name, Happening.ARRIVES, cloud)

    def _depart(self) -> None:
        for name in [n for n, guest in self.guests.items() if guest.machine.leaves <= self.hour]:
            guest = self.guests.pop(name)
            self.used[guest.cloud] -= guest.machine.vcpus
            if guest.moving is not None:
                self.used[guest.moving.to_cloud] -= guest.machine.vcpus
            self._note(name, Happening.LEAVES, guest.cloud)

    def _begin(self, proposal: Proposal) -> None:
        guest = self.guests[proposal.vm_id]
        assert guest.moving is None, "a machine in two moves"  # noqa: S101
        assert guest.cloud == proposal.from_cloud  # noqa: S101
        if self.unfit(proposal.to_cloud, guest.machine.vcpus):
            raise RuntimeError(f"{proposal.to_cloud} was given a machine that it cannot take")
        way = guest.cloud, proposal.to_cloud
        hours, fails = charges.duration(self.world, guest.machine, way, self.hour)
        paid = charges.paid(self.world, self.policy, guest.machine, way, self.hour)
        guest.moving = Moving(proposal.to_cloud, self.hour + hours, fails, paid, proposal.cause)
        guest.began.append(self.now)
        self.used[proposal.to_cloud] += guest.machine.vcpus
        self.bill.moving += paid
        self.bill.moves += 1
        self.bill.causes[proposal.cause] += 1
        self.recent.append(model.Move(proposal.vm_id, guest.cloud, proposal.to_cloud, self.now))
        self._note(proposal.vm_id, Happening.BEGINS, *way)

    def _end_migrations(self, strategy: Strategy) -> None:
        for guest in self.guests.values():
            moving = guest.moving
            if moving is None or self.hour < moving.ends:
                continue
            # A cloud that is out neither sends nor takes: what was on its way has failed.
            out = any(
                self.hour in self.world.clouds[each].out for each in (guest.cloud, moving.to_cloud)
            )
            guest.moving = None
            if moving.fails or out:
                self.used[moving.to_cloud] -= guest.machine.vcpus
                guest.failed_at = self.now
                self._note(guest.machine.name, Happening.FAILED, guest.cloud, moving.to_cloud)
                self.bill.failed += 1
                continue
            self.used[guest.cloud] -= guest.machine.vcpus
            self._note(guest.machine.name, Happening.MOVED, guest.cloud, moving.to_cloud)
            guest.cloud, guest.since = moving.to_cloud, self.hour
            strategy.arrived(self, guest, moving)

    def _charge(self) -> None:
        for guest in self.guests.values():
            if self.hour in self.world.clouds[guest.cloud].out:
                self.bill.standstill += self.policy.downtime_hour_price
            self.bill.price += self.price(guest.machine, guest.cloud)
        self.recent = [move for move in self.recent if self.now - HOUR < move.began_at]
        self.bill.hourly.append(self.bill.total)

    def _note(self, vm_id: str, what: Happening, from_cloud: str, to_cloud: str = "") -> None:
        self.log.append(Event(self.hour, vm_id, what, from_cloud, to_cloud))
