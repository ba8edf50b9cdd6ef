"""Files of saved memory: complete or not, and brought to the size that was granted for them."""

import os
from pathlib import Path

from agent import files
from agent.disks import raw
from agent.hypervisors.virt import faults, saveimage


def image(path: Path) -> saveimage.Image | None:
    """What its header says; None when there is none."""
    try:
        with path.open("rb") as file:
            return saveimage.parse(file.read(saveimage.HEADER_BYTES))
    except FileNotFoundError:
        return None


def require_loadable(path: Path) -> None:
    """Raises FailedPrecondition VM_LIFECYCLE_FAILED for what came from elsewhere and is no complete
    image, or one that a program of this host would have to unpack. Where the form does not tell,
    the source has answered for its being complete: only then it lets memory cross.
    """
    saved = image(path)
    if saved is None or saved.complete is False or not saved.raw:
        raise faults.failed("the saved memory cannot be loaded", "it is no complete, plain image")


def pad(path: Path, size: int, name: str) -> None:
    """Gives a saved image its size, sparse and durable; what is after the image is not read."""
    saved = image(path)
    if saved is None or not saved.raw:
        raise faults.failed(
            f"the memory of {name} was saved in a form that does not travel",
            "it is compressed",
            hint='set save_image_format = "raw" in the host\'s qemu.conf',
        )
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_size > size:
                raise faults.failed(f"the memory of {name} takes more than", f"{size} bytes")
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise raw.disk_error(error, path) from error
    files.sync_folder(path.parent)
