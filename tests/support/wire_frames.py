"""Frames of every type for hypothesis, and messages without a seal."""

from hypothesis import strategies as st

from agent.transfer import frames
from agent.transfer.frames import FrameType, Header, Verdict
from agent.transfer.geometry import (
    DIGEST_BYTES,
    FRAME_CONTENT_BYTES_MAX,
    LEAF_BYTES,
    PARENT_BYTES,
    PARENT_LEAVES,
)

DISKS = st.integers(0, 2**16 - 1)
LEAVES = st.integers(0, 2**47).map(lambda leaf: leaf * LEAF_BYTES)
PARENTS = st.integers(0, 2**41).map(lambda parent: parent * PARENT_BYTES)
NUMBERS = st.integers(0, 2**64 - 1)
MASKS = st.one_of(st.sampled_from([0, 1, 0xFFFF]), st.integers(0, 0xFFFF))
DIGESTS = st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES)
PRINTS = frames.LEAF_FINGERPRINTS_BYTES


@st.composite
def _data_frames(draw: st.DrawFn) -> frames.Data:
    offset = draw(LEAVES)
    room = PARENT_LEAVES - offset % PARENT_BYTES // LEAF_BYTES
    masks = tuple(draw(st.lists(MASKS, min_size=1, max_size=room)))
    length = draw(st.integers(1, FRAME_CONTENT_BYTES_MAX))
    compressed = draw(st.booleans())
    body = bytes(draw(st.integers(1, length - 1)) if compressed and length > 1 else length)
    digests = draw(st.binary(min_size=1, max_size=1)) * DIGEST_BYTES
    return frames.Data(
        draw(DISKS),
        offset,
        length,
        masks,
        digests * sum(1 for mask in masks if mask),
        body,
        compressed,
    )


@st.composite
def _leaves_offers(draw: st.DrawFn) -> frames.LeavesOffer:
    digests = tuple(draw(st.lists(DIGESTS, max_size=PARENT_LEAVES)))
    prints: tuple[bytes, ...] = ()
    if draw(st.booleans()):
        prints = tuple(bytes([index]) * PRINTS for index in range(len(digests)))
    return frames.LeavesOffer(draw(DISKS), draw(PARENTS), draw(NUMBERS), digests, prints)


@st.composite
def _acknowledgements(draw: st.DrawFn) -> frames.Ack:
    rejected = tuple(draw(st.lists(st.tuples(DISKS, NUMBERS), max_size=20)))
    held = draw(st.integers(0, 2**32 - 1))
    return frames.Ack(draw(NUMBERS), draw(NUMBERS), draw(st.booleans()), rejected, held)


WANTED = st.lists(MASKS, min_size=1, max_size=PARENT_LEAVES).map(tuple)
BY_TYPE: dict[FrameType, st.SearchStrategy[frames.Frame]] = {
    FrameType.DATA: _data_frames(),
    FrameType.ZERO: st.builds(frames.Zeros, DISKS, LEAVES, NUMBERS),
    FrameType.END: st.just(frames.End()),
    FrameType.ACK: _acknowledgements(),
    FrameType.PARENT: st.builds(frames.ParentOffer, DISKS, PARENTS, DIGESTS),
    FrameType.LEAVES: _leaves_offers(),
    FrameType.ANSWER: st.one_of(
        st.builds(frames.Answer, DISKS, PARENTS, st.sampled_from([Verdict.HAVE, Verdict.OPEN])),
        st.builds(frames.Answer, DISKS, PARENTS, st.just(Verdict.WANT), WANTED),
    ),
}
ANY_FRAME = st.one_of(*BY_TYPE.values())


def message(frame: frames.Frame, counter: int = 0) -> bytes:
    """A frame as it is on the wire, but with its plaintext where the sealed bytes are."""
    kind, flags, disk, offset, length, plain = frames.encode(frame)
    sealed = len(plain) + frames.TAG_BYTES
    header = Header(kind, flags, disk, counter, offset, length, sealed)
    return header.pack() + plain + bytes(frames.TAG_BYTES)


def opened(raw: bytes) -> frames.Frame:
    """What such a message says."""
    return frames.decode(frames.parse(raw), raw[frames.HEADER_BYTES : -frames.TAG_BYTES])
