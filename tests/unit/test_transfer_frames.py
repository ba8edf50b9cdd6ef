"""The frame codec: what was encoded is decoded, and nothing else is."""

import dataclasses
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer import frames
from agent.transfer.frames import Flags, FrameType, Header
from agent.transfer.geometry import (
    DIGEST_BYTES,
    FRAME_CONTENT_BYTES_MAX,
    LEAF_BYTES,
    PARENT_BYTES,
    PARENT_LEAVES,
)
from tests.support.wire_frames import ANY_FRAME, BY_TYPE, LEAVES, NUMBERS, message, opened
from watari import errors


def refused(raw: bytes) -> None:
    with pytest.raises(errors.DataLoss) as caught:
        opened(raw)
    assert caught.value.reason == "FRAME_INVALID"


@pytest.mark.parametrize("kind", FrameType)
@settings(deadline=None)
@given(st.data())
def test_a_frame_of_every_type_is_decoded_as_it_was_encoded(
    kind: FrameType, data: st.DataObject
) -> None:
    frame = data.draw(BY_TYPE[kind])
    assert frames.encode(frame)[0] is kind
    assert opened(message(frame)) == frame


@settings(deadline=None)
@given(ANY_FRAME, NUMBERS)
def test_a_header_is_parsed_as_it_was_packed(frame: frames.Frame, counter: int) -> None:
    raw = message(frame, counter)
    header = frames.parse(raw)
    assert header.pack() == raw[: frames.HEADER_BYTES]
    assert header.counter == counter


def plain_frame(
    kind: FrameType, plain: bytes, *, offset: int = 0, length: int = 0, flags: Flags | None = None
) -> bytes:
    """A message of a type with any plaintext under a header that is in bounds by itself."""
    if flags is None:
        flags = Flags.FINAL if kind is FrameType.END else Flags.NONE
    header = Header(kind, flags, 0, 0, offset, length, len(plain) + frames.TAG_BYTES)
    return header.pack() + plain + bytes(frames.TAG_BYTES)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"\x00"),
        (1, b"\x00"),
        (2, b"\x01"),
        (2, b"\x03"),
        (3, b"\x00"),
        (3, b"\x08"),
        (3, b"\xff"),
        (5, b"\x01"),
        (24, struct.pack("<I", FRAME_CONTENT_BYTES_MAX + 1)),
        (28, struct.pack("<I", 0)),
        (28, struct.pack("<I", 1 << 31)),
    ],
    ids=[
        "magic",
        "magic 2",
        "older",
        "newer",
        "type 0",
        "type 8",
        "type 255",
        "reserved",
        "content",
        "sealed less",
        "sealed more",
    ],
)
def test_a_header_field_out_of_bounds_is_refused(at: int, value: bytes) -> None:
    raw = bytearray(message(frames.Zeros(0, 0, LEAF_BYTES)))
    opened(bytes(raw))
    raw[at : at + len(value)] = value
    with pytest.raises(errors.DataLoss) as caught:
        frames.parse(bytes(raw))
    assert caught.value.reason == "FRAME_INVALID"


ALLOWED = {
    FrameType.DATA: {0, 2},
    FrameType.ZERO: {0},
    FrameType.END: {0, 1},
    FrameType.ACK: {0, 1},
    FrameType.PARENT: {0},
    FrameType.LEAVES: {0, 4},
    FrameType.ANSWER: {0},
}


@pytest.mark.parametrize("kind", FrameType)
def test_a_header_has_the_flags_of_its_type_only(kind: FrameType) -> None:
    for flags in range(256):
        raw = bytearray(plain_frame(kind, b""))
        raw[4] = flags
        if flags in ALLOWED[kind]:
            assert frames.parse(bytes(raw)).flags == flags
        else:
            with pytest.raises(errors.DataLoss):
                frames.parse(bytes(raw))


@pytest.mark.parametrize(
    "size", [0, 1, frames.HEADER_BYTES, frames.HEADER_BYTES + 15, frames.MESSAGE_BYTES_MAX + 1]
)
def test_a_message_of_no_possible_size_is_refused_unread(size: int) -> None:
    header = Header(FrameType.DATA, Flags.NONE, 0, 0, 0, 1, max(0, size - frames.HEADER_BYTES))
    with pytest.raises(errors.DataLoss, match=f"a frame of {size} bytes"):
        frames.parse(header.pack()[:size].ljust(size, b"\0"))


def test_the_largest_frame_is_as_large_as_a_message_may_be() -> None:
    largest = frames.Data(
        0,
        0,
        FRAME_CONTENT_BYTES_MAX,
        (1,) * PARENT_LEAVES,
        bytes(PARENT_LEAVES * DIGEST_BYTES),
        bytes(FRAME_CONTENT_BYTES_MAX),
        compressed=False,
    )
    assert len(message(largest)) == frames.MESSAGE_BYTES_MAX
    assert opened(message(largest)) == largest


WHOLE = frames.Data(0, 0, 4096, (1,), bytes(DIGEST_BYTES), bytes(4096), compressed=False)
LAST_LEAF = PARENT_BYTES - LEAF_BYTES


