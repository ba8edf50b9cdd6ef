"""The seal: frames open once, in order and unaltered, where they belong, or not at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer import frames
from agent.transfer.geometry import LEAF_BYTES
from agent.transfer.keys import Opener, SessionKeys
from tests.support.wire_frames import ANY_FRAME
from watari import errors


def keys(shared: bytes = b"s" * 32, transcript: bytes = b"t", bits: int = 128) -> SessionKeys:
    return SessionKeys(shared, transcript, bits)


def opener(stream: int = 1) -> Opener:
    return keys().receiver_stream(stream)[1]


def sealed(count: int) -> list[bytes]:
    """The first frames of stream 1."""
    sealer, _ = keys().sender_stream(1)
    return [sealer.seal(frames.Zeros(0, index * LEAF_BYTES, LEAF_BYTES)) for index in range(count)]


def refused(there: Opener, message: bytes) -> None:
    with pytest.raises(errors.DataLoss) as caught:
        there.open(message)
    assert caught.value.reason == "FRAME_INVALID"


@pytest.mark.parametrize("bits", [128, 256])
@settings(deadline=None)
@given(st.lists(ANY_FRAME, max_size=5))
def test_frames_open_as_they_were_sealed(bits: int, sent: list[frames.Frame]) -> None:
    sealer, _ = keys(bits=bits).sender_stream(3)
    _, there = keys(bits=bits).receiver_stream(3)
    final = [i for i, each in enumerate(sent) if frames.encode(each)[1] & frames.Flags.FINAL]
    sent = sent[: final[0] + 1] if final else sent
    assert [there.open(sealer.seal(frame)) for frame in sent] == sent


@settings(deadline=None)
@given(ANY_FRAME, st.data())
def test_any_altered_bit_is_noticed(frame: frames.Frame, data: st.DataObject) -> None:
    message = bytearray(keys().sender_stream(1)[0].seal(frame))
    bit = data.draw(st.integers(0, 8 * len(message) - 1))
    message[bit // 8] ^= 1 << (bit % 8)
    refused(opener(), bytes(message))


@settings(deadline=None)
@given(ANY_FRAME, ANY_FRAME, st.data())
def test_a_mutated_message_never_opens(
    frame: frames.Frame, other: frames.Frame, data: st.DataObject
) -> None:
    """Cut, grown, or spliced from two messages that both were sealed under this key."""
    sealer, _ = keys().sender_stream(1)
    message, second = sealer.seal(frame), sealer.seal(other)
    at = data.draw(st.integers(0, len(message) - 1))
    with_tail_of_second = message[:at] + second[at:]
    mutants = {
        "cut": message[:at],
        "grown": message + data.draw(st.binary(min_size=1, max_size=40)),
        "inserted": message[:at] + data.draw(st.binary(min_size=1, max_size=8)) + message[at:],
        "header of the other": second[: frames.HEADER_BYTES] + message[frames.HEADER_BYTES :],
        "tail of the other": with_tail_of_second,
    }
    for mutant in mutants.values():
        if mutant != message:
            refused(opener(), mutant)
    assert opener().open(message) == frame


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_open(message: bytes) -> None:
    refused(opener(), message)


@pytest.mark.parametrize(
    ("before", "then"),
    [([0], 0), ([], 1), ([0], 2)],
    ids=["a repeat", "a drop at the start", "a drop in between"],
)
def test_what_was_dropped_repeated_or_reordered_is_noticed(before: list[int], then: int) -> None:
    messages, there = sealed(3), opener()
    for index in before:
        there.open(messages[index])
    refused(there, messages[then])


def test_nothing_opens_after_the_final_frame() -> None:
    sealer, _ = keys().sender_stream(1)
    there = opener()
    there.open(sealer.seal(frames.End()))
    assert there.ended
    refused(there, sealer.seal(frames.Zeros(0, 0, 1)))


@pytest.mark.parametrize(
    "elsewhere",
    [
        keys().receiver_stream(2)[1],
        keys().receiver_stream(0)[1],
        keys(shared=b"x" * 32).receiver_stream(1)[1],
        keys(transcript=b"another session").receiver_stream(1)[1],
        keys(bits=256).receiver_stream(1)[1],
        keys().sender_stream(1)[1],
    ],
    ids=["stream", "stream of offers", "secret", "session", "key length", "direction"],
)
def test_a_frame_does_not_open_elsewhere(elsewhere: Opener) -> None:
    refused(elsewhere, sealed(1)[0])


@pytest.mark.parametrize("bits", [128, 256])
def test_a_manifest_opens_in_its_own_session_only(bits: int) -> None:
    manifest = keys(bits=bits).seal_manifest(b"what was sent")
    assert keys(bits=bits).open_manifest(manifest) == b"what was sent"
    others = keys(transcript=b"another", bits=bits), keys(shared=b"x" * 32, bits=bits)
    for other in (*others, keys(bits=384 - bits)):
        with pytest.raises(errors.DataLoss):
            other.open_manifest(manifest)
