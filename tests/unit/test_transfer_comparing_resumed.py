"""Offers of a disk that an interrupted try left, with seeds that may have changed meanwhile."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer.frames import Verdict
from agent.transfer.geometry import DIGEST_BYTES, LEAF_BYTES, WHOLE_LEAF
from tests.support.comparing import (
    CONTENT,
    LAST,
    SHIFTED,
    Host,
    changed,
    leaves,
    parent,
    root,
)

SHORT = 0x0003
"""The mask of the last leaf."""


def test_what_an_interrupted_try_recorded_is_not_wanted_again(tmp_path: Path) -> None:
    with Host(tmp_path) as host:
        host.send(CONTENT, LAST, (WHOLE_LEAF, 0, WHOLE_LEAF, SHORT))
        host.send(CONTENT, 0, (WHOLE_LEAF,) * 64)
    with Host(tmp_path, keep=True) as host:
        assert host.comparing.same_offset
        assert host.answer(parent(CONTENT)) is Verdict.HAVE
        assert host.answer(parent(CONTENT, LAST)) is Verdict.OPEN
        masks = host.ask(leaves(CONTENT, LAST)).masks
        assert masks == (0, WHOLE_LEAF, 0, 0)
        host.send(CONTENT, LAST, masks)
        assert host.disk == CONTENT
        assert host.comparing.target.tree.root() == root(CONTENT)


def test_a_parent_of_recorded_leaves_and_zeros_is_here(tmp_path: Path) -> None:
    now = CONTENT[: LAST + LEAF_BYTES] + bytes(2 * LEAF_BYTES + 5000)
    with Host(tmp_path) as host:
        host.send(now, LAST, (WHOLE_LEAF, 0, 0, 0))
    with Host(tmp_path, keep=True) as host:
        assert host.answer(parent(now, LAST)) is Verdict.HAVE


MASKS = st.integers(0, 0xF)


@settings(max_examples=40, deadline=None)
@given(MASKS, MASKS, MASKS, MASKS, MASKS, st.booleans())
def test_whatever_is_here_and_left_and_stale_the_disk_ends_as_its_source(
    tmp_path_factory: pytest.TempPathFactory,
    zeros: int,
    left: int,
    torn: int,
    moved: int,
    stale: int,
    unnoticed: bool,
) -> None:
    """Of the four leaves: zero at the source, sent by an earlier try, torn in its journal, changed
    since the earlier copy, and changed in an image after it was indexed.
    """
    folder = tmp_path_factory.mktemp("comparing")
    old = CONTENT[LAST:]

    def with_changes(content: bytes, which: int, by: int) -> bytes:
        for index in range(4):
            if which >> index & 1:
                content = changed(content, index * LEAF_BYTES + by)
        return content

    now = with_changes(old, moved, 100)
    for index in range(4):
        if zeros >> index & 1:
            there = now[index * LEAF_BYTES : (index + 1) * LEAF_BYTES]
            now = (
                now[: index * LEAF_BYTES]
                + bytes(len(there))
                + now[index * LEAF_BYTES + len(there) :]
            )
    size = len(now)
    with Host(folder, size) as host:
        whole = (WHOLE_LEAF, WHOLE_LEAF, WHOLE_LEAF, SHORT)
        host.send(now, 0, [mask * (left >> index & 1) for index, mask in enumerate(whole)])
    with (folder / "vda.journal").open("r+b") as file:
        for index in range(4):
            if torn >> index & 1:
                os.pwrite(file.fileno(), b"torn", index * DIGEST_BYTES)
    image = SHIFTED + with_changes(old, moved, 100)
    with Host(folder, size, earlier=old, images=[image], keep=True) as host:
        if stale:
            changes = SHIFTED + with_changes(image[len(SHIFTED) :], stale, 200)
            host.unnoticed(0, changes) if unnoticed else host.image_path(0).write_bytes(changes)
        host.transfer(now)
        assert host.disk == now
        assert host.comparing.target.tree.root() == root(now)


def test_what_an_interrupted_try_left_does_not_keep_the_earlier_copy_from_use(
    tmp_path: Path,
) -> None:
    with Host(tmp_path) as first:
        assert first.send(CONTENT, 0, [WHOLE_LEAF]) == []
    with Host(tmp_path, earlier=CONTENT, keep=True) as again:
        assert again.comparing.target.resumed
        assert again.transfer(CONTENT) == 0
        assert again.disk == CONTENT
