"""Views of the disks of a machine: while it runs, by a pull-mode backup, and when it stands still.

A backup is a moment: what the guest writes meanwhile goes on to its disk, and what was there before
goes to a scratch file. With each one begins a checkpoint, whose bitmap tells the next view what has
changed. Bitmaps need qcow2; a raw disk has the moment, and tells no changes.

Libvirt: https://libvirt.org/kbase/live_full_disk_backup.html; QEMU: docs/interop/nbd.txt.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import libvirt

from agent import files
from agent.disks import open_reader
from agent.disks.live import ExportReader, LiveRawReader
from agent.disks.qcow2 import Qcow2Reader
from agent.disks.view import DiskView, OpenDisks, ViewedDisk
from agent.hypervisors import Disk, shelved
from agent.hypervisors.virt import bitmaps, definition, faults, machines
from agent.hypervisors.virt.connection import JOB_LOOK_SECONDS
from agent.hypervisors.virt.host import Host
from agent.hypervisors.virt.machines import Machines, Seen
from agent.hypervisors.virt.records import Hold
from watari import errors, logs
from watari.v1 import agent_pb2

FREEZE_SECONDS_MAX = 5
"""How long the guest's agent may take to answer; without an answer nothing is frozen."""

JOB_END_SECONDS_MAX = 30.0
SOCKET_PATH_BYTES_MAX = 107
_log = logs.get(__name__)


def prefix(migration_id: str) -> str:
    """How the names of a migration's checkpoints and bitmaps begin."""
    return f"watari-{migration_id}-"


@dataclass(frozen=True)
class _Backup:
    """What a backup is to be like."""

    folder: Path
    base: str = ""
    """Checkpoint since which it tells what has changed"""
    told: Collection[str] = ()
    """on these disks."""
    name: str = ""
    """Checkpoint that begins with it"""
    marked: Collection[str] = ()
    """on these disks."""


