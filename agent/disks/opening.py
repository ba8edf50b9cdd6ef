"""Opens disks by format, so that nothing outside this package depends on one."""

import os
from dataclasses import dataclass
from pathlib import Path

from agent.disks import qcow2_header
from agent.disks.contract import FORMATS, DiskReader, DiskWriter
from agent.disks.images import allocated_of, open_image, size_of
from agent.disks.nbd import tools
from agent.disks.qcow2 import Qcow2Reader, Qcow2Writer
from agent.disks.raw import RawReader, RawWriter
from watari import errors


@dataclass(frozen=True)
class Measured:
    """How large a disk is."""

    size_bytes: int
    """As the guest sees it."""

    allocated_bytes: int
    """What it takes of the host's storage."""


def open_reader(path: Path, disk_format: str) -> DiskReader:
    """Opens a disk for reading. Raises FailedPrecondition IMAGE_UNREADABLE, CONFIG_INVALID when
    the host lacks the format's tools, Unimplemented NOT_SERVED for another format.
    """
    if disk_format == "raw":
        return RawReader(path)
    if disk_format == "qcow2":
        return Qcow2Reader(path)
    raise unknown(path, disk_format)


def open_seed(path: Path, disk_format: str) -> DiskReader:
    """Opens a disk that is only looked at: its machine may be started meanwhile, and its content is
    believed nothing. Raises as `open_reader` does.
    """
    if disk_format == "qcow2":
        return Qcow2Reader(path, yields=True)
    return open_reader(path, disk_format)


def open_writer(path: Path, disk_format: str, size_bytes: int, *, keep: bool) -> DiskWriter:
    """Opens a disk of `size_bytes` for writing.

    `keep` opens what an interrupted try left there when it is of that format and size, which
    `DiskWriter.kept` tells; else, and without it, whatever has the name goes and the disk begins
    empty. Raises Exhausted DISK_FULL, DataLoss DISK_IO, FailedPrecondition CONFIG_INVALID,
    Unimplemented NOT_SERVED.
    """
    if disk_format == "raw":
        return RawWriter(path, size_bytes, keep=keep)
    if disk_format == "qcow2":
        return Qcow2Writer(path, size_bytes, keep=keep)
    raise unknown(path, disk_format)


def measure(path: Path, disk_format: str) -> Measured:
    """The sizes of a disk, without starting anything. Raises as `open_reader` does."""
    if disk_format not in FORMATS:
        raise unknown(path, disk_format)
    descriptor = open_image(path)
    try:
        if disk_format == "qcow2":
            size = qcow2_header.read(descriptor, path).size
        else:
            size = size_of(descriptor)
        return Measured(size, allocated_of(descriptor))
    finally:
        os.close(descriptor)


def require_tools(disk_format: str) -> None:
    """Raises FailedPrecondition CONFIG_INVALID when the host lacks what a format needs."""
    if disk_format == "qcow2":
        tools.require("qemu-nbd")
        tools.require("qemu-img")


def unknown(path: Path, disk_format: str) -> errors.Unimplemented:
    """The error of a format that nothing here reads."""
    return errors.Unimplemented(
        "NOT_SERVED",
        f"{path.name} is a {disk_format[:32]} disk; {' and '.join(FORMATS)} are supported",
        hint=f"convert it: qemu-img convert -O qcow2 {path.name} {path.stem}.qcow2",
        disk=path.name,
    )
