"""What a data frame holds: bounds before memory, and masks that mean just its bytes."""

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from agent.transfer import frames
from agent.transfer.content import block_runs, decompressed, leaf_spans
from agent.transfer.geometry import BLOCK_BYTES, LEAF_BYTES, masked_bytes, whole_mask
from watari import errors

DISK_BYTES = LEAF_BYTES + 5000


def data(length: int, *masks: int, offset: int = 0, body: bytes = b"") -> frames.Data:
    return frames.Data(0, offset, length, masks, b"", body, compressed=bool(body))


@given(st.integers(1, LEAF_BYTES), st.integers(0, 0xFFFF))
def test_the_runs_of_a_mask_are_the_bytes_that_it_means(length: int, mask: int) -> None:
    mask &= whole_mask(length)
    runs = list(block_runs(mask, length))
    assert sum(end - start for start, end in runs) == masked_bytes(mask, length)
    blocks = {at // BLOCK_BYTES for start, end in runs for at in range(start, end, BLOCK_BYTES)}
    assert blocks == {block for block in range(16) if mask >> block & 1}
    assert all(end <= length for _, end in runs)


def test_the_leaves_of_a_frame_are_where_they_belong() -> None:
    frame = data(BLOCK_BYTES + 904, 0x8000, 0b10)
    assert leaf_spans(frame, DISK_BYTES) == [
        (0, 0x8000, BLOCK_BYTES),
        (LEAF_BYTES, 0b10, 904),
    ]


@pytest.mark.parametrize(
    "frame",
    [
        data(904, 0b110, offset=LEAF_BYTES),
        data(BLOCK_BYTES + 904, 0b100, offset=LEAF_BYTES),
        data(BLOCK_BYTES, 1, offset=2 * LEAF_BYTES),
        data(BLOCK_BYTES, 1, 0, 0),
        data(BLOCK_BYTES, 1, offset=1 << 60),
        data(BLOCK_BYTES, 0b11),
        data(2 * BLOCK_BYTES, 1),
        data(BLOCK_BYTES, 0b10, offset=LEAF_BYTES),
    ],
    ids=[
        "a block beyond the disk",
        "only a block beyond the disk",
        "a leaf beyond the disk",
        "an empty leaf beyond the disk",
        "far beyond",
        "less than the masks",
        "more than the masks",
        "a short block that is not short",
    ],
)
def test_leaves_outside_of_the_disk_and_other_lengths_are_refused(frame: frames.Data) -> None:
    with pytest.raises(errors.DataLoss) as caught:
        leaf_spans(frame, DISK_BYTES)
    assert caught.value.reason == "FRAME_INVALID"


def packed(content: bytes, *, sized: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=sized).compress(content)


def test_a_body_is_decompressed_as_long_as_announced() -> None:
    content = b"w" * BLOCK_BYTES
    frame = data(BLOCK_BYTES, 1, body=packed(content))
    assert decompressed(frame, zstandard.ZstdDecompressor()) == content


@pytest.mark.parametrize(
    "body",
    [
        packed(bytes(BLOCK_BYTES + 1)),
        packed(bytes(BLOCK_BYTES - 1)),
        packed(bytes(BLOCK_BYTES), sized=False),
        packed(bytes(BLOCK_BYTES))[:-1],
        b"no zstd at all",
    ],
    ids=["more", "less", "no size", "cut off", "something else"],
)
def test_zstd_that_is_not_what_the_header_says_is_refused(body: bytes) -> None:
    with pytest.raises(errors.DataLoss) as caught:
        decompressed(data(BLOCK_BYTES, 1, body=body), zstandard.ZstdDecompressor())
    assert caught.value.reason == "FRAME_INVALID"


def test_zstd_that_announces_too_much_is_refused_before_it_grows() -> None:
    """A frame header of 1 TiB by hand: asking for that memory would end the process."""
    announced = bytes.fromhex("28b52ffd e0") + (1 << 40).to_bytes(8, "little") + bytes(8)
    with pytest.raises(errors.DataLoss, match="announces"):
        decompressed(data(BLOCK_BYTES, 1, body=announced), zstandard.ZstdDecompressor())
