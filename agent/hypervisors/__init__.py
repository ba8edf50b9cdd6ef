"""Hypervisor drivers behind one contract.

A driver knows which machines are on the host, where their disks are, how they are started, stopped
and looked at while they run, and how a machine goes away or comes to be. It moves no content and
decides nothing about ownership: what a manager does not ask for, it never does. In particular it
starts no machine by itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeAlias

from agent.disks.view import DiskView
from watari import errors
from watari.v1 import agent_pb2, common_pb2

Mode: TypeAlias = "common_pb2.MigrationMode.ValueType"
COLD = common_pb2.MIGRATION_MODE_COLD
SUSPEND = common_pb2.MIGRATION_MODE_SUSPEND
WARM = common_pb2.MIGRATION_MODE_WARM


@dataclass(frozen=True)
class Disk:
    """One disk of a machine on this host."""

    disk_id: str
    path: Path
    format: str
    size_bytes: int
    allocated_bytes: int
    kind: "common_pb2.DiskKind.ValueType" = common_pb2.DISK_KIND_UNSPECIFIED
    """Saved state travels as a disk too: memory, firmware variables, TPM."""


STATE_DISKS: Mapping["common_pb2.DiskKind.ValueType", str] = {
    common_pb2.DISK_KIND_MEMORY: "memory",
    common_pb2.DISK_KIND_NVRAM: "nvram",
    common_pb2.DISK_KIND_TPM: "tpm",
}
"""Ids of the disks that saved state travels as. They are always raw."""


@dataclass(frozen=True)
class Guest:
    """A machine on this host, as far as its definition could be read."""

    vm_id: str
    name: str
    tenant: str
    vcpus: int
    memory_bytes: int
    disks: tuple[Disk, ...]
    definition_xml: str
    held_by: str = ""
    epoch: int = 0
    state: "agent_pb2.GuestState.ValueType" = agent_pb2.GUEST_STATE_SHUT_OFF
    problem: errors.WatariError | None = None
    stopped_by_hold: bool = False
    """Whether it ran until `quiesce` stopped it for the migration that holds it."""
    stopped_at_seconds: float = 0.0
    """When it was asked to stop then, POSIX time."""
    arrived_in: str = ""
    """The migration that brought it; empty when it was made here."""


@dataclass(frozen=True)
class Change:
    """Something that a hypervisor tells about a machine, as it happens."""

    vm_id: str
    at: datetime
    runs: bool | None = None
    """Whether it has a process now; None when that is not what changed."""
    reason: str = ""
    """Why, in a few words."""


@dataclass(frozen=True)
class Retained:
    """What is kept of a machine that was handed over, until `expires_at_seconds` (POSIX time)."""

    vm_id: str
    migration_id: str
    allocated_bytes: int
    expires_at_seconds: float
    epoch: int = 0
    """That of the machine while it was here; 0 when it had never migrated before."""
    name: str = ""


@dataclass(frozen=True)
class StoredDisk:
    """A disk that lies on this host, of a machine that is here or that was handed over."""

    vm_id: str
    provider: str
    """Domain of the provider that the machine came from; empty when it was made here."""
    tenant: str
    disk: Disk


@dataclass(frozen=True)
class Arrived:
    """What is to become a machine."""

    staging: Path
    """Folder of its disks; its name is the migration's id."""
    vm_id: str
    definition_xml: str
    """As the source sent it."""
    epoch: int
    provider: str
    """Whose tenant's it is: `agent.stored.provider_of`."""


