"""Disks as files of a machine's own folder: their names, their formats, and what they measure."""

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from agent.disks import FORMATS, DiskFormat, measure, open_reader
from agent.disks.images import unreadable
from agent.disks.view import OpenDisks, ViewedDisk
from agent.hypervisors import Disk, domain
from watari import errors


def staged_disk(disk_id: str, disk_format: str = "raw") -> str:
    """File name of a disk in a machine's folder."""
    return f"{disk_id}.{disk_format}"


def staged_format(folder: Path, disk_id: str, default: DiskFormat) -> DiskFormat:
    """The format that a disk has arrived in: of two, that of the file which was written last, as
    the other is what an earlier try left before the setting was changed.
    """
    written: dict[DiskFormat, int] = {}
    for each in FORMATS:
        with contextlib.suppress(FileNotFoundError):
            written[each] = (folder / staged_disk(disk_id, each)).stat().st_mtime_ns
    return max(written, key=lambda each: written[each], default=default)


def adapted(definition_xml: str, folder: Path, format_of: Callable[[str], DiskFormat]) -> str:
    """The definition of a machine whose disks are in `folder`, in the formats that `format_of`
    tells for their ids. Raises FailedPrecondition VM_DEFINITION_INVALID.
    """
    found: dict[str, domain.DiskFile] = {}
    for disk in domain.parse(definition_xml).disks:
        disk_format = format_of(disk.disk_id)
        path = folder / staged_disk(disk.disk_id, disk_format)
        found[disk.disk_id] = domain.DiskFile(path, disk_format)
    xml = domain.with_disks(definition_xml, found)
    domain.parse(xml)
    return xml


def disks(folder: Path, found: domain.Domain) -> tuple[tuple[Disk, ...], errors.WatariError | None]:
    """The disks of a definition that can be read, and why the first other one cannot."""
    readable: list[Disk] = []
    problem: errors.WatariError | None = None
    for each in found.disks:
        try:
            readable.append(_disk(folder, each))
        except errors.WatariError as error:
            problem = problem or error
    return tuple(readable), problem


def view(found: Iterable[Disk]) -> OpenDisks:
    """Disks that nobody writes to, opened. Raises what opening raises; then nothing stays open."""
    with contextlib.ExitStack() as opened:
        disks = {
            disk.disk_id: ViewedDisk(opened.enter_context(open_reader(disk.path, disk.format)))
            for disk in found
        }
        return OpenDisks(disks, opened.pop_all())


def _disk(folder: Path, disk: domain.DomainDisk) -> Disk:
    """Resolves a disk's path; it must be a file of the machine's own folder, whatever a definition
    that came from elsewhere says.
    """
    path = folder / disk.source
    if path.parent.resolve() != folder.resolve() or path.is_symlink():
        raise unreadable(path, "it is not a file of the machine's own folder")
    if disk.format not in FORMATS:
        supported = " and ".join(FORMATS)
        raise domain.invalid(
            f"disk {disk.disk_id} is {disk.format}; the shelf holds {supported} disks"
        )
    measured = measure(path, disk.format)
    return Disk(disk.disk_id, path, disk.format, measured.size_bytes, measured.allocated_bytes)
