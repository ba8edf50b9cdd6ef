"""A machine that was handed over: out of use, its disks kept where they are for a while.

`purge` deletes plain files only. Block devices are never deleted or wiped, nor is a file that a
machine of this host still uses (`usage`); whoever gave the machine a volume takes it back.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent import files
from agent.disks import measure
from agent.hypervisors import Disk, Guest, Retained, StoredDisk
from agent.hypervisors.virt import faults, lifecycle, machines, records, usage
from agent.hypervisors.virt.host import Host
from agent.hypervisors.virt.machines import Machines
from agent.hypervisors.virt.records import Folder, Kept
from watari import clock, errors, logs
from watari.v1 import agent_pb2

_log = logs.get(__name__)


class Retiring:
    """See `Hypervisor` for what each method promises."""

    def __init__(self, host: Host, found: Machines, time: clock.Clock) -> None:
        self._host = host
        self._machines = found
        self._folder: Folder = found.folder
        self._clock = time

    def retire(self, vm_id: str, migration_id: str) -> Retained:
        """Writes what is kept, and then takes the machine away."""
        with self._machines.alone(vm_id):
            kept = self._folder.kept_by(migration_id)
            hold = self._folder.hold(vm_id)
            held = hold is not None and hold.migration_id == migration_id
            if kept is None or kept.vm_id != vm_id:
                if hold is None:  # retired and purged long ago: what is here now came back since
                    raise faults.not_found(vm_id)
                kept = self._folder.put_kept(self._keep(vm_id, migration_id))
            # The hold goes last: without it this was done before, and the machine may have come
            # back.
            if held:
                self._take_away(vm_id, kept)
            return _retained(kept)

    def retained(self) -> Sequence[Retained]:
        """What is kept, by migration id."""
        return [_retained(each) for each in self._folder.all_kept()]

    def stored(self) -> Sequence[StoredDisk]:
        """Disks of machines that are off, and what is retained: what runs changes, and QEMU has its
        images locked.
        """
        found = []
        for guest in self._machines.guests():
            if guest.state == agent_pb2.GUEST_STATE_SHUT_OFF:
                origin = self._folder.origin(guest.vm_id)
                provider = origin.provider if origin else ""
                found += [
                    StoredDisk(guest.vm_id, provider, guest.tenant, disk)
                    for disk in guest.disks
                    if not disk.kind
                ]
        for kept in self._folder.all_kept():
            found += [
                StoredDisk(kept.vm_id, kept.provider, kept.tenant, disk)
                for disk in _readable(kept).values()
            ]
        return found

    def earlier(self, vm_id: str) -> Mapping[str, Disk]:
        """Disks of the copy that was retained last."""
        copies = [each for each in self._folder.all_kept() if each.vm_id == vm_id]
        return _readable(max(copies, key=lambda each: each.expires_at)) if copies else {}

    def purge(self, migration_id: str) -> None:
        """Deletes the plain files of what a migration took away. Raises FailedPrecondition VM_BUSY
        while it is not known what a machine of this host uses.
        """
        kept = self._folder.kept_by(migration_id)
        if kept is None:
            self._folder.drop_kept(migration_id)
            return
        with self._machines.alone(kept.vm_id):
            in_use = usage.in_use(self._machines) | self._kept_otherwise(migration_id)
            for each in records.kept_disks(kept).values():
                if each in in_use:
                    _log.warning("a retained file is in use again", file=each.name)
                elif records.plain_file(each):
                    files.remove(each)
            # What is in use is told by resolved paths.
            folder = self._folder.machine(kept.folder).resolve() if kept.folder else None
            if folder is not None and not any(folder in each.parents for each in in_use):
                self._folder.remove_machine(kept.folder)
            self._folder.drop_kept(migration_id)

    def _kept_otherwise(self, migration_id: str) -> set[Path]:
        """Files of copies that other migrations left: an operator may have put a machine back by
        hand, which then left once more.
        """
        others = [each for each in self._folder.all_kept() if each.migration_id != migration_id]
        return {path for each in others for path in records.kept_disks(each).values()}

    def purge_expired(self) -> None:
        """Deletes what has been kept for its time."""
        now = self._clock.now().timestamp()
        for each in self._folder.all_kept():
            if each.expires_at <= now:
                try:
                    self.purge(each.migration_id)
                except errors.FailedPrecondition as error:
                    _log.warning("not purged yet", migration=each.migration_id, error=str(error))

    def _keep(self, vm_id: str, migration_id: str) -> Kept:
        guest = self._machines.guest(vm_id)
        if guest.held_by not in {"", migration_id}:
            raise machines.busy(guest.name, guest.held_by)
        if guest.state != agent_pb2.GUEST_STATE_SHUT_OFF:
            raise errors.FailedPrecondition(
                "VM_RUNNING",
                f"machine {guest.name} runs: it cannot have been handed over",
                hint="see `watari migration list`; the migration stops it first",
                vm=vm_id,
            )
        origin = self._folder.origin(vm_id)
        return Kept(
            migration_id=migration_id,
            vm_id=vm_id,
            name=guest.name,
            tenant=guest.tenant,
            provider=origin.provider if origin else "",
            epoch=guest.epoch,
            expires_at=self._clock.now().timestamp() + self._host.options.retention_seconds,
            definition=guest.definition_xml,
            disks=records.named_disks(guest.disks),
            others=tuple(str(each) for each in self._others(guest)),
            folder=origin.migration_id if origin else "",
        )

    def _others(self, guest: Guest) -> list[Path]:
        state = self._machines.state(guest.definition_xml)
        found = [state.nvram] if state.nvram is not None else []
        if state.tpm:
            folder = self._host.swtpm_folder(guest.vm_id)
            found += [each for each in folder.rglob("*") if records.plain_file(each)]
        return found

    def _take_away(self, vm_id: str, kept: Kept) -> None:
        lifecycle.undefine(self._machines, vm_id)
        # Where libvirt looks for them there is one place for each machine, or for each name: who
        # comes there next must not meet them, nor lose its own when these are purged.
        aside = files.ensure_folder(self._folder.kept / kept.migration_id / "state")
        for number, each in enumerate(map(Path, kept.others)):
            if records.plain_file(each):
                shutil.move(each, aside / f"{number}-{each.name}")
        if kept.folder:
            self._folder.drop_origin(kept.folder)
        self._folder.drop_epoch(vm_id)
        if self._folder.hold(vm_id) is not None:
            self._folder.drop_hold(vm_id)


def _readable(kept: Kept) -> dict[str, Disk]:
    found = {}
    for disk_id, path, disk_format in kept.disks:
        try:
            measured = measure(Path(path), disk_format)
        except errors.WatariError:
            continue
        size, allocated = measured.size_bytes, measured.allocated_bytes
        found[disk_id] = Disk(disk_id, Path(path), disk_format, size, allocated)
    return found


def _retained(kept: Kept) -> Retained:
    paths = records.kept_disks(kept).values()
    return Retained(
        vm_id=kept.vm_id,
        migration_id=kept.migration_id,
        allocated_bytes=sum(records.allocated_bytes(each) for each in paths),
        expires_at_seconds=kept.expires_at,
        epoch=kept.epoch,
        name=kept.name,
    )
