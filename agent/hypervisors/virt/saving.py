"""The memory of a held machine: saved, and loaded again only over the disks of its moment.

A save that began goes on without the agent, so each has a file of its own, noted before it begins.
While libvirt still knows the machine anybody can start it once more, and the memory is of no use
from then on: `stamps` tells.
"""

import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import libvirt

from agent import files
from agent.hypervisors import domain
from agent.hypervisors.virt import faults, lifecycle, stamps
from agent.hypervisors.virt import memory as memory_file
from agent.hypervisors.virt.connection import JOB_LOOK_SECONDS
from agent.hypervisors.virt.machines import Machines
from agent.hypervisors.virt.records import Folder, Hold
from watari import errors, logs

SAVE_SECONDS_MAX = 3600.0
"""How long a save that an agent before this one began may go on."""

_log = logs.get(__name__)


class Saving:
    """Saves, and tells which image may be loaded."""

    def __init__(self, found: Machines) -> None:
        self._machines = found
        self._folder: Folder = found.folder

    def save(self, vm_id: str, hold: Hold) -> Hold:
        """Saves the memory of a machine that runs, unless that was done already."""
        self.await_job(vm_id)
        # An image counts only once the machine is off: libvirt may have let it run on after all.
        while lifecycle.active(self._machines, vm_id):
            name = f"{vm_id}.{uuid.uuid4().hex[:8]}.memory"
            hold = self._folder.put_hold(vm_id, replace(hold, saves=(*hold.saves, name)))
            with self._machines.domain(vm_id, f"the memory of {hold.name} was not saved") as found:
                found.saveFlags(str(self._folder.held / name), None, 0)
            hold = replace(hold, saved=name, stamps=_disks(hold))
            self._folder.put_hold(vm_id, hold)
        fitting = self._fitting(hold)
        if fitting is None:
            raise faults.failed(
                f"the memory of {hold.name} was not saved",
                "it stopped by itself, or has run since",
            )
        memory, fits = fitting
        memory_file.pad(self._folder.held / memory, hold.memory_bytes, hold.name)
        for each in hold.saves:
            if each != memory:
                files.remove(self._folder.held / each)
        hold = replace(hold, saves=(memory,), saved=memory, memory=memory, stamps=fits)
        return self._folder.put_hold(vm_id, hold)

    def require_fit(self, hold: Hold) -> None:
        """Raises FailedPrecondition VM_LIFECYCLE_FAILED when the disks are not those of the memory
        any more.
        """
        if changed := stamps.changed(hold.stamps):
            raise faults.failed(
                f"the saved memory of {hold.name} is older than its disks",
                f"somebody has let it run, or written to {', '.join(changed)}",
            )

    def loadable(self, hold: Hold) -> Path | None:
        """The image that the machine goes on from; None where it has to boot from its disks."""
        fitting = self._fitting(hold)
        return self._folder.held / fitting[0] if fitting is not None else None

    def drop(self, hold: Hold) -> None:
        """Deletes whatever was saved: it has been loaded, or must not be."""
        for each in hold.saves:
            files.remove(self._folder.held / each)

    def await_job(self, vm_id: str) -> None:
        """Until libvirt does nothing with the machine any more."""

        def idle() -> bool:
            try:
                with self._machines.domain(vm_id, "its jobs are not known") as found:
                    return not found.isActive() or found.jobInfo()[0] in {
                        libvirt.VIR_DOMAIN_JOB_NONE,
                        libvirt.VIR_DOMAIN_JOB_COMPLETED,
                        libvirt.VIR_DOMAIN_JOB_FAILED,
                        libvirt.VIR_DOMAIN_JOB_CANCELLED,
                    }
            except errors.FailedPrecondition:  # it went off between the two questions
                return True

        if not self._machines.connection.wait_until(idle, SAVE_SECONDS_MAX, JOB_LOOK_SECONDS):
            raise faults.failed("libvirt has been busy with the machine", "for an hour")

    def _fitting(self, hold: Hold) -> tuple[str, Mapping[str, str]] | None:
        """The last complete image, if the disks are still those that it was saved with, and what
        tells them.
        """
        for name in reversed(hold.saves):
            path = self._folder.held / name
            image = memory_file.image(path)
            if image is None or image.complete is False:
                continue
            fits = hold.stamps
            if name in {hold.saved, hold.memory}:
                newer = stamps.changed(fits)
            elif image.complete is None:  # nobody was there to hear whether it was saved
                continue
            else:
                fits = _disks(hold)
                newer = stamps.newer(fits, path)
            if newer:
                _log.warning("saved memory is older than the disks", vm=hold.name, disks=newer)
                return None
            return name, fits
        return None


def _disks(hold: Hold) -> Mapping[str, str]:
    return stamps.taken(Path(each.source).resolve() for each in domain.parse(hold.shown).disks)
