"""A machine that arrives: defined, made ready, started, or forgotten.

`activate` is one rename of a folder; telling libvirt comes after it and is made up for by whoever
looks next. A machine runs from `start` on, which says so first: `forget` then does nothing.

When it runs, switches are told where it is (`announcing`).
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace

import libvirt

from agent import files
from agent.hypervisors import Arrived, Guest, Mode, domain, fencing
from agent.hypervisors.virt import (
    announcing,
    compat,
    definition,
    faults,
    lifecycle,
    machines,
    notes,
    placing,
    records,
    stamps,
    tpm,
)
from agent.hypervisors.virt import memory as memory_file
from agent.hypervisors.virt.host import Host
from agent.hypervisors.virt.machines import Machines
from agent.hypervisors.virt.records import Folder, Origin
from watari import errors, logs
from watari.v1 import agent_pb2, common_pb2

_log = logs.get(__name__)


class Arrival:
    """See `Hypervisor` for what each method promises."""

    def __init__(self, host: Host, found: Machines) -> None:
        self._host = host
        self._machines = found
        self._folder: Folder = found.folder

    def adapted(self, vm_id: str, definition_xml: str) -> str:
        """The definition as `activate` will make it; raises its first fatal finding."""
        folder = self._folder.machine(vm_id)
        made = placing.adapted(
            self._host, definition_xml, folder, folder, nvram=False, memory=False
        )
        notes.raise_first(made.notes)
        return made.xml

    def findings(
        self, definition_xml: str, disks: Sequence[common_pb2.DiskSpec], mode: Mode
    ) -> list[notes.Note]:
        """What of it this host could not run, or not as it was."""
        folder = self._folder.machine("0")
        kinds = {each.kind for each in disks}
        made = placing.adapted(
            self._host,
            definition_xml,
            folder,
            folder,
            nvram=common_pb2.DISK_KIND_NVRAM in kinds,
            memory=mode == common_pb2.MIGRATION_MODE_SUSPEND,
        )
        found = domain.parse(definition_xml)
        return [
            *made.notes,
            *self._namesakes(found.vm_id, found.name),
            *compat.check(definition_xml, disks, mode, self._host, self._folder),
        ]

    def activate(self, arrived: Arrived, *, provisional: bool) -> Guest:
        """Writes definition and origin, renames, and tells libvirt."""
        migration_id, staging = arrived.staging.name, arrived.staging
        with self._machines.alone(arrived.vm_id):
            folder = self._folder.machine(migration_id)
            if not folder.is_dir():
                if self._here(arrived.vm_id):
                    raise machines.busy(arrived.vm_id, "it is on this host already")
                made = placing.adapted(
                    self._host,
                    arrived.definition_xml,
                    staging,
                    folder,
                    nvram=(staging / placing.NVRAM).is_file(),
                    memory=(staging / placing.MEMORY).is_file(),
                )
                namesakes = self._namesakes(arrived.vm_id, domain.parse(made.xml).name)
                notes.raise_first([*made.notes, *namesakes])
                placing.lay_out(staging)
                files.write_text(staging / placing.DEFINITION, made.xml)
                memory = (staging / placing.MEMORY).is_file()
                fits = placing.stamped(self._host, made.xml, staging, folder) if memory else {}
                origin = Origin(
                    migration_id=migration_id,
                    vm_id=arrived.vm_id,
                    epoch=arrived.epoch,
                    provider=arrived.provider,
                    provisional=True,  # until libvirt has it: it may refuse
                    firm=not provisional,
                    stamps=fits,
                )
                self._folder.put_origin(origin, staging)
                staging.chmod(records.PASSABLE_MODE)
                files.rename(staging, folder)
            guest = self.arrived_by(migration_id)
            if guest is None:
                raise faults.not_found(arrived.vm_id)
            return guest

    def arrived_by(self, migration_id: str) -> Guest | None:
        """The machine; libvirt is told of it if it was not yet."""
        origin = self._origin(migration_id)
        if origin is None:
            return None
        with self._machines.alone(origin.vm_id):
            self._define(origin)
            try:
                return self._machines.guest(origin.vm_id)
            except errors.NotFound:  # an operator has taken it out of libvirt since
                return None

    def prepare(self, vm_id: str) -> Guest:
        """Starts it paused, with its memory if that came along."""
        with self._machines.alone(vm_id):
            guest = self._machines.guest(vm_id)
            origin = self._folder.origin(vm_id)
            if origin is None or origin.started or guest.held_by:
                return guest
            self._drop_memory_of(guest, origin)
            self._define(origin)
            self._load(vm_id, origin)
            return self._machines.guest(vm_id)

    def start(self, vm_id: str, migration_id: str, epoch: int) -> Guest:
        """Notes that it may have run, deletes its saved memory, and lets it run."""
        with self._machines.alone(vm_id):
            guest, origin = self._meant(vm_id, migration_id, epoch)
            memory = None
            if origin is not None:
                if origin.stopped and migration_id:
                    return guest  # a late order: who stopped it overruled the migration's start
                self._define(origin)
                origin = self._folder.put_origin(
                    replace(origin, provisional=False, started=True, stopped=False, defined=True)
                )
                self._load(vm_id, origin)
                memory = self._folder.machine(origin.migration_id) / placing.MEMORY
            with self._machines.domain(vm_id, f"machine {guest.name} was not started") as found:
                if lifecycle.release(found, memory) and self._host.options.announce:
                    announcing.announce(found)
            return self._machines.guest(vm_id)

    def stop(self, vm_id: str, stop_seconds_max: float, migration_id: str, epoch: int) -> Guest:
        """Shuts it down; libvirt keeps it."""
        with self._machines.alone(vm_id):
            guest, origin = self._meant(vm_id, migration_id, epoch)
            if origin is not None:
                if not origin.stopped:
                    self._folder.put_origin(
                        replace(origin, provisional=False, started=True, stopped=True)
                    )
                self._drop_memory_of(guest, origin)
            lifecycle.shut_down(self._machines, vm_id, stop_seconds_max)
            return self._machines.guest(vm_id)

    def forget(self, migration_id: str) -> bool:
        """Destroys, undefines and deletes it, if it is provisional; whoever let it run knew nothing
        of its being given back.
        """
        origin = self._origin(migration_id)
        if origin is None:
            self._folder.remove_machine(migration_id)  # what an earlier try of this has left
            return True
        with self._machines.alone(origin.vm_id):
            if not origin.provisional:
                return False
            seen = self._machines.seen(origin.vm_id)
            if seen is not None:
                if seen.state == agent_pb2.GUEST_STATE_RUNNING:
                    _log.warning("a machine that was given back runs here", vm_id=origin.vm_id)
                # Undefined first, while it runs: nobody can start it once more in between.
                lifecycle.undefine(self._machines, origin.vm_id)
                if lifecycle.active(self._machines, origin.vm_id):
                    lifecycle.force_off(self._machines, origin.vm_id)
            shutil.rmtree(self._host.swtpm_folder(origin.vm_id), ignore_errors=True)
            variables = placing.variables(self._host, self._folder.machine(migration_id))
            if variables is not None and origin.defined:
                files.remove(variables)
            self._folder.drop_origin(migration_id)
            self._folder.remove_machine(migration_id)
            return True

    def _namesakes(self, vm_id: str, name: str) -> list[notes.Note]:
        """Another machine of that name: libvirt has one of each, and keeps files by them."""
        if all(each.name != name or each.vm_id == vm_id for each in self._machines.guests()):
            return []
        return [
            notes.incompatible(
                "name",
                f"this host has another machine that is named {notes.shown(name)}",
                "rename one of them (virsh domrename), or choose another cloud",
            )
        ]

    def _origin(self, migration_id: str) -> Origin | None:
        return next(
            (each for each in self._folder.origins() if each.migration_id == migration_id), None
        )

    def _meant(self, vm_id: str, migration_id: str, epoch: int) -> tuple[Guest, Origin | None]:
        """A machine that somebody may start or stop, and how it came here."""
        guest, origin = self._machines.guest(vm_id), self._folder.origin(vm_id)
        if guest.held_by:
            raise machines.busy(guest.name, guest.held_by)
        brought_by = origin.migration_id if origin is not None and origin.provisional else ""
        fencing.require_meant(guest, brought_by, migration_id, epoch)
        return guest, origin

    def _drop_memory_of(self, guest: Guest, origin: Origin) -> None:
        """One that runs writes to its disks: they are newer than what was saved."""
        if guest.state == agent_pb2.GUEST_STATE_RUNNING:
            files.remove(self._folder.machine(origin.migration_id) / placing.MEMORY)

    def _here(self, vm_id: str) -> bool:
        """Also when libvirt was not told yet; one that an operator has taken out of it is not."""
        origin = self._folder.origin(vm_id)
        known = self._machines.seen(vm_id) is not None or self._folder.hold(vm_id) is not None
        if origin is not None and origin.defined and not known:
            self._folder.drop_origin(origin.migration_id)
            return False
        return known or origin is not None

    def _define(self, origin: Origin) -> None:
        """What is still to be done after the rename of `activate`."""
        if origin.defined:
            return
        folder = self._folder.machine(origin.migration_id)
        if (folder / placing.TPM).is_file():
            swtpm = self._host.swtpm_folder(origin.vm_id)
            if not swtpm.parent.is_dir():  # as libvirt makes it
                files.ensure_folder(swtpm.parent).chmod(records.PASSABLE_MODE)
            owner = self._host.swtpm_owner() if os.geteuid() == 0 else None
            tpm.unpack(folder / placing.TPM, swtpm, owner)
        xml = (folder / placing.DEFINITION).read_text("utf-8")
        with self._machines.connection.asked("libvirt refuses the machine") as opened:
            lifecycle.define(opened, xml)
        variables = placing.variables(self._host, folder)
        if variables is not None:  # only now is the name, and with it the file, this machine's
            files.ensure_folder(variables.parent)
            placing.copy(folder / placing.NVRAM, variables)
        provisional = origin.provisional and not origin.firm
        self._folder.put_origin(replace(origin, defined=True, provisional=provisional))

    def _load(self, vm_id: str, origin: Origin) -> None:
        """Gets it as far as it goes without running; one that is active already stays as it is. One
        whose disks somebody has written to since boots from them, unless it is provisional: then
        its source can go on where it was.
        """
        folder = self._folder.machine(origin.migration_id)
        memory = folder / placing.MEMORY
        with self._machines.domain(vm_id, "the machine was not made ready") as found:
            if found.isActive():
                return
            if memory.is_file() and (newer := stamps.changed(origin.stamps)):
                _log.warning("saved memory is older than the disks", vm_id=vm_id, disks=newer)
                if origin.provisional:
                    raise faults.failed(
                        "the saved memory was not loaded", "its disks were written to since"
                    )
                files.remove(memory)
            if not memory.is_file():
                if not origin.started:
                    found.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
                return
        memory_file.require_loadable(memory)
        with self._machines.connection.asked("the saved memory was not loaded") as opened:
            saved = str(opened.saveImageGetXMLDesc(str(memory), 0))
            nvram = (folder / placing.NVRAM).is_file()
            made = placing.adapted(
                self._host,
                saved,
                folder,
                folder,
                nvram=nvram,
                memory=True,
                variables=placing.variables(self._host, folder),
            )
            notes.raise_first(made.notes)
            definition.require_same_machine(saved, (folder / placing.DEFINITION).read_text("utf-8"))
            flags = libvirt.VIR_DOMAIN_SAVE_PAUSED
            opened.restoreFlags(str(memory), made.xml, flags)
