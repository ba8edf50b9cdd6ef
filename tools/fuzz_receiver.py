"""Bytes become what a sender that holds the keys might do to a receiver, and what must hold then.

`play` reads its input as a script: frames of arbitrary bytes, frames that are right or off in one
thing, moments at which the settler works, and new attempts on what the last one left. It returns
when the script is over. It raises whatever came out of the codec, `Target` or `Comparing` that is
no WatariError, and BrokenPromise when

* an error says anything else than that a frame is off,
* a frame that was decoded is encoded as other bytes,
* anything is read or written outside of the disk (`fuzz_disk`),
* more is held for a frame than a frame may carry,
* an entry of the journal is not the digest of what is on the disk,
* a complete tree has another root than the disk has.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import cast

import zstandard

from agent.seeds.fingerprints import Fingerprints
from agent.seeds.sources import SeedSources
from agent.transfer import frames
from agent.transfer.comparing import Comparing
from agent.transfer.geometry import (
    BLOCK_BYTES,
    DIGEST_BYTES,
    LEAF_BYTES,
    PARENT_BYTES,
    PARENT_LEAVES,
    ZERO_LEAF,
    leaf_bytes,
    leaf_count,
)
from agent.transfer.journal import Journal
from agent.transfer.lookup import Lookup
from agent.transfer.merkle import DigestKeys, DiskTree
from agent.transfer.target import Record, Target
from tools.fuzz_disk import MemoryDisk, require
from tools.fuzz_script import DIGEST_KEY, PATTERNS, Input, Script
from watari import errors

DISK_BYTES = PARENT_BYTES + 2 * LEAF_BYTES + 5000
"""A full parent; then two full leaves and a short one whose last block is short."""

STEPS_MAX = 64
PENDING_MAX = 512
"""Records that wait for the settler, as in `settling.GROUP_FRAMES_MAX`."""

_DIGESTS = DigestKeys(DIGEST_KEY)
_PRINTS = Fingerprints(DIGEST_KEY)
_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
_FOLDER = tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None)


def _known_blocks() -> dict[int, bytes]:
    blocks = {
        content[at : at + BLOCK_BYTES]
        for content in PATTERNS
        for at in range(0, len(content), BLOCK_BYTES)
    }
    return {_PRINTS.of(block)[0]: block for block in sorted(blocks)}


_KNOWN = _known_blocks()


@cache
def _earlier(size: int) -> MemoryDisk | None:
    """An earlier copy of `size` bytes, which may be shorter than the disk; None for 0 bytes."""
    earlier = MemoryDisk(size)
    for leaf in range(leaf_count(size)):
        at = leaf * LEAF_BYTES
        earlier.write(at, PATTERNS[leaf % len(PATTERNS)][: leaf_bytes(size, at)])
    return earlier if size else None


class Finds:
    """Blocks that this host "has": those of the patterns, under fingerprints that may lie."""

    def __init__(self, *, stale: bool) -> None:
        self._stale = stale

    def blocks(self, fingerprints: list[int]) -> list[bytes | None]:
        """Content by fingerprint; of an index that is stale, of other blocks."""
        found = [_KNOWN.get(each) for each in fingerprints]
        return found[::-1] if self._stale else found

    def close(self) -> None:
        """Nothing to close."""


class Receiver:
    """The disk of one migration through all its attempts."""

    def __init__(self, setup: Input) -> None:
        choices = setup.byte()
        self._dry = choices & 7 == 7
        self._earlier_bytes = (0, DISK_BYTES, PARENT_BYTES, 2 * LEAF_BYTES + 77)[choices >> 3 & 3]
        self._looks_up = bool(choices & 32)
        self._stale = bool(choices & 64)
        self._disk = MemoryDisk(DISK_BYTES)
        self._path = Path(_FOLDER.name) / "journal"
        self._journal = Journal(self._path, leaf_count(DISK_BYTES), keep=False)
        self._pending: list[Record] = []
        self._decompressor = zstandard.ZstdDecompressor()
        self._comparing = self._opened(resumed=False)

    def take(self, frame: frames.Frame) -> None:
        """Does what a session does with a frame. Raises WatariError."""
        disk, records = self._comparing, list[Record]()
        match frame:
            case frames.Data(disk=0):
                records, _ = disk.target.data(frame, self._decompressor)
            case frames.Zeros(disk=0):
                disk.target.zeros(frame.offset, frame.length)
            case frames.ParentOffer(disk=0):
                _, records = disk.parent(frame)
            case frames.LeavesOffer(disk=0):
                answer, records = disk.leaves(frame)
                frames.encode(answer)
            case _:
                raise frames.invalid("nothing for this disk")
        recorded = sum(len(each.digests) for each in records)
        require(recorded <= PARENT_LEAVES * DIGEST_BYTES, f"{recorded} bytes to record for a frame")
        self._pending = (self._pending + records)[-PENDING_MAX:]

    def settle(self) -> None:
        """What the settler does with a group."""
        target = self._comparing.target
        target.flush()
        for record in self._pending:
            target.record(record)
        target.sync_journal()
        self._pending.clear()

    def restart(self) -> None:
        """Another attempt; what was not settled is not in the journal."""
        self._check_journal()
        self.close()
        self._pending.clear()
        self._journal = Journal(self._path, leaf_count(DISK_BYTES), keep=True)
        self._comparing = self._opened(resumed=True)

    def check(self) -> None:
        """Raises BrokenPromise when what is vouched for is not so."""
        self._check_journal()
        if self._comparing.target.tree.complete and not self._dry:
            tree = DiskTree(_DIGESTS, DISK_BYTES)
            tree.put_leaves(0, (self._digest(leaf) for leaf in range(leaf_count(DISK_BYTES))))
            same = self._comparing.target.tree.root() == tree.root()
            require(same, "the root is not the disk's")

    def _check_journal(self) -> None:
        for leaf, entry in enumerate(self._journal.read(0, leaf_count(DISK_BYTES))):
            true = entry is None or entry == self._digest(leaf)
            require(true, f"the journal's entry of leaf {leaf} is not true")

    def _digest(self, leaf: int) -> bytes:
        """What a leaf of the disk is."""
        content = self._disk.leaf(leaf)
        return _DIGESTS.zero_leaf if content is ZERO_LEAF else _DIGESTS.leaf(content)

    def close(self) -> None:
        """Gives the files back."""
        self._comparing.close()
        self._comparing.target.close()
        if self._dry:
            self._journal.close()

    def _opened(self, *, resumed: bool) -> Comparing:
        storage = None if self._dry else (self._disk, self._journal)
        target = Target(0, DISK_BYTES, _DIGESTS, storage, resumed=resumed and not self._dry)
        lookup = None
        if self._looks_up:
            finds = cast("SeedSources", Finds(stale=self._stale))
            lookup = Lookup(lambda: finds, _PRINTS)
        return Comparing(target, _DIGESTS, _earlier(self._earlier_bytes), lookup)


def play(data: bytes) -> None:
    """One input."""
    script = Script(Input(data), DISK_BYTES)
    receiver = Receiver(script.input)
    try:
        for _ in range(STEPS_MAX):
            if script.over:
                break
            _step(receiver, script)
        receiver.settle()
        receiver.check()
    finally:
        receiver.close()


def _step(receiver: Receiver, script: Script) -> None:
    try:
        match script.choose():
            case "settle":
                receiver.settle()
            case "restart":
                receiver.restart()
            case step:
                receiver.take(script.frame(step))
    except errors.WatariError as error:
        require(error.reason in ("FRAME_INVALID", "DIGEST_MISMATCH"), f"the reason {error.reason}")
        if script.input.byte() & 1:  # what came before may be with the settler already
            receiver.settle()
        receiver.restart()
