"""A disk that an interrupted try left: what was recorded is used, and nothing else of it is."""

import os
import random
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.disks.raw import RawWriter
from agent.transfer.geometry import BLOCK_BYTES, DIGEST_BYTES, LEAF_BYTES, leaf_bytes, leaf_count
from agent.transfer.journal import Journal
from agent.transfer.target import Target
from tests.support.leaves import (
    CONTENT,
    DECOMPRESSOR,
    KEYS,
    OTHER,
    SIZE,
    allocated,
    begun,
    interrupted,
    leaf,
    on_disk,
    part,
    root,
    sent,
    settle,
    without,
)


class Told:
    """A disk and its journal that tell what is done to them."""

    def __init__(self, folder: Path) -> None:
        self.calls: list[str] = []
        calls = self.calls

        class Disk(RawWriter):
            def write(self, offset: int, content: bytes) -> None:
                calls.append("write")
                super().write(offset, content)

            def zero(self, offset: int, length: int) -> None:
                calls.append("zero")
                super().zero(offset, length)

        class Entries(Journal):
            def record(self, leaf: int, digests: bytes) -> None:
                calls.append("record" if any(digests) else "clear")
                super().record(leaf, digests)

            def sync(self) -> None:
                calls.append("sync")
                super().sync()

        disk = Disk(folder / "vda.raw", SIZE, keep=True)
        journal = Entries(folder / "vda.journal", leaf_count(SIZE), keep=True)
        self.target = Target(0, SIZE, KEYS, (disk, journal), resumed=True)


@pytest.mark.parametrize("kind", ["whole", "zeros", "loose", "part"])
def test_a_recorded_leaf_is_forgotten_durably_before_it_is_replaced(
    tmp_path: Path, kind: str
) -> None:
    interrupted(tmp_path, 1)
    told = Told(tmp_path)
    with closing(told.target) as target:
        if kind == "whole":
            sent(target, 1, OTHER)
        elif kind == "zeros":
            target.zeros(0, SIZE)
        elif kind == "loose":
            target.loose(LEAF_BYTES, without(1, 0x0001, OTHER))
        else:
            target.data(part(1, 0xFFFE, OTHER, OTHER), DECOMPRESSOR)
        assert told.calls[:3] == ["clear", "sync", "zero"]
        assert target.recorded(LEAF_BYTES, 1) == [None]


def test_what_was_written_and_not_recorded_is_zeros_when_the_disk_is_continued(
    tmp_path: Path,
) -> None:
    interrupted(tmp_path, 1, written=(0, 2, 3))
    assert on_disk(tmp_path) == CONTENT
    with closing(begun(tmp_path, keep=True)) as target:
        kept = bytes(LEAF_BYTES) + leaf(1) + bytes(SIZE - 2 * LEAF_BYTES)
        assert on_disk(tmp_path) == kept
        assert allocated(tmp_path) <= LEAF_BYTES
        assert target.recorded(0, 4) == [None, KEYS.leaf(leaf(1)), None, None]
        assert not target.tree.has(LEAF_BYTES), "it counts only once it is offered"


def test_a_disk_whose_journal_is_gone_or_that_is_not_to_be_kept_begins_anew(tmp_path: Path) -> None:
    for harm in ("journal gone", "disk gone", "not kept"):
        interrupted(tmp_path, 0, 1, 2, 3)
        if harm == "journal gone":
            (tmp_path / "vda.journal").unlink()
        elif harm == "disk gone":
            (tmp_path / "vda.raw").unlink()
        with closing(begun(tmp_path, keep=harm != "not kept")) as target:
            assert not target.resumed
            assert target.recorded(0, 4) == [None] * 4
        with closing(begun(tmp_path, keep=True)) as target:
            assert target.recorded(0, 4) == [None] * 4
        assert on_disk(tmp_path) == bytes(SIZE)


KINDS = st.sampled_from(["zeros", "full", "sparse"])
FATES = st.sampled_from(["nothing", "written", "half written", "recorded", "outdated", "torn"])


def made(kind: str) -> bytes:
    """A leaf."""
    if kind == "zeros":
        return bytes(LEAF_BYTES)
    return os.urandom(LEAF_BYTES) if kind == "full" else bytes(5 * BLOCK_BYTES) + os.urandom(45056)


def tried(target: Target, folder: Path, number: int, fate: str, content: bytes) -> None:
    """What an earlier session did with a leaf before it was killed."""
    at = number * LEAF_BYTES
    old = leaf(number, content) if fate != "outdated" else os.urandom(leaf_bytes(target.size, at))
    if fate == "half written":
        with (folder / "vda.raw").open("r+b") as file:
            os.pwrite(file.fileno(), os.urandom(min(5000, len(old))), at)
    elif fate != "nothing":
        records = target.place(at, old, KEYS.leaf(old))
        if fate != "written":
            settle(target, records)
        if fate == "torn":
            with (folder / "vda.journal").open("r+b") as file:
                os.pwrite(file.fileno(), bytes(20), number * DIGEST_BYTES)


def finished(target: Target, number: int, content: bytes, how: str) -> None:
    """The leaf, from what is there or from the sender."""
    at, wanted = number * LEAF_BYTES, leaf(number, content)
    if target.recorded(at, 1) == [KEYS.leaf(wanted)]:
        settle(target, target.adopt(at, [KEYS.leaf(wanted)]))
    elif not any(wanted):
        target.zeros(at, len(wanted))
    elif how == "whole" or len(wanted) <= BLOCK_BYTES:
        settle(target, sent(target, number, content))
    else:
        assert target.loose(at, without(number, 0x0001, content))
        frame = part(number, 0x0001, content, content)
        records, rejected = target.data(frame, DECOMPRESSOR)
        assert not rejected
        settle(target, records)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(KINDS, FATES, st.sampled_from(["whole", "part"])), min_size=1, max_size=8),
    st.sampled_from([LEAF_BYTES, 1, BLOCK_BYTES, 5000]),
    st.randoms(use_true_random=False),
)
def test_whatever_an_interrupted_try_left_the_disk_ends_as_its_source(
    tmp_path_factory: pytest.TempPathFactory,
    leaves: list[tuple[str, str, str]],
    last: int,
    order: random.Random,
) -> None:
    folder = tmp_path_factory.mktemp("resume")
    content = b"".join(made(kind) for kind, _, _ in leaves)[: (len(leaves) - 1) * LEAF_BYTES + last]
    with closing(begun(folder, len(content))) as target:
        for number, (_, fate, _) in enumerate(leaves):
            tried(target, folder, number, fate, content)
    with closing(begun(folder, len(content), keep=True)) as target:
        for number, (_, fate, _) in enumerate(leaves):
            if fate == "recorded":
                assert leaf(number, on_disk(folder)) == leaf(number, content)
            elif fate in {"nothing", "written", "half written"}:
                assert not any(leaf(number, on_disk(folder)))
        for number in order.sample(range(len(leaves)), len(leaves)):
            finished(target, number, content, leaves[number][2])
        assert target.tree.root() == root(content)
    assert on_disk(folder) == content
    with closing(begun(folder, len(content), keep=True)) as target:
        for number in range(len(leaves)):
            known = target.recorded(number * LEAF_BYTES, 1)[0]
            assert known in {None, KEYS.leaf(leaf(number, content))}
            assert known or not any(leaf(number, content))
    assert on_disk(folder) == content