@pytest.mark.parametrize(
    "raw",
    [
        plain_frame(FrameType.DATA, b"", length=1),
        plain_frame(FrameType.DATA, b"\0" + bytes(33), length=1),
        plain_frame(FrameType.DATA, b"\x41" + bytes(200), length=72),
        plain_frame(FrameType.DATA, b"\x02" + bytes(3), length=1),
        plain_frame(FrameType.DATA, b"\x01\x01\x00" + bytes(31), length=1),
        plain_frame(FrameType.DATA, b"\x01\x01\x00" + bytes(32), length=1),
        plain_frame(FrameType.DATA, b"\x01\x01\x00" + bytes(32), length=0),
        plain_frame(FrameType.DATA, b"\x01\x00\x00", length=0),
        message(dataclasses.replace(WHOLE, length=4095)),
        message(dataclasses.replace(WHOLE, length=4097)),
        message(dataclasses.replace(WHOLE, length=4095, compressed=True)),
        message(dataclasses.replace(WHOLE, offset=1)),
        message(dataclasses.replace(WHOLE, offset=LAST_LEAF, masks=(1, 0))),
    ],
    ids=[
        "no count",
        "no leaves",
        "more leaves than a parent",
        "masks cut off",
        "digests cut off",
        "no body",
        "no content",
        "nothing but a mask",
        "a body that is longer",
        "a body that is shorter",
        "zstd that is longer",
        "no leaf boundary",
        "leaves of two parents",
    ],
)
def test_content_that_contradicts_itself_is_refused(raw: bytes) -> None:
    refused(raw)


@pytest.mark.parametrize(
    "raw",
    [
        plain_frame(FrameType.ZERO, bytes(7)),
        plain_frame(FrameType.ZERO, bytes(9)),
        plain_frame(FrameType.ZERO, bytes(8), offset=LEAF_BYTES - 1),
        plain_frame(FrameType.END, b"\0"),
        plain_frame(FrameType.END, b"", flags=Flags.NONE),
        plain_frame(FrameType.ACK, bytes(19)),
        plain_frame(FrameType.ACK, bytes(21)),
        plain_frame(FrameType.ACK, bytes(20 + 9)),
        plain_frame(FrameType.ACK, bytes(20 + 10 * (frames.REJECTS_MAX + 1))),
    ],
)
def test_zeros_ends_and_acknowledgements_of_another_size_are_refused(raw: bytes) -> None:
    refused(raw)


def test_an_acknowledgement_names_as_many_leaves_as_it_may() -> None:
    full = frames.Ack(1, 2, rejected=((3, 4),) * frames.REJECTS_MAX)
    assert opened(message(full)) == full


@pytest.mark.parametrize(
    "raw",
    [
        plain_frame(FrameType.PARENT, bytes(31)),
        plain_frame(FrameType.PARENT, bytes(33)),
        plain_frame(FrameType.PARENT, bytes(32), offset=LEAF_BYTES),
        plain_frame(FrameType.LEAVES, bytes(7)),
        plain_frame(FrameType.LEAVES, bytes(8 + 31)),
        plain_frame(FrameType.LEAVES, bytes(8 + 32 * 65)),
        plain_frame(FrameType.LEAVES, bytes(8), offset=LEAF_BYTES),
        plain_frame(FrameType.LEAVES, bytes(8 + 32), flags=Flags.BLOCKS),
        plain_frame(FrameType.LEAVES, bytes(8 + 128 * 65), flags=Flags.BLOCKS),
        plain_frame(FrameType.ANSWER, b""),
        plain_frame(FrameType.ANSWER, b"\x03"),
        plain_frame(FrameType.ANSWER, b"\x02"),
        plain_frame(FrameType.ANSWER, b"\x02\x00"),
        plain_frame(FrameType.ANSWER, b"\x02" + bytes(2 * 65)),
        plain_frame(FrameType.ANSWER, b"\x00" + bytes(2)),
        plain_frame(FrameType.ANSWER, b"\x01" + bytes(2)),
        plain_frame(FrameType.ANSWER, b"\x00", offset=LEAF_BYTES),
    ],
)
def test_offers_and_answers_that_contradict_themselves_are_refused(raw: bytes) -> None:
    refused(raw)


@pytest.mark.parametrize("kind", set(FrameType) - {FrameType.DATA})
@settings(deadline=None)
@given(st.data(), st.integers(1, FRAME_CONTENT_BYTES_MAX))
def test_content_is_announced_by_data_only(
    kind: FrameType, data: st.DataObject, length: int
) -> None:
    raw = bytearray(message(data.draw(BY_TYPE[kind])))
    raw[24:28] = struct.pack("<I", length)
    refused(bytes(raw))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_message(raw: bytes) -> None:
    refused(raw)


@settings(deadline=None)
@given(
    st.integers(0, 255),
    st.integers(0, 255),
    st.one_of(LEAVES, NUMBERS),
    st.one_of(st.integers(0, 5000), st.integers(0, 2**32 - 1)),
    st.binary(max_size=3000),
)
def test_an_arbitrary_plaintext_is_refused_or_means_just_these_bytes(
    kind: int, flags: int, offset: int, length: int, plain: bytes
) -> None:
    """Whoever holds the keys cannot make the codec raise anything else, or take memory."""
    sealed = len(plain) + frames.TAG_BYTES
    head = struct.pack("<HBBBBHQQII", 0x5754, 2, kind, flags, 0, 0, 0, offset, length, sealed)
    try:
        frame = opened(head + plain + bytes(frames.TAG_BYTES))
    except errors.DataLoss:
        return
    assert frames.encode(frame)[5] == plain


@settings(deadline=None)
@given(ANY_FRAME, st.data())
def test_a_mutated_message_is_refused_or_means_other_bytes(
    frame: frames.Frame, data: st.DataObject
) -> None:
    raw = bytearray(message(frame))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(len(raw) // 2, len(raw))) :]
    try:
        found = opened(bytes(raw))
    except errors.DataLoss:
        return
    assert frames.encode(found)[5] == bytes(raw[frames.HEADER_BYTES : -frames.TAG_BYTES])
