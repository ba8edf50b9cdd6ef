"""One strategy through one world, hour by hour: what it costs, and that its budgets hold."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bench.policies import world as worlds
from broker.policies import model
from broker.policies.model import HOUR, Cause, MoveCost, Policy, Proposal

EPOCH = 1_767_225_600.0
"""The first hour, 2026-01-01 UTC: a midnight."""


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
    daily: list[float] = field(default_factory=list)
    """All of it, to the end of each day."""
    moves_per_vm_day: int = 0
    """The most of any machine within 24 hours."""

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
        self._coming = sorted(world.machines, key=lambda each: (each.arrives, each.name))

    @property
    def now(self) -> float:
        """Seconds since 1970."""
        return EPOCH + self.hour * HOUR

    def price(self, machine: worlds.Machine, cloud: str) -> float:
        """EUR an hour, now."""
        return machine.unit * self.world.clouds[cloud].levels[self.hour]

    def move_cost(self, machine: worlds.Machine, here: str, there: str) -> MoveCost:
        """As estimated."""
        hours = machine.wire_gib / self.world.goodput[here, there]
        # Some rounds of waiting, and what a machine writes meanwhile, over the link.
        still = 2 + 20 * self.world.rtt_seconds[here, there] + 0.02 * hours * HOUR
        return MoveCost(
            transfer_bytes=machine.wire_gib * 1024**3,
            egress=machine.wire_gib * self.world.clouds[here].egress_gib,
            flat=2 * worlds.FLAT,
            overlap=hours * self.price(machine, there),
            downtime_seconds=still,
            downtime=still / HOUR * self.policy.downtime_hour_price,
        )

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
            self._arrive()
            for proposal in strategy.decide(self):
                self._begin(proposal)
            self._charge()
        return self.bill

    def _arrive(self) -> None:
        while self._coming and self._coming[0].arrives <= self.hour:
            machine = self._coming.pop(0)
            fits = [name for name in self.world.clouds if not self.unfit(name, machine.vcpus)]
            cloud = min(fits, key=lambda name: (self.price(machine, name), name))
            self.used[cloud] += machine.vcpus
            self.guests[machine.name] = Guest(machine, cloud, self.hour)

    def _depart(self) -> None:
        for name in [n for n, guest in self.guests.items() if guest.machine.leaves <= self.hour]:
            guest = self.guests.pop(name)
            self.used[guest.cloud] -= guest.machine.vcpus
            if guest.moving is not None:
                self.used[guest.moving.to_cloud] -= guest.machine.vcpus

    def _begin(self, proposal: Proposal) -> None:
        guest = self.guests[proposal.vm_id]
        assert guest.moving is None, "a machine in two moves"  # noqa: S101
        assert guest.cloud == proposal.from_cloud  # noqa: S101
        if self.unfit(proposal.to_cloud, guest.machine.vcpus):
            raise RuntimeError(f"{proposal.to_cloud} was given a machine that it cannot take")
        cost = self.move_cost(guest.machine, guest.cloud, proposal.to_cloud)
        noise, fails = self.world.chance(guest.machine.name, self.hour)
        gib_hour = self.world.goodput[guest.cloud, proposal.to_cloud]
        hours = max(1, round(noise * guest.machine.wire_gib / gib_hour))
        paid = cost.total * noise * (0.5 if fails else 1.0)
        guest.moving = Moving(proposal.to_cloud, self.hour + hours, fails, paid, proposal.cause)
        guest.began.append(self.now)
        self.used[proposal.to_cloud] += guest.machine.vcpus
        self.bill.moving += paid
        self.bill.moves += 1
        self.bill.causes[proposal.cause] += 1
        self.recent.append(model.Move(proposal.vm_id, guest.cloud, proposal.to_cloud, self.now))
        within = sum(self.now - model.DAY < began for began in guest.began)
        self.bill.moves_per_vm_day = max(self.bill.moves_per_vm_day, within)

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
                self.bill.failed += 1
                continue
            self.used[guest.cloud] -= guest.machine.vcpus
            guest.cloud, guest.since = moving.to_cloud, self.hour
            strategy.arrived(self, guest, moving)

    def _charge(self) -> None:
        for guest in self.guests.values():
            if self.hour in self.world.clouds[guest.cloud].out:
                self.bill.standstill += worlds.STANDSTILL_HOUR
            self.bill.price += self.price(guest.machine, guest.cloud)
        self.recent = [move for move in self.recent if self.now - HOUR < move.began_at]
        if self.hour % 24 == 23:
            self.bill.daily.append(self.bill.total)
