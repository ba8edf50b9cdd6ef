"""Disk images whose blocks are known by a number, and indexes of them."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from agent.disks import open_reader
from agent.seeds import building
from agent.seeds.building import Built
from agent.seeds.fingerprints import BLOCK_BYTES, Fingerprints
from agent.seeds.images import Image

SCOPE = "alpha.example/tenant-1"
_seconds = itertools.count(1_000_000_000)

PRINTS = Fingerprints(b"k" * 32)


def block(number: int) -> bytes:
    """4 KiB that only this number has; 0 is zeros."""
    return number.to_bytes(8, "little") * (BLOCK_BYTES // 8)


def content(numbers: Sequence[int], tail: bytes = b"") -> bytes:
    """The blocks of these numbers, and a short end."""
    return b"".join([block(each) for each in numbers]) + tail


def fingerprint(number: int) -> int:
    """Of the block of this number."""
    return PRINTS.of(block(number))[0]


def image(path: Path, numbers: Sequence[int], *, scope: str = SCOPE, public: bool = False) -> Image:
    """A raw image of these blocks at `path`, whose id is its name."""
    path.write_bytes(content(numbers))
    # The kernel's time stamps have the width of a tick: two quick writes would look like one.
    os.utime(path, (next(_seconds),) * 2)
    return Image(path, "raw", scope, path.name, public)


def build(target: Path, path: Path, blocks_max: int = building.INDEX_BLOCKS_MAX) -> Built:
    """The index of a raw image, without rests."""
    return building.build(
        target, path, "raw", open_reader, PRINTS, pace=lambda: None, blocks_max=blocks_max
    )
