"""What keeps a machine from being moved, looked at before anything is done to it."""

import contextlib
from collections.abc import Callable
from typing import Any

import libvirt

from agent.hypervisors import Guest, Mode
from agent.hypervisors.virt import definition
from agent.hypervisors.virt.machines import Machines, live_xml, shown_xml
from agent.hypervisors.virt.notes import Note
from watari import errors
from watari.v1 import agent_pb2, common_pb2

SUSPEND = common_pb2.MIGRATION_MODE_SUSPEND


def require_movable(found: Machines, guest: Guest, mode: Mode) -> None:
    """Raises the first obstacle."""
    for note in obstacles(found, guest, mode):
        if note.fatal:
            raise note.error


def obstacles(found: Machines, guest: Guest, mode: Mode) -> list[Note]:
    """What keeps a machine here."""
    notes = []
    if guest.problem:
        return [Note(fatal=True, error=guest.problem)]
    if guest.state == agent_pb2.GUEST_STATE_PAUSED:
        notes.append(Note(fatal=True, error=paused(guest.name)))
    elif mode == SUSPEND and guest.state != agent_pb2.GUEST_STATE_RUNNING:
        notes.append(Note(fatal=True, error=off(guest.name)))
    notes += definition.obstacles(guest.definition_xml)
    with (
        contextlib.suppress(errors.NotFound),
        found.domain(guest.vm_id, "the machine cannot be looked at") as domain,
    ):
        notes += definition.in_the_way(
            snapshots=_count(domain.snapshotNum), managed_save=bool(_saved_by_libvirt(domain))
        )
        notes += attached(domain)
    return notes


def attached(domain: Any) -> list[Note]:
    """What of a machine that runs is in its live definition only."""
    if not domain.isActive():
        return []
    return definition.attached_live(shown_xml(domain), live_xml(domain))


def off(name: str) -> errors.FailedPrecondition:
    """The error of a machine without a memory."""
    return errors.FailedPrecondition(
        "VM_NOT_RUNNING",
        f"machine {name} is off: it has no memory that could be saved",
        hint="migrate it in mode cold",
        vm=name,
    )


def paused(name: str) -> errors.FailedPrecondition:
    """The error of one that neither runs nor is off."""
    return errors.FailedPrecondition(
        "VM_NOT_RUNNING",
        f"machine {name} is paused",
        hint="resume it or shut it down first, then migrate",
        vm=name,
    )


def _count(ask: Callable[[], int]) -> int:
    try:
        return int(ask())
    except libvirt.libvirtError:  # Xen has none
        return 0


def _saved_by_libvirt(domain: Any) -> bool:
    try:
        return bool(domain.hasManagedSaveImage(0))
    except libvirt.libvirtError:
        return False
