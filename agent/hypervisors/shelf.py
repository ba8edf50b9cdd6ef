"""The shelf: a folder of powered-off machines. No hypervisor is needed, and none is pretended.

```
SHELF/vms/<any name>/domain.xml      a libvirt domain definition, its disks beside it,
                     hold.json       while a migration holds the machine,
                     origin.json     when it arrived by migration: which, and its epoch
SHELF/retained/<migration id>/       what was handed over: the same, and retained.json
SHELF/incoming/<migration id>/       what arrives (agent.transfer); becomes vms/<vm id> by rename
```

Every change is one rename, so a crash leaves the state before or after it.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agent import files
from agent.disks import DiskFormat, raw, require_tools
from agent.disks.view import DiskView
from agent.hypervisors import (
    COLD,
    Arrived,
    Change,
    Disk,
    Guest,
    Mode,
    Retained,
    StoredDisk,
    domain,
    fencing,
    shelved,
)
from agent.hypervisors.shelved import staged_disk
from watari import clock, errors
from watari.v1 import agent_pb2, common_pb2

__all__ = ["Shelf", "staged_disk"]

DEFINITION = "domain.xml"
UNREADABLE_SHOWN_MAX = 1024
"""Characters that are shown of a definition that cannot be read."""
_HOLD, _ORIGIN, _RETAINED = "hold.json", "origin.json", "retained.json"


class Shelf:
    """The driver. One agent per shelf: it takes a lock on the folder for as long as it lives."""

    name = "shelf"

    def __init__(
        self,
        folder: Path,
        time: clock.Clock,
        retention_seconds: int,
        disk_format: DiskFormat = "raw",
    ) -> None:
        """`disk_format` is that of disks that arrive. Raises FailedPrecondition CONFIG_INVALID when
        another agent has the folder, or the host lacks the format's tools.
        """
        require_tools(disk_format)
        self._disk_format = disk_format
        self._clock = time
        self._retention_seconds = retention_seconds
        self._vms = files.ensure_folder(folder / "vms")
        self._kept = files.ensure_folder(folder / "retained")
        self._lock = threading.RLock()
        for left in self._vms.glob(".*.going"):
            shutil.rmtree(left)
        self._lock_file = files.claim(folder / ".lock")

    def version(self) -> str:
        """Empty: there is no hypervisor."""
        return ""

    def close(self) -> None:
        """Lets another agent have the shelf."""
        os.close(self._lock_file)

    def follow(self, changed: Callable[[Change], None]) -> None:
        """Tells nothing: a folder that somebody puts here is found by looking."""

    def guests(self) -> Sequence[Guest]:
        """Every machine on the shelf."""
        with self._lock:  # or a machine that is just being retired would be an unreadable one
            found = [self._read(folder) for folder in self._folders()]
        return sorted(found, key=lambda guest: (guest.name, guest.vm_id))

    def guest(self, vm_id: str) -> Guest:
        """One machine."""
        with self._lock:
            return self._read(self._folder(vm_id))

    def hold(self, vm_id: str, migration_id: str, mode: Mode = COLD) -> Guest:
        """Writes the hold beside the definition."""
        with self._lock:
            if mode == common_pb2.MIGRATION_MODE_SUSPEND:
                raise _off(vm_id)
            folder = self._folder(vm_id)
            guest = self._read(folder)
            if guest.problem:
                raise guest.problem
            if guest.held_by not in {"", migration_id}:
                raise _busy(guest.name, guest.held_by)
            files.write_json(folder / _HOLD, {"migration_id": migration_id})
            return self._read(folder)

    def glimpse(self, vm_id: str) -> DiskView | None:
        """Its disks."""
        return shelved.view(self.guest(vm_id).disks)

    def running_view(self, vm_id: str, migration_id: str, number: int) -> DiskView | None:  # noqa: ARG002
        """None: nothing runs here."""
        return None

    def quiesce(self, vm_id: str, migration_id: str, stop_seconds_max: float) -> Guest:  # noqa: ARG002
        """The machine, which stands still always."""
        guest = self.guest(vm_id)
        if guest.held_by != migration_id:
            raise _busy(guest.name, guest.held_by or "no migration holds it")
        return guest

    def still_view(self, vm_id: str, migration_id: str) -> DiskView:
        """Its disks."""
        return shelved.view(self.quiesce(vm_id, migration_id, 0).disks)

    def unhold(self, vm_id: str, migration_id: str, epoch: int = 0) -> None:
        """Removes the hold, after the epoch is noted."""
        with self._lock:
            folder = self._find(vm_id)
            if folder and _json(folder / _HOLD).get("migration_id") == migration_id:
                if epoch:
                    files.write_json(folder / _ORIGIN, _json(folder / _ORIGIN) | {"epoch": epoch})
                files.remove(folder / _HOLD)

    def start(self, vm_id: str, migration_id: str = "", epoch: int = 0) -> Guest:  # noqa: ARG002
        """Refused: the shelf pretends no hypervisor."""
        raise errors.Unimplemented(
            "NOT_SERVED",
            f"machine {self.guest(vm_id).name} is on a shelf, where none runs",
            hint="migrate it to a cloud whose hosts have the libvirt driver",
            vm=vm_id,
        )

    def stop(
        self,
        vm_id: str,
        stop_seconds_max: float,  # noqa: ARG002
        migration_id: str = "",
        epoch: int = 0,
    ) -> Guest:
        """The machine, which is off."""
        with self._lock:
            folder = self._folder(vm_id)
            origin = _json(folder / _ORIGIN)
            brought_by = origin["migration_id"] if origin.get("provisional") else ""
            fencing.require_meant(self._read(folder), brought_by, migration_id, epoch)
            if brought_by:
                files.write_json(folder / _ORIGIN, origin | {"provisional": False})
            return self._read(folder)

    def prepare(self, vm_id: str) -> Guest:
        """Refused, so that a machine that ran goes back to where it can run."""
        raise errors.FailedPrecondition(
            "VM_LIFECYCLE_FAILED",
            f"machine {self.guest(vm_id).name} is to run, and machines on a shelf do not",
            hint="shut it down before it is migrated, or name another destination",
            vm=vm_id,
        )

    def forget(self, migration_id: str) -> bool:
        """Deletes its folder."""
        with self._lock:
            for folder in self._folders():
                origin = _json(folder / _ORIGIN)
                if origin.get("migration_id") == migration_id:
                    if not origin.get("provisional"):
                        return False
                    going = self._vms / f".{folder.name}.going"
                    files.rename(folder, going)
                    shutil.rmtree(going)
        return True

    def obstacles(self, vm_id: str, mode: Mode) -> Sequence[agent_pb2.Finding]:
        """None but the machine's own problem, and memory that it has not."""
        guest = self.guest(vm_id)
        found = [guest.problem] if guest.problem else []
        if mode == common_pb2.MIGRATION_MODE_SUSPEND:
            found.append(_off(vm_id))
        return [
            agent_pb2.Finding(severity=agent_pb2.SEVERITY_ERROR, problem=errors.to_problem(each))
            for each in found
        ]

    def findings(
        self,
        definition_xml: str,  # noqa: ARG002
        disks: Sequence[common_pb2.DiskSpec],
        mode: Mode,  # noqa: ARG002
    ) -> Sequence[agent_pb2.Finding]:
        """A machine that ran cannot go on here."""
        if not any(disk.kind for disk in disks):
            return []
        problem = errors.FailedPrecondition(
            "HOST_INCOMPATIBLE",
            "the destination is a shelf of machines that are off: saved memory is of no use",
            hint="shut the machine down first, or name another destination",
            requirement="hypervisor",
        )
        return [
            agent_pb2.Finding(severity=agent_pb2.SEVERITY_ERROR, problem=errors.to_problem(problem))
        ]

    def retire(self, vm_id: str, migration_id: str) -> Retained:
        """Moves the machine's folder to what is retained."""
        with self._lock:
            kept = self._kept / migration_id
            if not kept.is_dir():
                folder = self._folder(vm_id)
                holder = _json(folder / _HOLD).get("migration_id", "")
                if not holder:  # retired and purged long ago: what is here now came back since
                    raise _not_found(vm_id)
                if holder != migration_id:
                    raise _busy(vm_id, holder)
                expires = self._clock.now().timestamp() + self._retention_seconds
                files.write_json(folder / _RETAINED, {"vm_id": vm_id, "expires_at": expires})
                files.rename(folder, kept)
            return self._read_retained(kept)

    def retained(self) -> Sequence[Retained]:
        """What is kept."""
        return [self._read_retained(each) for each in sorted(self._kept.iterdir())]

    def stored(self) -> Sequence[StoredDisk]:
        """Disks of the shelf, and of what is retained."""
        with self._lock:
            found = list[StoredDisk]()
            for folder in [*self._folders(), *self._kept.iterdir()]:
                guest = self._read(folder)
                provider = _json(folder / _ORIGIN).get("provider", "")
                found += [
                    StoredDisk(guest.vm_id, provider, guest.tenant, disk) for disk in guest.disks
                ]
            return found

    def earlier(self, vm_id: str) -> Mapping[str, Disk]:
        """Disks of the copy that was retained last."""
        with self._lock:
            copies = [
                (_json(folder / _RETAINED).get("expires_at", 0.0), folder)
                for folder in self._kept.iterdir()
                if _json(folder / _RETAINED).get("vm_id") == vm_id
            ]
            if not copies:
                return {}
            _, newest = max(copies)
            return {disk.disk_id: disk for disk in self._read(newest).disks}

    def purge(self, migration_id: str) -> None:
        """Deletes one retained folder."""
        with self._lock:
            shutil.rmtree(self._kept / migration_id, ignore_errors=False, onerror=_absent_is_fine)

    def purge_expired(self) -> None:
        """Deletes what has been kept for its time."""
        now = self._clock.now().timestamp()
        for each in self.retained():
            if each.expires_at_seconds <= now:
                self.purge(each.migration_id)

    def adapted(self, vm_id: str, definition_xml: str) -> str:
        """The definition with the paths and the format that the disks will have here."""
        folder = self._vms / vm_id
        return shelved.adapted(definition_xml, folder, lambda _disk_id: self._disk_format)

    def activate(self, arrived: Arrived, *, provisional: bool) -> Guest:
        """Writes the definition and the origin into the folder and renames it into place. A disk
        has the format that it arrived in, whatever the setting has become since.
        """
        staging, vm_id = arrived.staging, arrived.vm_id
        with self._lock:
            present = self._find(vm_id)
            if present:
                raise _busy(vm_id, "it is on this host already")
            folder = self._vms / vm_id
            arrived_in = partial(shelved.staged_format, staging, default=self._disk_format)
            xml = shelved.adapted(arrived.definition_xml, folder, arrived_in)
            files.write_text(staging / DEFINITION, xml)
            origin = {
                "migration_id": staging.name,
                "epoch": arrived.epoch,
                "provider": arrived.provider,
                "provisional": provisional,
            }
            files.write_json(staging / _ORIGIN, origin)
            files.rename(staging, folder)
            return self._read(folder)

    def arrived_by(self, migration_id: str) -> Guest | None:
        """The machine that a migration brought here, if it is still here."""
        with self._lock:
            for folder in self._folders():
                if _json(folder / _ORIGIN).get("migration_id") == migration_id:
                    return self._read(folder)
        return None

    def _folder(self, vm_id: str) -> Path:
        folder = self._find(vm_id)
        if folder is None:
            raise _not_found(vm_id)
        return folder

    def _find(self, vm_id: str) -> Path | None:
        named = self._vms / vm_id
        for folder in [named] if (named / DEFINITION).is_file() else self._folders():
            if self._read(folder).vm_id == vm_id:
                return folder
        return None

    def _folders(self) -> list[Path]:
        """Folders that hold a machine; one whose name starts with a dot is still being filled."""
        return [
            each
            for each in self._vms.iterdir()
            if not each.name.startswith(".") and (each / DEFINITION).is_file()
        ]

    def _read(self, folder: Path) -> Guest:
        xml = ""
        try:
            xml = (folder / DEFINITION).read_text("utf-8")
            found = domain.parse(xml)
        except (OSError, UnicodeDecodeError) as error:
            return _unreadable(folder, xml, domain.invalid(f"{DEFINITION}: {error}"))
        except errors.WatariError as error:
            return _unreadable(folder, xml, error)
        disks, problem = shelved.disks(folder, found)
        return Guest(
            vm_id=found.vm_id,
            name=found.name,
            tenant=found.tenant,
            vcpus=found.vcpus,
            memory_bytes=found.memory_bytes,
            disks=disks,
            definition_xml=xml,
            held_by=_json(folder / _HOLD).get("migration_id", ""),
            epoch=_json(folder / _ORIGIN).get("epoch", 0),
            state=agent_pb2.GUEST_STATE_SHUT_OFF,
            problem=problem,
            arrived_in=_json(folder / _ORIGIN).get("migration_id", ""),
        )

    def _read_retained(self, folder: Path) -> Retained:
        record = _json(folder / _RETAINED)
        return Retained(
            vm_id=record.get("vm_id", ""),
            migration_id=folder.name,
            allocated_bytes=files.allocated_bytes(folder),
            expires_at_seconds=record.get("expires_at", 0.0),
            epoch=_json(folder / _ORIGIN).get("epoch", 0),
            name=self._read(folder).name,
        )


