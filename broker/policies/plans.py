"""The life of a plan: its states on one screen, and every step between them. Pure.

An action is one machine's move. A plan's state follows from its actions, so that the two can never
disagree. An action is *live* until it is final, and a machine has at most one live action in all
plans together: `renew` keeps that, whatever is decided.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from broker.policies.model import Automation, Decision, Policy, Proposal
from watari import errors

ACTIONS_MAX = 1000
"""Moves of a plan, as the contract says; the rest is decided again next time."""

BY_ITSELF = "automatic"
"""Who approved what needs nobody's approval."""


class State(StrEnum):
    """Where an action, or a plan, stands; the names of the contract's PlanState."""

    RECOMMENDED = "RECOMMENDED"
    APPROVED = "APPROVED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    SUPERSEDED = "SUPERSEDED"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.RECOMMENDED: frozenset({State.APPROVED, State.SUPERSEDED}),
    # It may turn out to be impossible before any migration exists.
    State.APPROVED: frozenset({State.RUNNING, State.FAILED, State.SUPERSEDED}),
    # ---- a migration runs: only its own end ends it, whatever newer plans say ----
    State.RUNNING: frozenset({State.DONE, State.FAILED}),
    State.DONE: frozenset(),
    State.FAILED: frozenset(),
    State.SUPERSEDED: frozenset(),
}

FINAL = frozenset(state for state, following in TRANSITIONS.items() if not following)
OPEN = frozenset({State.RECOMMENDED, State.APPROVED})
"""States in which nothing has begun, so that a newer plan may take over."""


@dataclass(frozen=True)
class Outcome:
    """What a move took, as `MoveCost` has what it was estimated to."""

    transfer_bytes: float
    """0 is not known."""
    duration_seconds: float
    downtime_seconds: float


@dataclass(frozen=True)
class Action:
    """One machine's move."""

    proposal: Proposal
    state: State = State.RECOMMENDED
    migration_id: str = ""
    """Once it runs."""
    problem: str = ""
    """Why it failed or was superseded, in words."""
    outcome: Outcome | None = None
    """Once it is done, and somebody saw what it took."""


@dataclass(frozen=True)
class Plan:
    """What one decision said, and what became of it."""

    plan_id: str
    policy_id: str
    tenant: str
    automation: Automation
    created_at: float
    actions: tuple[Action, ...]
    """In the order in which they are begun; each machine once."""
    generation: int = 1
    approved_by: str = ""
    """Who let it go ahead: `BY_ITSELF`, or a SPIFFE id."""
    ended_at: float | None = None

    @property
    def state(self) -> State:
        """Of the plan as a whole."""
        states = {action.state for action in self.actions}
        if State.RUNNING in states:
            return State.RUNNING
        if State.APPROVED in states:
            return State.RUNNING if states & {State.DONE, State.FAILED} else State.APPROVED
        if State.RECOMMENDED in states:
            return State.RECOMMENDED
        for state in (State.FAILED, State.DONE):
            if state in states:
                return state
        return State.SUPERSEDED

    def live(self) -> frozenset[str]:
        """Machines whose action is not final."""
        return frozenset(
            action.proposal.vm_id for action in self.actions if action.state not in FINAL
        )


@dataclass(frozen=True)
class Renewal:
    """What a newer decision changes."""

    changed: tuple[Plan, ...]
    """Older plans, as they are now."""
    plan: Plan | None
    """The new one, if anything is new."""


def check(current: State, following: State) -> None:
    """Raises FailedPrecondition MIGRATION_STATE unless the table has this step."""
    if following not in TRANSITIONS[current]:
        allowed = ", ".join(sorted(TRANSITIONS[current])) or "nothing"
        raise errors.FailedPrecondition(
            "MIGRATION_STATE",
            f"a planned move in {current} never becomes {following}",
            hint=f"from {current} it can become {allowed}",
            state=current,
            following=following,
        )


def automation(policies: Iterable[Policy]) -> Automation:
    """What may happen by itself in a tenant: the most careful of its policies says."""
    return min((policy.automation for policy in policies), default=Automation.MANUAL)


