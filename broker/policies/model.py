"""The vocabulary of automatic placement: what a decision is given, and what it says. Pure.

Moments are seconds since 1970, durations are seconds unless the name says hours, money is in units
of the policy's currency. Floats: forecasts are estimates, and nothing here is invoiced.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import cached_property

from broker import amounts

DAY = 86_400.0
HOUR = 3_600.0


class Objective(StrEnum):
    """What a policy is after."""

    COST = "cost"
    """The hourly price."""
    LATENCY = "latency"
    """The hourly price, and the round trip to the users at the policy's price of a millisecond."""
    EVACUATE = "evacuate"
    """Nothing, but to leave a cloud that is tainted or has become dearer than it may."""
    CONSOLIDATE = "consolidate"
    """The hourly prices, and the price of being present in a cloud at all: few clouds."""
    SCHEDULE = "schedule"
    """To be where the policy's schedule says."""


class Automation(IntEnum):
    """How much may happen without a person; ordered, and the numbers of the contract."""

    MANUAL = 1
    APPROVED = 2
    AUTOMATIC = 3


class Cause(StrEnum):
    """Why a machine is to move; earlier ones are served first."""

    TAINT = "taint"
    """Of one whose end is known, only where that costs less than to wait for it: `waiting`."""
    PRICE_CHANGE = "price_change"
    SCHEDULE = "schedule"
    RETURN = "return"
    """Back to where it is compared with: its allowance is used up."""
    SAVING = "saving"
    CONSOLIDATION = "consolidation"


FORCED = frozenset({Cause.TAINT, Cause.PRICE_CHANGE, Cause.SCHEDULE})
"""Causes that need no saving: neither that nor residency counts, budgets do."""


@dataclass(frozen=True)
class Window:
    """A part of each day, UTC, in which machines belong into certain clouds."""

    from_minute: int
    """0 to 1,439."""
    to_minute: int
    """Exclusive; one that is not later than `from_minute` is on the next day."""
    clouds: tuple[str, ...]
    """Any of these."""

    def covers(self, minute: int) -> bool:
        """Whether a minute of the day lies in it."""
        if self.from_minute < self.to_minute:
            return self.from_minute <= minute < self.to_minute
        return minute >= self.from_minute or minute < self.to_minute


@dataclass(frozen=True)
class Policy:
    """What one tenant wants of automatic placement."""

    policy_id: str
    tenant: str
    objective: Objective = Objective.COST
    currency: str = "EUR"
    automation: Automation = Automation.MANUAL

    moves_per_vm_day_max: int = 2
    """Within any 24 hours. From 2 on, the last one is kept for evacuations."""
    moves_per_cloud_hour_max: int = 20
    """Into and out of one cloud, within any hour: what its links and its manager must bear."""
    moves_per_hour_max: int = 50
    """Of the whole policy, within any hour."""
    residency_seconds_min: float = 6 * HOUR
    """Stays at least; a migration that is undone at once was for nothing."""
    cooldown_seconds: float = HOUR
    """Rest after a move that failed; another attempt at once meets what the first one met."""

    horizon_seconds: float = 7 * DAY
    """How far ahead savings count."""
    discount_per_day: float = 0.05
    """What is saved a day later counts so much less: the machine may be gone by then."""
    hysteresis: float = 0.25
    """A move must save its cost and this share of it besides."""
    saving_min: float = 0.0
    """And this much on top, of money."""
    confidence: float = 0.5
    """Standard deviations of the forecast by which savings are counted lower."""
    patience: float = 0.25
    """Share of a move's cost that staying must have cost too much already. 2 is the work function's
    rule for two clouds: at most 3 times the best that was possible."""
    allowance: float = 0.1
    """A machine costs at most this share more than at home, see `ledger`."""
    allowance_hours: float = 72.0
    """So many hours at home are the allowance that it starts with."""

    downtime_hour_price: float = 1.0
    """What an hour of standstill costs one machine."""
    latency_ms_hour_price: float = 0.0
    """What a millisecond of round trip to the users costs an hour (LATENCY)."""
    presence_hour_price: float = 0.0
    """What it costs an hour to have machines in a cloud at all (CONSOLIDATE)."""
    price_rise_max: float | None = None
    """Share by which a cloud may become dearer than at arrival before the machine leaves it."""
    schedule: tuple[Window, ...] = ()
    """The first window that covers the time holds (SCHEDULE)."""


@dataclass(frozen=True)
class Machine:
    """A machine that a policy covers."""

    vm_id: str
    cloud_id: str
    since: float
    """When it arrived, or was made, there."""
    resources: amounts.Amounts = field(default_factory=dict)
    moves: tuple[float, ...] = ()
    """When its moves of the last 24 hours began, failed ones included."""
    failed_at: float | None = None
    """When its last move failed."""
    runs: bool = True
    """Whether it is on: one that is off loses nothing where it cannot be used."""
    busy: str = ""
    """What it is doing that keeps it from being moved, such as a migration's id."""