class Hypervisor(Protocol):
    """The duties of a driver. Every method may be called from several threads at once.

    What changes something is atomic and durable when it returns, and may be repeated: a crash
    between two calls leaves either the state before or the state after each of them.
    """

    name: str
    """What the driver calls itself: "shelf", "libvirt"."""

    def version(self) -> str:
        """Product and version of the hypervisor, as "QEMU 7.2.22"; empty where there is none.

        Raises Unavailable HYPERVISOR_UNAVAILABLE.
        """

    def follow(self, changed: Callable[[Change], None]) -> None:
        """Tells of changes from now on, in their order and from a thread that must not be kept
        waiting. A driver tells what it can, the shelf's nothing; what happened while it was cut
        off from its hypervisor is not told.
        """

    def guests(self) -> Sequence[Guest]:
        """Every machine, by name; one with an unreadable definition has its `problem` set."""

    def guest(self, vm_id: str) -> Guest:
        """One machine. Raises NotFound VM_NOT_FOUND."""

    def hold(self, vm_id: str, migration_id: str, mode: Mode = COLD) -> Guest:
        """Keeps a machine out of other migrations, and off if it is off; one that runs goes on. The
        answer's disks are all that a migration in that mode moves, saved state included, whose size
        is what it may become at most. Raises NotFound, FailedPrecondition VM_BUSY, VM_NOT_RUNNING,
        VM_NOT_MOVABLE, or the machine's `problem`.
        """

    def glimpse(self, vm_id: str) -> DiskView | None:
        """The disks of a machine as they are now, for an estimate; nothing of it begins what
        `running_view` tells as changed. None when they cannot be read while it runs. Raises
        NotFound, DataLoss DISK_IO, and what opening raises.
        """

    def running_view(self, vm_id: str, migration_id: str, number: int) -> DiskView | None:
        """The disks of a held machine that runs, for round `number` of a warm migration, from 1.
        With each view begins what the next one tells as changed. None when it does not run, or when
        this driver cannot read disks in use. Raises FailedPrecondition VM_BUSY without the hold,
        DataLoss DISK_IO.
        """

    def quiesce(self, vm_id: str, migration_id: str, stop_seconds_max: float) -> Guest:
        """Makes a held machine stand still: asks the guest to shut down and forces it after
        `stop_seconds_max`, or saves its memory, as the hold's mode says. When it returns nothing
        but this driver can start it again, also not the host's reboot; all disks of `hold` are
        there to be read. Raises FailedPrecondition VM_BUSY without the hold, VM_LIFECYCLE_FAILED,
        and then the machine runs as before if it did.
        """

    def still_view(self, vm_id: str, migration_id: str) -> DiskView:
        """All disks of a machine that `quiesce` made stand still. What it tells as changed is since
        the last `running_view`, where that is known. Raises as `quiesce`, and what opening raises.
        """

    def unhold(self, vm_id: str, migration_id: str, epoch: int = 0) -> None:
        """Ends that hold if there is one: the machine is as before it. What `quiesce` stopped runs
        again, from its saved memory if that was saved; what views needed is gone. With `epoch` the
        machine has that one from now on. Raises FailedPrecondition VM_LIFECYCLE_FAILED when it
        could not be started; the hold stays then.
        """

    def start(self, vm_id: str, migration_id: str = "", epoch: int = 0) -> Guest:
        """Lets a machine run: starts it, or lets go what `prepare` made ready. It is provisional
        no more, and `forget` does nothing from then on. Migration and epoch are what the order
        names, for `fencing`. Raises NotFound, FailedPrecondition VM_BUSY when it is held, or
        provisional and not meant, EPOCH_MISMATCH, VM_LIFECYCLE_FAILED, Unimplemented NOT_SERVED.
        """

    def stop(
        self, vm_id: str, stop_seconds_max: float, migration_id: str = "", epoch: int = 0
    ) -> Guest:
        """Shuts a machine down, by force after `stop_seconds_max`; only who owns it orders that, so
        it is provisional no more. Raises as `start`.
        """

    def prepare(self, vm_id: str) -> Guest:
        """Gets a machine that arrived and never ran here as far as it goes without executing an
        instruction of it: its resources are taken, its saved memory is loaded. One that has run
        is left alone. A driver whose machines are always off refuses. Raises NotFound,
        FailedPrecondition VM_LIFECYCLE_FAILED.
        """

    def forget(self, migration_id: str) -> bool:
        """Deletes the machine that a migration brought, if it is provisional, whoever has started
        it: it was given back, and its owner runs it elsewhere. False when it is not provisional any
        more, and nothing has changed; True too when there is no such machine.
        """

    def obstacles(self, vm_id: str, mode: Mode) -> Sequence[agent_pb2.Finding]:
        """What of a machine keeps it from moving in that mode, or is worth knowing before. Raises
        NotFound.
        """

    def findings(
        self, definition_xml: str, disks: Sequence[common_pb2.DiskSpec], mode: Mode
    ) -> Sequence[agent_pb2.Finding]:
        """What of a machine that may arrive this host could not run, or not as it was."""

    def retire(self, vm_id: str, migration_id: str) -> Retained:
        """Takes a handed-over machine out of use and keeps its disks. Raises NotFound, also for
        one that no migration holds and of which nothing is kept: that was purged, and what is here
        came back since; FailedPrecondition VM_BUSY when another migration holds it.
        """

    def retained(self) -> Sequence[Retained]:
        """What is kept, by migration id."""

    def stored(self) -> Sequence[StoredDisk]:
        """Every readable disk of this host's machines and of what is retained."""

    def earlier(self, vm_id: str) -> Mapping[str, Disk]:
        """The disks that are retained of a machine, by id; of several copies the newest."""

    def purge(self, migration_id: str) -> None:
        """Deletes what is kept from a migration, if anything is."""

    def purge_expired(self) -> None:
        """Deletes what has been kept for its time."""

    def arrived_by(self, migration_id: str) -> Guest | None:
        """The machine that a migration brought here, if it is still here."""

    def adapted(self, vm_id: str, definition_xml: str) -> str:
        """The definition that `activate` will give a machine. Raises FailedPrecondition
        VM_DEFINITION_INVALID when the machine could not be used with it.
        """

    def activate(self, arrived: Arrived, *, provisional: bool) -> Guest:
        """Turns a folder of complete disks, named as in `staged_disk`, into a machine. One that is
        provisional can be deleted by `forget` until it was started or stopped; any other one until
        this has succeeded. Raises FailedPrecondition VM_BUSY when the host already has one with
        this UUID.
        """
