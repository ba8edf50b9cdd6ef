"""Image files: ext4 from a tree, changed copies, random content, holes."""

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from watari.cli import sparse

LEAF_BYTES = 64 * 1024
"""Watari's unit of difference; changes are made in it."""

FILE_SYSTEM_TIME = "1780000000"
"""Time that mke2fs writes, so that an image is the same whenever it is made."""

_MIB = 1024 * 1024


def make_ext4(image: Path, tar: Path, size_bytes: int, uuid: str) -> None:
    """A raw ext4 file system that holds a tar's tree. The order of the tar is that on the disk."""
    memory = Path("/dev/shm")  # noqa: S108 - tmpfs lists a folder in the order of creation
    parent = memory if memory.is_dir() else image.parent
    with tempfile.TemporaryDirectory(prefix="watari-bench-", dir=parent) as folder:
        unpack = ["tar", "--extract", "--numeric-owner", f"--file={tar}", f"--directory={folder}"]
        subprocess.run(unpack, check=True)
        with image.open("wb") as file:
            file.truncate(size_bytes)
        options = f"hash_seed={uuid},root_owner=0:0,lazy_itable_init=1"
        command = ["mke2fs", "-q", "-F", "-t", "ext4", "-U", uuid, "-E", options, "-d", folder]
        environ = {**os.environ, "E2FSPROGS_FAKE_TIME": FILE_SYSTEM_TIME, "PATH": _path()}
        subprocess.run([*command, str(image)], check=True, env=environ)


def make_random(image: Path, size_bytes: int, seed: int) -> None:
    """Content that does not compress."""
    rng = random.Random(seed)
    with image.open("wb") as file:
        for at in range(0, size_bytes, _MIB):
            file.write(rng.randbytes(min(_MIB, size_bytes - at)))


def make_full(image: Path, root: Path, size_bytes: int, seed: int) -> None:
    """What `root` has in its leaves, repeated up to a size; every value of a byte is exchanged for
    another one each time, so that nothing is there twice.
    """
    rng = random.Random(seed)
    with root.open("rb") as source, image.open("wb") as file:
        leaves = list(allocated_leaves(source.fileno(), root.stat().st_size))
        while file.tell() < size_bytes:
            table = bytearray(range(256))
            rng.shuffle(table)
            for leaf in leaves:
                source.seek(leaf * LEAF_BYTES)
                content = source.read(LEAF_BYTES)
                if any(content) and file.tell() < size_bytes:
                    file.write(content.translate(bytes(table)))


def make_qcow2(image: Path, raw: Path) -> None:
    """The same content as qcow2."""
    convert = ("qemu-img", "convert", "-f", "raw", "-O", "qcow2")
    subprocess.run([*convert, str(raw), str(image)], check=True)


def make_sparse(image: Path, size_bytes: int) -> None:
    """Nothing but a size, and one leaf at either end."""
    with image.open("wb") as file:
        file.write(random.Random(1).randbytes(LEAF_BYTES))
        file.truncate(size_bytes)
        file.seek(size_bytes - LEAF_BYTES)
        file.write(random.Random(2).randbytes(LEAF_BYTES))


def change(image: Path, share: float, seed: int) -> int:
    """Overwrites a share of the allocated leaves with random bytes; returns the bytes changed."""
    rng = random.Random(seed)
    with image.open("r+b") as file:
        leaves = list(allocated_leaves(file.fileno(), image.stat().st_size))
        chosen = rng.sample(leaves, round(share * len(leaves)))
        for leaf in chosen:
            file.seek(leaf * LEAF_BYTES)
            file.write(rng.randbytes(LEAF_BYTES))
        file.flush()
        os.fsync(file.fileno())
    return len(chosen) * LEAF_BYTES


def allocated_leaves(descriptor: int, size_bytes: int) -> Iterator[int]:
    """Numbers of the whole leaves that have data in them."""
    last = -1
    for start, end in sparse.extents(descriptor, size_bytes):
        for leaf in range(max(start // LEAF_BYTES, last + 1), -(-end // LEAF_BYTES)):
            last = leaf
            if (leaf + 1) * LEAF_BYTES <= size_bytes:
                yield leaf


def copy(source: Path, target: Path) -> None:
    """A copy with the same holes, on stable storage."""
    target.unlink(missing_ok=True)
    sparse.copy(source, target)


def read(image: Path) -> None:
    """Reads what an image holds, so that the page cache has it."""
    with image.open("rb") as file:
        for start, end in sparse.extents(file.fileno(), image.stat().st_size):
            for at in range(start, end, _MIB):
                os.pread(file.fileno(), min(_MIB, end - at), at)


def need(*tools: str) -> None:
    """Raises RuntimeError when a program is missing."""
    missing = [tool for tool in tools if shutil.which(tool, path=_path()) is None]
    if missing:
        raise RuntimeError(f"missing: {', '.join(missing)}; run bench/setup.sh")


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