@dataclass(frozen=True)
class Move:
    """A move that was begun; what budgets count."""

    vm_id: str
    from_cloud: str
    to_cloud: str
    began_at: float


@dataclass(frozen=True)
class MoveCost:
    """What a move is estimated to take."""

    transfer_bytes: float = 0.0
    egress: float = 0.0
    """Money to the source, and over the link."""
    flat: float = 0.0
    """Money to both clouds, `migration_flat`."""
    overlap: float = 0.0
    """Money to the destination for the room it keeps while the machine is copied."""
    downtime_seconds: float = 0.0
    downtime: float = 0.0
    """Money, at the policy's price."""
    duration_seconds: float = 0.0
    """From its beginning to its end."""

    @property
    def total(self) -> float:
        """Money."""
        return self.egress + self.flat + self.overlap + self.downtime


@dataclass(frozen=True)
class Outlook:
    """What a cloud's prices are expected to be on average over the horizon, of those of now."""

    mean: float = 1.0
    deviation: float = 0.0
    """Standard deviation of that average."""


@dataclass(frozen=True)
class Standing:
    """What has been learnt of one machine since it is watched; see `ledger`."""

    home: str
    """The cloud that its costs are compared with: where it was taken up, or evacuated to."""
    regret: Mapping[str, float] = field(default_factory=dict)
    """By cloud: money by which staying has been dearer than that cloud."""
    allowance: float = 0.0
    """Money that automatic placement may still lose against staying at home."""
    arrival_price: float | None = None
    """An hour's price here when it arrived."""


Feasible = Callable[[Machine, str, Sequence[Machine]], str]
"""Whether a cloud takes the machine together with those already planned to go there: empty, or why
not in words. Taints, leases, constraints and room are its business."""

Pricing = Callable[[Machine, str], float | None]
"""An hour's price of the machine in a cloud now; None where there is none in the currency."""

Costing = Callable[[Machine, str], MoveCost | None]
"""What moving the machine to a cloud takes; None where no link is known."""

Latency = Callable[[Machine, str], float | None]
"""Milliseconds from a cloud to the machine's users; None where that is not known."""


@dataclass(frozen=True)
class Situation:
    """All that a decision depends on."""

    now: float
    policy: Policy
    clouds: Sequence[str]
    """Clouds to consider; ties are decided in this order."""
    machines: Sequence[Machine]
    standings: Mapping[str, Standing]
    """By machine; one without is not moved for savings yet."""
    feasible: Feasible
    price: Pricing
    move_cost: Costing
    taints: Mapping[str, str] = field(default_factory=dict)
    """By cloud: why machines are to leave it, in words (a taint, an outage)."""
    taint_ends: Mapping[str, float] = field(default_factory=dict)
    """By cloud of `taints`: when all that is said of it is expected to be over. One without is left
    whatever that costs."""
    outlooks: Mapping[str, Outlook] = field(default_factory=dict)
    """By cloud; one without is expected to stay as it is, for certain."""
    latency: Latency | None = None
    """For LATENCY."""
    recent: Sequence[Move] = ()
    """Moves of the last hour, of all machines that share the budgets."""

    @cached_property
    def used(self) -> frozenset[str]:
        """Clouds with a machine of the policy."""
        return frozenset(machine.cloud_id for machine in self.machines)


@dataclass(frozen=True)
class Reckoning:
    """The two numbers that a decision compares."""

    hourly_saving: float
    """Now."""
    saving: float
    """Expected over the horizon, discounted, before doubt is subtracted."""
    deviation: float
    """Standard deviation of it."""
    sure_saving: float
    """`saving` less the policy's confidence times the deviation."""
    move_cost: MoveCost
    needed: float
    """What `sure_saving` must be at least: cost, hysteresis and least saving."""

    @property
    def margin(self) -> float:
        """How far beyond what is needed; negative when it does not pay."""
        return self.sure_saving - self.needed


@dataclass(frozen=True)
class Proposal:
    """A machine that ought to move."""

    vm_id: str
    from_cloud: str
    to_cloud: str
    cause: Cause
    reason: str
    """In words, with both numbers."""
    counterfactual: str
    """What would have to be different for it to stay, in words."""
    reckoning: Reckoning


@dataclass(frozen=True)
class Stay:
    """A machine that stays where it is."""

    vm_id: str
    cloud_id: str
    rule: str
    """The name of what keeps it: "saving", "patience", "allowance", "residency", "cooldown",
    "budget", "feasible", "busy", "best", "unwatched", "taint"."""
    reason: str
    counterfactual: str
    """What would make it move, in words."""
    to_cloud: str = ""
    """The best of the clouds that it does not move to, if there is any."""
    reckoning: Reckoning | None = None


@dataclass(frozen=True)
class Decision:
    """Every machine of the situation, once: it moves or it stays."""

    moves: tuple[Proposal, ...] = ()
    """In the order in which they are to be begun."""
    stays: tuple[Stay, ...] = ()


Deciding = Callable[[Situation], Decision]
"""The interface of a decision: `deciding.decide`, or a solver in its place."""
