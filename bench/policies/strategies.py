"""What is compared: the product's decisions, and rules that need none."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench.policies.running import Guest, Moving, Run
from broker.policies import deciding, forecast, ledger, plans, reckoning
from broker.policies.model import (
    Cause,
    Machine,
    MoveCost,
    Objective,
    Outlook,
    Policy,
    Proposal,
    Reckoning,
    Situation,
    Standing,
)

_NOTHING = Reckoning(0.0, 0.0, 0.0, 0.0, MoveCost(), 0.0)


class Stay:
    """Nothing ever moves."""

    def decide(self, _run: Run) -> Sequence[Proposal]:
        return ()

    def arrived(self, _run: Run, guest: Guest, _moving: Moving) -> None:
        raise RuntimeError(f"{guest.machine.name} was to stay")


class Cheapest:
    """Every machine goes to the cheapest cloud with room, whenever that is another one.

    With `evacuates` also out of a cloud that is marked, whatever the others ask.
    """

    def __init__(self, *, evacuates: bool = False) -> None:
        self._evacuates = evacuates

    def decide(self, run: Run) -> Sequence[Proposal]:
        found = []
        planned: Counter[str] = Counter()
        for guest in run.guests.values():
            here = run.world.clouds[guest.cloud]
            if guest.moving is not None or run.hour in here.out:
                continue
            leaves = self._evacuates and run.hour in here.tainted
            most = math.inf if leaves else run.price(guest.machine, guest.cloud)
            cloud = self._cheapest(run, guest, most, planned)
            if cloud is not None:
                planned[cloud] += guest.machine.vcpus
                cause = Cause.TAINT if leaves else Cause.SAVING
                name = guest.machine.name
                found.append(Proposal(name, guest.cloud, cloud, cause, "", "", _NOTHING))
        return found

    @staticmethod
    def _cheapest(run: Run, guest: Guest, below: float, planned: Mapping[str, int]) -> str | None:
        """With room, and a price below this."""
        machine = guest.machine
        for cloud in sorted(run.world.clouds, key=lambda each: run.price(machine, each)):
            if run.price(machine, cloud) >= below:
                return None
            if not run.unfit(cloud, machine.vcpus + planned.get(cloud, 0)):
                return cloud
        return None

    def arrived(self, _run: Run, _guest: Guest, _moving: Moving) -> None:
        """Nothing to remember."""


class Automatic:
    """The product: forecasts, ledgers, decisions and plans of `broker.policies`."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.standings: dict[str, Standing] = {}
        self._forecasts: dict[str, forecast.Forecaster] = {}
        self._plans: tuple[plans.Plan, ...] = ()
        self._burdens: dict[str, tuple[str, dict[str, float]]] = {}

    def decide(self, run: Run) -> Sequence[Proposal]:
        situation = self._situation(run)
        self._remember(situation)
        decision = deciding.decide(situation)
        renewal = plans.renew(
            self._plans,
            decision,
            self.policy,
            self.policy.automation,
            f"plan-{run.hour}",
            run.now,
        )
        live = {vm_id for plan in self._plans for vm_id in plan.live()}
        if renewal.plan is None:
            return ()
        plan = renewal.plan
        for action in plan.actions:
            vm_id = action.proposal.vm_id
            if vm_id in live:
                raise RuntimeError(f"{vm_id} is in two live plans")
            plan = plans.begin(plan, vm_id, f"{plan.plan_id}/{vm_id}", run.now)
        self._plans = (*self._plans, plan)
        return [action.proposal for action in plan.actions]

    def arrived(self, run: Run, guest: Guest, moving: Moving) -> None:
        name = guest.machine.name
        # The last hour in the old cloud counts there, before the move closes its account.
        self._advance(name)
        self._burdens.pop(name)
        price = run.price(guest.machine, guest.cloud)
        self.standings[name] = ledger.arrived(
            self.standings[name], moving.cause, guest.cloud, moving.cost, price
        )

    def _situation(self, run: Run) -> Situation:
        policy, world = self.policy, run.world
        for name, cloud in world.clouds.items():
            history = self._forecasts.get(name, forecast.Forecaster())
            self._forecasts[name] = history.seen(run.now, cloud.levels[run.hour])
        self._finish(run)
        levels = {name: cloud.levels[run.hour] for name, cloud in world.clouds.items()}
        guests = run.guests

        def price(machine: Machine, cloud: str) -> float | None:
            return guests[machine.vm_id].machine.unit * levels[cloud]

        def cost(machine: Machine, cloud: str) -> MoveCost | None:
            if cloud == machine.cloud_id:
                return MoveCost()
            return run.move_cost(guests[machine.vm_id].machine, machine.cloud_id, cloud)

        def unfit(machine: Machine, cloud: str, incoming: Sequence[Machine]) -> str:
            wanted = sum(guests[each.vm_id].machine.vcpus for each in (machine, *incoming))
            return run.unfit(cloud, wanted)

        return Situation(
            now=run.now,
            policy=policy,
            clouds=tuple(world.clouds),
            machines=[_machine(run, guest) for guest in guests.values()],
            standings=self.standings,
            feasible=unfit,
            price=price,
            move_cost=cost,
            taints={
                name: "is marked for maintenance"
                for name, cloud in world.clouds.items()
                if run.hour in cloud.tainted
            },
            outlooks=self._outlooks(),
            recent=run.recent,
        )

    def _outlooks(self) -> Mapping[str, Outlook]:
        policy = self.policy
        return {
            name: history.outlook(policy.horizon_seconds, policy.discount_per_day)
            for name, history in self._forecasts.items()
        }

    def _remember(self, situation: Situation) -> None:
        """Advances every ledger by the hour that has passed, at the prices that held in it."""
        for machine in situation.machines:
            name = machine.vm_id
            now = reckoning.burdens(situation, machine)
            if name in self._burdens:
                self._advance(name)
            elif name not in self.standings:
                price = situation.price(machine, machine.cloud_id)
                self.standings[name] = ledger.begin(machine.cloud_id, now, price, self.policy)
            self._burdens[name] = machine.cloud_id, now

    def _advance(self, name: str) -> None:
        cloud, burdens = self._burdens[name]
        self.standings[name] = ledger.advance(
            self.standings[name], cloud, burdens, 1.0, self.policy
        )

    def _finish(self, run: Run) -> None:
        """Ends the actions of migrations that have ended."""
        left = []
        for plan in self._plans:
            after = plan
            for vm_id in plan.live():
                guest = run.guests.get(vm_id)
                if guest is None:
                    after = plans.finish(after, vm_id, "the machine is gone", run.now)
                elif guest.moving is None:
                    problem = "the migration failed" if guest.failed_at == run.now else ""
                    after = plans.finish(after, vm_id, problem, run.now)
            if after.live():
                left.append(after)
        self._plans = tuple(left)


def _machine(run: Run, guest: Guest) -> Machine:
    out = run.hour in run.world.clouds[guest.cloud].out
    busy = "is on its way" if guest.moving else "its cloud is out" if out else ""
    return Machine(
        vm_id=guest.machine.name,
        cloud_id=guest.cloud,
        since=run.now - (run.hour - guest.since) * 3600.0,
        moves=tuple(guest.began),
        failed_at=guest.failed_at,
        busy=busy,
    )


def evacuating(policy: Policy) -> Automatic:
    """Stays, but leaves clouds that are marked: the product, with another objective."""
    return Automatic(replace(policy, objective=Objective.EVACUATE))
