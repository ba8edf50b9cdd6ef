"""A month of prices, machines, links, maintenance and outages, made from a seed. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

VCPU_HOUR, MEMORY_GIB_HOUR, DISK_GIB_HOUR = 0.02, 0.004, 0.0001
"""EUR, of a cloud at level 1."""

FLAT = 0.05
"""EUR to either cloud for a migration."""

STANDSTILL_HOUR = 2.0
"""EUR that an hour of standstill costs a machine, whether it is moved or its cloud is out."""

NOISE = (0.8, 1.25)
"""A migration takes so many times what was estimated."""

FAILS = 0.03
"""Migrations that fail, at half of their cost."""


@dataclass(frozen=True)
class Setting:
    """How the world behaves."""

    name: str
    spot: float
    """Share of the clouds whose prices move every hour; the others have lists that step."""
    regime_hours: float
    """Mean time between lasting changes of a cloud's level."""
    regime_spread: float
    """Standard deviation of their logarithm."""
    spike_hours: float = 150.0
    """Mean time between spikes of a spot cloud."""
    egress: float = 0.03
    """Mean EUR a GiB out of a cloud."""
    outages: bool = True


SETTINGS: Mapping[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("mixed", 0.5, 24 * 10, 0.2),
        Setting("lists", 0.0, 24 * 15, 0.2),
        Setting("spot", 1.0, 24 * 5, 0.2, spike_hours=60.0),
        Setting("egress", 0.5, 24 * 10, 0.2, egress=0.09),
        Setting("flat", 0.0, math.inf, 0.0, outages=False),
    )
}
"""Settings by name; in the last one nothing ever changes, and there is nothing to gain."""


@dataclass(frozen=True)
class Cloud:
    """A cloud over the whole time."""

    name: str
    levels: tuple[float, ...]
    """Price by hour, of the reference."""
    egress_gib: float
    vcpus: int
    """Room."""
    tainted: frozenset[int]
    """Hours in which it is marked: a while before it is out, and until it is back."""
    out: frozenset[int]
    """Hours in which nothing runs there, nor leaves."""


@dataclass(frozen=True)
class Machine:
    """A machine over its life."""

    name: str
    vcpus: int
    memory_gib: int
    disk_gib: int
    wire_gib: float
    """What a migration is estimated to send."""
    arrives: int
    leaves: int
    """Hours; exclusive."""

    @property
    def unit(self) -> float:
        """EUR an hour at level 1."""
        return (
            VCPU_HOUR * self.vcpus
            + MEMORY_GIB_HOUR * self.memory_gib
            + DISK_GIB_HOUR * self.disk_gib
        )


@dataclass(frozen=True)
class World:
    """What happens, whatever is decided."""

    setting: Setting
    seed: int
    hours: int
    clouds: Mapping[str, Cloud]
    machines: Sequence[Machine]
    goodput: Mapping[tuple[str, str], float]
    """GiB an hour."""
    rtt_seconds: Mapping[tuple[str, str], float]

    def chance(self, machine: str, hour: int) -> tuple[float, bool]:
        """How much a migration that begins then takes of its estimate, and whether it fails."""
        random = Random(f"{self.seed}/{machine}/{hour}")
        low, high = NOISE
        return low * (high / low) ** random.random(), random.random() < FAILS


def make(setting: Setting, seed: int, clouds: int, machines: int, days: int) -> World:
    """The world of a seed."""
    random, hours = Random(f"{setting.name}/{seed}"), days * 24
    fleet = [_machine(random, number, machines, hours) for number in range(machines)]
    demand = sum(machine.vcpus for machine in fleet)
    names = [f"cloud-{number:02}" for number in range(clouds)]
    found = {
        name: _cloud(random, name, number < setting.spot * clouds, setting, hours, demand / clouds)
        for number, name in enumerate(names)
    }
    places = {name: (random.random(), random.random()) for name in names}
    rtt, goodput = {}, {}
    for one in names:
        for other in names:
            if one != other:
                away = math.dist(places[one], places[other])
                rtt[one, other] = 0.005 + 0.2 * away
                goodput[one, other] = random.uniform(60, 400) / (1 + away)
    return World(setting, seed, hours, found, fleet, goodput, rtt)


def _machine(random: Random, number: int, machines: int, hours: int) -> Machine:
    vcpus = random.choice((1, 2, 2, 4, 4, 8, 16))
    disk = random.choice((20, 40, 80, 160))
    arrives = 0 if number < 0.7 * machines else random.randrange(hours - 24)
    stays = 24 + int(random.expovariate(1 / (24 * 30)))
    return Machine(
        name=f"vm-{number:03}",
        vcpus=vcpus,
        memory_gib=vcpus * random.choice((2, 4, 8)),
        disk_gib=disk,
        wire_gib=disk * random.uniform(0.15, 0.6),
        arrives=arrives,
        leaves=min(arrives + stays, hours),
    )


def _cloud(
    random: Random, name: str, spot: bool, setting: Setting, hours: int, fair: float
) -> Cloud:
    tainted: set[int] = set()
    out: set[int] = set()
    if setting.outages:
        # Announced work once a month, and a failure that nobody announced every second month.
        begins = random.randrange(hours)
        length = random.randrange(4, 13)
        tainted |= set(range(begins - 24, begins + length))
        out |= set(range(begins, begins + length))
        if random.random() < hours / (24 * 60):
            begins, length = random.randrange(hours), random.randrange(1, 7)
            out |= set(range(begins, begins + length))
            tainted |= set(range(begins, begins + length))
    return Cloud(
        name=name,
        levels=tuple(_levels(random, spot, setting, hours)),
        egress_gib=random.uniform(0, 2 * setting.egress),
        vcpus=int(fair * random.uniform(1.2, 3.0)) + 16,
        tainted=frozenset(tainted & set(range(hours))),
        out=frozenset(out & set(range(hours))),
    )


def _levels(random: Random, spot: bool, setting: Setting, hours: int) -> list[float]:
    base = math.exp(random.gauss(0, 0.12)) * (0.85 if spot else 1.0)
    regime = noise = spike = 0.0
    height, phase = random.uniform(0.0, 0.12), random.uniform(0, 24)
    levels = []
    for hour in range(hours):
        if random.random() < 1 / setting.regime_hours:
            regime = random.gauss(0, setting.regime_spread)
        level = base * math.exp(regime)
        if spot:
            noise = 0.9 * noise + random.gauss(0, 0.02)
            if random.random() < 1 / setting.spike_hours:
                spike = random.uniform(0.3, 1.0)
            elif random.random() < 1 / 5:
                spike = 0.0
            day = height * math.sin(2 * math.pi * (hour - phase) / 24)
            level *= math.exp(noise + spike + day)
        levels.append(round(level, 4))
    return levels