def _not_found(vm_id: str) -> errors.NotFound:
    return errors.NotFound(
        "VM_NOT_FOUND", f"this host has no machine {vm_id}", hint="see `watari vm list`", vm=vm_id
    )


def _off(vm_id: str) -> errors.FailedPrecondition:
    return errors.FailedPrecondition(
        "VM_NOT_RUNNING",
        f"machine {vm_id} is off: it has no memory that could be saved",
        hint="migrate it in mode cold",
        vm=vm_id,
    )


def _unreadable(folder: Path, xml: str, problem: errors.WatariError) -> Guest:
    return Guest(
        vm_id="",
        name=folder.name,
        tenant="default",
        vcpus=0,
        memory_bytes=0,
        disks=(),
        definition_xml=xml[:UNREADABLE_SHOWN_MAX],
        problem=problem,
    )


def _busy(name: str, holder: str) -> errors.FailedPrecondition:
    return errors.FailedPrecondition(
        "VM_BUSY",
        f"machine {name} is taken: {holder}",
        hint="see `watari migration list`; wait for the migration or cancel it",
        vm=name,
        holder=holder,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return record if isinstance(record, dict) else {}


def _absent_is_fine(_function: object, path: str, failure: Any) -> None:
    if not isinstance(failure[1], FileNotFoundError):
        raise raw.disk_error(failure[1], Path(path))
