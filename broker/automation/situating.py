"""Lays out what a decision needs: a policy's machines on a snapshot of the directory. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from statistics import fmean

from broker import amounts, demands, feasible, inflight, pricing
from broker.automation import costs
from broker.automation.costs import Estimate, Way
from broker.automation.memory import Known
from broker.automation.policy_rows import Held
from broker.criteria import Criteria
from broker.policies.forecast import Forecaster
from broker.policies.model import DAY, Machine, Move, MoveCost, Outlook, Situation
from broker.question import Question, distance, listed
from broker.snapshot import Snapshot
from watari.v1 import broker_pb2, manager_pb2

REFERENCE = {"vcpus": 1, "memory": 4 * 1024**3, "disk": 40 * 1024**3}
"""The machine whose price a cloud's history is one of."""

DECISIONS_MAX = 20_000
"""What is in flight and planned, together: more than the broker holds in flight by default."""

Way3 = tuple[str, str, str]
"""A machine, where it is, where it would go."""


@dataclass
class Ground:
    """One policy's machines and clouds at one moment. Filled with estimates as these come."""

    held: Held
    snapshot: Snapshot
    now: datetime
    vms: Mapping[str, manager_pb2.Vm]
    """By id, each as the manager of the cloud that it is in told."""
    in_flight: inflight.Ledger = field(default_factory=inflight.Ledger)
    assumed_bytes_per_second: float = 12_500_000.0
    estimates: dict[Way3, Estimate | str] = field(default_factory=dict)
    """What managers found, or why it cannot be planned now, in words."""

    def __post_init__(self) -> None:
        said = self.held.delegation
        known = self.snapshot.clouds
        named = sorted({*said.from_clouds, *said.to_clouds})
        self.clouds = tuple(cloud_id for cloud_id in named if cloud_id in known)
        self._prices: dict[tuple[str, str], float | None] = {}
        self._criteria: dict[tuple[str, str], Criteria] = {}

    @property
    def seconds(self) -> float:
        """Now, since 1970."""
        return self.now.timestamp()

    def machine(self, vm: manager_pb2.Vm, known: Known | None, begun: Iterable[Move]) -> Machine:
        """A machine as decisions see it."""
        cloud = self.snapshot.clouds[vm.cloud_id]
        busy = ""
        if vm.migration_id:
            busy = f"migration {vm.migration_id} moves it"
        elif vm.problem.ByteSize():
            busy = f"{vm.problem.reason}: {vm.problem.message}"
        elif cloud.stale:
            busy = f"what the directory has of {vm.cloud_id} is old"
        here = known if known is not None and known.cloud_id == vm.cloud_id else None
        # One that turned up elsewhere than it was has just arrived; one that is seen for the first
        # time was there before.
        since = here.since if here else (self.seconds if known else 0.0)
        return Machine(
            vm_id=vm.vm_id,
            cloud_id=vm.cloud_id,
            since=since,
            resources=amounts.of(vm.resources),
            moves=tuple(
                move.began_at
                for move in begun
                if move.vm_id == vm.vm_id and move.began_at > self.seconds - DAY
            ),
            failed_at=known.failed_at if known else None,
            runs=costs.runs(vm),
            busy=busy,
        )

    def situation(
        self,
        machines: Sequence[Machine],
        recent: Sequence[Move],
        forecasts: Mapping[str, Forecaster],
    ) -> Situation:
        """Without standings: those follow from its prices."""
        policy = self.held.policy
        return Situation(
            now=self.seconds,
            policy=policy,
            clouds=self.clouds,
            machines=machines,
            standings={},
            feasible=self.feasible,
            price=self.price,
            move_cost=self.move_cost,
            taints={
                cloud_id: f"its provider keeps machines away ({listed(cloud.taints)})"
                for cloud_id in self.clouds
                if (cloud := self.snapshot.clouds[cloud_id]).taints
            },
            taint_ends={
                cloud_id: max(end.timestamp() for end in cloud.taint_ends.values())
                for cloud_id in self.clouds
                if (cloud := self.snapshot.clouds[cloud_id]).taints
                and set(cloud.taints) == set(cloud.taint_ends)
            },
            outlooks=self._outlooks(forecasts),
            latency=self.latency,
            recent=recent,
        )

    def price(self, machine: Machine, cloud_id: str) -> float | None:
        """An hour's price by the cheapest offer that holds now."""
        key = (machine.vm_id, cloud_id)
        if key not in self._prices:
            sheet = self._sheet(machine.resources, cloud_id)
            self._prices[key] = (
                None if sheet is None else float(pricing.hourly(sheet, machine.resources).amount)
            )
        return self._prices[key]

    def feasible(self, machine: Machine, cloud_id: str, incoming: Sequence[Machine]) -> str:
        """Why the cloud does not take it besides those; empty if it does."""
        found = self.estimates.get((machine.vm_id, machine.cloud_id, cloud_id))
        if isinstance(found, str):
            return found
        if cloud_id not in self.snapshot.clouds:
            return "the directory does not have it"
        snapshot = self._with(cloud_id, incoming)
        cloud = snapshot.clouds[cloud_id]
        question = Question(self._wanted(machine), snapshot, self.now)
        for rejection in feasible.cloud_rejections(question, cloud):
            return rejection.reason
        refusals = []
        for offer in cloud.offers:
            own = list(feasible.offer_rejections(question, cloud, offer))
            if not own:
                return ""
            refusals.append(own[0].reason)
        return refusals[0]

    def move_cost(self, machine: Machine, to_cloud: str) -> MoveCost | None:
        """By the manager's estimate where there is one, else by the directory."""
        here = machine.cloud_id
        if here == to_cloud:
            return MoveCost()
        vm, hourly = self.vms[machine.vm_id], self.price(machine, to_cloud)
        if hourly is None:
            return None
        still = self.held.policy.downtime_hour_price
        found = self.estimates.get((machine.vm_id, here, to_cloud))
        if isinstance(found, Estimate):
            return costs.by_the_manager(vm, found, hourly=hourly, downtime_hour_price=still)
        return costs.by_the_sheets(
            vm,
            self._way(here, to_cloud),
            self._sheet(machine.resources, here),
            self._sheet(machine.resources, to_cloud),
            hourly=hourly,
            downtime_hour_price=still,
            mode=self.held.message.mode,
        )

    def latency(self, machine: Machine, cloud_id: str) -> float | None:
        """Milliseconds, on average, to the clouds that the policy's `requirements.links` name."""
        question = Question(self._wanted(machine), self.snapshot, self.now)
        trips = []
        for limit in question.criteria.links:
            if limit.cloud_id == cloud_id:
                trips.append(0.0)
                continue
            rtt_ms, _ = distance(question, limit.cloud_id, cloud_id)
            if rtt_ms is None:
                return None
            trips.append(rtt_ms)
        return fmean(trips) if trips else 0.0

    def levels(self) -> dict[str, float]:
        """What the reference machine costs an hour in each cloud, where that is more than 0."""
        found = {}
        for cloud_id in self.clouds:
            sheet = self._sheet(REFERENCE, cloud_id)
            level = 0.0 if sheet is None else float(pricing.hourly(sheet, REFERENCE).amount)
            if level > 0.0:
                found[cloud_id] = level
        return found

    def _outlooks(self, forecasts: Mapping[str, Forecaster]) -> dict[str, Outlook]:
        policy = self.held.policy
        return {
            cloud_id: forecasts[cloud_id].outlook(policy.horizon_seconds, policy.discount_per_day)
            for cloud_id in self.clouds
            if cloud_id in forecasts
        }

    def _sheet(self, needed: amounts.Amounts, cloud_id: str) -> pricing.Sheet | None:
        """The cheapest sheet that may be bought by now in the policy's currency and regions."""
        cloud, regions = self.snapshot.clouds.get(cloud_id), self.held.message.requirements.regions
        if cloud is None:
            return None
        sheets = [
            offer.prices
            for offer in cloud.offers
            if offer.prices is not None
            and offer.prices.currency == self.held.policy.currency
            and not (cloud.stale or offer.stale)
            and (offer.valid_from is None or offer.valid_from <= self.now)
            and (offer.valid_until is None or self.now < offer.valid_until)
            and (not regions or offer.region in regions)
        ]
        return min(sheets, key=lambda sheet: pricing.hourly(sheet, needed).amount, default=None)

    def _way(self, here: str, there: str) -> Way:
        throughput, rtt_ms = 0, 0.0
        for ends in ((here, there), (there, here)):
            link = self.snapshot.links.get(ends)
            if link is not None and link.usable(self.now):
                throughput = throughput or link.throughput
                rtt_ms = rtt_ms or link.rtt_ms
        return Way(throughput or self.assumed_bytes_per_second, rtt_ms / 1000)

    def _wanted(self, machine: Machine) -> Criteria:
        key = (machine.vm_id, machine.cloud_id)
        if key not in self._criteria:
            request = request_of(self.held, machine.vm_id, machine.cloud_id)
            made = demands.of_migrate(request, self.vms[machine.vm_id].resources)
            to_clouds = tuple(self.held.delegation.to_clouds)
            self._criteria[key] = replace(made, to_clouds=to_clouds)
        return self._criteria[key]

    def _with(self, cloud_id: str, incoming: Sequence[Machine]) -> Snapshot:
        """The snapshot once what is in flight and these are there; they count in every region of
        the cloud, since which one takes them is not known yet.
        """
        ledger, needed = self.in_flight, dict[str, int]()
        for each in incoming:
            for kind, amount in each.resources.items():
                needed[kind] = needed.get(kind, 0) + amount
        # As one: a ledger of thousands would be copied for each of them.
        for region in self.snapshot.clouds[cloud_id].capacities if incoming else ():
            told = f"planned/{region}"
            decision = inflight.Decision(told, cloud_id, region, needed, self.now)
            ledger = ledger.noted(decision, DECISIONS_MAX)
        return ledger.adjusted(self.snapshot)


def request_of(held: Held, vm_id: str, from_cloud: str) -> broker_pb2.MigrateRequest:
    """What is asked of `broker.migrate` for a machine of the policy; without an id yet."""
    request = broker_pb2.MigrateRequest(
        from_cloud=from_cloud,
        vm=vm_id,
        requirements=held.message.requirements,
        weights=held.message.weights,
        mode=held.message.mode,
        delegation=held.document,
    )
    request.requirements.ClearField("resources")
    return request