def renew(
    live: Sequence[Plan],
    decision: Decision,
    policy: Policy,
    level: Automation,
    plan_id: str,
    now: float,
) -> Renewal:
    """Lets `decision` of `policy` replace what earlier ones said in the tenant's `live` plans.

    What runs, runs on. An open action that is decided the same way again stays, with its approval;
    any other one of this policy, or for a machine that is to move, is superseded.
    """
    wanted = {move.vm_id: move for move in decision.moves[:ACTIONS_MAX]}
    kept: set[str] = set()
    changed = []
    for plan in live:
        actions = []
        for action in plan.actions:
            vm_id = action.proposal.vm_id
            move = wanted.get(vm_id)
            if action.state is State.RUNNING:
                kept.add(vm_id)
            elif action.state in OPEN and (plan.policy_id == policy.policy_id or move is not None):
                if move is not None and _same(plan, action, move, policy, level):
                    kept.add(vm_id)
                else:
                    problem = f"plan {plan_id} replaces it" if move else "it is better to stay now"
                    actions.append(_step(action, State.SUPERSEDED, problem=problem))
                    continue
            actions.append(action)
        after = _changed(plan, tuple(actions), now)
        if after != plan:
            changed.append(after)
    fresh = tuple(Action(move) for vm_id, move in wanted.items() if vm_id not in kept)
    if not fresh:
        return Renewal(tuple(changed), None)
    plan = Plan(plan_id, policy.policy_id, policy.tenant, level, now, fresh)
    if level is Automation.AUTOMATIC:
        plan = _approved(plan, BY_ITSELF, now)
    return Renewal(tuple(changed), plan)


def approve(plan: Plan, by: str, expected_generation: int, now: float) -> Plan:
    """Lets what is recommended go ahead.

    Raises Conflict GENERATION_CONFLICT when the plan is not the one that was looked at, and
    FailedPrecondition MIGRATION_STATE when nothing waits for approval or may be approved.
    """
    if expected_generation != plan.generation:
        raise errors.Conflict(
            "GENERATION_CONFLICT",
            f"plan {plan.plan_id} is at generation {plan.generation}, not {expected_generation}",
            hint="look at it again",
        )
    if plan.automation is Automation.MANUAL:
        raise errors.FailedPrecondition(
            "MIGRATION_STATE",
            f"plan {plan.plan_id} is of a tenant that only wants recommendations",
            hint="migrate by hand, or set the policy's automation to APPROVED",
        )
    if plan.state is not State.RECOMMENDED:
        check(plan.state, State.APPROVED)
    return _approved(plan, by, now)


def begin(plan: Plan, vm_id: str, migration_id: str, now: float) -> Plan:
    """The machine's migration is recorded."""
    return _one(plan, vm_id, State.RUNNING, now, migration_id=migration_id)


def finish(
    plan: Plan, vm_id: str, problem: str, now: float, outcome: Outcome | None = None
) -> Plan:
    """The machine's move is over: done when there is no problem, with what it took."""
    state = State.FAILED if problem else State.DONE
    return _one(plan, vm_id, state, now, problem=problem, outcome=outcome)


def withdraw(plan: Plan, from_clouds: Mapping[str, str], now: float) -> Plan:
    """Ends what has not begun of moves away from certain clouds, each for the reason given with it;
    what runs, runs on.
    """
    actions = tuple(
        _step(action, State.SUPERSEDED, problem=from_clouds[action.proposal.from_cloud])
        if action.state in OPEN and action.proposal.from_cloud in from_clouds
        else action
        for action in plan.actions
    )
    return _changed(plan, actions, now)


def cancel(plan: Plan, why: str, now: float) -> Plan:
    """Ends what has not begun; what runs, runs on. Of a plan that ended nothing changes."""
    actions = tuple(
        _step(action, State.SUPERSEDED, problem=why) if action.state in OPEN else action
        for action in plan.actions
    )
    return _changed(plan, actions, now)


def _same(plan: Plan, action: Action, move: Proposal, policy: Policy, level: Automation) -> bool:
    before = action.proposal
    return (
        plan.policy_id == policy.policy_id
        and plan.automation is level
        and (before.from_cloud, before.to_cloud) == (move.from_cloud, move.to_cloud)
    )


def _approved(plan: Plan, by: str, now: float) -> Plan:
    actions = tuple(
        _step(action, State.APPROVED) if action.state is State.RECOMMENDED else action
        for action in plan.actions
    )
    return replace(_changed(plan, actions, now), approved_by=by)


def _one(
    plan: Plan,
    vm_id: str,
    state: State,
    now: float,
    *,
    migration_id: str = "",
    problem: str = "",
    outcome: Outcome | None = None,
) -> Plan:
    if all(action.proposal.vm_id != vm_id for action in plan.actions):
        raise errors.NotFound(
            "RECORD_NOT_FOUND", f"plan {plan.plan_id} moves no machine {vm_id}", vm_id=vm_id
        )
    actions = tuple(
        replace(_step(action, state, migration_id=migration_id, problem=problem), outcome=outcome)
        if action.proposal.vm_id == vm_id
        else action
        for action in plan.actions
    )
    return _changed(plan, actions, now)


def _step(action: Action, state: State, *, migration_id: str = "", problem: str = "") -> Action:
    check(action.state, state)
    return replace(
        action, state=state, migration_id=migration_id or action.migration_id, problem=problem
    )


def _changed(plan: Plan, actions: tuple[Action, ...], now: float) -> Plan:
    if actions == plan.actions:
        return plan
    after = replace(plan, actions=actions, generation=plan.generation + 1)
    return replace(after, ended_at=now) if after.state in FINAL else after
