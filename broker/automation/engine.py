"""The loop: every policy is evaluated at an interval, from one snapshot of the directory.

For each policy: see how what runs stands, look at the machines, add up what staying has cost,
decide, let the plans follow, begin what may begin. One policy's trouble is not another's: it is
told with the policy, and comes again with the next evaluation.
"""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy.engine import Connection

from broker import metrics
from broker.automation import memory, plan_rows, policy_rows
from broker.automation.bell import Bell
from broker.automation.carrying import PROBLEM_CHARS_MAX, Carrier
from broker.automation.estimating import Estimating
from broker.automation.fleet import Fleet, Manager
from broker.automation.memory import Known
from broker.automation.plan_rows import Kept
from broker.automation.policy_rows import Held
from broker.automation.rests import Rests
from broker.automation.settings import AutomationSettings
from broker.automation.situating import Ground
from broker.automation.store import Store
from broker.catalogue import Catalogue
from broker.migrate import Migrator
from broker.policies import ledger, plans, reckoning
from broker.policies.forecast import Forecaster
from broker.policies.model import (
    DAY,
    HOUR,
    Decision,
    Machine,
    Situation,
    Standing,
    Stay,
)
from broker.policies.plans import State
from broker.snapshot import Snapshot
from watari import errors, logs, standing
from watari.clock import Clock
from watari.settings import EndpointSettings
from watari.v1 import broker_pb2

PROBLEMS_MAX = 64
"""Problems that a policy tells; the contract's number."""

STAYING_MAX = 100
"""Machines whose staying a policy explains; the contract's number."""

UNWATCHED_SECONDS_MAX = HOUR
"""Time between two looks that counts at most: what nobody looked at is not added up."""

UNWATCHED = Standing(home="")
"""Of a machine that has no price where it is, yet."""

_log = logs.get(__name__)


@dataclass
class _Look:
    """What one evaluation of a policy found."""

    held: Held
    ground: Ground
    missed: Mapping[str, str]
    """Clouds of which nothing is known, and why."""
    machines: Sequence[Machine] = ()
    decision: Decision = field(default_factory=Decision)


