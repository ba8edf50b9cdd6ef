"""The guest of this bench: a disk with something on it, and a program that keeps changing it."""

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.lab import emulator
from tests.lab.guests import Guest, Spec
from tests.lab.hosts import Host
from tests.lab.image import Image

MIB = 1 << 20
COMMAND_SECONDS_MAX = 300
TICK_MS = 20
"""Between two acknowledgements: how finely a gap is seen."""

NAME = "moved"
DISK = "vda"


@dataclass(frozen=True)
class Load:
    """What the guest is, and what it does."""

    disk_mib: int = 1024
    content_mib: int = 256
    """Of its disk, random bytes that nobody changes."""
    dirty_mib: int = 200
    """A file of random bytes that it writes over and over"""
    dirty_mb_per_second: int = 5
    """at that rate."""
    memory_mib: int = 128
    before_seconds: float = 20.0
    """So long it runs before anybody moves it."""


def template(load: Load, kind: str, folder: Path) -> Path:
    """A disk image of that format: ext4 with both files on it."""
    path = folder / f"template.{kind}"
    with tempfile.TemporaryDirectory(dir=folder) as name:
        content = Path(name) / "content"
        content.mkdir()
        for file, mib in (("kept", load.content_mib), ("dirty", load.dirty_mib)):
            with (content / file).open("wb") as writing:
                for _ in range(mib):
                    writing.write(os.urandom(MIB))
        raw = Path(name) / "raw"
        with raw.open("wb") as writing:
            writing.truncate(load.disk_mib * MIB)
        options = ("-E", "lazy_itable_init=0,lazy_journal_init=0")
        _run("mke2fs", "-q", "-F", "-t", "ext4", *options, "-d", content, raw)
        if kind == "raw":
            raw.rename(path)
        else:
            _run("qemu-img", "convert", "-f", "raw", "-O", kind, raw, path)
    return path


def create(host: Host, image: Image, load: Load, kind: str, disk: Path, *, live: bool) -> Guest:
    """Defines it, with a copy of `disk`. For a live migration its emulator is the lab's wrapper."""
    spec = Spec(
        name=NAME,
        disks={DISK: kind},
        memory_mib=load.memory_mib,
        emulator=emulator.write(host.work) if live else None,
        parameters={
            "tick_ms": TICK_MS,
            "dirty_mbps": load.dirty_mb_per_second,
            "dirty_mb": load.dirty_mib,
        },
    )
    guest = Guest(host, image, spec)
    guest.folder.mkdir(parents=True)
    _run("cp", "--sparse=always", disk, guest.disk(DISK))
    guest.define()
    return guest


def _run(*command: object) -> None:
    subprocess.run(
        [str(each) for each in command],
        check=True,
        capture_output=True,
        timeout=COMMAND_SECONDS_MAX,
    )
