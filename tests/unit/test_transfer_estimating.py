"""The sample of an estimate: some frames of all that would be sent, spread over it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer import frames
from agent.transfer.estimating import SAMPLE_BYTES_MAX, Sample
from agent.transfer.geometry import FRAME_CONTENT_BYTES_MAX, LEAF_BYTES, WHOLE_LEAF
from agent.transfer.keys import SessionKeys
from agent.transfer.packing import Packer
from tests.support.disks import noise

MIB = 1 << 20
FRAME = 256 * 1024


def data(length: int, body: bytes = b"packed") -> frames.Data:
    """A frame as the sample sees it."""
    leaves = -(-length // LEAF_BYTES)
    masks = (WHOLE_LEAF,) * leaves
    return frames.Data(0, 0, length, masks, bytes(32 * leaves), body, compressed=True)


def taken(sample: Sample, lengths: list[int]) -> list[int]:
    """Which frames of these lengths are part of the sample."""
    found = []
    for index, length in enumerate(lengths):
        if sample.wants(length):
            sample.put(data(length))
            found.append(index)
    return found


@pytest.mark.parametrize("expected", [0, 1, MIB, SAMPLE_BYTES_MAX, 2 * SAMPLE_BYTES_MAX - 1])
def test_of_little_everything_is_taken(expected: int) -> None:
    sample = Sample(expected)
    count = min(expected, SAMPLE_BYTES_MAX) // FRAME
    assert taken(sample, [FRAME] * count) == list(range(count))
    assert sample.content_bytes == count * FRAME


@pytest.mark.parametrize("stride", [2, 3, 10])
def test_of_much_one_frame_in_so_many_is_taken_from_the_first_to_the_last(stride: int) -> None:
    count = stride * SAMPLE_BYTES_MAX // FRAME
    sample = Sample(count * FRAME)
    assert taken(sample, [FRAME] * count) == list(range(0, count, stride))
    assert sample.content_bytes == SAMPLE_BYTES_MAX


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, FRAME_CONTENT_BYTES_MAX), max_size=200),
    expected=st.integers(0, 400 * MIB),
)
def test_it_never_holds_much_more_than_its_limit(lengths: list[int], expected: int) -> None:
    sample = Sample(expected)
    found = taken(sample, lengths)
    assert found[:1] == [0][: len(lengths)], "there is a sample wherever there is content"
    assert sample.content_bytes == sum(lengths[index] for index in found)
    assert sample.content_bytes < SAMPLE_BYTES_MAX + FRAME_CONTENT_BYTES_MAX


def test_more_than_was_expected_does_not_make_it_larger() -> None:
    sample = Sample(MIB)
    taken(sample, [MIB] * 100)
    assert sample.content_bytes == SAMPLE_BYTES_MAX
    assert not sample.wants(1)


def test_many_workers_take_as_many_as_one_would() -> None:
    stride, count = 4, 400
    sample = Sample(stride * SAMPLE_BYTES_MAX)
    with ThreadPoolExecutor(8) as pool:
        wanted = list(pool.map(sample.wants, [1000] * count))
    assert sum(wanted) == count // stride


def test_only_content_is_kept() -> None:
    sample = Sample(MIB)
    sample.put(frames.Zeros(0, 0, MIB))
    assert sample.frames == []
    sample.put(data(FRAME))
    assert sample.frames == [data(FRAME)]


def test_without_a_sample_nothing_is_expected_to_shrink() -> None:
    assert Sample(MIB).ratio == 1.0


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_the_ratio_is_that_of_what_crosses_to_what_is_meant(fraction: float) -> None:
    sealer, _ = SessionKeys(b"s" * 32, b"transcript", 128).sender_stream(1)
    packer, sample, wire = Packer(lambda: 3), Sample(MIB), 0
    leaves = FRAME // LEAF_BYTES
    for seed in range(4):
        random_bytes = int(FRAME * fraction)
        content = noise(random_bytes, seed) + bytes(FRAME - random_bytes)
        frame = packer.data(0, 0, [WHOLE_LEAF] * leaves, [b"d" * 32] * leaves, content)
        sample.put(frame)
        wire += len(sealer.seal(frame))
    assert sample.ratio == pytest.approx(wire / (4 * FRAME), abs=1e-4)
