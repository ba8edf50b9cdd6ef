"""What guests boot: Debian's cloud kernel, and an initrd whose only program is `guest_init.c`.

The kernel is downloaded and unpacked, never installed. Both are made once, in a cache folder.
"""

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from tests.lab import archive

KERNEL_PACKAGE = "linux-image-cloud-amd64"
"""Depends on the package that has the kernel of the day."""

MODULES = (
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
    "drivers/acpi/button",
    "drivers/input/evdev",
)
"""Loaded in this order; ext4 is in the kernel."""

VARIABLE = "WATARI_LAB_CACHE"
COMMAND_SECONDS_MAX = 300
_INIT_SOURCE = Path(__file__).with_name("guest_init.c")


@dataclass(frozen=True)
class Image:
    """Two files that QEMU boots from. Read-only: all guests of all runs share them."""

    kernel: Path
    initrd: Path


def cache_folder() -> Path:
    """$WATARI_LAB_CACHE, or the user's cache."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else platformdirs.user_cache_path("watari") / "lab"


def prepare(folder: Path | None = None) -> Image:
    """Makes what is not in the cache yet. Needs apt-get the first time, and gcc when the guest's
    program has changed. Raises RuntimeError with what a command said.
    """
    folder = folder or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    root = next(iter(sorted(folder.glob("linux-image-*/"))), None) or _fetch_kernel(folder)
    kernel = next((root / "boot").glob("vmlinuz-*"))
    source = _INIT_SOURCE.read_bytes()
    stamp = hashlib.sha256(b"\0".join([root.name.encode(), *map(str.encode, MODULES), source]))
    initrd = folder / f"initrd-{stamp.hexdigest()[:16]}.gz"
    if not initrd.exists():
        _make_initrd(root, initrd)
    return Image(kernel, initrd)


def _fetch_kernel(folder: Path) -> Path:
    """The unpacked package, under its name."""
    try:
        return _download_kernel(folder)
    except RuntimeError:  # no list of packages yet, or an old one
        _run("apt-get", "update", "-q")
        return _download_kernel(folder)


def _download_kernel(folder: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        temporary = Path(name)
        dependencies = _run("apt-cache", "depends", "--important", KERNEL_PACKAGE)
        found = [word for word in dependencies.split() if word.startswith("linux-image-")]
        package = found[-1]
        _run("apt-get", "download", "-q", package, cwd=temporary)
        unpacked = temporary / "unpacked"
        _run("dpkg", "--extract", str(next(temporary.glob("*.deb"))), str(unpacked))
        target = folder / package
        if not target.exists():
            unpacked.rename(target)
    return target


def _make_initrd(root: Path, initrd: Path) -> None:
    modules = next((root / "lib/modules").iterdir()) / "kernel"
    with tempfile.TemporaryDirectory(dir=initrd.parent) as name:
        program = Path(name) / "init"
        flags = ("-static", "-Os", "-s", "-Wall")
        _run("gcc", *flags, "-o", str(program), str(_INIT_SOURCE))
        files = {"init": program.read_bytes()}
        for number, module in enumerate(MODULES):
            path = modules / f"{module}.ko"
            files[f"modules/{number:02}-{path.name}"] = path.read_bytes()
        made = Path(name) / "initrd"
        made.write_bytes(gzip.compress(archive.cpio(files)))
        made.replace(initrd)


def _run(*command: str, cwd: Path | None = None) -> str:
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"{command[0]} is missing; tools/setup.sh lab installs it")
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
