"""Where what is written down and what is there have parted: functions of values.

Three things are compared: the allocations with the machines and reservations that should have
them, and the machines with what their hosts list. A drift says what was found, what was expected,
and what a repair does; where that would be a guess, nothing is repaired.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from manager.inventory import Amounts
from watari.v1 import agent_pb2, common_pb2, manager_pb2

Consumer = tuple[str, str]
"""Kind and id."""

Taken = Mapping[str, tuple[str, int]]
"""Host (or the pool) and amount by class."""

ORPHAN = manager_pb2.DRIFT_KIND_ALLOCATION_ORPHAN
WRONG = manager_pb2.DRIFT_KIND_ALLOCATION_WRONG
SILENT = manager_pb2.DRIFT_KIND_HOST_SILENT
MISSING = manager_pb2.DRIFT_KIND_MACHINE_MISSING
UNKNOWN = manager_pb2.DRIFT_KIND_MACHINE_UNKNOWN
CHANGED = manager_pb2.DRIFT_KIND_MACHINE_CHANGED
FOREIGN = manager_pb2.DRIFT_KIND_MACHINE_FOREIGN


@dataclass(frozen=True)
class Machine:
    """A machine as it is written down."""

    vm_id: str
    ours: bool
    """Whether this cloud owns it."""

    host_id: str
    resources: common_pb2.Resources
    settled: bool = True
    """Whether it was written down before the hosts were asked."""


def of_allocations(
    found: Mapping[Consumer, Taken], expected: Mapping[Consumer, Taken]
) -> list[manager_pb2.Drift]:
    """Allocations that nobody should have, and those that are not what they should be."""
    drifts = []
    for consumer in sorted(found.keys() | expected.keys()):
        has, should = found.get(consumer, {}), expected.get(consumer)
        if has == (should or {}):
            continue
        drifts.append(
            manager_pb2.Drift(
                kind=ORPHAN if should is None else WRONG,
                subject_id=consumer[1],
                found=f"{consumer[0]} takes {_said(has)}",
                expected=f"it takes {_said(should or {})}",
                repair="the allocation is deleted"
                if should is None
                else "the allocation is written anew",
            )
        )
    return drifts


def of_counts(
    miscounted: Mapping[str, tuple[Mapping[str, Amounts], Mapping[str, Amounts]]],
) -> list[manager_pb2.Drift]:
    """Hosts, or the pool, of which something else is counted as taken than the allocations add up
    to: both by kind of consumer.
    """
    return [
        manager_pb2.Drift(
            kind=WRONG,
            subject_id=host_id,
            host_id=host_id,
            found=f"counted as taken: {_counted(counted)}",
            expected=f"the allocations add up to {_counted(summed)}",
            repair="what is taken is counted anew",
        )
        for host_id, (counted, summed) in sorted(miscounted.items())
    ]


def of_hosts(
    machines: Iterable[Machine],
    arriving: Collection[str],
    listed: Mapping[str, Iterable[agent_pb2.Guest] | None],
) -> list[manager_pb2.Drift]:
    """What hosts list and nobody knows, and what is known and no host lists. None: a host that did
    not answer, of which nothing can be told.
    """
    known = {machine.vm_id: machine for machine in machines}
    drifts = [
        manager_pb2.Drift(
            kind=SILENT, host_id=host_id, found="the host does not answer", expected="it answers"
        )
        for host_id, guests in sorted(listed.items())
        if guests is None
    ]
    seen = set()
    for host_id, guests in sorted(listed.items()):
        for guest in guests or ():
            seen.add((host_id, guest.vm_id))
            drift = _of_guest(host_id, guest, known.get(guest.vm_id), arriving)
            drifts += [drift] if drift is not None else []
    for machine in known.values():
        answered = listed.get(machine.host_id) is not None
        here = (machine.host_id, machine.vm_id) in seen
        if machine.ours and machine.settled and answered and not here:
            drifts.append(
                manager_pb2.Drift(
                    kind=MISSING,
                    subject_id=machine.vm_id,
                    host_id=machine.host_id,
                    found="the host does not list the machine",
                    expected="it is there: this cloud owns it, and counts it",
                )
            )
    return drifts


def _of_guest(
    host_id: str, guest: agent_pb2.Guest, machine: Machine | None, arriving: Collection[str]
) -> manager_pb2.Drift | None:
    if guest.held_by or guest.vm_id in arriving:
        return None  # A migration looks after it.
    drift = manager_pb2.Drift(subject_id=guest.vm_id, host_id=host_id)
    drift.found = f"the host lists {guest.name} with {_amounts(guest.resources)}"
    if machine is None:
        drift.kind, drift.expected = UNKNOWN, "machines are known"
        drift.repair = "it is taken for this cloud's, as at every look at the host"
    elif not machine.ours:
        drift.kind, drift.expected = FOREIGN, "another cloud owns it, and nothing holds it here"
    elif machine.host_id != host_id:
        drift.kind, drift.expected = FOREIGN, f"it is counted on host {machine.host_id}"
    elif machine.settled and machine.resources != guest.resources:
        drift.kind, drift.expected = CHANGED, f"{_amounts(machine.resources)} are counted"
        drift.repair = "what the host says is counted"
    else:
        return None
    return drift


def _said(taken: Taken) -> str:
    if not taken:
        return "nothing"
    return ", ".join(f"{amount} {name} of {host}" for name, (host, amount) in sorted(taken.items()))


def _amounts(resources: common_pb2.Resources) -> str:
    amounts: Amounts = {"vcpus": resources.vcpus, "memory_bytes": resources.memory_bytes}
    amounts |= {"disk_bytes": resources.disk_bytes} | dict(resources.other)
    return ", ".join(f"{amount} {name}" for name, amount in amounts.items() if amount) or "nothing"


def _counted(by_kind: Mapping[str, Amounts]) -> str:
    parts = [
        f"{amount} of {name} by {kind}s"
        for kind, amounts in sorted(by_kind.items())
        for name, amount in sorted(amounts.items())
    ]
    return ", ".join(parts) or "nothing"
