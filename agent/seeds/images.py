"""Images: what the caller says of one, what opens it, and how to tell that it changed."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from agent.disks import DiskReader

OpenReader = Callable[[Path, str], DiskReader]
"""Opens the image at a path in a format, as `agent.disks.open_reader` does."""


@dataclass(frozen=True)
class Image:
    """A disk image on this host. It may be written at any time, by a machine that runs here."""

    path: Path
    format: str
    """What `OpenReader` takes, such as `raw` or `qcow2`."""

    scope: str
    """Whose it is: `provider/tenant`."""

    image_id: str
    """Stable and unique in its scope, such as `vm_id/disk_id`: the index is kept under it."""

    public: bool = False
    """Whether every scope may use it, as a base image that anyone can download."""


@dataclass(frozen=True)
class Identity:
    """An image at one moment: any write, replacement or change of size makes another one.

    The path is not part of it: an image that moves with its folder keeps its index.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """What is at `path` now; None when that cannot be told."""
        try:
            status = os.lstat(path)
        except OSError:
            return None
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )
