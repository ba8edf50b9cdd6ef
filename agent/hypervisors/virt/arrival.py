"""A machine that arrives: defined, made ready, started, or forgotten.

`activate` is one rename of a folder; telling libvirt comes after it and is made up for by whoever
looks next. A machine runs from `start` on, which says so first: `forget` then does nothing.

When it runs, switches are told where it is (`announcing`).
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import libvirt

from agent import files
from agent.hypervisors import Arrived, Guest, Mode, domain
from agent.hypervisors.shelved import staged_disk, staged_format
from agent.hypervisors.virt import (
    announcing,
    compat,
    definition,
    faults,
    lifecycle,
    machines,
    notes,
    policy,
    records,
    tpm,
)
from agent.hypervisors.virt import memory as memory_file
from agent.hypervisors.virt.host import Host
from agent.hypervisors.virt.machines import Machines
from agent.hypervisors.virt.records import Folder, Origin
from watari import errors
from watari.v1 import agent_pb2, common_pb2

DEFINITION = "domain.xml"
MEMORY, NVRAM, TPM = (staged_disk(each) for each in ("memory", "nvram", "tpm"))


class Arrival:
    """See `Hypervisor` for what each method promises."""

    def __init__(self, host: Host, found: Machines) -> None:
        self._host = host
        self._machines = found
        self._folder: Folder = found.folder

    def adapted(self, vm_id: str, definition_xml: str) -> str:
        """The definition as `activate` will make it; raises its first fatal finding."""
        folder = self._folder.machine(vm_id)
        made = self._adapt(definition_xml, folder, folder, nvram=False, memory=False)
        notes.raise_first(made.notes)
        return made.xml

    def findings(
        self, definition_xml: str, disks: Sequence[common_pb2.DiskSpec], mode: Mode
    ) -> list[notes.Note]:
        """What of it this host could not run, or not as it was."""
        folder = self._folder.machine("0")
        kinds = {each.kind for each in disks}
        made = self._adapt(
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
                made = self._adapt(
                    arrived.definition_xml,
                    staging,
                    folder,
                    nvram=(staging / NVRAM).is_file(),
                    memory=(staging / MEMORY).is_file(),
                )
                namesakes = self._namesakes(arrived.vm_id, domain.parse(made.xml).name)
                notes.raise_first([*made.notes, *namesakes])
                _lay_out(staging)
                files.write_text(staging / DEFINITION, made.xml)
                origin = Origin(
                    migration_id=migration_id,
                    vm_id=arrived.vm_id,
                    epoch=arrived.epoch,
                    provider=arrived.provider,
                    provisional=provisional,
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
            self._define(origin)
            self._load(vm_id, origin)
            return self._machines.guest(vm_id)

    def start(self, vm_id: str) -> Guest:
        """Notes that it may have run, deletes its saved memory, and lets it run."""
        with self._machines.alone(vm_id):
            guest = self._machines.guest(vm_id)
            if guest.held_by:
                raise machines.busy(guest.name, guest.held_by)
            origin = self._folder.origin(vm_id)
            memory = None
            if origin is not None:
                self._define(origin)
                origin = self._folder.put_origin(
                    replace(origin, provisional=False, started=True, defined=True)
                )
                self._load(vm_id, origin)
                memory = self._folder.machine(origin.migration_id) / MEMORY
            with self._machines.domain(vm_id, f"machine {guest.name} was not started") as found:
                if lifecycle.release(found, memory) and self._host.options.announce:
                    announcing.announce(found)
            return self._machines.guest(vm_id)

    def stop(self, vm_id: str, stop_seconds_max: float) -> Guest:
        """Shuts it down; libvirt keeps it."""
        with self._machines.alone(vm_id):
            guest = self._machines.guest(vm_id)
            if guest.held_by:
                raise machines.busy(guest.name, guest.held_by)
            lifecycle.shut_down(self._machines, vm_id, stop_seconds_max)
            return self._machines.guest(vm_id)

    def forget(self, migration_id: str) -> bool:
        """Destroys, undefines and deletes it, unless it may have run."""
        origin = self._origin(migration_id)
        if origin is None:
            self._folder.remove_machine(migration_id)  # what an earlier try of this has left
            return True
        with self._machines.alone(origin.vm_id):
            if not origin.provisional:
                return False
            seen = self._machines.seen(origin.vm_id)
            if seen is not None and seen.state == agent_pb2.GUEST_STATE_RUNNING:
                # Somebody else let it run: its disks are not what arrived any more.
                self._folder.put_origin(replace(origin, provisional=False, started=True))
                return False
            if seen is not None:
                if seen.active:
                    lifecycle.force_off(self._machines, origin.vm_id)
                lifecycle.undefine(self._machines, origin.vm_id)
            shutil.rmtree(self._host.swtpm_folder(origin.vm_id), ignore_errors=True)
            variables = self._variables(self._folder.machine(migration_id))
            if variables is not None and origin.defined:
                files.remove(variables)
            self._folder.drop_origin(migration_id)
            self._folder.remove_machine(migration_id)
            return True

    def _variables(self, folder: Path) -> Path | None:
        """Where libvirt will look for variables that arrived, if it decides that."""
        if not (folder / NVRAM).is_file():
            return None
        xml = (folder / DEFINITION).read_text("utf-8")
        if not definition.chosen_firmware(xml):
            return None
        return definition.default_variables(xml, self._host.options.nvram_folder)

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
        if (folder / TPM).is_file():
            swtpm = self._host.swtpm_folder(origin.vm_id)
            if not swtpm.parent.is_dir():  # as libvirt makes it
                files.ensure_folder(swtpm.parent).chmod(records.PASSABLE_MODE)
            owner = self._host.swtpm_owner() if os.geteuid() == 0 else None
            tpm.unpack(folder / TPM, swtpm, owner)
        xml = (folder / DEFINITION).read_text("utf-8")
        with self._machines.connection.asked("libvirt refuses the machine") as opened:
            lifecycle.define(opened, xml)
        variables = self._variables(folder)
        if variables is not None:  # only now is the name, and with it the file, this machine's
            files.ensure_folder(variables.parent)
            _copy(folder / NVRAM, variables)
        self._folder.put_origin(replace(origin, defined=True))

    def _load(self, vm_id: str, origin: Origin) -> None:
        """Gets it as far as it goes without running; one that is active already stays as it is."""
        folder = self._folder.machine(origin.migration_id)
        memory = folder / MEMORY
        with self._machines.domain(vm_id, "the machine was not made ready") as found:
            if found.isActive():
                return
            if not memory.is_file():
                if not origin.started:
                    found.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
                return
        memory_file.require_loadable(memory)
        with self._machines.connection.asked("the saved memory was not loaded") as opened:
            saved = str(opened.saveImageGetXMLDesc(str(memory), 0))
            nvram = (folder / NVRAM).is_file()
            made = self._adapt(
                saved, folder, folder, nvram=nvram, memory=True, variables=self._variables(folder)
            )
            notes.raise_first(made.notes)
            definition.require_same_machine(saved, (folder / DEFINITION).read_text("utf-8"))
            flags = libvirt.VIR_DOMAIN_SAVE_PAUSED
            opened.restoreFlags(str(memory), made.xml, flags)

    def _adapt(
        self,
        xml: str,
        lies_in: Path,
        folder: Path,
        *,
        nvram: bool,
        memory: bool,
        variables: Path | None = None,
    ) -> policy.Adapted:
        """For disks that lie in `lies_in` now, and in `folder` then."""
        arrived_in = partial(staged_format, lies_in, default=self._host.options.disk_format)
        disks = {}
        for each in domain.parse(xml).disks:
            disk_format = arrived_in(each.disk_id)
            path = folder / staged_disk(each.disk_id, disk_format)
            disks[each.disk_id] = domain.DiskFile(path, disk_format)
        target = self._host.target(folder, disks, nvram=nvram, memory=memory)
        return policy.adapted(xml, replace(target, variables=variables))


def _lay_out(staging: Path) -> None:
    """Gives saved state the name that the definition has for it."""
    variables = staging / policy.VARIABLES
    if (staging / NVRAM).is_file():
        _copy(staging / NVRAM, variables)


def _copy(source: Path, target: Path) -> None:
    """Replaces a file as a whole, durably."""
    partial_copy = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, partial_copy)
    partial_copy.chmod(files.FILE_MODE)
    with partial_copy.open("rb") as file:
        os.fsync(file.fileno())
    files.rename(partial_copy, target)
