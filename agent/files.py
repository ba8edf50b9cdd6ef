"""Small durable files: written whole or not at all, and on stable storage when the call returns.

What the file system refuses is raised as Exhausted DISK_FULL or DataLoss DISK_IO.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from agent.disks import raw
from watari import errors

FOLDER_MODE = 0o700
FILE_MODE = 0o600


def ensure_folder(path: Path) -> Path:
    """Makes a private folder with its parents, if it is not there."""
    with _mapped(path):
        path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file atomically."""
    partial = path.with_name(f".{path.name}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with _mapped(path):
        descriptor = os.open(partial, flags, FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """Replaces a UTF-8 file atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, record: Mapping[str, object]) -> None:
    """Replaces a JSON file atomically."""
    write_bytes(path, json.dumps(record).encode())


def rename(source: Path, target: Path) -> None:
    """Moves within the file system; durable when it returns."""
    with _mapped(source):
        source.rename(target)
        sync_folder(target.parent)
        if source.parent != target.parent:
            sync_folder(source.parent)


def remove(path: Path) -> None:
    """Removes a file if it is there."""
    with _mapped(path):
        path.unlink(missing_ok=True)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Flushes a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def allocated_bytes(folder: Path) -> int:
    """Bytes on disk of the files directly in a folder; what goes away meanwhile counts nothing."""
    blocks = 0
    with contextlib.suppress(FileNotFoundError):
        for each in folder.iterdir():
            blocks += each.lstat().st_blocks
    return blocks * 512


def claim(path: Path) -> int:
    """Locks a file for this process until the returned descriptor is closed. Raises
    FailedPrecondition CONFIG_INVALID when another agent has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise errors.FailedPrecondition(
            "CONFIG_INVALID",
            f"another agent uses the folder {path.parent}",
            hint="give each agent a folder of its own (setting shelf), or stop the other one",
        ) from None
    return descriptor


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise raw.disk_error(error, path) from error
