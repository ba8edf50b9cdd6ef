"""The root trees: Debian's packages as a tar, and a sibling of it.

The sibling is what a second machine of the same owner looks like: nine of ten files are the same
bytes, but laid out in another order on another file system.
"""

import hashlib
import io
import random
import subprocess
import tarfile
from pathlib import Path

PACKAGES = ("python3", "openssh-server", "perl")
"""Beside Debian's `important` set: together about 300 MB of files."""

SUITE = "bookworm"
CHANGED_ONE_OF = 10
"""One of so many files has other content in the sibling."""

MOVED_FILES = 8
"""Small files that only one of the two trees has, in each direction."""

SEED = 20


def make_root(tar: Path) -> None:
    """Installs the packages into a tar; takes half a minute and a Debian mirror."""
    subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=important",
            f"--include={','.join(PACKAGES)}",
            SUITE,
            str(tar),
        ],
        check=True,
    )


def make_sibling(root: Path, sibling: Path) -> None:
    """Writes the sibling's tar: other content for a tenth of the files, another order."""
    rng = random.Random(SEED)
    with tarfile.open(root) as source, tarfile.open(sibling, "w") as target:
        members = source.getmembers()
        files = [each for each in members if each.isreg() and each.size]
        changed = {each.name for each in _chosen(files)}
        small = [each for each in files if each.size < 1 << 16 and each.name not in changed]
        lone = rng.sample(sorted(small, key=lambda each: each.name), 2 * MOVED_FILES)
        absent = _with_links(members, {each.name for each in lone[:MOVED_FILES]})
        for member in _shuffled(members, rng):
            if member.name in absent:
                continue
            content = _content(source, member)
            if member.name in changed:
                content = _other(content, member.name)
            target.addfile(member, io.BytesIO(content) if member.isreg() else None)
        for member in lone[MOVED_FILES:]:
            content = _other(_content(source, member), member.name + ".added")
            member.name += ".added"
            target.addfile(member, io.BytesIO(content))


def _chosen(files: list[tarfile.TarInfo]) -> list[tarfile.TarInfo]:
    """A tenth of the files by count and nearly so by bytes: one of every ten of like size, which
    one by the hash of its path.
    """
    ordered = sorted(files, key=lambda each: (each.size, each.name))
    groups = [ordered[at : at + CHANGED_ONE_OF] for at in range(0, len(ordered), CHANGED_ONE_OF)]
    return [min(_typical(group), key=lambda each: _digest(each.name)) for group in groups]


def _typical(group: list[tarfile.TarInfo]) -> list[tarfile.TarInfo]:
    """Those not far above the middle: one giant would be more than a tenth of all bytes."""
    middle = group[len(group) // 2].size
    return [each for each in group if each.size <= 2 * middle]


def _shuffled(members: list[tarfile.TarInfo], rng: random.Random) -> list[tarfile.TarInfo]:
    """Another order in which parents still precede children, and files the links to them."""
    shuffled = rng.sample(members, len(members))
    return sorted(
        shuffled,
        key=lambda each: (not each.isdir(), each.name.count("/") * each.isdir(), each.islnk()),
    )


def _with_links(members: list[tarfile.TarInfo], names: set[str]) -> set[str]:
    """The names, and those of hard links to them."""
    return names | {each.name for each in members if each.islnk() and each.linkname in names}


def _content(source: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if not member.isreg():
        return b""
    file = source.extractfile(member)
    return file.read() if file else b""


def _other(content: bytes, name: str) -> bytes:
    """Other bytes that compress alike: every value of a byte is exchanged for another one."""
    rng = random.Random(_digest(name))
    table = bytearray(range(256))
    rng.shuffle(table)
    return content.translate(bytes(table))


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
