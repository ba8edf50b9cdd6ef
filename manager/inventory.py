"""Capacity as arithmetic: what is free, what fits where, and why something does not.

Pure functions of values. An amount is a whole number of units of its resource class; classes that
a host does not mention it does not have.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from watari import errors, units, validate
from watari.v1 import common_pb2

VCPUS = "vcpus"
MEMORY = "memory_bytes"
DISK = "disk_bytes"
STORAGE = "storage_bytes"
"""Bytes that a reservation will really write. Machines do not count: the host's own measure of its
free storage has them already."""

AMOUNT_MAX = 2**52
"""Largest amount of one class in a request: 4 PiB; sums of a thousand stay within 64 bits."""

OTHER_CLASSES_MAX = 32
CLASS_BYTES_MAX = 64

Amounts = dict[str, int]
"""Units by resource class."""


POOL = "*"
"""Instead of a host's id: what the cloud has and no host owns."""


@dataclass(frozen=True)
class Units:
    """How much of a class one machine may get."""

    least: int = 1
    most: int = AMOUNT_MAX
    step: int = 1

    def admits(self, amount: int) -> bool:
        """Whether a machine may get so much; nothing always."""
        return amount == 0 or (self.least <= amount <= self.most and amount % self.step == 0)

    def __str__(self) -> str:
        most = "" if self.most == AMOUNT_MAX else f" to {self.most}"
        return f"{self.least}{most or ' or more'} in steps of {self.step}"


@dataclass(frozen=True)
class HostView:
    """One host at one moment, or the cloud's pool."""

    host_id: str
    total: Amounts
    reserved: Amounts
    ratios: Mapping[str, float]
    storage_free_bytes: int
    allocated: Amounts = field(default_factory=dict)
    held: Amounts = field(default_factory=dict)
    booked: Amounts = field(default_factory=dict)
    """What is promised to others for later, at most at one moment of the time that matters."""

    generation: int = 0
    reachable: bool = True
    units: Mapping[str, Units] = field(default_factory=dict)
    """How much of a class one machine may get, where that is bounded."""

    traits: frozenset[str] = frozenset()

    @cached_property
    def capacity(self) -> Amounts:
        """What may be consumed in all."""
        return {
            name: max(0, int((amount - self.reserved.get(name, 0)) * self.ratios.get(name, 1.0)))
            for name, amount in self.total.items()
        } | {STORAGE: self.storage_free_bytes}

    @cached_property
    def free(self) -> Amounts:
        """What is left. Zero where more is consumed than there is, as after a disk was removed."""
        return {name: max(0, amount - self._taken(name)) for name, amount in self.capacity.items()}

    def _taken(self, name: str) -> int:
        return self.allocated.get(name, 0) + self.held.get(name, 0) + self.booked.get(name, 0)

    def holding(self, more: Amounts) -> "HostView":
        """The same host once that is held too."""
        return replace(self, held=total((self.held, more)))


def amounts(resources: common_pb2.Resources) -> Amounts:
    """The amounts of a message; classes of amount zero are left out."""
    named = {
        VCPUS: resources.vcpus,
        MEMORY: resources.memory_bytes,
        DISK: resources.disk_bytes,
        **dict(resources.other),
    }
    return {name: amount for name, amount in named.items() if amount}


def of_machine(resources: common_pb2.Resources, disks: Iterable[common_pb2.DiskSpec]) -> Amounts:
    """What a machine that is to arrive asks of a host: its amounts, and what is written of it."""
    asked = amounts(resources)
    written = sum(min(disk.allocated_bytes, disk.size_bytes) for disk in disks)
    return asked | ({STORAGE: written} if written else {})


def to_resources(values: Mapping[str, int]) -> common_pb2.Resources:
    """The message of some amounts; the internal class STORAGE is left out."""
    own = {VCPUS, MEMORY, DISK, STORAGE}
    return common_pb2.Resources(
        vcpus=min(values.get(VCPUS, 0), 2**32 - 1),
        memory_bytes=values.get(MEMORY, 0),
        disk_bytes=values.get(DISK, 0),
        other={name: amount for name, amount in values.items() if name not in own},
    )


def require_resources(resources: common_pb2.Resources, name: str) -> common_pb2.Resources:
    """Checks the bounds of a message from outside. Raises InvalidArgument INVALID_FIELD."""
    require_classes(resources, name)
    for other, amount in amounts(resources).items():
        validate.require_range(amount, f"{name}.{other}", 0, AMOUNT_MAX)
    validate.require_range(resources.vcpus, f"{name}.vcpus", 1, AMOUNT_MAX)
    return resources


