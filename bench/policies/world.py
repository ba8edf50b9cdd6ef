"""A month of prices, machines, links, maintenance and outages, made from a seed. Pure.

Amounts are EUR; a dollar of a list that is quoted counts as one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from bench.policies import prices
from bench.policies.prices import Kind

VCPU_HOUR, MEMORY_GIB_HOUR, DISK_GIB_HOUR = 0.02, 0.004, 0.0001
"""Of a cloud at level 1: between the on-demand lists of large providers (Google's E2: 0.022 and
0.003; 0.04 to 0.10 a month for a GB of disk) and of small ones."""

EGRESS_GIB = (0.0, 0.09)
"""Least and most: from lists where traffic is included to those of the largest (0.087 to 0.12)."""

EGRESS_GIB_DEAR = (0.087, 0.12)
"""The largest only."""

FLAT = 0.05
"""To either cloud for a migration; assumed."""

WIRE = (0.15, 0.6)
"""Share of a disk that is sent, compressed and without what the other side has; assumed."""

GOODPUT_GIB_HOUR = (60, 400)
"""0.14 to 0.95 Gbit/s between neighbours, and half of it between the ends of the earth; assumed."""

NOISE = (0.8, 1.25)
"""A migration takes so many times what was estimated; assumed."""

FAILS = 0.03
"""Migrations that fail, at half of their cost; assumed."""

MAINTENANCE_HOURS, MAINTENANCE_LASTS, MAINTENANCE_NOTICE = 60 * 24, (2, 6), 24
"""Mean time between announced works, how long they last, and how long before they are known."""

OUTAGE_HOURS, OUTAGE_LASTS = 180 * 24, (1, 6)
"""The same of failures. Together a cloud is there 99.6 % of the time: near the 99.5 %
that Amazon's service level agreement promises of one EC2 instance, without announced works."""


@dataclass(frozen=True)
class Setting:
    """How the world behaves."""

    name: str
    told: str
    kinds: Sequence[Kind]
    """Of the clouds, in turn."""
    egress_gib: tuple[float, float] = EGRESS_GIB
    outages: bool = True


MIXED = (Kind.LIST, Kind.MONTHLY, Kind.LIST, Kind.GRADUAL, Kind.LIST, Kind.AUCTION)

SETTINGS: Mapping[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("mixed", "half lists, a sixth of each other kind", MIXED),
        Setting("list", "all lists", (Kind.LIST,)),
        Setting("monthly", "all change once a month", (Kind.MONTHLY,)),
        Setting("gradual", "all change slowly, every hour", (Kind.GRADUAL,)),
        Setting("auction", "all are auctions with peaks", (Kind.AUCTION,)),
        Setting("egress", "mixed, where traffic is dear", MIXED, EGRESS_GIB_DEAR),
        Setting("calm", "mixed, without outages", MIXED, outages=False),
        Setting("flat", "nothing changes", (Kind.FLAT,), outages=False),
    )
}
"""By name. None was left out for what it shows; in the last one there is little to gain."""


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
        name: _cloud(
            random,
            name,
            setting.kinds[number % len(setting.kinds)],
            setting,
            hours,
            demand / clouds,
        )
        for number, name in enumerate(names)
    }
    places = {name: (random.random(), random.random()) for name in names}
    rtt, goodput = {}, {}
    for one in names:
        for other in names:
            if one != other:
                away = math.dist(places[one], places[other])
                rtt[one, other] = 0.005 + 0.2 * away
                goodput[one, other] = random.uniform(*GOODPUT_GIB_HOUR) / (1 + away)
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
        wire_gib=disk * random.uniform(*WIRE),
        arrives=arrives,
        leaves=min(arrives + stays, hours),
    )


def _cloud(
    random: Random, name: str, kind: Kind, setting: Setting, hours: int, fair: float
) -> Cloud:
    tainted: set[int] = set()
    out: set[int] = set()
    if setting.outages:
        for begins, length in _spells(random, hours, MAINTENANCE_HOURS, MAINTENANCE_LASTS):
            tainted |= set(range(begins - MAINTENANCE_NOTICE, begins + length))
            out |= set(range(begins, begins + length))
        for begins, length in _spells(random, hours, OUTAGE_HOURS, OUTAGE_LASTS):
            tainted |= set(range(begins, begins + length))
            out |= set(range(begins, begins + length))
    return Cloud(
        name=name,
        levels=prices.levels(random, kind, hours),
        egress_gib=random.uniform(*setting.egress_gib),
        vcpus=int(fair * random.uniform(1.2, 3.0)) + 16,
        tainted=frozenset(tainted & set(range(hours))),
        out=frozenset(out & set(range(hours))),
    )


def _spells(
    random: Random, hours: int, mean_hours: int, lasts: tuple[int, int]
) -> Sequence[tuple[int, int]]:
    """When each begins and how long it lasts, hours; as rare as chance has it."""
    # What is announced before the end may begin after it.
    span = hours + MAINTENANCE_NOTICE
    begins = [hour for hour in range(span) if random.random() < 1 / mean_hours]
    return [(hour, random.randint(*lasts)) for hour in begins]