class Engine:
    """Evaluates policies. `evaluate` is for one thread; the rest for any."""

    def __init__(
        self,
        settings: AutomationSettings,
        store: Store,
        catalogue: Catalogue,
        migrator: Migrator,
        managers: Callable[[EndpointSettings], Manager],
        clock: Clock,
        bell: Bell,
    ) -> None:
        self._settings = settings
        self._store = store
        self._catalogue = catalogue
        self._migrator = migrator
        self._managers = managers
        self._clock = clock
        self._bell = bell
        self._carrier = Carrier(store, migrator, bell, settings.start_seconds_max)
        self._estimating = Estimating(settings, clock)
        self._rests = Rests(clock, settings.refused_seconds)
        self._turn = 0
        self._told: dict[policy_rows.Position, broker_pb2.PolicyEvaluation] = {}

    def evaluation(self, held: Held) -> broker_pb2.PolicyEvaluation | None:
        """How the policy was last evaluated, since this process runs."""
        return self._told.get(held.key)

    def evaluate(self) -> None:
        """Every policy once."""
        began = time.monotonic()
        with self._store.read() as connection:
            policies = policy_rows.everything(connection)
        # Whoever comes last may find no estimate left: each is first in its turn.
        turn = self._turn % max(len(policies), 1)
        self._turn, policies = turn + 1, [*policies[turn:], *policies[:turn]]
        self._rests.forget(policies)
        keys = {held.key for held in policies}
        self._told = {key: told for key, told in self._told.items() if key in keys}
        try:
            snapshot = self._catalogue.current()
        except errors.WatariError as error:
            for held in policies:
                self._tell(held, problems=[f"nothing is decided: {error.message}"])
            return
        fleet = Fleet(self._managers, snapshot, self._rests)
        forecasts = self._forecasts(policies, snapshot)
        self._estimating.begin_round()
        for held in policies:
            try:
                self._one(held, fleet, forecasts)
            except errors.WatariError as error:
                self._tell(held, problems=[f"{error.reason}: {error.message}"])
                _log.info("policy not evaluated", policy=held.policy_id, problem=str(error))
            except Exception as error:  # noqa: BLE001 - one policy's trouble is not another's
                self._tell(held, problems=[f"INTERNAL: {type(error).__name__}"])
                _log.exception("policy not evaluated", policy=held.policy_id)
        with self._store.write() as connection:
            memory.prune(connection, self._now().timestamp())
            plan_rows.prune(connection, self._settings.plans_max)
        metrics.EVALUATION_SECONDS.observe(time.monotonic() - began)

    def _one(
        self, held: Held, fleet: Fleet, forecasts: Mapping[str, Mapping[str, Forecaster]]
    ) -> None:
        """Evaluates one policy."""
        goes_on = self._carrier.follow(held, fleet, self._now())
        if held.deleted:
            if not goes_on:
                self._remove(held)
            return
        if fleet.snapshot.stale:
            self._tell(held, problems=["nothing is decided: no directory can be heard now"])
            return
        standing.require_alive(held.delegation, self._now())
        vms, missed = fleet.machines(held, self._settings.machines_max)
        now = self._now()
        ground = Ground(
            held,
            fleet.snapshot,
            now,
            vms,
            in_flight=self._migrator.decider.in_flight(fleet.snapshot, now),
            assumed_bytes_per_second=self._settings.assumed_bytes_per_second,
        )
        look = _Look(held, ground, missed)
        going = self._going(held)
        situation = self._situation(look, forecasts.get(held.policy.currency, {}), going)
        situation = replace(situation, machines=on_their_way(look.machines, going))
        look.decision = self._estimating.decide(held, ground, situation, fleet)
        if self._renew(look):
            self._carrier.begin(held, missed, self._now())
        self._tell(held, look=look, problems=[*missed.values(), *_unpriced(ground)])

    def _situation(
        self, look: _Look, forecasts: Mapping[str, Forecaster], going: Mapping[str, str]
    ) -> Situation:
        """With ledgers advanced to now, which are kept."""
        held, ground = look.held, look.ground
        now = ground.seconds
        with self._store.read() as connection:
            known = memory.machines(connection, held)
            begun = memory.moves(connection, held.tenant, now - DAY)
        look.machines = [
            ground.machine(vm, known.get(vm_id), begun) for vm_id, vm in sorted(ground.vms.items())
        ]
        recent = [move for move in begun if move.began_at > now - HOUR]
        situation = ground.situation(look.machines, recent, forecasts)
        standings, seen = {}, []
        for machine in look.machines:
            before = known.get(machine.vm_id)
            if before is not None and is_arriving(machine, before, going):
                one = replace(before, looked_at=now, burdens={})
            else:
                one = _advanced(situation, machine, before, ground, held)
            if one.standing.home:
                standings[machine.vm_id] = one.standing
            seen.append(one)
        with self._store.write() as connection:
            for one in seen:
                memory.put_machine(connection, held, one)
        return replace(situation, standings=standings)

    def _going(self, held: Held) -> dict[str, str]:
        """Where the machines go that plans of the tenant move now."""
        with self._store.read() as connection:
            return {
                action.proposal.vm_id: action.proposal.to_cloud
                for kept in plan_rows.live(connection, held.tenant)
                for action in kept.plan.actions
                if action.state is State.RUNNING
            }

    def _renew(self, look: _Look) -> bool:
        """Lets the tenant's plans follow the decision; False when the policy changed meanwhile."""
        held, now = look.held, look.ground.seconds
        view = policy_rows.View(held.tenant.domain, held.tenant.name)
        with self._store.write() as connection:
            present = policy_rows.get(connection, held.tenant, held.policy_id)
            if present is None or present.deleted or present.generation != held.generation:
                return False
            every = policy_rows.page(connection, view, None, self._settings.policies_per_tenant_max)
            level = plans.automation(each.policy for each in every)
            live = [
                self._withdrawn(connection, held, kept, now)
                for kept in plan_rows.live(connection, held.tenant)
            ]
            renewal = plans.renew(
                [kept.plan for kept in live],
                look.decision,
                held.policy,
                level,
                str(uuid.uuid4()),
                now,
            )
            before = {kept.plan.plan_id: kept for kept in live}
            for plan in renewal.changed:
                kept = before[plan.plan_id]
                after = keep_unseen(kept.plan, plan, look.missed)
                if after != kept.plan:
                    plan_rows.put(connection, kept.with_plan(after))
            if renewal.plan is not None:
                fresh = Kept(held.tenant, held.policy.currency, renewal.plan)
                plan_rows.put(connection, fresh)
                _log.info(
                    "planned",
                    policy=held.policy_id,
                    tenant=str(held.tenant),
                    plan=renewal.plan.plan_id,
                    moves=len(renewal.plan.actions),
                )
        if renewal.changed or renewal.plan is not None:
            self._bell.ring()
        return True

    def _withdrawn(self, connection: Connection, held: Held, kept: Kept, now: float) -> Kept:
        """The plan without what was to leave clouds in which the policy's delegation is revoked."""
        if kept.plan.policy_id != held.policy_id:
            return kept
        after = plans.withdraw(kept.plan, self._rests.revoked(held), now)
        if after == kept.plan:
            return kept
        plan_rows.put(connection, kept.with_plan(after))
        self._bell.ring()
        return kept.with_plan(after)

    def _forecasts(
        self, policies: Sequence[Held], snapshot: Snapshot
    ) -> dict[str, dict[str, Forecaster]]:
        """The histories of prices by currency and cloud, with those of now."""
        now = self._now()
        found: dict[str, dict[str, Forecaster]] = {}
        if snapshot.stale:
            return found
        with self._store.write() as connection:
            for held in policies:
                try:
                    currency = held.policy.currency
                except errors.WatariError:  # of another release; told when its turn comes
                    continue
                if held.deleted:
                    continue
                if currency not in found:
                    found[currency] = memory.forecasts(connection, currency)
                histories = found[currency]
                for cloud_id, level in Ground(held, snapshot, now, {}).levels().items():
                    seen = histories.get(cloud_id, Forecaster()).seen(now.timestamp(), level)
                    if seen != histories.get(cloud_id):
                        histories[cloud_id] = seen
                        memory.put_forecast(connection, currency, cloud_id, seen, now.timestamp())
        return found

    def _remove(self, held: Held) -> None:
        with self._store.write() as connection:
            present = policy_rows.get(connection, held.tenant, held.policy_id)
            if present is not None and present.deleted:
                policy_rows.remove(connection, held)
                memory.forget_machines(connection, held)

    def _tell(self, held: Held, *, problems: Sequence[str], look: _Look | None = None) -> None:
        words = [problem[:PROBLEM_CHARS_MAX] for problem in problems[:PROBLEMS_MAX]]
        told = broker_pb2.PolicyEvaluation(problems=words)
        told.at.FromDatetime(self._now())
        if look is not None:
            told.machines = len(look.machines)
            vms = look.ground.vms
            told.staying.extend(
                _staying(stay, vms[stay.vm_id].name) for stay in look.decision.stays[:STAYING_MAX]
            )
        self._told[held.key] = told

    def _now(self) -> datetime:
        return self._clock.now()


