"""Frames are compressed where that shrinks them, and little is tried where it does not."""

import random
import tracemalloc

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer import frames
from agent.transfer.content import decompressed
from agent.transfer.geometry import LEAF_BYTES, WHOLE_LEAF, whole_mask
from agent.transfer.packing import KEPT_FIRST, LEVEL_RAW, SHRINK_MAX, Packer
from tests.support.disks import noise

DIGEST = b"d" * 32
NOISE = noise(LEAF_BYTES)
HARDLY = noise(30_000) + bytes(1_290) + noise(LEAF_BYTES - 31_290, 1)
"""Shrinks, but not by what is worth its time."""

WORDS = [noise(random.Random(seed).randrange(3, 12), seed) for seed in range(300)]
TEXT = b"".join(random.Random(1).choices(WORDS, k=LEAF_BYTES))[:LEAF_BYTES]
"""Shrinks the more the higher the level."""


def pack(packer: Packer, content: bytes) -> frames.Data:
    return packer.data(0, 0, (whole_mask(len(content)),), (DIGEST,), content)


def zstd(content: bytes, level: int) -> bytes:
    return zstandard.ZstdCompressor(level=level, write_content_size=True).compress(content)


def test_a_frame_says_where_its_blocks_belong_and_is_smaller_than_they_are() -> None:
    masks, digests = (0b11, 0, WHOLE_LEAF), (DIGEST, b"e" * 32)
    content = TEXT + bytes(8192)
    frame = Packer(lambda: 3).data(7, 5 * LEAF_BYTES, list(masks), list(digests), content)
    assert (frame.disk, frame.offset, frame.masks) == (7, 5 * LEAF_BYTES, masks)
    assert (frame.length, frame.digests) == (len(content), b"".join(digests))
    assert frame.compressed
    assert frame.body == zstd(content, 3)
    assert zstandard.frame_content_size(frame.body) == len(content)


def test_content_that_does_not_shrink_travels_as_it_is() -> None:
    frame = pack(Packer(lambda: 3), NOISE)
    assert not frame.compressed
    assert frame.body == NOISE
    assert frame.length == len(NOISE)


@settings(deadline=None)
@given(
    contents=st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=300),
            st.sampled_from([b"\0", b"x", TEXT, NOISE, HARDLY, NOISE[:5000], bytes(LEAF_BYTES)]),
        ),
        max_size=8,
    ),
    levels=st.lists(st.sampled_from([-3, 1, 3, 9]), min_size=8, max_size=8),
)
def test_any_content_comes_out_again_and_a_body_is_never_larger(
    contents: list[bytes], levels: list[int]
) -> None:
    level, decompressor = iter(levels), zstandard.ZstdDecompressor()
    packer = Packer(lambda: next(level))
    for content in contents:
        frame = pack(packer, content)
        assert decompressed(frame, decompressor) == content
        assert len(frame.body) < len(content) if frame.compressed else frame.body == content


def test_the_level_is_asked_for_with_each_frame() -> None:
    levels = [1, 9, -3, 9, 1]
    level = iter(levels)
    packer = Packer(lambda: next(level))
    assert [pack(packer, TEXT).body for _ in levels] == [zstd(TEXT, each) for each in levels]
    assert len({zstd(TEXT, each) for each in levels}) == 3


@pytest.mark.parametrize("first", [NOISE, HARDLY], ids=["noise", "nearly noise"])
@pytest.mark.parametrize(("level", "tried"), [(9, LEVEL_RAW), (LEVEL_RAW, LEVEL_RAW), (-3, -3)])
def test_after_a_frame_that_did_not_shrink_little_is_tried_until_one_does(
    first: bytes, level: int, tried: int
) -> None:
    packer = Packer(lambda: level)
    pack(packer, first)
    assert pack(packer, TEXT).body == zstd(TEXT, tried)
    assert pack(packer, TEXT).body == zstd(TEXT, level)


def test_it_tells_what_share_the_last_frame_kept() -> None:
    packer = Packer(lambda: 3)
    assert packer.kept == KEPT_FIRST
    for content in (TEXT, NOISE, HARDLY):
        packed = pack(packer, content)
        assert packer.kept == pytest.approx(len(packed.body) / len(content), abs=0.001)


def test_a_body_holds_no_more_memory_than_it_has_bytes() -> None:
    """zstd makes room for the worst case; frames that wait in a queue would keep it from others."""
    packer, content = Packer(lambda: 3), bytes(2 << 20)
    tracemalloc.start()
    bodies = [pack(packer, content[: LEAF_BYTES * (1 + index)]).body for index in range(16)]
    current, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert current < 100_000 + sum(map(len, bodies))


def test_a_packer_keeps_few_compressors_whatever_levels_it_is_asked_for() -> None:
    level = iter([1, 2, 3, 5, 7, 9, 9, 9])
    packer = Packer(lambda: next(level))
    for content in (TEXT, NOISE, TEXT, NOISE, TEXT, TEXT, NOISE, TEXT):
        pack(packer, content)
    assert len(packer._compressors) == 2


def test_a_frame_that_shrinks_a_little_is_sent_shrunk_all_the_same() -> None:
    frame = pack(Packer(lambda: 3), HARDLY)
    assert frame.compressed
    assert SHRINK_MAX * len(HARDLY) < len(frame.body) < len(HARDLY)