class Views:
    """Opens views. What is needed for them is gone when `clean` returns."""

    def __init__(self, host: Host, found: Machines) -> None:
        self._host = host
        self._machines = found
        self._folder = found.folder

    def running(self, vm_id: str, migration_id: str, number: int) -> DiskView | None:
        """See `Hypervisor.running_view`."""
        with self._machines.alone(vm_id):
            hold = self._machines.require_hold(vm_id, migration_id)
            seen = self._machines.seen(vm_id)
            if seen is None or seen.state != agent_pb2.GUEST_STATE_RUNNING or hold.stage != "held":
                return None
            disks = self._disks(vm_id)
            if not self._backups():
                return _live(disks)
            # Until all is open, nothing is known of what the next view could tell.
            base = hold.checkpoint if number > 1 else ""
            hold = replace(hold, checkpoint="", serial=hold.serial + 1)
            self._folder.put_hold(vm_id, hold)
            with self._machines.domain(vm_id, "the disks in use cannot be read") as found:
                self._end_job(found, vm_id)
                self._drop_checkpoints(found, migration_id, keep=base)
                marked = {each.disk_id for each in disks if _markable(each)}
                name = f"{prefix(migration_id)}{hold.serial}" if marked else ""
                backup = _Backup(
                    self._folder.view(vm_id), base, _told(found, base) & marked, name, marked
                )
            view = self._begin(seen, backup, disks)
            self._folder.put_hold(vm_id, replace(hold, checkpoint=name))
            return view

    def glimpse(self, vm_id: str) -> DiskView | None:
        """See `Hypervisor.glimpse`."""
        with self._machines.alone(vm_id):
            guest = self._machines.guest(vm_id)
            disks = self._disks(vm_id)
            if guest.state == agent_pb2.GUEST_STATE_SHUT_OFF:
                return shelved.view(disks)
            if all(each.format == "raw" for each in disks) or not self._backups():
                return _live(disks)
            seen = self._machines.seen(vm_id)
            with self._machines.domain(vm_id, "the disks in use cannot be read") as found:
                if seen is None or _job(found) is not None:
                    return None
            return self._begin(seen, _Backup(self._folder.view(vm_id, "-g")), disks)

    def still(self, vm_id: str, migration_id: str) -> DiskView:
        """See `Hypervisor.still_view`; the machine stands still."""
        hold = self._machines.require_hold(vm_id, migration_id)
        guest = self._machines.guest(vm_id)
        if guest.problem:
            raise guest.problem
        with ExitStack() as stack:
            viewed = {each.disk_id: _still(each, hold, stack) for each in guest.disks}
            return OpenDisks(viewed, stack.pop_all())

    def end_jobs(self, vm_id: str) -> None:
        """Ends a view's job that was left behind; somebody else's stays."""
        with contextlib.suppress(errors.NotFound), self._machines.domain(vm_id, "backup") as found:
            self._end_job(found, vm_id)

    def clean(self, vm_id: str, hold: Hold) -> None:
        """Ends what views left behind, and removes their marks. The machine runs or is off."""
        if not hold.serial:
            return
        self.end_jobs(vm_id)
        with contextlib.suppress(errors.NotFound):
            with self._machines.domain(vm_id, "the checkpoints cannot be removed") as found:
                if found.isActive():
                    self._drop_checkpoints(found, hold.migration_id, keep="")
                    return
            self.clean_images(vm_id, hold)

    def clean_images(self, vm_id: str, hold: Hold) -> None:
        """Removes the marks in the images of a machine that is off."""
        if hold.serial:
            for each in self._disks(vm_id):
                if each.format == "qcow2":
                    bitmaps.remove(each.path, prefix(hold.migration_id))

    def _disks(self, vm_id: str) -> tuple[Disk, ...]:
        guest = self._machines.guest(vm_id)
        if guest.problem:
            raise guest.problem
        return tuple(each for each in guest.disks if not each.kind)

    def _backups(self) -> bool:
        return self._host.capabilities().backups

    def _begin(self, seen: Seen, backup: "_Backup", disks: tuple[Disk, ...]) -> DiskView:
        """The view of a backup; whatever fails, nothing of it stays but its checkpoint."""
        vm_id, base, told = seen.vm_id, backup.base, backup.told
        with ExitStack() as stack:
            folder = self._fresh_folder(backup.folder)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            socket = self._socket(folder, stack)
            with self._machines.domain(vm_id, "the disks in use cannot be read") as found:
                plan: dict[str, str | None] = dict.fromkeys(definition.targets(seen.xml))
                plan |= {each.disk_id: base if each.disk_id in told else "" for each in disks}
                text = definition.backup(plan, socket, folder)
                marks = {each: each in backup.marked for each in plan}
                mark = definition.checkpoint(backup.name, marks) if backup.name else None
                with _frozen(found):
                    found.backupBegin(text, mark)
            stack.callback(self._end_quietly, vm_id)
            viewed = {each.disk_id: _exported(each, socket, told, stack) for each in disks}
            return OpenDisks(viewed, stack.pop_all())

    def _fresh_folder(self, folder: Path) -> Path:
        """For socket and scratch files."""
        shutil.rmtree(folder, ignore_errors=True)
        return self._qemus(files.ensure_folder(folder))

    def _socket(self, folder: Path, stack: ExitStack) -> Path:
        """In the folder, or a temporary one where that has too long a path for a socket."""
        if len(os.fsencode(folder / "s")) > SOCKET_PATH_BYTES_MAX:
            folder = self._qemus(Path(tempfile.mkdtemp(prefix="watari-view-")))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder / "s"

    def _qemus(self, folder: Path) -> Path:
        """QEMU makes what is in it."""
        owner = self._host.capabilities().owner
        if owner is not None and os.geteuid() == 0:
            os.chown(folder, *owner)
        return folder

    def _end_quietly(self, vm_id: str) -> None:
        try:
            self.end_jobs(vm_id)
        except errors.WatariError as error:  # the next view, or the end of the hold, does it
            _log.warning("a backup job could not be ended", vm=vm_id, error=str(error))

    def _end_job(self, found: Any, vm_id: str) -> None:
        """Ends the backup of an earlier view. Raises FailedPrecondition VM_BUSY for another's."""
        text = _job(found)
        if text is None:
            return
        if str(self._folder.view(vm_id)) not in text:
            raise machines.busy(found.name(), "a backup of another program runs")
        with contextlib.suppress(libvirt.libvirtError):
            found.abortJob()
        self._machines.connection.wait_until(
            lambda: _job(found) is None, JOB_END_SECONDS_MAX, JOB_LOOK_SECONDS
        )

    def _drop_checkpoints(self, found: Any, migration_id: str, keep: str) -> None:
        """Deletes this migration's but one; a checkpoint whose bitmap is lost goes by its name."""
        for each in _ours(found, migration_id):
            if each.getName() == keep:
                continue
            try:
                each.delete(0)
            except libvirt.libvirtError as error:
                _log.warning("a checkpoint's bitmap is lost", error=faults.text(error))
                each.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)


