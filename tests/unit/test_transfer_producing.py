"""A worker sends of a disk what its receiver lacks, all of it and each block once."""

import itertools
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer import frames
from agent.transfer.estimating import SAMPLE_BYTES_MAX, Sample
from agent.transfer.frames import Answer, Verdict
from agent.transfer.geometry import (
    BLOCK_BYTES,
    FRAME_CONTENT_BYTES_MAX,
    LEAF_BYTES,
    PARENT_BYTES,
    WHOLE_LEAF,
    leaf_bytes,
    parent_leaves,
    whole_mask,
)
from agent.transfer.packing import KEPT_FIRST
from tests.support.disks import noise
from tests.support.producers import KEYS, PRINTS, Offer, Source, leaves, root, wanting
from watari import errors

SHORT = 5_000
LEAF = noise(LEAF_BYTES)
ZEROS = bytes(LEAF_BYTES)


def content_of(*leaves: int, length: int = PARENT_BYTES + 3 * LEAF_BYTES + SHORT) -> bytes:
    """A disk of zeros, except for some leaves, each of other content."""
    content = bytearray(length)
    for leaf in leaves:
        at = leaf * LEAF_BYTES
        content[at : at + LEAF_BYTES] = noise(leaf_bytes(length, at), leaf)
    return bytes(content)


def receiver(had: list[bytes], size: int) -> Callable[[Offer], Answer]:
    """Answers like one that has these disks of `size` bytes at the same offsets, by blocks."""

    def answer(offer: Offer) -> Answer:
        content, lacking = had[offer.disk], []
        if isinstance(offer, frames.ParentOffer):
            there = KEYS.leaves(content[offer.offset : offer.offset + PARENT_BYTES])
            same = KEYS.parent(b"".join(there)) == offer.digest
            return Answer(offer.disk, offer.offset, Verdict.HAVE if same else Verdict.OPEN)
        digests = iter(offer.digests)
        for index in range(parent_leaves(size, offer.offset)):
            at = offer.offset + index * LEAF_BYTES
            leaf = content[at : at + LEAF_BYTES]
            zero = offer.zeros >> index & 1
            same = bool(zero) or next(digests) == KEYS.leaf(leaf)
            lacking.append(0 if same else whole_mask(len(leaf)))
        return Answer(offer.disk, offer.offset, Verdict.WANT, tuple(lacking))

    return answer


