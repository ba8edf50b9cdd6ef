"""Puts disk images on a local cloud's shelf as a new, powered-off machine.

Everything is made in a folder beside the shelf's machines and appears among them by one rename.
"""

import fcntl
import os
import shutil
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from watari import errors
from watari.cli import sparse

DISKS_MAX = 26
"""Disks of one machine: vda to vdz."""

METADATA_NAMESPACE = "https://watari.dev/ns/domain/1"
"""Of `<watari:vm tenant="..."/>` in a definition's metadata."""

_KIB = 1024
_CONTAINERS = {
    b"QFI\xfb": "qcow2",
    b"KDMV": "VMDK",
    b"vhdx": "VHDX",
    b"conectix"[:4]: "VHD",
}


@dataclass(frozen=True)
class Machine:
    """A machine to be."""

    name: str
    vcpus: int
    memory_bytes: int
    tenant: str
    images: tuple[Path, ...]
    """Raw images, one a disk, in the order of the disks."""


def check_images(images: Sequence[Path]) -> None:
    """Raises NotFound or InvalidArgument IMAGE_UNREADABLE unless all are readable raw images."""
    if len(images) > DISKS_MAX:
        raise errors.InvalidArgument(
            "INVALID_FIELD", f"{len(images)} images, at most {DISKS_MAX}", field="image"
        )
    for image in images:
        if not image.exists():
            raise errors.NotFound(
                "IMAGE_UNREADABLE", f"{image} does not exist", hint="check the path", path=image
            )
        if not image.is_file():
            raise _unreadable(image, "is not a file", "give a raw disk image")
        try:
            with image.open("rb") as file:
                container = _CONTAINERS.get(file.read(4))
        except OSError as error:
            raise _unreadable(image, f"{error.strerror}", "check its permissions") from error
        if container:
            raise _unreadable(
                image,
                f"is a {container} image, and the shelf holds raw ones",
                f"qemu-img convert -O raw {image} {image.with_suffix('.raw')}",
            )


def put(shelf: Path, machine: Machine, *, move: bool) -> str:
    """Makes the machine from its images; returns its UUID. The images are kept unless `move`.

    Raises OSError; then there is no machine and the images are as they were.
    """
    vm_id = str(uuid.uuid4())
    vms = shelf / "vms"
    vms.mkdir(mode=0o700, exist_ok=True)
    with _staging(shelf / "importing", vm_id) as staging:
        for at, image in enumerate(machine.images):
            _bring(image, staging / f"{disk_id(at)}.raw", move=move)
        (staging / "domain.xml").write_text(definition(vm_id, machine))
        _flush(staging / "domain.xml")
        _flush(staging)
        staging.rename(vms / vm_id)
        _flush(vms)
    if move:
        for image in machine.images:
            image.unlink()
    return vm_id


@contextmanager
def _staging(everyone: Path, vm_id: str) -> Iterator[Path]:
    """A folder of this import's own. What killed imports left behind is removed first."""
    everyone.mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as stack:
        with _open_folder(everyone) as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            _remove_abandoned(everyone)
            staging = everyone / vm_id
            staging.mkdir(mode=0o700)
            # Held until the end: nobody else takes this folder for abandoned.
            fcntl.flock(stack.enter_context(_open_folder(staging)), fcntl.LOCK_EX)
        stack.callback(shutil.rmtree, staging, ignore_errors=True)
        yield staging


def _remove_abandoned(everyone: Path) -> None:
    for folder in everyone.iterdir():
        with _open_folder(folder) as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # an import that is at work
                continue
            shutil.rmtree(folder)


@contextmanager
def _open_folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def definition(vm_id: str, machine: Machine) -> str:
    """The machine as libvirt domain XML, its disks relative to its folder."""
    ET.register_namespace("watari", METADATA_NAMESPACE)
    root = ET.Element("domain", type="qemu")
    ET.SubElement(root, "name").text = machine.name
    ET.SubElement(root, "uuid").text = vm_id
    metadata = ET.SubElement(root, "metadata")
    ET.SubElement(metadata, f"{{{METADATA_NAMESPACE}}}vm", tenant=machine.tenant)
    ET.SubElement(root, "memory", unit="KiB").text = str(machine.memory_bytes // _KIB)
    ET.SubElement(root, "vcpu").text = str(machine.vcpus)
    system = ET.SubElement(root, "os")
    ET.SubElement(system, "type", arch="x86_64").text = "hvm"
    ET.SubElement(system, "boot", dev="hd")
    devices = ET.SubElement(root, "devices")
    for at in range(len(machine.images)):
        disk = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(disk, "driver", name="qemu", type="raw")
        ET.SubElement(disk, "source", file=f"{disk_id(at)}.raw")
        ET.SubElement(disk, "target", dev=disk_id(at), bus="virtio")
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _bring(image: Path, target: Path, *, move: bool) -> None:
    if move and image.stat().st_dev == target.parent.stat().st_dev:
        # A second name: the first one goes once the machine is there, so nothing can be lost.
        target.hardlink_to(image)
    else:
        sparse.copy(image, target)


def disk_id(at: int) -> str:
    """Target of the n-th disk: vda, vdb, ..."""
    return f"vd{chr(ord('a') + at)}"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unreadable(image: Path, problem: str, hint: str) -> errors.InvalidArgument:
    return errors.InvalidArgument("IMAGE_UNREADABLE", f"{image} {problem}", hint=hint, path=image)
