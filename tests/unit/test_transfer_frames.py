"""The frame codec and the seal: frames open once, in order and unaltered, or not at all."""

import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.transfer import frames
from agent.transfer.geometry import DIGEST_BYTES, FRAME_CONTENT_BYTES_MAX, LEAF_BYTES, leaf_count
from agent.transfer.keys import SessionKeys
from watari import errors

LEAF_OFFSETS = st.integers(0, 2**40).map(lambda leaf: leaf * LEAF_BYTES)


def keys(shared: bytes = b"s" * 32, transcript: bytes = b"t", bits: int = 128) -> SessionKeys:
    return SessionKeys(shared, transcript, bits)


@st.composite
def data_frames(draw: st.DrawFn) -> frames.Data:
    length = draw(st.integers(1, FRAME_CONTENT_BYTES_MAX))
    compressed = draw(st.booleans()) and length > 1
    body = bytes(draw(st.integers(1, length - 1)) if compressed else length)
    digests = bytes(leaf_count(length) * DIGEST_BYTES)
    disk = draw(st.integers(0, 63))
    return frames.Data(disk, draw(LEAF_OFFSETS), length, digests, body, compressed)


ANY_FRAME = st.one_of(
    data_frames(),
    st.builds(frames.Zeros, st.integers(0, 63), LEAF_OFFSETS, st.integers(0, 2**63)),
    st.just(frames.End()),
    st.builds(frames.Ack, st.integers(0, 2**63), st.integers(0, 2**63), st.booleans()),
)


@given(st.lists(ANY_FRAME, max_size=5))
def test_frames_open_as_they_were_sealed(sent: list[frames.Frame]) -> None:
    sealer, _ = keys().sender_stream(3)
    _, opener = keys().receiver_stream(3)
    final = [i for i, each in enumerate(sent) if frames.encode(each)[1] & frames.Flags.FINAL]
    sent = sent[: final[0] + 1] if final else sent
    assert [opener.open(sealer.seal(frame)) for frame in sent] == sent


@given(ANY_FRAME, st.data())
def test_any_altered_bit_is_noticed(frame: frames.Frame, data: st.DataObject) -> None:
    message = bytearray(keys().sender_stream(0)[0].seal(frame))
    bit = data.draw(st.integers(0, 8 * len(message) - 1))
    message[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(errors.DataLoss) as caught:
        keys().receiver_stream(0)[1].open(bytes(message))
    assert caught.value.reason == "FRAME_INVALID"


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(message: bytes) -> None:
    with pytest.raises(errors.DataLoss):
        keys().receiver_stream(0)[1].open(message)


@given(st.binary(min_size=8, max_size=2000), st.integers(0, 255), st.integers(0, 255))
def test_a_sealed_frame_that_contradicts_itself_is_refused_or_well_formed(
    plain: bytes, kind: int, flags: int
) -> None:
    """Whoever holds the keys still cannot make the receiver take memory or raise anything else."""
    header = struct.pack(
        "<HBBBBHQQII", 0x5754, 1, kind, flags, 0, 0, 0, LEAF_BYTES, 100, len(plain) + 16
    )
    try:
        parsed = frames.parse(header + plain + bytes(16))
        frame = frames.decode(parsed, plain)
    except errors.DataLoss:
        return
    assert not isinstance(frame, frames.Data) or len(frame.body) <= frame.length


def sealed(count: int) -> list[bytes]:
    sealer, _ = keys().sender_stream(0)
    return [sealer.seal(frames.Zeros(0, index * LEAF_BYTES, LEAF_BYTES)) for index in range(count)]


@pytest.mark.parametrize(
    ("before", "then"),
    [([0], 0), ([], 1), ([0], 2)],
    ids=["a repeat", "a drop at the start", "a drop in between"],
)
def test_what_was_dropped_repeated_or_reordered_is_noticed(before: list[int], then: int) -> None:
    messages = sealed(3)
    _, opener = keys().receiver_stream(0)
    for index in before:
        opener.open(messages[index])
    with pytest.raises(errors.DataLoss):
        opener.open(messages[then])


def test_nothing_opens_after_the_final_frame() -> None:
    sealer, _ = keys().sender_stream(0)
    _, opener = keys().receiver_stream(0)
    opener.open(sealer.seal(frames.End()))
    assert opener.ended
    with pytest.raises(errors.DataLoss):
        opener.open(sealer.seal(frames.Zeros(0, 0, 1)))


@pytest.mark.parametrize(
    "other",
    [
        keys().receiver_stream(1),
        keys(shared=b"x" * 32).receiver_stream(0),
        keys(transcript=b"another session").receiver_stream(0),
        keys(bits=256).receiver_stream(0),
        keys().sender_stream(0),
    ],
    ids=["another stream", "another secret", "another session", "another key size", "direction"],
)
def test_a_frame_does_not_open_elsewhere(other: tuple[object, object]) -> None:
    with pytest.raises(errors.DataLoss):
        other[1].open(sealed(1)[0])  # type: ignore[attr-defined]


def test_a_manifest_opens_in_its_own_session_only() -> None:
    manifest = keys().seal_manifest(b"what was sent")
    assert keys().open_manifest(manifest) == b"what was sent"
    for other in (keys(transcript=b"another"), keys(shared=b"x" * 32)):
        with pytest.raises(errors.DataLoss):
            other.open_manifest(manifest)


def test_sizes_are_refused_before_anything_is_opened() -> None:
    header = frames.Header(frames.FrameType.DATA, frames.Flags.NONE, 0, 0, 0, 1, 17)
    for changed in (
        dataclasses.replace(header, length=FRAME_CONTENT_BYTES_MAX + 1),
        dataclasses.replace(header, sealed_bytes=1 << 31),
    ):
        with pytest.raises(errors.DataLoss):
            frames.parse(changed.pack() + bytes(17))
    with pytest.raises(errors.DataLoss):
        frames.parse(bytes(frames.MESSAGE_BYTES_MAX + 1))
