"""Hypervisor drivers behind one contract.

A driver knows which machines are on the host, where their disks are, and how a machine goes away or
comes to be. It moves no content and decides nothing about ownership.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from watari import errors
from watari.v1 import agent_pb2


@dataclass(frozen=True)
class Disk:
    """One disk of a machine on this host."""

    disk_id: str
    path: Path
    format: str
    size_bytes: int
    allocated_bytes: int


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


@dataclass(frozen=True)
class Retained:
    """What is kept of a machine that was handed over, until `expires_at_seconds` (POSIX time)."""

    vm_id: str
    migration_id: str
    allocated_bytes: int
    expires_at_seconds: float
    epoch: int = 0
    """That of the machine while it was here; 0 when it had never migrated before."""


@dataclass(frozen=True)
class StoredDisk:
    """A disk that lies on this host, of a machine that is here or that was handed over."""

    vm_id: str
    provider: str
    """Domain of the provider that the machine came from; empty when it was made here."""
    tenant: str
    disk: Disk


class Hypervisor(Protocol):
    """The duties of a driver. Every method may be called from several threads at once.

    What changes something is atomic and durable when it returns, and may be repeated: a crash
    between two calls leaves either the state before or the state after each of them.
    """

    name: str
    """What the driver calls itself: "shelf"."""

    def guests(self) -> Sequence[Guest]:
        """Every machine, by name; one with an unreadable definition has its `problem` set."""

    def guest(self, vm_id: str) -> Guest:
        """One machine. Raises NotFound VM_NOT_FOUND."""

    def hold(self, vm_id: str, migration_id: str) -> Guest:
        """Keeps a machine off, unchanged and out of other migrations. Raises NotFound,
        FailedPrecondition VM_BUSY, VM_RUNNING, or the machine's `problem`.
        """

    def unhold(self, vm_id: str, migration_id: str) -> None:
        """Ends that hold if there is one."""

    def retire(self, vm_id: str, migration_id: str) -> Retained:
        """Takes a handed-over machine out of use and keeps its disks. Raises NotFound,
        FailedPrecondition VM_BUSY when another migration holds it.
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

    def activate(
        self, staging: Path, vm_id: str, definition_xml: str, epoch: int, provider: str
    ) -> Guest:
        """Turns a folder of complete disks, named as in `staged_disk`, into a machine. Raises
        FailedPrecondition VM_BUSY when the host already has one with this UUID.
        """
