"""The problem as arrays: N machines, M places, R resource classes. Pure.

A place is one region of one cloud, which is where room is counted. Amounts are integers in a
class's own unit; costs are in one currency, over the whole horizon.
"""

import enum
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NOWHERE = -1
"""In `current`, `group` and assignments: no cloud, no group, not placed."""

AMOUNT_MAX = 2**50
"""Largest amount that a machine may need: sums over all machines stay below 2^63."""

ROOM_MAX = 2**62
"""More room than this counts as this much."""

UNPLACED_FACTOR = 4.0
"""Leaving a machine out costs its weight times this times what its dearest place costs: more than
moving several others out of its way, and still of the size of real costs, so that a gap of 1 %
means something."""


class Level(enum.IntEnum):
    """What members of a group with affinity share."""

    CLOUD = 0
    REGION = 1
    JURISDICTION = 2


@dataclass(frozen=True)
class Group:
    """A rule about those members of a group that are placed."""

    together: Level | None = None
    """Affinity: all of them in one cloud, region or jurisdiction."""
    per_cloud_max: int = 0
    """Anti-affinity: at most so many of them in one cloud; 1 is all apart, 0 is no limit."""


@dataclass(frozen=True)
class Problem:
    """What is to be placed, and where it may go."""

    need: Ints
    """(N, R) what each machine consumes, 0 to AMOUNT_MAX."""
    current: Ints
    """(N,) the cloud that a machine is in, or NOWHERE. Staying takes no further room there, and
    leaving makes none: what is left comes free only after the move."""
    group: Ints
    """(N,) index into `groups`, or NOWHERE."""
    weight: Floats
    """(N,) importance, positive; only matters where not all can be placed."""
    feasible: Bools
    """(N, M) whether a machine may be in a place as far as anything but room goes."""
    cost: Floats
    """(N, M) price over the horizon and cost of the move, 0 or more; read where feasible."""
    free: Ints
    """(M, R) room of each place."""
    largest: Ints
    """(M, R) the largest machine that one host of the place takes."""
    domains: Ints
    """(3, M) for each Level which cloud, region and jurisdiction a place is in."""
    groups: tuple[Group, ...] = ()
    vm_score: Floats | None = field(default=None)
    """(N, M) how much a machine likes a place; more is better. None: the cheaper the better."""
    place_score: Floats | None = field(default=None)
    """(N, M) how much a place likes a machine; more is better. None: see `stable.place_scores`."""

    def __post_init__(self) -> None:
        machines, classes = self.need.shape
        places = self.free.shape[0]
        shapes = {
            "current": (machines,),
            "group": (machines,),
            "weight": (machines,),
            "feasible": (machines, places),
            "cost": (machines, places),
            "free": (places, classes),
            "largest": (places, classes),
            "domains": (len(Level), places),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, not {shape}")
        if machines and (self.need.min(initial=0) < 0 or self.need.max(initial=0) > AMOUNT_MAX):
            raise ValueError("need is out of bounds")
        if not (self.weight > 0).all():
            raise ValueError("weight is not positive")
        told = self.cost[self.feasible]
        if not (np.isfinite(told).all() and (told >= 0).all()):
            raise ValueError("cost is negative or not finite")

    @property
    def machines(self) -> int:
        """N."""
        return int(self.need.shape[0])

    @property
    def places(self) -> int:
        """M."""
        return int(self.free.shape[0])

    @property
    def cloud(self) -> Ints:
        """(M,) the cloud of each place."""
        clouds: Ints = self.domains[Level.CLOUD]
        return clouds

    @cached_property
    def stays(self) -> Bools:
        """(N, M) whether the place is in the cloud where the machine is already."""
        same: Bools = self.current[:, None] == self.cloud[None, :]
        known: Bools = self.current != NOWHERE
        stays: Bools = same & known[:, None]
        return stays

    @cached_property
    def allowed(self) -> Bools:
        """(N, M) feasible, and small enough for the largest host and for the whole place."""
        fits = self.stays.copy()
        most = np.minimum(self.largest, self.free)
        for place in range(self.places):
            fits[:, place] |= (self.need <= most[place]).all(axis=1)
        allowed: Bools = self.feasible & fits
        return allowed

    @cached_property
    def penalty(self) -> Floats:
        """(N,) what leaving a machine out costs; 0 where no place is allowed."""
        dearest = np.where(self.allowed, self.cost, 0.0).max(axis=1, initial=0.0)
        floor = max(1e-6, float(dearest.max(initial=0.0)) * 1e-3)
        own = UNPLACED_FACTOR * self.weight * np.maximum(dearest, floor)
        return np.where(self.allowed.any(axis=1), own, 0.0)

    def objective(self, assignment: Ints) -> float:
        """Costs of those placed and penalties of those left out."""
        rows = np.flatnonzero(assignment != NOWHERE)
        left = assignment == NOWHERE
        return float(self.cost[rows, assignment[rows]].sum() + self.penalty[left].sum())

    def simple_bound(self) -> float:
        """Everybody at the cheapest allowed place, as if all had room: nothing costs less."""
        cheapest = np.where(self.allowed, self.cost, np.inf).min(axis=1, initial=np.inf)
        return float(np.minimum(cheapest, self.penalty).sum())
