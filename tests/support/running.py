"""A shelf whose machines are written to while they are copied: for rounds, without a hypervisor.

The lab's tests (tests/lab) do the same with guests that run.
"""

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from agent.disks import Extent, open_reader
from agent.disks.view import OpenDisks, ViewedDisk
from agent.hooks import Hooks
from agent.hypervisors import Disk, Guest
from agent.hypervisors.shelf import Shelf
from agent.settings import HookSettings
from watari import clock


def no_hooks() -> Hooks:
    """Those of a host whose operator has none."""
    return Hooks(HookSettings(), cloud="tokyo", host="host1", due=Path("/nowhere"))


Write = tuple[int, bytes]
"""Offset and content."""


class Written(Shelf):
    """Between two views, `writes` of the number of the view are made to vda."""

    def __init__(self, folder: Path, writes: Mapping[int, list[Write]], *, told: bool) -> None:
        """`told` is whether views tell what changed."""
        super().__init__(folder, clock.SystemClock(), 3600)
        self._writes, self._told = writes, told
        self._snapshots = folder / "snapshots"
        self._snapshots.mkdir()
        self.views = 0
        self.before_quiesce: Callable[[], None] = lambda: None

    def running_view(self, vm_id: str, migration_id: str, number: int) -> OpenDisks:
        """A copy of each disk as it is now; the next writes come right after."""
        self.views += 1
        assert number == self.views
        disks = {}
        stack = ExitStack()
        for disk in self.guest(vm_id).disks:
            copy = self._snapshots / f"{number}-{disk.disk_id}"
            shutil.copyfile(disk.path, copy)
            reader = stack.enter_context(open_reader(copy, "raw"))
            disks[disk.disk_id] = ViewedDisk(reader, self._changed(disk, number))
            if disk.disk_id == "vda":
                self._write(disk.path, number)
        return OpenDisks(disks, stack)

    def quiesce(self, vm_id: str, migration_id: str, stop_seconds_max: float) -> Guest:
        """The guest writes for the last time."""
        self.before_quiesce()
        return super().quiesce(vm_id, migration_id, stop_seconds_max)

    def still_view(self, vm_id: str, migration_id: str) -> OpenDisks:
        """As they are, with what changed since the last view."""
        stack = ExitStack()
        disks = {
            disk.disk_id: ViewedDisk(
                stack.enter_context(open_reader(disk.path, "raw")),
                self._changed(disk, self.views + 1),
            )
            for disk in self.guest(vm_id).disks
        }
        return OpenDisks(disks, stack)

    def _changed(self, disk: Disk, number: int) -> list[Extent] | None:
        """What the writes after view `number - 1` touched."""
        if not self._told or number == 1:
            return None
        if disk.disk_id != "vda":
            return []
        found = sorted(
            (offset, offset + len(content)) for offset, content in self._writes.get(number - 1, [])
        )
        return [Extent(start, end, hole=False) for start, end in found]

    def _write(self, path: Path, number: int) -> None:
        with path.open("r+b") as file:
            for offset, content in self._writes.get(number, []):
                file.seek(offset)
                file.write(content)
