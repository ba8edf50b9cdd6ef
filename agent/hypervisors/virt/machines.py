"""The machines of this host: those that libvirt knows, and those that a hold keeps from it."""

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt

from agent.disks import measure
from agent.hypervisors import STATE_DISKS, Disk, Guest, domain
from agent.hypervisors.virt import definition, faults, records, tpm
from agent.hypervisors.virt.connection import Connection
from agent.hypervisors.virt.definition import State
from agent.hypervisors.virt.records import Folder, Hold
from watari import errors
from watari.v1 import agent_pb2, common_pb2

DEFINITION_SHOWN_MAX = 1024
"""Characters that are shown of a definition that cannot be read."""

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: agent_pb2.GUEST_STATE_RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: agent_pb2.GUEST_STATE_RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: agent_pb2.GUEST_STATE_RUNNING,  # about to be off, but not yet
    libvirt.VIR_DOMAIN_PAUSED: agent_pb2.GUEST_STATE_PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: agent_pb2.GUEST_STATE_PAUSED,
}


@dataclass(frozen=True)
class Seen:
    """A machine as libvirt tells it."""

    vm_id: str
    xml: str
    """Its persistent definition, without secrets."""
    state: "agent_pb2.GuestState.ValueType"

    @property
    def active(self) -> bool:
        """Whether there is a process of it."""
        return self.state != agent_pb2.GUEST_STATE_SHUT_OFF


class Machines:
    """Looks machines up; changes nothing."""

    def __init__(self, connection: Connection, folder: Folder, nvram_folder: Path) -> None:
        self._nvram_folder = nvram_folder
        self.connection = connection
        self.folder = folder
        self._guard = threading.Lock()
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)

    @contextlib.contextmanager
    def alone(self, vm_id: str) -> Iterator[None]:
        """One change of a machine at a time."""
        with self._guard:
            lock = self._locks[vm_id]
        with lock:
            yield

    def guests(self) -> Sequence[Guest]:
        """All of them, by name."""
        # Holds first: a machine is in its hold before it leaves libvirt, and until it is back.
        holds = self.folder.holds()
        with self.connection.asked("the machines cannot be listed") as opened:
            seen = [each for each in map(_seen, opened.listAllDomains()) if each is not None]
        known = {each.vm_id for each in seen}
        seen += [_held(vm_id, hold) for vm_id, hold in holds.items() if vm_id not in known]
        found = [self._guest(each, holds.get(each.vm_id)) for each in seen]
        return sorted(found, key=lambda guest: (guest.name, guest.vm_id))

    def guest(self, vm_id: str) -> Guest:
        """One of them. Raises NotFound VM_NOT_FOUND."""
        hold = self.folder.hold(vm_id)
        seen = self.seen(vm_id)
        if seen is None:
            if hold is None:
                raise faults.not_found(vm_id)
            seen = _held(vm_id, hold)
        return self._guest(seen, hold)

    def seen(self, vm_id: str) -> Seen | None:
        """As libvirt knows it; None when it does not."""
        try:
            with self.domain(vm_id, "the machine cannot be looked at") as found:
                return _seen(found)
        except errors.NotFound:
            return None

    @contextlib.contextmanager
    def domain(self, vm_id: str, what: str) -> Iterator[Any]:
        """Yields the `virDomain`; errors are as of `Connection.asked`."""
        with self.connection.asked(what, vm_id) as opened:
            yield opened.lookupByUUIDString(vm_id)

    def state(self, xml: str) -> State:
        """What of a machine travels beside its disks."""
        return definition.state(xml, self._nvram_folder)

    def require_hold(self, vm_id: str, migration_id: str) -> Hold:
        """The hold of that migration. Raises FailedPrecondition VM_BUSY, NotFound."""
        hold = self.folder.hold(vm_id)
        if hold is None or hold.migration_id != migration_id:
            name = self.guest(vm_id).name
            raise busy(name, hold.migration_id if hold else "no migration holds it")
        return hold

    def _guest(self, seen: Seen, hold: Hold | None) -> Guest:
        origin = self.folder.origin(seen.vm_id)
        epoch = origin.epoch if origin is not None else self.folder.epoch(seen.vm_id)
        arrived_in = origin.migration_id if origin is not None else ""
        held_by = hold.migration_id if hold else ""
        try:
            found = domain.parse(seen.xml)
            disks, problem = _disks(found)
            if hold is not None:
                disks += state_disks(self.folder, seen.vm_id, self.state(seen.xml), hold)
        except errors.WatariError as error:
            return Guest(
                vm_id=seen.vm_id,
                name=hold.name if hold else seen.vm_id,
                tenant="default",
                vcpus=0,
                memory_bytes=0,
                disks=(),
                definition_xml=seen.xml[:DEFINITION_SHOWN_MAX],
                held_by=held_by,
                epoch=epoch,
                state=seen.state,
                problem=error,
                arrived_in=arrived_in,
            )
        stopped = bool(hold and hold.stage != "held" and hold.was_running and not seen.active)
        return Guest(
            vm_id=found.vm_id,
            name=found.name,
            tenant=found.tenant,
            vcpus=found.vcpus,
            memory_bytes=found.memory_bytes,
            disks=disks,
            definition_xml=seen.xml,
            held_by=held_by,
            epoch=epoch,
            state=seen.state,
            problem=problem,
            stopped_by_hold=stopped,
            stopped_at_seconds=hold.stopped_at if hold and stopped else 0.0,
            arrived_in=arrived_in,
        )


