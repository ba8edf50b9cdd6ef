"""Machines on a shelf, made of real files."""

import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Content:
    """What a disk holds: ranges of seeded random bytes in a sparse file."""

    size: int
    data: tuple[tuple[int, int], ...] = ()
    """(offset, length) of what is written; the rest is a hole."""
    text: bool = False
    """Compressible text instead of random bytes."""
    seed: str = ""
    """Other bytes than those of other seeds."""


def write_disk(path: Path, content: Content) -> None:
    """Writes the file sparsely, the same bytes for the same file name and seed."""
    rng = random.Random(content.seed + path.name)
    with path.open("wb") as file:
        file.truncate(content.size)
        for offset, length in content.data:
            file.seek(offset)
            for at in range(0, length, MIB):
                step = min(MIB, length - at)
                file.write(_text(rng, step) if content.text else rng.randbytes(step))


def _text(rng: random.Random, length: int) -> bytes:
    words = [rng.randbytes(6).hex().encode() for _ in range(200)]
    return b" ".join(rng.choices(words, k=length // 8))[:length].ljust(length, b".")


def definition(vm_id: str, name: str, disks: Mapping[str, str], tenant: str = "default") -> str:
    """A domain XML with `disks`: target device to source path."""
    elements = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/>"
        f"<source file='{source}'/><target dev='{target}' bus='virtio'/></disk>"
        for target, source in disks.items()
    )
    return (
        f"<domain type='qemu'><name>{name}</name><uuid>{vm_id}</uuid>"
        f"<metadata><watari:vm xmlns:watari='https://watari.dev/ns/domain/1' tenant='{tenant}'/>"
        f"</metadata><memory unit='MiB'>512</memory><vcpu>2</vcpu>"
        f"<os><type arch='x86_64'>hvm</type></os><devices>{elements}</devices></domain>"
    )


def put_machine(
    shelf: Path, name: str, disks: Mapping[str, Content], tenant: str = "default"
) -> str:
    """Puts a powered-off machine on a shelf; returns its UUID."""
    vm_id = str(uuid.uuid4())
    folder = shelf / "vms" / name
    folder.mkdir(parents=True)
    for target, content in disks.items():
        write_disk(folder / f"{target}.raw", content)
    sources = {target: f"{target}.raw" for target in disks}
    (folder / "domain.xml").write_text(definition(vm_id, name, sources, tenant))
    return vm_id


def allocated(path: Path) -> int:
    """Bytes on disk."""
    return path.stat().st_blocks * 512


def identical(one: Path, other: Path) -> bool:
    """Whether two files have the same bytes; holes compare as zeros, and fast."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as left, other.open("rb") as right:
        while True:
            a, b = left.read(4 * MIB), right.read(4 * MIB)
            if a != b:
                return False
            if not a:
                return True