def _live(disks: tuple[Disk, ...]) -> DiskView | None:
    """Raw files as they change; None where a disk is of another format."""
    if any(each.format != "raw" for each in disks):
        return None
    with ExitStack() as stack:
        viewed: Mapping[str, ViewedDisk] = {
            each.disk_id: ViewedDisk(stack.enter_context(LiveRawReader(each.path)), live=True)
            for each in disks
        }
        return OpenDisks(viewed, stack.pop_all())


def _still(disk: Disk, hold: Hold, stack: ExitStack) -> ViewedDisk:
    if disk.format == "qcow2" and hold.checkpoint and not disk.kind:
        try:
            marked = stack.enter_context(Qcow2Reader(disk.path, hold.checkpoint))
            return ViewedDisk(marked, marked.dirty())
        except errors.FailedPrecondition as error:
            # QEMU was killed, or the disk was never marked: all of it is looked at.
            _log.warning("what has changed is not known", disk=disk.disk_id, error=str(error))
    return ViewedDisk(stack.enter_context(open_reader(disk.path, disk.format)))


def _exported(disk: Disk, socket: Path, told: Collection[str], stack: ExitStack) -> ViewedDisk:
    bitmap = f"backup-{disk.disk_id}" if disk.disk_id in told else ""
    reader = stack.enter_context(ExportReader(socket, disk.disk_id, bitmap))
    return ViewedDisk(reader, reader.dirty() if bitmap else None)


def _markable(disk: Disk) -> bool:
    return disk.format == "qcow2" and bitmaps.supported(disk.path)


def _ours(found: Any, migration_id: str) -> list[Any]:
    """Checkpoints of a migration, children first."""
    flags = libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL
    ours = [
        each
        for each in found.listAllCheckpoints(flags)
        if each.getName().startswith(prefix(migration_id))
    ]
    return ours[::-1]


def _told(found: Any, base: str) -> set[str]:
    """The disks whose changes since a checkpoint are known."""
    if not base:
        return set()
    try:
        text = found.checkpointLookupByName(base).getXMLDesc(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT:
            raise
        return set()
    return definition.marked(text)


def _job(found: Any) -> str | None:
    """The XML of the backup that runs."""
    try:
        return str(found.backupGetXMLDesc(0))
    except libvirt.libvirtError as error:
        if not found.connect().isAlive():
            raise
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            raise
        return None


@contextlib.contextmanager
def _frozen(found: Any) -> Iterator[None]:
    """The guest's file systems are at rest meanwhile, where its agent does that."""
    frozen = False
    if definition.has_guest_agent(str(found.XMLDesc(0))):
        try:
            found.agentSetResponseTimeout(FREEZE_SECONDS_MAX, 0)
            frozen = found.fsFreeze() >= 0
        except libvirt.libvirtError as error:
            frozen = True  # it may have, without telling
            _log.warning("the guest was not frozen", vm=found.name(), error=faults.text(error))
    try:
        yield
    finally:
        if frozen:
            try:
                found.fsThaw()
            except libvirt.libvirtError as error:
                _log.warning("the guest was not thawed", vm=found.name(), error=faults.text(error))