def on_their_way(machines: Sequence[Machine], going: Mapping[str, str]) -> list[Machine]:
    """The machines, those that plans move as if they were there already: a cloud that the last one
    is leaving is not in use, and one that it goes to is.
    """
    return [
        replace(
            machine,
            cloud_id=going[machine.vm_id],
            busy=machine.busy or f"it is on its way to {going[machine.vm_id]}",
        )
        if machine.vm_id in going
        else machine
        for machine in machines
    ]


def is_arriving(machine: Machine, known: Known, going: Mapping[str, str]) -> bool:
    """Whether a plan's move has brought it where it is, and has not been recorded as ended: its
    ledger goes on then, with the move's cost, and is not begun anew.
    """
    return machine.cloud_id == going.get(machine.vm_id) and machine.cloud_id != known.cloud_id


def keep_unseen(before: plans.Plan, after: plans.Plan, missed: Mapping[str, str]) -> plans.Plan:
    """`after` without the changes of what is to leave clouds of which nothing is known: their
    machines were not decided about, and are not said to be better off where they are.
    """
    actions = tuple(
        old if old.proposal.from_cloud in missed and new.state is State.SUPERSEDED else new
        for old, new in zip(before.actions, after.actions, strict=True)
    )
    if actions == before.actions:
        return before
    return replace(after, actions=actions, ended_at=after.ended_at if _ended(actions) else None)


def _ended(actions: Sequence[plans.Action]) -> bool:
    return all(action.state in plans.FINAL for action in actions)


def _advanced(
    situation: Situation, machine: Machine, known: Known | None, ground: Ground, held: Held
) -> Known:
    """The machine as it is known from now on."""
    policy, now = held.policy, ground.seconds
    burdens = reckoning.burdens(situation, machine)
    price = situation.price(machine, machine.cloud_id)
    standing: Standing
    if known is None or known.cloud_id != machine.cloud_id or not known.standing.home:
        # What it may lose follows from what it costs: until that is known it is not watched.
        priced = machine.cloud_id in burdens
        standing = ledger.begin(machine.cloud_id, burdens, price, policy) if priced else UNWATCHED
    else:
        hours = min(max(now - known.looked_at, 0.0), UNWATCHED_SECONDS_MAX) / HOUR
        standing = ledger.advance(known.standing, machine.cloud_id, known.burdens, hours, policy)
        if standing.arrival_price is None:
            standing = replace(standing, arrival_price=price)
    return Known(
        vm_id=machine.vm_id,
        name=ground.vms[machine.vm_id].name,
        cloud_id=machine.cloud_id,
        since=machine.since,
        looked_at=now,
        standing=standing,
        burdens=burdens,
        failed_at=machine.failed_at,
    )


def _unpriced(ground: Ground) -> list[str]:
    """That nothing can be compared, which else looks as if nothing were cheaper."""
    if not ground.vms or ground.levels():
        return []
    return [f"none of the clouds has a price in {ground.held.policy.currency} that holds now"]


def _staying(stay: Stay, name: str) -> broker_pb2.StayingMachine:
    return broker_pb2.StayingMachine(
        vm_id=stay.vm_id,
        vm_name=name,
        cloud_id=stay.cloud_id,
        rule=stay.rule,
        reason=stay.reason[:PROBLEM_CHARS_MAX],
        counterfactual=stay.counterfactual,
        to_cloud=stay.to_cloud,
    )
