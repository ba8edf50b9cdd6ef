"""One arriving disk: what counts was verified, and whatever does not count reads as zeros."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.transfer import frames
from agent.transfer.geometry import BLOCK_BYTES, LEAF_BYTES, leaf_bytes, whole_mask
from agent.transfer.target import LOOSE_LEAVES_MAX, Record, Target
from tests.support.arriving import arriving, data
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
from watari import errors


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return arriving(tmp_path, SIZE)[0].target


def test_what_arrives_is_written_and_named_for_the_journal(target: Target, tmp_path: Path) -> None:
    records, rejected = target.data(data(CONTENT), DECOMPRESSOR)
    assert records == [Record(target, 0, b"".join(KEYS.leaves(CONTENT)))]
    assert rejected == []
    assert on_disk(tmp_path) == CONTENT
    assert target.tree.root() == root(CONTENT)


def test_a_leaf_with_another_digest_is_refused_and_nothing_of_its_frame_counts(
    target: Target, tmp_path: Path
) -> None:
    changed = bytearray(CONTENT)
    changed[-1] ^= 1
    with pytest.raises(errors.DataLoss) as caught:
        target.data(data(bytes(changed), digest_of=CONTENT), DECOMPRESSOR)
    assert caught.value.reason == "DIGEST_MISMATCH"
    assert not any(target.tree.has(at) for at in range(0, SIZE, LEAF_BYTES))
    assert on_disk(tmp_path) == bytes(SIZE)


def test_zeros_and_blocks_of_zeros_leave_holes(target: Target, tmp_path: Path) -> None:
    target.zeros(0, 2 * LEAF_BYTES)
    content = bytes(LEAF_BYTES - BLOCK_BYTES) + CONTENT[:BLOCK_BYTES]
    target.data(data(content, 2 * LEAF_BYTES), DECOMPRESSOR)
    target.zeros(3 * LEAF_BYTES, 5000)
    assert allocated(tmp_path) <= BLOCK_BYTES
    assert target.tree.root() == root(bytes(2 * LEAF_BYTES) + content + bytes(5000))


@pytest.mark.parametrize(
    "second",
    [
        lambda target: sent(target, 1),
        lambda target: sent(target, 1, OTHER),
        lambda target: target.zeros(0, 2 * LEAF_BYTES),
        lambda target: target.data(part(1, 0x000F), DECOMPRESSOR),
        lambda target: target.loose(LEAF_BYTES, leaf(1)),
        lambda target: target.adopt(LEAF_BYTES, [KEYS.leaf(leaf(1))]),
    ],
    ids=["whole", "other", "zeros", "part", "loose", "adopted"],
)
@pytest.mark.parametrize("resumed", [False, True])
def test_content_that_comes_twice_is_refused_and_the_first_stays(
    tmp_path: Path, second: Callable[[Target], object], *, resumed: bool
) -> None:
    if resumed:
        interrupted(tmp_path)
    with closing(begun(tmp_path, keep=resumed)) as target:
        settle(target, sent(target, 1))
        with pytest.raises(errors.DataLoss) as caught:
            second(target)
        assert caught.value.reason == "FRAME_INVALID"
    assert on_disk(tmp_path)[LEAF_BYTES : 2 * LEAF_BYTES] == leaf(1)


@given(st.integers(0, 3), st.data())
def test_blocks_that_were_found_and_the_rest_make_the_leaf_and_nothing_else_does(
    tmp_path_factory: pytest.TempPathFactory, number: int, draw: st.DataObject
) -> None:
    """Else the leaf is rejected and zeros, and comes whole."""
    folder = tmp_path_factory.mktemp("loose")
    whole = whole_mask(leaf_bytes(SIZE, number * LEAF_BYTES))
    mask = draw.draw(st.integers(1, whole - 1), "blocks that come")
    right = draw.draw(st.booleans(), "whether what was found is right")
    with closing(begun(folder)) as target:
        found = without(number, mask, CONTENT if right else OTHER)
        assert target.loose(number * LEAF_BYTES, found)
        records, rejected = target.data(part(number, mask), DECOMPRESSOR)
        if right:
            digest = KEYS.leaf(leaf(number))
            assert (records, rejected) == ([Record(target, number, digest)], [])
        else:
            assert (records, rejected) == ([], [number])
            assert on_disk(folder) == bytes(SIZE)
            assert len(sent(target, number)) == 1
        assert leaf(number, on_disk(folder)) == leaf(number)


@pytest.mark.parametrize("then", ["whole", "zeros", "loose"])
def test_blocks_that_came_to_nothing_leave_no_trace(
    target: Target, tmp_path: Path, then: str
) -> None:
    """What follows has zeros where they were."""
    sparse = bytes(BLOCK_BYTES) + CONTENT[BLOCK_BYTES:LEAF_BYTES]
    assert target.loose(0, without(0, 0x8000, OTHER))
    if then == "whole":
        sent(target, 0, sparse)
    elif then == "zeros":
        target.zeros(0, LEAF_BYTES)
    else:
        assert target.loose(0, sparse)
    assert leaf(0, on_disk(tmp_path)) == (sparse if then != "zeros" else bytes(LEAF_BYTES))


def test_blocks_without_any_that_were_found_are_rejected_unless_the_rest_is_zeros(
    target: Target, tmp_path: Path
) -> None:
    assert target.data(part(0, 0x00FF), DECOMPRESSOR) == ([], [0])
    half = without(1, 0xFF00)
    frame = part(0, 0x00FF, half, half)
    assert target.data(frame, DECOMPRESSOR)[1] == []
    assert leaf(0, on_disk(tmp_path)) == half


def test_one_frame_may_hold_whole_leaves_and_parts_and_leave_some_out(
    target: Target, tmp_path: Path
) -> None:
    target.loose(2 * LEAF_BYTES, without(2, 0x0001, OTHER))
    target.loose(3 * LEAF_BYTES, without(3, 0x0002))
    pieces = [part(0, 0xFFFF), part(2, 0x0001), part(3, 0x0002)]
    body = b"".join(each.body for each in pieces)
    digests = b"".join(each.digests for each in pieces)
    masks = (0xFFFF, 0, 0x0001, 0x0002)
    frame = frames.Data(0, 0, len(body), masks, digests, body, compressed=False)
    records, rejected = target.data(frame, DECOMPRESSOR)
    assert [record.leaf for record in records] == [0, 3]
    assert rejected == [2]
    assert on_disk(tmp_path) == leaf(0) + bytes(2 * LEAF_BYTES) + leaf(3)


def test_a_dry_run_verifies_and_writes_nothing(tmp_path: Path) -> None:
    target = Target(0, SIZE, KEYS, None, resumed=False)
    assert sent(target, 0) == []
    assert target.data(part(1, 0x0001, OTHER), DECOMPRESSOR)[1] == []
    assert target.loose(0, leaf(0))
    assert target.adopt(0, [KEYS.leaf(leaf(0))]) == []
    assert target.recorded(0, 2) == [None, None]
    target.zeros(0, LEAF_BYTES)
    settle(target, [Record(target, 0, KEYS.leaf(leaf(0)))])
    with pytest.raises(errors.DataLoss) as caught:
        target.data(data(leaf(0), digest_of=leaf(1)), DECOMPRESSOR)
    assert caught.value.reason == "DIGEST_MISMATCH"
    target.close()
    assert list(tmp_path.iterdir()) == []


def test_of_so_many_leaves_only_blocks_may_wait_and_no_more(tmp_path: Path) -> None:
    """What is refused is sent whole; a leaf that is complete makes room for another."""
    size = (LOOSE_LEAVES_MAX + 2) * LEAF_BYTES
    with closing(begun(tmp_path, size)) as target:
        zeros = bytes(LEAF_BYTES)
        for number in range(LOOSE_LEAVES_MAX):
            assert target.loose(number * LEAF_BYTES, zeros)
        assert not target.loose(LOOSE_LEAVES_MAX * LEAF_BYTES, zeros)
        sent(target, 0)
        assert target.loose(LOOSE_LEAVES_MAX * LEAF_BYTES, zeros)
        assert not target.loose((LOOSE_LEAVES_MAX + 1) * LEAF_BYTES, zeros)
