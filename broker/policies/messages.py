"""Policies and plans as they travel, to and from the model. Pure.

Amounts of money are exact to 10^-9 of the currency's unit on the wire, so that what comes back from
`plan_of(plan_message(...))` differs by less than that from what went in.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

from broker.policies.model import (
    DAY,
    Automation,
    Cause,
    MoveCost,
    Objective,
    Policy,
    Proposal,
    Reckoning,
    Window,
)
from broker.policies.plans import Action, Outcome, Plan, State
from watari import money, validate
from watari.v1 import broker_pb2, common_pb2

HORIZON_SECONDS_MAX = int(90 * DAY)
"""What is further ahead no price history speaks of."""

SHARE_MAX = 10.0
"""Largest hysteresis, confidence, patience, allowance and price rise."""

ALLOWANCE_HOURS_MAX = 10_000.0
"""More than a year."""

MOVES_MAX = 100_000
"""Largest budget."""

WINDOWS_MAX = 48
"""One for each half hour."""

CLOUDS_MAX = 64
"""Clouds of a window, as of other lists of a request."""


def policy_of(message: broker_pb2.Policy) -> Policy:
    """The policy; what is unset is the default. Raises InvalidArgument INVALID_FIELD."""
    default = Policy(message.policy_id, message.tenant)
    currency = message.currency_code or default.currency
    return Policy(
        policy_id=validate.require_name(message.policy_id, "policy.policy_id"),
        tenant=message.tenant,
        objective=_objective(message.objective),
        currency=money.from_decimal(Decimal(0), currency).currency_code,
        automation=_automation(message.automation),
        moves_per_vm_day_max=_count(message, "moves_per_vm_day_max", default),
        moves_per_cloud_hour_max=_count(message, "moves_per_cloud_hour_max", default),
        moves_per_hour_max=_count(message, "moves_per_hour_max", default),
        residency_seconds_min=_seconds(message, "residency_seconds_min", default),
        cooldown_seconds=_seconds(message, "cooldown_seconds", default),
        horizon_seconds=_seconds(message, "horizon_seconds", default),
        discount_per_day=_share(message, "discount_per_day", default, most=0.99),
        hysteresis=_share(message, "hysteresis", default),
        saving_min=_price(message, "saving_min", currency, default),
        confidence=_share(message, "confidence", default),
        patience=_share(message, "patience", default),
        allowance=_share(message, "allowance", default),
        allowance_hours=_share(message, "allowance_hours", default, most=ALLOWANCE_HOURS_MAX),
        downtime_hour_price=_price(message, "downtime_hour_price", currency, default),
        latency_ms_hour_price=_price(message, "latency_ms_hour_price", currency, default),
        presence_hour_price=_price(message, "presence_hour_price", currency, default),
        price_rise_max=(
            _share(message, "price_rise_max", default)
            if message.HasField("price_rise_max")
            else None
        ),
        schedule=_schedule(message),
    )


def plan_message(plan: Plan, currency: str) -> broker_pb2.Plan:
    """The plan as it travels."""
    message = broker_pb2.Plan(
        plan_id=plan.plan_id,
        policy_id=plan.policy_id,
        tenant=plan.tenant,
        state=_state(plan.state),
        moves=[_move(action, currency) for action in plan.actions],
        generation=plan.generation,
        automation=broker_pb2.Automation.ValueType(int(plan.automation)),
        approved_by=plan.approved_by,
    )
    message.created_at.FromDatetime(datetime.fromtimestamp(plan.created_at, UTC))
    if plan.ended_at is not None:
        message.ended_at.FromDatetime(datetime.fromtimestamp(plan.ended_at, UTC))
    return message


def plan_of(message: broker_pb2.Plan) -> Plan:
    """The plan that `plan_message` made the message of."""
    ended = message.ended_at.ToDatetime(UTC).timestamp() if message.HasField("ended_at") else None
    return Plan(
        plan_id=message.plan_id,
        policy_id=message.policy_id,
        tenant=message.tenant,
        automation=Automation(message.automation),
        created_at=message.created_at.ToDatetime(UTC).timestamp(),
        actions=tuple(_action(move) for move in message.moves),
        generation=message.generation,
        approved_by=message.approved_by,
        ended_at=ended,
    )


def _move(action: Action, currency: str) -> broker_pb2.PlannedMove:
    proposal, one = action.proposal, action.proposal.reckoning
    cost = one.move_cost

    def paid(amount: float) -> common_pb2.Money:
        return money.from_decimal(Decimal(amount), currency)

    return broker_pb2.PlannedMove(
        vm_id=proposal.vm_id,
        from_cloud=proposal.from_cloud,
        to_cloud=proposal.to_cloud,
        hourly_saving=paid(one.hourly_saving),
        move_cost=paid(cost.total),
        migration_id=action.migration_id,
        reason=proposal.reason,
        state=_state(action.state),
        cause=proposal.cause,
        counterfactual=proposal.counterfactual,
        saving=paid(one.saving),
        saving_deviation=paid(one.deviation),
        sure_saving=paid(one.sure_saving),
        saving_needed=paid(one.needed),
        transfer_bytes=round(cost.transfer_bytes),
        egress=paid(cost.egress),
        flat=paid(cost.flat),
        overlap=paid(cost.overlap),
        downtime_seconds=cost.downtime_seconds,
        downtime=paid(cost.downtime),
        problem=action.problem,
        duration_seconds=cost.duration_seconds,
        outcome=None if action.outcome is None else _outcome(action.outcome),
    )


def _outcome(outcome: Outcome) -> broker_pb2.MoveOutcome:
    return broker_pb2.MoveOutcome(
        transfer_bytes=round(outcome.transfer_bytes),
        duration_seconds=outcome.duration_seconds,
        downtime_seconds=outcome.downtime_seconds,
    )


def _action(move: broker_pb2.PlannedMove) -> Action:
    cost = MoveCost(
        transfer_bytes=float(move.transfer_bytes),
        egress=_float(move.egress),
        flat=_float(move.flat),
        overlap=_float(move.overlap),
        downtime_seconds=move.downtime_seconds,
        downtime=_float(move.downtime),
        duration_seconds=move.duration_seconds,
    )
    reckoning = Reckoning(
        hourly_saving=_float(move.hourly_saving),
        saving=_float(move.saving),
        deviation=_float(move.saving_deviation),
        sure_saving=_float(move.sure_saving),
        move_cost=cost,
        needed=_float(move.saving_needed),
    )
    proposal = Proposal(
        vm_id=move.vm_id,
        from_cloud=move.from_cloud,
        to_cloud=move.to_cloud,
        cause=Cause(move.cause),
        reason=move.reason,
        counterfactual=move.counterfactual,
        reckoning=reckoning,
    )
    state = State(broker_pb2.PlanState.Name(move.state).removeprefix("PLAN_STATE_"))
    took = move.outcome
    outcome = (
        Outcome(float(took.transfer_bytes), took.duration_seconds, took.downtime_seconds)
        if move.HasField("outcome")
        else None
    )
    return Action(proposal, state, move.migration_id, move.problem, outcome)


def _state(state: State) -> broker_pb2.PlanState.ValueType:
    return broker_pb2.PlanState.Value(f"PLAN_STATE_{state}")


def _float(message: common_pb2.Money) -> float:
    return float(money.to_decimal(message))


def _objective(text: str) -> Objective:
    try:
        return Objective(text)
    except ValueError:
        raise validate.invalid_field(
            "policy.objective", f"{text[:32]!r} is no objective", f"one of {', '.join(Objective)}"
        ) from None


def _automation(value: int) -> Automation:
    try:
        return Automation(value)
    except ValueError:
        raise validate.invalid_field(
            "policy.automation", "is not set", "MANUAL, APPROVED or AUTOMATIC"
        ) from None


def _count(message: broker_pb2.Policy, name: str, default: Policy) -> int:
    value: int = getattr(message, name) or getattr(default, name)
    return validate.require_range(value, f"policy.{name}", 1, MOVES_MAX)


def _seconds(message: broker_pb2.Policy, name: str, default: Policy) -> float:
    value: int = getattr(message, name)
    if not value:
        unset: float = getattr(default, name)
        return unset
    return float(validate.require_range(value, f"policy.{name}", 1, HORIZON_SECONDS_MAX))


def _share(
    message: broker_pb2.Policy, name: str, default: Policy, *, most: float = SHARE_MAX
) -> float:
    has: Callable[[str], bool] = message.HasField  # type: ignore[assignment]
    value: float = getattr(message if has(name) else default, name)
    if not (math.isfinite(value) and 0.0 <= value <= most):
        raise validate.invalid_field(
            f"policy.{name}", f"{value} is out of bounds", f"0 to {most:g}"
        )
    return value


def _price(message: broker_pb2.Policy, name: str, currency: str, default: Policy) -> float:
    has: Callable[[str], bool] = message.HasField  # type: ignore[assignment]
    if not has(name):
        unset: float = getattr(default, name)
        return unset
    given: common_pb2.Money = getattr(message, name)
    amount = money.to_decimal(given)
    if amount < 0 or given.currency_code != currency:
        problem = f"{amount} {given.currency_code} is not an amount of {currency}, 0 or more"
        raise validate.invalid_field(f"policy.{name}", problem, f"an amount of {currency}")
    return float(amount)


def _schedule(message: broker_pb2.Policy) -> tuple[Window, ...]:
    field = "policy.schedule"
    validate.require_count(len(message.schedule), field, WINDOWS_MAX)
    windows = []
    for window in message.schedule:
        validate.require_count(len(window.clouds), f"{field}.clouds", CLOUDS_MAX)
        if not window.clouds:
            raise validate.invalid_field(f"{field}.clouds", "is empty", "name a cloud at least")
        windows.append(
            Window(
                validate.require_range(window.from_minute, f"{field}.from_minute", 0, 1439),
                validate.require_range(window.to_minute, f"{field}.to_minute", 0, 1439),
                tuple(validate.require_cloud_id(each, f"{field}.clouds") for each in window.clouds),
            )
        )
    return tuple(windows)
