"""What the driver keeps in the agent's folder: holds, origins, what is retained.

Every record is one small file, replaced whole; `agent.hypervisors.virt` shows the folder.
"""

import dataclasses
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from agent import files
from agent.hypervisors import COLD, Disk, Mode

VIEW_NAME_BYTES = 16
"""Of a machine's UUID in the path of a socket: 64 bits tell the machines of one host apart."""

PASSABLE_MODE = 0o711
"""Of folders on the way to disks: QEMU runs as another user, who must get through."""

_HELD, _ORIGIN, _RETAINED = "held", "origin.json", "retained.json"
_GOING = ".going-"
_Record = TypeVar("_Record")

Stage = Literal["held", "stopping", "still", "resuming"]
"""held: untouched. stopping: quiesce began. still: libvirt does not know it. resuming: unhold
began.
"""


@dataclasses.dataclass(frozen=True)
class Hold:
    """How a machine was before a migration stopped it, and how far that is."""

    migration_id: str
    mode: Mode = COLD
    stage: Stage = "held"
    name: str = ""
    definition: str = ""
    """Persistent definition, secrets included."""
    shown: str = ""
    """The same without secrets."""
    was_running: bool = False
    asked: bool = False
    """Whether the guest may have been asked to shut down, which cannot be taken back."""
    stopped_at: float = 0.0
    """POSIX time of the first `quiesce`."""
    autostart: bool = False
    memory_bytes: int = 0
    """Size of the disk "memory"."""
    saves: tuple[str, ...] = ()
    """Files that memory was saved to, or was to be."""
    saved: str = ""
    """That of them of which it is known that it is complete."""
    stamps: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The disks that fit it, as `stamps` tells them."""
    memory: str = ""
    """The same file once it is padded, and the disk "memory"."""
    serial: int = 0
    """Of the checkpoint that was made last."""
    checkpoint: str = ""
    """That of the last running view, where all was well with it."""
    checkpoints: tuple[str, ...] = ()
    """XML of others' checkpoints, parents first."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """A machine that arrived."""

    migration_id: str
    vm_id: str
    epoch: int = 0
    provider: str = ""
    provisional: bool = False
    """Whether `forget` deletes it."""
    firm: bool = False
    """Whether it is provisional only until libvirt has taken it."""
    started: bool = False
    """Whether its owner has ordered it to start or to stop: `prepare` leaves it alone then."""
    stopped: bool = False
    """Whether its owner has ordered it to stop, and not to start since."""
    defined: bool = False
    """Whether libvirt was told."""
    stamps: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The disks that its saved memory fits, as `stamps` tells them."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """What was handed over. `disks` are those of the guest; `others` further files to delete."""

    migration_id: str
    vm_id: str
    name: str
    tenant: str
    provider: str
    epoch: int
    expires_at: float
    definition: str
    disks: tuple[tuple[str, str, str], ...] = ()
    """(disk id, path, format)"""
    others: tuple[str, ...] = ()
    folder: str = ""
    """Name in machines/, when it had arrived."""


class Folder:
    """The agent's folder. One agent each: it is locked until `close`."""

    def __init__(self, path: Path) -> None:
        """Raises FailedPrecondition CONFIG_INVALID when another agent has it."""
        self.path = files.ensure_folder(path)
        self.machines = files.ensure_folder(path / "machines")
        self.held = files.ensure_folder(path / "held")
        self.kept = files.ensure_folder(path / "retained")
        self.epochs = files.ensure_folder(path / "epochs")
        self.views = files.ensure_folder(path / "views")
        for each in (path, self.machines, self.views):
            each.chmod(each.stat().st_mode | PASSABLE_MODE)
        self._lock = files.claim(path / ".lock")
        for each in self.machines.glob(f"{_GOING}*"):
            shutil.rmtree(each)

    def view(self, vm_id: str, suffix: str = "") -> Path:
        """For what a view of this machine needs; the name is short, as it is of a socket's path."""
        return self.views / f"{vm_id.replace('-', '')[:VIEW_NAME_BYTES]}{suffix}"

    def close(self) -> None:
        """Lets another agent have it."""
        os.close(self._lock)

    # Holds

    def hold(self, vm_id: str) -> Hold | None:
        """The hold on a machine."""
        return _read(Hold, self.held / f"{vm_id}.json")

    def holds(self) -> Mapping[str, Hold]:
        """All of them, by machine."""
        found = ((path.stem, _read(Hold, path)) for path in self.held.glob("*.json"))
        return {vm_id: hold for vm_id, hold in found if hold is not None}

    def put_hold(self, vm_id: str, hold: Hold) -> Hold:
        """Writes it."""
        files.write_json(self.held / f"{vm_id}.json", dataclasses.asdict(hold))
        return hold

    def drop_hold(self, vm_id: str) -> None:
        """Deletes what was saved for it, and then it."""
        for each in self.held.glob(f"{vm_id}.*"):
            if each.suffix != ".json":
                files.remove(each)
        files.remove(self.held / f"{vm_id}.json")

    # Origins and epochs

    def origins(self) -> Iterator[Origin]:
        """Of all that arrived and is not retired."""
        for path in self.machines.glob(f"*/{_ORIGIN}"):
            found = None if path.parent.name.startswith(".") else _read(Origin, path)
            if found is not None:
                yield found

    def origin(self, vm_id: str) -> Origin | None:
        """Of one machine."""
        return next((each for each in self.origins() if each.vm_id == vm_id), None)

    def put_origin(self, origin: Origin, folder: Path | None = None) -> Origin:
        """Writes it into the machine's folder, or into `folder`."""
        path = folder or self.machine(origin.migration_id)
        files.write_json(path / _ORIGIN, dataclasses.asdict(origin))
        return origin

    def drop_origin(self, migration_id: str) -> None:
        """The machine is here no more."""
        if self.machine(migration_id).is_dir():
            files.remove(self.machine(migration_id) / _ORIGIN)

    def machine(self, migration_id: str) -> Path:
        """Where the disks of a machine are that this migration brought."""
        return self.machines / migration_id

    def remove_machine(self, migration_id: str) -> None:
        """Deletes that folder."""
        folder = self.machine(migration_id)
        if folder.is_dir():
            going = self.machines / f"{_GOING}{migration_id}"
            files.rename(folder, going)
            shutil.rmtree(going)

    def epoch(self, vm_id: str) -> int:
        """That which a machine has; 0 when it never migrated."""
        origin = self.origin(vm_id)
        if origin is not None:
            return origin.epoch
        return int(_json(self.epochs / f"{vm_id}.json").get("epoch", 0))

    def put_epoch(self, vm_id: str, epoch: int) -> None:
        """From now on it has this one."""
        origin = self.origin(vm_id)
        if origin is not None:
            self.put_origin(dataclasses.replace(origin, epoch=epoch))
        else:
            files.write_json(self.epochs / f"{vm_id}.json", {"epoch": epoch})

    def drop_epoch(self, vm_id: str) -> None:
        """The machine is here no more."""
        files.remove(self.epochs / f"{vm_id}.json")

    # What is retained

    def kept_by(self, migration_id: str) -> Kept | None:
        """What a migration took away."""
        found = _read(Kept, self.kept / migration_id / _RETAINED)
        if found is None:
            return None
        return dataclasses.replace(found, disks=tuple((a, b, c) for a, b, c in found.disks))

    def all_kept(self) -> list[Kept]:
        """By migration id."""
        found = [self.kept_by(each.name) for each in sorted(self.kept.iterdir())]
        return [each for each in found if each is not None]

    def put_kept(self, kept: Kept) -> Kept:
        """Writes it."""
        folder = files.ensure_folder(self.kept / kept.migration_id)
        files.write_json(folder / _RETAINED, dataclasses.asdict(kept))
        files.sync_folder(self.kept)
        return kept

    def drop_kept(self, migration_id: str) -> None:
        """Forgets it."""
        if (self.kept / migration_id).is_dir():
            files.remove(self.kept / migration_id / _RETAINED)
            shutil.rmtree(self.kept / migration_id)


def plain_file(path: Path) -> bool:
    """Whether it is a file, and no link or device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def allocated_bytes(path: Path) -> int:
    """What a plain file takes of its file system; 0 for what is not one or not there."""
    return path.lstat().st_blocks * 512 if plain_file(path) else 0


def kept_disks(kept: Kept) -> dict[str, Path]:
    """Paths of its disks by id."""
    return {disk_id: Path(path) for disk_id, path, _ in kept.disks}


def named_disks(disks: tuple[Disk, ...]) -> tuple[tuple[str, str, str], ...]:
    """The disks of the guest, as a record has them."""
    return tuple((each.disk_id, str(each.path), each.format) for each in disks if not each.kind)


def _read(cls: type[_Record], path: Path) -> _Record | None:
    """A record; keys that a later release wrote are left out."""
    record = _json(path)
    if not record:
        return None
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in record.items()
        if key in names
    }
    return cls(**values)


def _json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return record if isinstance(record, dict) else {}
