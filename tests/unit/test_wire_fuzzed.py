"""A receiver whose sender has the keys and does as it likes; `tools.fuzz_receiver` judges."""

from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer import frames
from agent.transfer.comparing import Comparing
from agent.transfer.frames import Verdict
from agent.transfer.geometry import LEAF_BYTES, PARENT_BYTES, leaf_count
from agent.transfer.journal import Journal
from agent.transfer.merkle import DigestKeys, DiskTree
from agent.transfer.target import Record, Target
from tools.fuzz_disk import BrokenPromise, MemoryDisk
from tools.fuzz_receiver import DISK_BYTES, play
from tools.fuzz_script import STEPS
from watari import errors

KEYS = DigestKeys(bytes(range(32)))
A, B = b"a" * LEAF_BYTES, b"b" * LEAF_BYTES


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_scripts_break_no_promise(script: bytes) -> None:
    play(script)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(range(len(STEPS))), st.binary(max_size=12)), max_size=20))
def test_scripts_of_many_steps_break_no_promise(steps: list[tuple[int, bytes]]) -> None:
    play(b"\x28" + b"".join(bytes([step]) + rest for step, rest in steps))


def filled(size: int, *leaves: bytes) -> MemoryDisk:
    disk = MemoryDisk(size)
    for index, leaf in enumerate(leaves):
        disk.write(index * LEAF_BYTES, leaf[: size - index * LEAF_BYTES])
    return disk


class Host:
    """A receiver of one disk in memory."""

    def __init__(self, folder: Path, size: int, earlier: MemoryDisk | None = None) -> None:
        self.disk = MemoryDisk(size)
        self._journal = folder / "journal"
        self._earlier = earlier
        self.comparing = self.attempt(keep=False)

    def attempt(self, *, keep: bool) -> Comparing:
        """A session; `keep` continues the last one."""
        journal = Journal(self._journal, leaf_count(self.disk.size), keep=keep)
        target = Target(0, self.disk.size, KEYS, (self.disk, journal), resumed=keep)
        self.comparing = Comparing(target, KEYS, self._earlier, None)
        return self.comparing

    def data(self, offset: int, content: bytes) -> list[Record]:
        digests = b"".join(KEYS.leaves(content))
        masks = (0xFFFF,) * leaf_count(len(content))
        frame = frames.Data(0, offset, len(content), masks, digests, content, compressed=False)
        return self.comparing.target.data(frame, zstandard.ZstdDecompressor())[0]

    def parent(self, *leaves: bytes) -> frames.Answer:
        digest = KEYS.parent(b"".join(KEYS.leaf(leaf) for leaf in leaves))
        return self.comparing.parent(frames.ParentOffer(0, 0, digest))[0]

    def settle(self, records: list[Record]) -> None:
        for record in records:
            record.target.record(record)

    def root_is_true(self) -> bool:
        """Whether the tree is that of what the disk holds."""
        tree = DiskTree(KEYS, self.disk.size)
        tree.put_leaves(0, KEYS.leaves(self.disk.read(0, self.disk.size)))
        return self.comparing.target.tree.root() == tree.root()


def test_an_earlier_copy_is_not_put_over_what_has_arrived(tmp_path: Path) -> None:
    """Its blocks are shared before they are verified: not over a leaf that counts already."""
    host = Host(tmp_path, LEAF_BYTES, filled(LEAF_BYTES, A))
    host.settle(host.data(0, B))
    with pytest.raises(errors.DataLoss, match="twice"):
        host.parent(A)
    assert host.disk.read(0, LEAF_BYTES) == B


def test_a_leaf_that_an_earlier_copy_has_in_part_does_not_count(tmp_path: Path) -> None:
    host = Host(tmp_path, 2 * LEAF_BYTES, filled(77, A))
    assert host.parent(A[:77]).verdict is Verdict.OPEN
    host.data(0, A + B)
    assert host.root_is_true()


def test_half_an_earlier_parent_is_not_the_whole_of_it(tmp_path: Path) -> None:
    host = Host(tmp_path, 2 * LEAF_BYTES, filled(LEAF_BYTES, A))
    assert host.parent(A).verdict is Verdict.OPEN


def test_blocks_that_wait_for_others_are_gone_where_the_sender_says_zeros(tmp_path: Path) -> None:
    host = Host(tmp_path, 2 * LEAF_BYTES)
    host.settle(host.data(0, A))
    target = host.attempt(keep=True).target
    assert target.loose(LEAF_BYTES, B[:4096] + bytes(LEAF_BYTES - 4096))
    assert host.parent(A, bytes(LEAF_BYTES)).verdict is Verdict.HAVE
    assert host.root_is_true()


def test_blocks_found_here_are_not_put_over_what_has_arrived(tmp_path: Path) -> None:
    host = Host(tmp_path, LEAF_BYTES)
    host.data(0, A)
    with pytest.raises(errors.DataLoss, match="complete"):
        host.comparing.target.loose(0, B)
    assert host.disk.read(0, LEAF_BYTES) == A


def test_what_is_sent_over_a_recorded_leaf_makes_the_journal_forget_it(tmp_path: Path) -> None:
    host = Host(tmp_path, 2 * LEAF_BYTES)
    host.settle(host.data(0, A))
    host.attempt(keep=True)
    host.data(0, B)
    assert host.comparing.target.recorded(0, 1) == [None]


RIGHT, FORGED = 0, 3
"""What a script does with the digests of a frame."""


def one_leaf(digests: int) -> bytes:
    """A script: a data frame with the first leaf, then the settler."""
    leaf, pattern, whole, raw = 0, 1, 1, 0
    return bytes(
        [0, STEPS.index("data"), leaf, 0, pattern, whole, digests, raw, STEPS.index("settle")]
    )


def test_the_judge_sees_a_journal_that_is_not_true() -> None:
    """A receiver that records what it did not write."""
    play(one_leaf(RIGHT))
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(MemoryDisk, "write", lambda *_: None)
        with pytest.raises(BrokenPromise, match="journal"):
            play(one_leaf(RIGHT))


def test_the_judge_sees_a_leaf_that_was_not_verified() -> None:
    play(one_leaf(FORGED))
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(Target, "whole", Target.place)
        with pytest.raises(BrokenPromise, match="journal"):
            play(one_leaf(FORGED))


def test_a_disk_in_memory_has_an_end() -> None:
    disk = MemoryDisk(DISK_BYTES)
    disk.write(DISK_BYTES - 1, b"x")
    for offset, content in ((DISK_BYTES - 1, b"xx"), (DISK_BYTES + PARENT_BYTES, b"x"), (-1, b"x")):
        with pytest.raises(BrokenPromise):
            disk.write(offset, content)