def require_classes(resources: common_pb2.Resources, name: str) -> None:
    """Checks the names of the further classes. Raises InvalidArgument INVALID_FIELD."""
    validate.require_count(len(resources.other), f"{name}.other", OTHER_CLASSES_MAX)
    for other in resources.other:
        validate.require_text(other, f"{name}.other", bytes_max=CLASS_BYTES_MAX, empty=False)
        if other in {VCPUS, MEMORY, DISK, STORAGE}:
            raise validate.invalid_field(f"{name}.other", f"{other} has a field", "use the field")


def split(asked: Amounts, shared: Collection[str]) -> tuple[Amounts, Amounts]:
    """What of it a host has to give, and what the pool."""
    pooled = {name: amount for name, amount in asked.items() if name in shared}
    return {name: amount for name, amount in asked.items() if name not in pooled}, pooled


def choose(hosts: Iterable[HostView], asked: Amounts) -> HostView:
    """The host for a machine: of those that fit, the fullest, so that large holes stay.

    Raises Exhausted INSUFFICIENT_CAPACITY, which says for the host that comes closest what is
    lacking, how much was asked and is free, and what would fit; Unavailable, to be tried again,
    while no host answers.
    """
    candidates = sorted(hosts, key=lambda host: host.host_id)
    reachable = [host for host in candidates if host.reachable]
    fitting = [host for host in reachable if not lacking(host, asked)]
    if fitting:
        return min(fitting, key=lambda host: (_slack(host, asked), host.host_id))
    nearest = closest(reachable, asked)
    if nearest is None:
        raise _no_host(len(candidates))
    raise _explain(nearest, asked)


def closest(hosts: Iterable[HostView], asked: Amounts) -> HostView | None:
    """The reachable host that lacks the least of what is asked; None when no host answers."""
    reachable = sorted((host for host in hosts if host.reachable), key=lambda host: host.host_id)
    return min(reachable, key=lambda host: _shortage(host, asked), default=None)


def lacking(host: HostView, asked: Amounts) -> list[str]:
    """The classes of which the host has less free than is asked, or does not give so much."""
    free = host.free
    return sorted(
        name
        for name, amount in asked.items()
        if amount > free.get(name, 0) or not _admits(host, name, amount)
    )


def largest_fit(hosts: Iterable[HostView]) -> Amounts:
    """The largest machine that fits on one reachable host: by memory, then CPUs, then disk."""
    frees = [host.free for host in hosts if host.reachable]
    keys = (MEMORY, VCPUS, DISK)
    return max(frees, key=lambda free: [free.get(key, 0) for key in keys], default={})


def total(parts: Iterable[Amounts]) -> Amounts:
    """The sum, class by class."""
    result: Amounts = {}
    for part in parts:
        for name, amount in part.items():
            result[name] = result.get(name, 0) + amount
    return result


def _slack(host: HostView, asked: Amounts) -> float:
    """Share of the host that stays free in the class that is left with the most."""
    free, capacity = host.free, host.capacity
    return max(
        (
            (free[name] - amount) / capacity[name]
            for name, amount in asked.items()
            if name != STORAGE
        ),
        default=0.0,
    )


def _shortage(host: HostView, asked: Amounts) -> float:
    free = host.free
    return sum(
        max(0, asked[name] - free.get(name, 0)) / asked[name] for name in lacking(host, asked)
    )


def _admits(host: HostView, name: str, amount: int) -> bool:
    return name not in host.units or host.units[name].admits(amount)


def _explain(host: HostView, asked: Amounts) -> errors.Exhausted:
    missing, free = lacking(host, asked), host.free
    short = [
        f"{_shown(name, asked[name])} of {name} asked, {_shown(name, free.get(name, 0))} free"
        if _admits(host, name, asked[name])
        else f"{asked[name]} of {name} asked, a machine gets {host.units[name]}"
        for name in missing
    ]
    fits = ", ".join(f"{_shown(name, free.get(name, 0))} of {name}" for name in sorted(asked))
    said = f"no host has room; {host.host_id} comes closest"
    if host.host_id == POOL:
        said = "the cloud's pool has no room"
    return errors.Exhausted(
        "INSUFFICIENT_CAPACITY",
        f"{said}: {'; '.join(short)}",
        hint=f"a machine with at most {fits} would fit; or wait, or try another cloud",
        resource=missing[0],
        asked=asked[missing[0]],
        free=free.get(missing[0], 0),
        host=host.host_id,
    )


def _no_host(known: int) -> errors.WatariError:
    if known:
        return errors.Unavailable(
            "PEER_UNAVAILABLE",
            f"none of the cloud's {known} hosts answers",
            hint="it goes on by itself once a host's agent is up",
        )
    return errors.Exhausted(
        "INSUFFICIENT_CAPACITY",
        "the cloud has no host yet",
        hint="choose another cloud, or add a host to this one",
        resource="hosts",
        asked=1,
        free=0,
    )


def _shown(name: str, amount: int) -> str:
    return units.format_bytes(amount) if name.endswith("_bytes") else str(amount)
