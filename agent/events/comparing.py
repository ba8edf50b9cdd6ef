"""Which events lie between a machine as the log knows it and as it is found. Pure."""

from dataclasses import dataclass, replace

from agent.hypervisors import Guest
from watari.v1 import agent_pb2, common_pb2

TEXT_CHARS_MAX = 256
"""Of a name or a tenant: bounds an entry, whatever a definition says."""

OFF = agent_pb2.GUEST_STATE_SHUT_OFF


@dataclass(frozen=True)
class Machine:
    """A machine, as far as it is metered."""

    vm_id: str
    name: str
    tenant: str
    state: "agent_pb2.GuestState.ValueType"
    vcpus: int
    memory_bytes: int
    disk_bytes: int
    epoch: int = 0
    arrived_in: str = ""
    """The migration that brought it."""
    held_by: str = ""
    whole: bool = True
    """Whether its definition and all of its disks could be read."""

    @property
    def runs(self) -> bool:
        """Whether it takes what running takes, be it paused."""
        return self.state not in {OFF, agent_pb2.GUEST_STATE_UNSPECIFIED}

    @property
    def resources(self) -> common_pb2.Resources:
        """What it consumes."""
        return common_pb2.Resources(
            vcpus=self.vcpus, memory_bytes=self.memory_bytes, disk_bytes=self.disk_bytes
        )


def machine(guest: Guest) -> Machine:
    """What of a machine is metered. Saved state travels as a disk, and is none of its resources."""
    return Machine(
        vm_id=guest.vm_id,
        name=guest.name[:TEXT_CHARS_MAX],
        tenant=guest.tenant[:TEXT_CHARS_MAX],
        state=guest.state,
        vcpus=guest.vcpus,
        memory_bytes=guest.memory_bytes,
        disk_bytes=sum(disk.size_bytes for disk in guest.disks if not disk.kind),
        epoch=guest.epoch,
        arrived_in=guest.arrived_in,
        held_by=guest.held_by,
        whole=guest.problem is None,
    )


def compare(
    known: Machine | None, found: Machine | None, *, departed_in: str = "", new_log: bool = False
) -> tuple[list[agent_pb2.HostEvent], Machine | None]:
    """The events that lead from one to the other, in order and without instants, and what the log
    knows after them.

    `departed_in` is the migration that took the machine away, if one did. In a new log nobody can
    tell when a machine came, so that none of it has arrived.
    """
    events = list[agent_pb2.HostEvent]()
    if known is not None and (found is None or _is_another(known, found)):
        events += _gone(known, departed_in)
        known = None
    if found is None:
        return events, None
    if known is None:
        known = replace(found, state=OFF)
        arrived_in = "" if new_log else found.arrived_in
        kind = (
            agent_pb2.HOST_EVENT_KIND_ARRIVED if arrived_in else agent_pb2.HOST_EVENT_KIND_APPEARED
        )
        events.append(_event(kind, known, arrived_in))
    if not found.whole:  # what cannot be read now has not changed
        found = replace(known, state=found.state, epoch=found.epoch, held_by=found.held_by)
    if found.resources != known.resources:
        resized = _event(agent_pb2.HOST_EVENT_KIND_RESIZED, replace(found, state=known.state))
        resized.resources_before.CopyFrom(known.resources)
        events.append(resized)
    if found.runs != known.runs:
        events.append(_event(_turn(found), found, found.held_by))
    return events, replace(found, whole=True)


def _is_another(known: Machine, found: Machine) -> bool:
    """Whether it left and came back since."""
    return bool(found.arrived_in) and found.arrived_in != known.arrived_in


def _gone(known: Machine, departed_in: str) -> list[agent_pb2.HostEvent]:
    off = replace(known, state=OFF)
    kind = agent_pb2.HOST_EVENT_KIND_DEPARTED if departed_in else agent_pb2.HOST_EVENT_KIND_REMOVED
    gone = _event(kind, off, departed_in)
    return [_event(_turn(off), off, known.held_by), gone] if known.runs else [gone]


def _turn(found: Machine) -> "agent_pb2.HostEventKind.ValueType":
    return agent_pb2.HOST_EVENT_KIND_STARTED if found.runs else agent_pb2.HOST_EVENT_KIND_STOPPED


def _event(
    kind: "agent_pb2.HostEventKind.ValueType", found: Machine, migration_id: str = ""
) -> agent_pb2.HostEvent:
    return agent_pb2.HostEvent(
        kind=kind,
        vm_id=found.vm_id,
        vm_name=found.name,
        tenant=found.tenant,
        state=found.state,
        resources=found.resources,
        migration_id=migration_id,
    )