def state_disks(folder: Folder, vm_id: str, state: State, hold: Hold) -> tuple[Disk, ...]:
    """What travels beside the disks, whether it has been saved yet or not."""
    found = []
    if hold.mode == common_pb2.MIGRATION_MODE_SUSPEND:
        path = folder.held / (hold.memory or f"{vm_id}.memory")
        kind = common_pb2.DISK_KIND_MEMORY
        allocated = records.allocated_bytes(path) if hold.memory else hold.memory_bytes
        found.append(_state_disk(kind, path, hold.memory_bytes, allocated))
    if state.nvram is not None and records.plain_file(state.nvram):
        size = state.nvram.stat().st_size
        found.append(_state_disk(common_pb2.DISK_KIND_NVRAM, state.nvram, size, size))
    if state.tpm:
        size = tpm.STATE_BYTES_MAX
        found.append(
            _state_disk(common_pb2.DISK_KIND_TPM, folder.held / f"{vm_id}.tpm", size, size)
        )
    return tuple(found)


def busy(name: str, holder: str) -> errors.FailedPrecondition:
    """The error of a machine that somebody has."""
    return errors.FailedPrecondition(
        "VM_BUSY",
        f"machine {name} is taken: {holder}",
        hint="see `watari migration list`; wait for the migration or cancel it",
        vm=name,
        holder=holder,
    )


def secret_xml(found: Any) -> str:
    """The persistent definition with what is secret in it, such as a display's password."""
    return str(found.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))


def shown_xml(found: Any) -> str:
    """The persistent definition."""
    return str(found.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


def live_xml(found: Any) -> str:
    """That which a machine runs by, which differs from the persistent one where devices were
    attached or detached since.
    """
    return str(found.XMLDesc(0))


def _seen(found: Any) -> Seen | None:
    """None when it went away meanwhile. Raises libvirtError."""
    try:
        state = _STATES.get(found.state()[0])
        if state is None:  # off; or crashed, with its process kept for a look
            off, kept = agent_pb2.GUEST_STATE_SHUT_OFF, agent_pb2.GUEST_STATE_PAUSED
            state = kept if found.isActive() else off
        return Seen(found.UUIDString(), shown_xml(found), state)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _held(vm_id: str, hold: Hold) -> Seen:
    return Seen(vm_id, hold.shown, agent_pb2.GUEST_STATE_SHUT_OFF)


def _state_disk(
    kind: "common_pb2.DiskKind.ValueType", path: Path, size: int, allocated: int
) -> Disk:
    return Disk(STATE_DISKS[kind], path, "raw", size, allocated, kind)


def _disks(found: domain.Domain) -> tuple[tuple[Disk, ...], errors.WatariError | None]:
    """The disks that can be read, and why the first other one cannot. Links are followed: the
    operator of this host made them, as LVM does for its volumes.
    """
    disks: list[Disk] = []
    problem: errors.WatariError | None = None
    for each in found.disks:
        path = Path(each.source)
        try:
            path = path.resolve()
            measured = measure(path, each.format)
        except (errors.WatariError, OSError) as error:
            failure = error if isinstance(error, errors.WatariError) else domain.invalid(str(error))
            problem = problem or failure
            continue
        size, allocated = measured.size_bytes, measured.allocated_bytes
        disks.append(Disk(each.disk_id, path, each.format, size, allocated))
    return tuple(disks), problem
