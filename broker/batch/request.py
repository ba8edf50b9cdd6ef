"""A PlaceBatchRequest, checked once, as values."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from broker import demands, pricing
from broker.batch.problem import AMOUNT_MAX, NOWHERE, Group, Level
from broker.batch.solve import Solver
from broker.criteria import Criteria
from watari import money, validate
from watari.v1 import broker_pb2

MACHINES_MAX = 2000
"""Machines of a request, counts included."""

GROUPS_MAX = 500
"""Groups of a request."""

LIMIT_SECONDS_DEFAULT, LIMIT_SECONDS_MIN, LIMIT_SECONDS_MAX = 5.0, 0.1, 60.0
"""Seconds of solving. The default leaves half of the 10 s that callers wait by default."""

HOURS_DEFAULT, HOURS_MAX = 720.0, 87_600.0
"""Hours that costs count: a month, and ten years."""

WEIGHT_MAX = 1000.0
"""Largest importance of a machine."""

NAME_BYTES_MAX = 256
"""Longest name of a machine or a group."""

MOVE_COST_MAX = 1_000_000_000
"""Largest cost of a move, in the currency's unit."""

_SOLVERS = {
    broker_pb2.BATCH_SOLVER_UNSPECIFIED: Solver.MILP,
    broker_pb2.BATCH_SOLVER_GREEDY: Solver.GREEDY,
    broker_pb2.BATCH_SOLVER_MILP: Solver.MILP,
    broker_pb2.BATCH_SOLVER_STABLE: Solver.STABLE,
}
_LEVELS = {
    broker_pb2.BATCH_AFFINITY_UNSPECIFIED: None,
    broker_pb2.BATCH_AFFINITY_CLOUD: Level.CLOUD,
    broker_pb2.BATCH_AFFINITY_REGION: Level.REGION,
    broker_pb2.BATCH_AFFINITY_JURISDICTION: Level.JURISDICTION,
}


@dataclass(frozen=True)
class Item:
    """One machine."""

    name: str
    criteria: Criteria
    look: int
    """Equal for machines with the same criteria."""
    group: int
    move_cost: Decimal
    move_currency: str
    weight: float


@dataclass(frozen=True)
class Batch:
    """All that a request asks for."""

    items: tuple[Item, ...]
    groups: tuple[Group, ...]
    solver: Solver
    limit_seconds: float
    hours: float
    currency: str
    """Empty: that of most offers."""


def read(request: broker_pb2.PlaceBatchRequest) -> Batch:
    """The request as values. Raises InvalidArgument INVALID_FIELD."""
    validate.require_count(len(request.groups), "groups", GROUPS_MAX)
    validate.require_count(len(request.machines), "machines", MACHINES_MAX)
    total = sum(machine.count or 1 for machine in request.machines)
    validate.require_range(total, "machines", 1, MACHINES_MAX)
    groups = {_name(group.name, "groups.name"): group for group in request.groups}
    if len(groups) < len(request.groups):
        raise validate.invalid_field("groups.name", "is there twice", "names are unique")
    if request.solver not in _SOLVERS:
        raise validate.invalid_field("solver", f"{request.solver} is none", "GREEDY, MILP, STABLE")
    rules = [
        Group(
            _affinity(group),
            validate.require_range(group.per_cloud_max, "groups.per_cloud_max", 0, MACHINES_MAX),
        )
        for group in groups.values()
    ]
    items = tuple(_items(request, groups))
    if len({item.name for item in items}) < len(items):
        raise validate.invalid_field("machines.name", "is there twice", "names are unique")
    limit = _number(request.limit_seconds, "limit_seconds", LIMIT_SECONDS_MIN, LIMIT_SECONDS_MAX)
    return Batch(
        items=items,
        groups=tuple(rules),
        solver=_SOLVERS[request.solver],
        limit_seconds=limit or LIMIT_SECONDS_DEFAULT,
        hours=_number(request.horizon_hours, "horizon_hours", 1.0, HOURS_MAX) or HOURS_DEFAULT,
        currency=validate.require_text(request.currency, "currency", bytes_max=3),
    )


def _items(
    request: broker_pb2.PlaceBatchRequest, groups: Mapping[str, broker_pb2.BatchGroup]
) -> Iterator[Item]:
    numbers = {name: number for number, name in enumerate(groups)}
    looks: dict[tuple[bytes, str], tuple[int, Criteria]] = {}
    for machine in request.machines:
        name = _name(machine.name, "machines.name")
        if machine.group and machine.group not in groups:
            raise validate.invalid_field(
                "machines.group",
                f"{name}: there is no group {machine.group!r}",
                "name it in groups",
            )
        wanted = machine.requirements
        if not machine.HasField("requirements") and machine.group:
            wanted = groups[machine.group].requirements
        current = machine.current_cloud
        if current:
            validate.require_cloud_id(current, "machines.current_cloud")
        key = wanted.SerializeToString(deterministic=True), current
        if key not in looks:
            looks[key] = len(looks), _criteria(wanted, request, current)
        look, wants = looks[key]
        cost, currency = _move(machine)
        weight = _number(machine.weight, "machines.weight", 0.0, WEIGHT_MAX) or 1.0
        group = numbers[machine.group] if machine.group else NOWHERE
        for number in range(1, (machine.count or 1) + 1):
            own = f"{name}-{number}" if machine.count > 1 else name
            yield Item(own, wants, look, group, cost, currency, weight)


def _criteria(
    wanted: broker_pb2.Requirements, request: broker_pb2.PlaceBatchRequest, current: str
) -> Criteria:
    found = demands.of_batch(wanted, request, current)
    for kind, amount in found.needed.items():
        validate.require_range(amount, f"requirements.resources.{kind}", 0, AMOUNT_MAX)
    return found


def _move(machine: broker_pb2.BatchMachine) -> tuple[Decimal, str]:
    if not machine.HasField("move_cost"):
        return Decimal(), ""
    price = pricing.require_price(machine.move_cost, "machines.move_cost")
    if price.amount > MOVE_COST_MAX:
        raise validate.invalid_field(
            "machines.move_cost", f"{price.amount} is too much", f"at most {MOVE_COST_MAX}"
        )
    return money.to_decimal(machine.move_cost), price.currency


def _affinity(group: broker_pb2.BatchGroup) -> Level | None:
    if group.affinity not in _LEVELS:
        raise validate.invalid_field(
            "groups.affinity", f"{group.affinity} is none", "CLOUD, REGION, JURISDICTION"
        )
    return _LEVELS[group.affinity]


def _name(text: str, field: str) -> str:
    return validate.require_text(text, field, bytes_max=NAME_BYTES_MAX, empty=False)


def _number(value: float, field: str, least: float, most: float) -> float:
    """0 stands for the default."""
    if value and not (math.isfinite(value) and least <= value <= most):
        raise validate.invalid_field(field, f"{value} is out of bounds", f"{least:g} to {most:g}")
    return value
