"""A libvirt driver for a host of the lab, and what tests do with machines that move by it."""

import contextlib
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from agent import files
from agent.disks import open_writer
from agent.disks.view import DiskView
from agent.hypervisors import Arrived, Disk
from agent.hypervisors.shelved import staged_disk
from agent.hypervisors.virt.driver import Libvirt
from agent.hypervisors.virt.host import Options
from tests.lab.console import Console
from tests.lab.hosts import Host
from tests.lab.image import Image
from watari.clock import SystemClock
from watari.v1 import common_pb2

COLD = common_pb2.MIGRATION_MODE_COLD
SUSPEND = common_pb2.MIGRATION_MODE_SUSPEND
WARM = common_pb2.MIGRATION_MODE_WARM
STOP_SECONDS_MAX = 20.0
GRANULARITY = 64 * 1024
RETENTION_SECONDS = 3600
PIECE_BYTES = 4 << 20


def new_id() -> str:
    """Of a migration."""
    return str(uuid.uuid4())


class Agent:
    """The driver of a host, which may be thrown away and made again, as an agent that is killed."""

    def __init__(self, host: Host, folder: Path, image: Image, disk_format: str = "raw") -> None:
        self.host, self.folder = host, folder
        boot_files = files.ensure_folder(folder.with_name(f"{folder.name}-boot"))
        for each in (image.kernel, image.initrd):
            shutil.copyfile(each, boot_files / each.name)
        self.options = Options(
            retention_seconds=RETENTION_SECONDS,
            disk_format="qcow2" if disk_format == "qcow2" else "raw",
            networks={"*": "network:default"},
            boot_files=boot_files,
            swtpm_folder=host.folder / "lib" / "swtpm",
            nvram_folder=host.folder / "lib" / "qemu" / "nvram",
        )
        self.driver = self.new()

    def crash(self) -> Libvirt:
        """Another driver in the place of the one that there was."""
        self.driver.close()
        self.driver = self.new()
        return self.driver

    def console(self, migration_id: str) -> Console:
        """What a machine has said here that arrived."""
        return Console(self.folder / "machines" / migration_id / "console.log")

    def stage(self, migration_id: str) -> Path:
        """Where its disks are to be put."""
        return files.ensure_folder(self.folder / "incoming" / migration_id)

    def stage_path(self, migration_id: str) -> Path:
        """The same, whether it is there or not."""
        return self.folder / "incoming" / migration_id

    def new(self) -> Libvirt:
        """Another driver over the same folder, once the one that there was is closed."""
        return Libvirt(self.host.uri, self.folder, SystemClock(), self.options)


def copy_round(view: DiskView, copies: dict[str, bytearray], *, whole: bool = False) -> int:
    """Takes a view into copies: what has changed, or all where that is not told. Returns bytes."""
    moved = 0
    for disk_id, viewed in view.disks.items():
        reader = viewed.reader
        copy = copies.setdefault(disk_id, bytearray(reader.size))
        if viewed.changed is not None and not whole:
            extents = list(viewed.changed)
        else:
            copy[:] = bytes(reader.size)
            extents = [e for e in reader.extents(GRANULARITY, full_read=False) if not e.hole]
        for each in extents:
            for at in range(each.start, each.end, PIECE_BYTES):
                end = min(each.end, at + PIECE_BYTES)
                copy[at:end] = reader.read(at, end - at)
                moved += end - at
    return moved


def stage_copies(
    staging: Path, disks: Sequence[Disk], copies: dict[str, bytearray], disk_format: str = "raw"
) -> None:
    """Writes copies as the transfer engine does."""
    for disk in disks:
        kind = "raw" if disk.kind else disk_format
        path = staging / staged_disk(disk.disk_id, kind)
        with contextlib.closing(open_writer(path, kind, disk.size_bytes, keep=False)) as writer:
            content = copies[disk.disk_id]
            for at in range(0, len(content), PIECE_BYTES):
                writer.write(at, bytes(content[at : at + PIECE_BYTES]))
            writer.flush()


def arrived(staging: Path, vm_id: str, definition_xml: str) -> Arrived:
    """What `activate` takes."""
    return Arrived(staging, vm_id, definition_xml, 2, "tokyo.example")
