"""The file that `watari place-batch` reads: TOML, as docs/batch-placement.md shows it."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from watari import errors, units
from watari.cli.constraints import Constraints, parse_money
from watari.v1 import broker_pb2, common_pb2

FILE_BYTES_MAX = 4 * 1024 * 1024
"""As long as the longest message."""

LIMIT_SECONDS_DEFAULT = 5.0
"""What the broker takes when the file and the command say nothing."""

_SOLVERS = ("greedy", "milp", "stable")
_AFFINITIES = ("cloud", "region", "jurisdiction")
_TOP = ("solver", "limit", "horizon", "currency", "prefer", "weights", "group", "machine")
_NEEDS = ("vcpus", "memory", "disk", "other")
_WHERE = {
    "clouds": "clouds",
    "exclude": "excluded",
    "regions": "regions",
    "jurisdictions": "jurisdictions",
    "traits": "traits",
    "forbid-traits": "forbidden",
    "price-max": "price_max",
    "rtt-max": "rtt_max",
}
_COMMON = (*_NEEDS, *_WHERE, "labels")
_GROUP = ("affinity", "per-cloud-max", *_COMMON)
_MACHINE = ("name", "group", "count", "current-cloud", "move-cost", "weight", *_COMMON)


def read(path: Path) -> broker_pb2.PlaceBatchRequest:
    """The request of a file. Raises InvalidArgument INVALID_FIELD, INVALID_QUANTITY; OSError."""
    with path.open("rb") as file:
        raw = file.read(FILE_BYTES_MAX + 1)
    if len(raw) > FILE_BYTES_MAX:
        raise _invalid(str(path), "the file is too large", f"at most {FILE_BYTES_MAX} bytes")
    try:
        return request(tomllib.loads(raw.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _invalid(str(path), f"is not TOML: {error}", "see https://toml.io") from error


def request(document: Mapping[str, Any]) -> broker_pb2.PlaceBatchRequest:
    """The request of a document, without its id."""
    _known(document, _TOP, "the file")
    weights = _typed(document, "weights", dict, "the file") or {}
    message = broker_pb2.PlaceBatchRequest(
        solver=solver(_typed(document, "solver", str, "the file") or "milp"),
        limit_seconds=_seconds(document, "limit") or LIMIT_SECONDS_DEFAULT,
        horizon_hours=_seconds(document, "horizon") / 3600,
        currency=_typed(document, "currency", str, "the file") or "",
        preferred_regions=_texts(document, "prefer", "the file"),
        weights=Constraints(weights=",".join(f"{k}={v}" for k, v in weights.items())).ranking(),
    )
    groups = _typed(document, "group", dict, "the file") or {}
    for name, group in groups.items():
        message.groups.append(_group(name, group))
    for number, machine in enumerate(_typed(document, "machine", list, "the file") or (), 1):
        message.machines.append(_machine(machine, f"machine {number}", groups))
    return message


def solver(name: str) -> "broker_pb2.BatchSolver.ValueType":
    """By its name. Raises InvalidArgument INVALID_FIELD."""
    if name not in _SOLVERS:
        raise _invalid("solver", f"there is no {name!r}", ", ".join(_SOLVERS))
    return broker_pb2.BatchSolver.Value(f"BATCH_SOLVER_{name.upper()}")


def _group(name: str, group: Any) -> broker_pb2.BatchGroup:
    where = f"group {name}"
    _known(group, _GROUP, where)
    message = broker_pb2.BatchGroup(
        name=name, per_cloud_max=_count(group, "per-cloud-max", 0, where)
    )
    affinity = _typed(group, "affinity", str, where)
    if affinity is not None:
        if affinity not in _AFFINITIES:
            raise _invalid(
                f"{where}: affinity", f"there is no {affinity!r}", ", ".join(_AFFINITIES)
            )
        message.affinity = broker_pb2.BatchAffinity.Value(f"BATCH_AFFINITY_{affinity.upper()}")
    return message


def _machine(
    machine: Any, where: str, groups: Mapping[str, Mapping[str, Any]]
) -> broker_pb2.BatchMachine:
    _known(machine, _MACHINE, where)
    name = _typed(machine, "name", str, where)
    if not name:
        raise _invalid(f"{where}: name", "is missing", 'name = "web"')
    where = f"machine {name}"
    group = _typed(machine, "group", str, where) or ""
    if group and group not in groups:
        raise _invalid(f"{where}: group", f"there is no [group.{group}]", "write one, or no group")
    # What a machine does not say, its group says.
    said = {key: value for key, value in groups.get(group, {}).items() if key in _COMMON} | machine
    cost = _typed(machine, "move-cost", str, where)
    weight = machine.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise _invalid(f"{where}: weight", f"{weight!r} is not a number", "weight = 2.0")
    return broker_pb2.BatchMachine(
        name=name,
        group=group,
        count=_count(machine, "count", 1, where),
        current_cloud=_typed(machine, "current-cloud", str, where) or "",
        move_cost=parse_money(cost) if cost else None,
        weight=weight,
        requirements=_requirements(said, where),
    )


def _requirements(said: Mapping[str, Any], where: str) -> broker_pb2.Requirements:
    resources = common_pb2.Resources(
        vcpus=_count(said, "vcpus", 1, where),
        memory_bytes=_size(said, "memory", "1GiB", where),
        disk_bytes=_size(said, "disk", "10GiB", where),
        other=_typed(said, "other", dict, where) or {},
    )
    labels = _typed(said, "labels", dict, where) or {}
    given: dict[str, Any] = {"labels": [f"{key}={value}" for key, value in labels.items()]}
    for key, field in _WHERE.items():
        if key.endswith("-max"):
            given[field] = _typed(said, key, str, where) or ""
        else:
            given[field] = _texts(said, key, where)
    return Constraints(**given).requirements(resources)


def _size(said: Mapping[str, Any], key: str, default: str, where: str) -> int:
    return units.parse_bytes(_typed(said, key, str, where) or default)


def _count(said: Mapping[str, Any], key: str, default: int, where: str) -> int:
    value = said.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise _invalid(f"{where}: {key}", f"{value!r} is not a count", f"{key} = 2")
    return value


def _seconds(document: Mapping[str, Any], key: str) -> float:
    text = _typed(document, key, str, "the file")
    return units.parse_duration(text) if text else 0.0


def _texts(said: Mapping[str, Any], key: str, where: str) -> list[str]:
    values = _typed(said, key, list, where) or []
    if not all(isinstance(value, str) for value in values):
        raise _invalid(f"{where}: {key}", "is no list of texts", f'{key} = ["a", "b"]')
    return values


def _typed(said: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    """The value, None when there is none."""
    value = said.get(key)
    if value is not None and not isinstance(value, kind):
        raise _invalid(f"{where}: {key}", f"{value!r} is of another kind", f"a TOML {_KINDS[kind]}")
    return value


_KINDS: Mapping[type, str] = {str: "string", list: "array", dict: "table"}


def _known(said: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(said, dict):
        raise _invalid(where, "is no table", "see `watari place-batch --help`")
    for key in said:
        if key not in keys:
            raise _invalid(f"{where}: {key}", "is not known", f"known are {', '.join(keys)}")


def _invalid(field: str, problem: str, hint: str) -> errors.InvalidArgument:
    return errors.InvalidArgument("INVALID_FIELD", f"{field}: {problem}", hint=hint, field=field)