DISKS = st.lists(
    st.builds(
        lambda seed, leaves, short: content_of(
            *random.Random(seed).sample(range(leaves + 1), k=min(leaves + 1, 5)),
            length=leaves * LEAF_BYTES + short,
        ),
        seed=st.integers(0, 1 << 20),
        leaves=st.sampled_from([0, 1, 3, 63, 64, 130]),
        short=st.sampled_from([1, SHORT, LEAF_BYTES - 1]),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=20, deadline=None)
@given(
    contents=DISKS,
    frame_bytes=st.sampled_from([1, 128 * 1024, FRAME_CONTENT_BYTES_MAX]),
    sparse=st.booleans(),
)
def test_where_nothing_is_compared_everything_arrives_in_frames_that_are_not_too_large(
    contents: list[bytes], frame_bytes: int, *, sparse: bool
) -> None:
    with TemporaryDirectory() as folder:
        source = Source(Path(folder), contents, frame_bytes=lambda _: frame_bytes, sparse=sparse)
        arrived = source.run()
    assert arrived.disks == contents
    assert [tree.root() for tree in source.trees] == [root(content) for content in contents]
    for frame in arrived.data:
        assert frame.length <= max(frame_bytes, LEAF_BYTES)
        assert len(frame.masks) * LEAF_BYTES <= PARENT_BYTES - frame.offset % PARENT_BYTES
    zeros = sum(len(leaf) for content in contents for leaf in leaves(content) if not any(leaf))
    assert sum(frame.length for frame in arrived.zeros) == zeros
    assert sum(frame.length for frame in arrived.data) == sum(map(len, contents)) - zeros
    assert source.offers == []


@settings(max_examples=20, deadline=None)
@given(
    contents=DISKS,
    changed=st.sets(st.integers(0, 200), max_size=4),
    any_offset=st.booleans(),
)
def test_where_leaves_are_compared_only_those_that_differ_are_sent(
    contents: list[bytes], changed: set[int], any_offset: bool
) -> None:
    content = contents[0]
    had = bytearray(content)
    for leaf in changed:
        if leaf * LEAF_BYTES < len(had):
            had[leaf * LEAF_BYTES] ^= 1
    differing = {at for at in range(0, len(had), LEAF_BYTES) if had[at] != content[at]}
    lacking = {at for at in differing if any(content[at : at + LEAF_BYTES])}
    with TemporaryDirectory() as folder:
        source = Source(Path(folder), [content], same_offset=True, any_offset=any_offset)
        source.arrived.disks = [bytearray(had)]
        arrived = source.run(receiver([bytes(had)], len(content)))
    sent = {
        frame.offset + index * LEAF_BYTES
        for frame in arrived.data
        for index, mask in enumerate(frame.masks)
        if mask
    }
    assert sent == lacking
    assert source.trees[0].root() == root(content)
    for at in lacking:
        assert arrived.disks[0][at : at + LEAF_BYTES] == content[at : at + LEAF_BYTES]


@pytest.mark.parametrize(("same", "any_offset"), [(True, False), (True, True), (False, True)])
def test_offers_say_what_the_receiver_can_compare_with(
    tmp_path: Path, same: bool, any_offset: bool
) -> None:
    content = content_of(1, 64, 67)
    source = Source(tmp_path, [content], same_offset=same, any_offset=any_offset)
    source.run(wanting({}, len(content)))
    parents = [offer for offer in source.offers if isinstance(offer, frames.ParentOffer)]
    opened = [offer for offer in source.offers if isinstance(offer, frames.LeavesOffer)]
    expected = []
    for at in (0, PARENT_BYTES) if same else ():
        digests = KEYS.leaves(content[at : at + PARENT_BYTES])
        expected.append(frames.ParentOffer(0, at, KEYS.parent(b"".join(digests))))
    assert parents == expected
    assert [offer.offset for offer in opened] == [0, PARENT_BYTES]
    for offer, there, count in zip(opened, ([1], [64, 67]), (64, 4), strict=True):
        found = [content[at * LEAF_BYTES : (at + 1) * LEAF_BYTES] for at in there]
        filled = sum(1 << at % 64 for at in there)
        assert offer.zeros == (1 << count) - 1 & ~filled
        assert offer.digests == tuple(KEYS.leaf(leaf) for leaf in found)
        prints = [PRINTS.of(leaf) for leaf in found]
        padded = [each + [0] * (16 - len(each)) for each in prints]
        packed = tuple(b"".join(one.to_bytes(6, "little") for one in each) for each in padded)
        assert offer.fingerprints == (packed if any_offset else ())


def test_a_parent_that_is_there_is_neither_opened_nor_sent(tmp_path: Path) -> None:
    content = content_of(0, 5, 66)
    source = Source(tmp_path, [content], same_offset=True)
    arrived = source.run(receiver([content], len(content)))
    assert [type(offer) for offer in source.offers] == [frames.ParentOffer] * 2
    assert arrived.came == []
    assert source.meter.sent_bytes == 0


@pytest.mark.parametrize("rejected", [False, True])
@pytest.mark.parametrize("masks", [(0b1000_0001, 0b10), (WHOLE_LEAF >> 1, 1), (0b110, 0b11)])
def test_of_a_leaf_the_blocks_that_are_wanted_are_sent_and_all_of_it_when_they_do_not_fit(
    tmp_path: Path, masks: tuple[int, int], *, rejected: bool
) -> None:
    content = content_of(64, 65, 67)
    size, last = len(content), len(content) // LEAF_BYTES
    had = bytearray(content)
    for leaf, mask in ((65, masks[0]), (last, masks[1])):
        for block in range(16):
            at = leaf * LEAF_BYTES + block * BLOCK_BYTES
            if mask >> block & 1 and at < size:
                had[at : at + BLOCK_BYTES] = bytes(min(BLOCK_BYTES, size - at))
    source = Source(tmp_path, [content], any_offset=True, had=[bytes(had)])
    source.arrived.reject = {(0, 65)} if rejected else set()
    arrived = source.run(wanting({65: masks[0], last: masks[1]}, size))
    assert arrived.disks == [content]
    assert arrived.data[0].masks == (masks[0], 0, masks[1])
    assert [frame.masks for frame in arrived.data[1:]] == [(WHOLE_LEAF,)] * rejected


def test_blocks_that_are_wanted_are_sent_in_frames_that_are_not_too_large(tmp_path: Path) -> None:
    content = content_of(*range(64))
    masks = dict.fromkeys(range(64), 0b1111)
    had = bytearray(content)
    for leaf in range(64):
        had[leaf * LEAF_BYTES : leaf * LEAF_BYTES + 4 * BLOCK_BYTES] = bytes(4 * BLOCK_BYTES)
    source = Source(
        tmp_path, [content], any_offset=True, had=[had], frame_bytes=lambda _: 160 * 1024
    )
    arrived = source.run(wanting(masks, len(content)))
    assert arrived.disks == [content]
    assert [frame.length for frame in arrived.data] == [160 * 1024] * 6 + [64 * 1024]


def test_holes_travel_as_zeros_and_zero_leaves_between_others_only_where_nobody_compares(
    tmp_path: Path,
) -> None:
    content = content_of(130, length=4 * PARENT_BYTES + SHORT)
    holes = [
        frames.Zeros(0, 0, 2 * PARENT_BYTES),
        frames.Zeros(0, 3 * PARENT_BYTES, PARENT_BYTES + SHORT),
    ]
    between = [
        frames.Zeros(0, 2 * PARENT_BYTES, 2 * LEAF_BYTES),
        frames.Zeros(0, 131 * LEAF_BYTES, 61 * LEAF_BYTES),
    ]
    for compared, expected in ((False, [holes[0], *between, holes[1]]), (True, holes)):
        source = Source(tmp_path, [content], same_offset=compared)
        arrived = source.run(wanting({130: WHOLE_LEAF}, len(content)))
        assert arrived.zeros == expected
        assert arrived.disks == [content]
        assert source.meter.zero_bytes == len(content) - LEAF_BYTES
        assert source.meter.sent_bytes == LEAF_BYTES


def test_what_is_read_and_needed_is_counted_once(tmp_path: Path) -> None:
    content = content_of(0, 1, 64, 67)
    source = Source(tmp_path, [content])
    source.run()
    meter = source.meter
    filled = 3 * LEAF_BYTES + SHORT
    assert (meter.read_bytes, meter.needed_bytes, meter.sent_bytes) == (filled,) * 3
    assert meter.zero_bytes == len(content) - filled


def test_each_frame_has_the_size_that_is_asked_for_with_what_the_last_one_kept(
    tmp_path: Path,
) -> None:
    sizes, kept = itertools.chain([1 << 20], itertools.repeat(512 * 1024)), list[float]()

    def size(share: float) -> int:
        kept.append(share)
        return next(sizes)

    shrinking = LEAF[: BLOCK_BYTES // 2] * (PARENT_BYTES // (BLOCK_BYTES // 2))
    content = shrinking + content_of(*range(64), length=PARENT_BYTES)
    arrived = Source(tmp_path, [content], frame_bytes=size).run()
    assert [frame.length for frame in arrived.data] == [1 << 20] + [512 * 1024] * 14
    assert kept[0] == KEPT_FIRST
    # Asked once too often at the end of each parent, which no frame follows.
    assert all(share < 0.1 for share in kept[1:8])
    assert all(share >= 1.0 for share in kept[10:])


@pytest.mark.parametrize(
    ("compared", "leaves_taken", "sent"),
    [(False, range(0, 128, 16), 8 * LEAF_BYTES), (True, [0, 84], 2 * 15 * BLOCK_BYTES)],
)
def test_of_a_dry_run_only_the_sample_is_packed(
    tmp_path: Path, leaves_taken: Sequence[int], sent: int, *, compared: bool
) -> None:
    """Where leaves are compared, 3 blocks of 5 leaves make a frame, and 17 frames in a row a gap
    over the end of a parent, whose last frame is shorter.
    """
    content = content_of(*range(128), length=2 * PARENT_BYTES)
    source = Source(
        tmp_path, [content], any_offset=compared, dry_run=True, frame_bytes=lambda _: LEAF_BYTES
    )
    sample = Sample(16 * SAMPLE_BYTES_MAX)
    source.run(wanting(dict.fromkeys(range(128), 0b111), len(content)), sample)
    assert [frame.offset for frame in sample.frames] == [at * LEAF_BYTES for at in leaves_taken]
    assert source.meter.sent_bytes == sample.content_bytes == sent
    assert source.trees[0].root() == root(content)


def test_a_disk_that_shrinks_before_it_is_read_again_ends_the_worker(tmp_path: Path) -> None:
    content = content_of(0, 64)
    source = Source(tmp_path, [content], same_offset=True)

    def shrinking(offer: Offer) -> Answer:
        os.truncate(source.paths[0], LEAF_BYTES)
        return wanting({64: WHOLE_LEAF}, len(content))(offer)

    with pytest.raises(errors.DataLoss) as caught:
        source.run(shrinking)
    assert caught.value.reason == "SOURCE_CHANGED"


def test_an_answer_that_is_off_ends_the_worker_that_waits_for_it(tmp_path: Path) -> None:
    source = Source(tmp_path, [content_of(0)], same_offset=True)
    with pytest.raises(errors.DataLoss) as caught:
        source.run(lambda offer: Answer(offer.disk, offer.offset + PARENT_BYTES, Verdict.HAVE))
    assert caught.value.reason == "FRAME_INVALID"
