"""Real places for disks: files, qcow2 images, loop devices and small file systems, cleaned up."""

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from agent.disks import DiskReader, DiskWriter, open_reader, open_writer

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Place:
    """Where a test's disk goes: a path, its format, and how large it can be."""

    path: Path
    format: str
    multiple: int
    """Sizes are rounded up to it: a sector of a device or image."""

    def writer(self, size: int, *, keep: bool = False) -> DiskWriter:
        """Opens it for writing; for the caller to close."""
        return open_writer(self.path, self.format, size, keep=keep)

    def reader(self) -> DiskReader:
        """Opens it for reading; for the caller to close."""
        return open_reader(self.path, self.format)

    def allocated(self) -> int:
        """Bytes that it takes of the host's file system."""
        path = backing_file(self.path) if self.path.is_block_device() else self.path
        return path.stat().st_blocks * 512


def run(*command: str | Path) -> str:
    """Runs a tool that must succeed; returns what it printed."""
    environ = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    ended = subprocess.run(
        [str(each) for each in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environ,
    )
    assert ended.returncode == 0, f"{command[0]}: {ended.stderr}"
    return ended.stdout.strip()


@contextlib.contextmanager
def loop_device(file: Path, size: int) -> Iterator[Path]:
    """A block device over a new sparse file."""
    with file.open("wb") as made:
        made.truncate(size)
    device = run("losetup", "--find", "--show", file)
    try:
        yield Path(device)
    finally:
        run("losetup", "--detach", device)


def backing_file(device: Path) -> Path:
    """The file behind a loop device."""
    return Path(run("losetup", "--noheadings", "--output", "BACK-FILE", device))


@contextlib.contextmanager
def mounted(folder: Path, kind: str, source: str | Path, options: str) -> Iterator[Path]:
    """A file system at `folder` for the length of a test."""
    folder.mkdir()
    run("mount", "-t", kind, "-o", options, source, folder)
    try:
        yield folder
    finally:
        try:
            run("umount", folder)
        except AssertionError:  # something is still open: the test is at fault, and leaves nothing
            run("umount", "--lazy", folder)
            raise


@contextlib.contextmanager
def xfs(folder: Path) -> Iterator[Path]:
    """A file system that can share blocks between files."""
    file = folder / "xfs.img"
    with file.open("wb") as made:
        made.truncate(320 * MIB)  # the smallest that mkfs.xfs makes is 300 MiB; it stays sparse
    run("mkfs.xfs", "-q", file)
    with mounted(folder / "xfs", "xfs", file, "loop") as found:
        yield found


def servers_of(pid: int) -> list[psutil.Process]:
    """The `qemu-nbd` processes that a process has started."""
    below = psutil.Process(pid).children(recursive=True)
    return [each for each in below if each.name() == "qemu-nbd"]


def new_image(path: Path, size: int = MIB, content: bytes = b"content") -> Path:
    """A qcow2 image that begins with `content`, closed."""
    writer = open_writer(path, "qcow2", size, keep=False)
    writer.write(0, content)
    writer.flush()
    writer.close()
    return path


def noise(length: int, seed: int = 0) -> bytes:
    """Content that does not compress, the same for the same seed."""
    return random.Random(seed).randbytes(length)


def whole(disk: DiskReader | DiskWriter) -> bytes:
    """All of a disk's content."""
    return b"".join(disk.read(at, min(MIB, disk.size - at)) for at in range(0, disk.size, MIB))
