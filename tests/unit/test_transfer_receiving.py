"""A session at the receiver: one thing that is off, and nothing of it counts."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import zstandard

from agent.transfer import frames
from agent.transfer.dataplane import Refused
from agent.transfer.geometry import DIGEST_BYTES, LEAF_BYTES, leaf_count, whole_mask
from agent.transfer.keys import SessionKeys
from agent.transfer.merkle import DigestKeys
from agent.transfer.receiving import Offer, Receiving
from agent.transfer.tally import MANIFEST_WAIT_SECONDS_MAX
from tests.support.arriving import (
    CONTENT,
    DIGEST_KEY,
    DISK_BYTES,
    SENDER,
    Session,
    StandingClock,
    arriving,
    data,
)
from watari import errors
from watari.clock import FakeClock
from watari.v1 import common_pb2

KEYS = SessionKeys(b"s" * 32, b"transcript", 128)
END = frames.End()
WAIT_SECONDS_MAX = 30.0


@pytest.fixture
def session() -> Session:
    grant = common_pb2.Grant(
        migration_id=str(uuid.uuid4()),
        disks=[common_pb2.DiskSpec(disk_id="vda", size_bytes=DISK_BYTES)],
        bytes_max=2 * DISK_BYTES,
    )
    return Session(grant, str(uuid.uuid4()), "<domain/>", KEYS)


@pytest.fixture
def clock() -> FakeClock:
    return StandingClock()


@pytest.fixture
def receiving(session: Session, tmp_path: Path, clock: FakeClock) -> Iterator[Receiving]:
    keys = DigestKeys(DIGEST_KEY)
    offer = Offer(session.session_id, session.grant, session.xml, keys, 2, SENDER, clock.now())
    opened = Receiving(offer, KEYS, arriving(tmp_path, DISK_BYTES), clock)
    yield opened
    opened.close()


def nothing() -> None:
    """A cut of a stream that ends by itself."""


def send(receiving: Receiving, session: Session, *sent: frames.Frame, number: int = 1) -> None:
    list(receiving.stream(number, session.sealed(sent, number), nothing))


def completed(receiving: Receiving, session: Session, counts: list[int]) -> common_pb2.Receipt:
    """The receipt for these frames by stream, from 0 on."""
    sealed = session.manifest(counts)
    receiving.await_manifest(sealed)
    return receiving.complete(sealed)


@contextmanager
def late(receiving: Receiving, clock: FakeClock) -> Iterator[None]:
    """A minute passes once somebody waits in the block."""

    def pass_time() -> None:
        while not over.wait(0.02):
            with receiving._changed:
                clock.advance(MANIFEST_WAIT_SECONDS_MAX / 4)
                receiving._changed.notify_all()

    over = threading.Event()
    thread = threading.Thread(target=pass_time)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_what_was_sent_is_written_and_vouched_for(
    receiving: Receiving, session: Session, tmp_path: Path
) -> None:
    send(receiving, session, data(CONTENT[:LEAF_BYTES]), END)
    send(receiving, session, data(CONTENT[LEAF_BYTES:], LEAF_BYTES), END, number=2)
    receipt = completed(receiving, session, [0, 2, 2])
    assert receipt.raw_bytes == DISK_BYTES
    assert (tmp_path / "vda.raw").read_bytes() == CONTENT


def packed(content: bytes, length: int) -> frames.Data:
    """Compressed content under a header that states another length."""
    plain = data(content)
    body = zstandard.ZstdCompressor().compress(content)
    leaves = leaf_count(length)
    digests = plain.digests[: leaves * DIGEST_BYTES]
    masks = (whole_mask(LEAF_BYTES),) * leaves
    return frames.Data(0, 0, length, masks, digests, body, compressed=True)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (data(digest_of=bytes(DISK_BYTES)), "DIGEST_MISMATCH"),
        (data(disk=1), "FRAME_INVALID"),
        (data(bytes(LEAF_BYTES), 2 * LEAF_BYTES), "FRAME_INVALID"),
        (data(CONTENT[:LEAF_BYTES], LEAF_BYTES), "FRAME_INVALID"),
        (data(CONTENT[:100]), "FRAME_INVALID"),
        (frames.Zeros(0, 0, 2 * LEAF_BYTES), "FRAME_INVALID"),
        (frames.Zeros(0, 0, LEAF_BYTES + 1), "FRAME_INVALID"),
        (frames.Zeros(0, 0, 0), "FRAME_INVALID"),
        (frames.Zeros(9, 0, LEAF_BYTES), "FRAME_INVALID"),
        (frames.Ack(0, 0), "FRAME_INVALID"),
        (packed(bytes(50_000), LEAF_BYTES), "FRAME_INVALID"),
        (packed(bytes(DISK_BYTES), LEAF_BYTES), "FRAME_INVALID"),
    ],
)
def test_a_frame_that_is_off_ends_the_session(
    receiving: Receiving, session: Session, tmp_path: Path, sent: frames.Frame, reason: str
) -> None:
    with pytest.raises(errors.WatariError) as caught:
        send(receiving, session, sent, END)
    assert caught.value.reason == reason
    assert receiving.problem is caught.value
    assert not any((tmp_path / "vda.raw").read_bytes())
    for call in (
        lambda: send(receiving, session, data(), END, number=2),
        lambda: receiving.complete(session.manifest([0, 2])),
    ):
        with pytest.raises(errors.WatariError) as again:
            call()
        assert again.value is caught.value


def test_zstd_that_announces_too_much_takes_no_memory(
    receiving: Receiving, session: Session
) -> None:
    """1 GiB of zeros is 32 KiB of zstd: it must not even begin to grow."""
    compressor = zstandard.ZstdCompressor().compressobj(size=1 << 30)
    bomb = b"".join(compressor.compress(bytes(1 << 24)) for _ in range(64)) + compressor.flush()
    frame = replace(data(), body=bomb, compressed=True)
    with pytest.raises(errors.DataLoss) as caught:
        send(receiving, session, frame)
    assert "announces" in caught.value.message


def test_a_stream_that_ends_without_its_end_ends_the_session(
    receiving: Receiving, session: Session
) -> None:
    with pytest.raises(errors.DataLoss):
        send(receiving, session, data())
    assert receiving.problem is not None


def test_content_beyond_the_grant_ends_the_session(receiving: Receiving, session: Session) -> None:
    receiving.offer.grant.bytes_max = DISK_BYTES
    with pytest.raises(errors.Denied) as caught:
        send(receiving, session, data(), END)
    assert caught.value.reason == "GRANT_EXCEEDED"


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_stream_that_is_none_of_the_sessions_is_refused_and_the_session_goes_on(
    receiving: Receiving, session: Session, number: int
) -> None:
    """There is nothing to compare with, so offers are none of it either."""
    send(receiving, session, data(), END)
    assert not receiving.admits(number, KEYS.stream_proof(number))
    with pytest.raises(Refused):
        send(receiving, session, END, number=number)
    assert receiving.problem is None
    completed(receiving, session, [0, 2])


def test_a_stream_is_admitted_by_its_own_proof_only(receiving: Receiving) -> None:
    assert receiving.admits(1, KEYS.stream_proof(1))
    for proof in (b"", bytes(32), KEYS.stream_proof(2), KEYS.stream_proof(1)[:31]):
        assert not receiving.admits(1, proof)
    receiving.close()
    assert not receiving.admits(1, KEYS.stream_proof(1))


@pytest.mark.parametrize(
    "first", [[], [b""], [b"x" * 100], [bytes(1 << 20)]], ids=["nothing", "empty", "short", "long"]
)
def test_a_stream_that_begins_with_what_is_none_of_it_has_not_begun(
    receiving: Receiving, session: Session, first: list[bytes]
) -> None:
    """As of somebody who overheard the proof: neither does the session fail nor the sender wait."""
    with pytest.raises(Refused):
        list(receiving.stream(1, iter(first), nothing))
    assert receiving.problem is None
    assert receiving.admits(1, KEYS.stream_proof(1))
    send(receiving, session, data(), END)
    completed(receiving, session, [0, 2])


def test_a_stream_that_breaks_before_it_began_may_be_begun_again(
    receiving: Receiving, session: Session
) -> None:
    def broken() -> Iterator[bytes]:
        raise grpc.RpcError
        yield b""

    with pytest.raises(Refused):
        list(receiving.stream(1, broken(), nothing))
    send(receiving, session, data(), END)
    completed(receiving, session, [0, 2])


def test_what_does_not_open_later_ends_the_session(receiving: Receiving, session: Session) -> None:
    with pytest.raises(errors.DataLoss):
        list(receiving.stream(1, iter([*session.sealed([data()]), b"x" * 100]), nothing))
    assert receiving.problem is not None


@pytest.mark.parametrize("counts", [[0, 3], [0, 1], [0, 0], [], [2, 0]])
def test_a_manifest_about_other_frames_is_refused(
    receiving: Receiving, session: Session, clock: FakeClock, counts: list[int]
) -> None:
    send(receiving, session, data(), END)
    with late(receiving, clock), pytest.raises(errors.DataLoss) as caught:
        receiving.await_manifest(session.manifest(counts))
    assert caught.value.reason == "FRAME_INVALID"
    receiving.await_manifest(session.manifest([0, 2, 0]))


def test_a_manifest_waits_for_streams_that_it_counts_and_not_for_ever(
    receiving: Receiving, session: Session, clock: FakeClock
) -> None:
    send(receiving, session, data(), END)
    with late(receiving, clock), pytest.raises(errors.DataLoss) as caught:
        receiving.await_manifest(session.manifest([0, 2, 1]))
    assert "did not end" in caught.value.message
    assert clock.monotonic() >= MANIFEST_WAIT_SECONDS_MAX


def test_a_manifest_of_another_session_or_content_is_refused(
    receiving: Receiving, session: Session
) -> None:
    other = bytearray(CONTENT)
    other[5] ^= 1
    send(receiving, session, data(bytes(other)), END)
    with pytest.raises(errors.DataLoss) as caught:
        completed(receiving, session, [0, 2])
    assert caught.value.reason == "DIGEST_MISMATCH"
    session.session_id = str(uuid.uuid4())
    for sealed in (session.manifest([0, 2]), KEYS.seal_manifest(b"\xff"), b"short", b""):
        for call in (receiving.await_manifest, receiving.complete):
            with pytest.raises(errors.DataLoss) as caught:
                call(sealed)
            assert caught.value.reason == "FRAME_INVALID"


def test_disks_with_missing_leaves_get_no_receipt(receiving: Receiving, session: Session) -> None:
    send(receiving, session, data(CONTENT[:LEAF_BYTES]), END)
    with pytest.raises(errors.DataLoss):
        completed(receiving, session, [0, 2])


class Paused:
    """A stream whose sender waits before a frame until it is told to go on, or is cut."""

    def __init__(
        self, receiving: Receiving, session: Session, *sent: frames.Frame, number: int = 1
    ) -> None:
        self.paused, self.go_on, self.cut = (threading.Event() for _ in range(3))
        self.error: errors.WatariError | None = None
        self._thread = threading.Thread(target=self._run, args=(receiving, session, sent, number))
        self._thread.start()
        assert self.paused.wait(WAIT_SECONDS_MAX)

    def join(self) -> None:
        """Lets it go on to its end."""
        self.go_on.set()
        self._thread.join(WAIT_SECONDS_MAX)
        assert not self._thread.is_alive()

    def _run(
        self, receiving: Receiving, session: Session, sent: tuple[frames.Frame, ...], number: int
    ) -> None:
        try:
            messages = self._messages(session.sealed(sent, number))
            list(receiving.stream(number, messages, self.cut.set))
        except errors.WatariError as error:
            self.error = error

    def _messages(self, sealed: Iterator[bytes]) -> Iterator[bytes]:
        yield next(sealed)
        self.paused.set()
        self.go_on.wait(WAIT_SECONDS_MAX)
        yield from sealed


def test_a_manifest_that_comes_before_the_last_frames_waits_for_them(
    receiving: Receiving, session: Session
) -> None:
    stream = Paused(receiving, session, data(), END)
    waiting = threading.Thread(target=receiving.await_manifest, args=(session.manifest([0, 2]),))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    stream.join()
    waiting.join(WAIT_SECONDS_MAX)
    assert not waiting.is_alive()
    receiving.complete(session.manifest([0, 2]))


def test_a_manifest_that_counts_less_than_a_running_stream_is_refused(
    receiving: Receiving, session: Session
) -> None:
    send(receiving, session, data(CONTENT[:LEAF_BYTES]), END)
    rest = data(CONTENT[LEAF_BYTES:], LEAF_BYTES)
    stream = Paused(receiving, session, rest, END, number=2)
    with pytest.raises(errors.DataLoss) as caught:
        receiving.await_manifest(session.manifest([0, 2]))
    assert caught.value.reason == "FRAME_INVALID"
    stream.join()


def test_an_error_on_one_stream_cuts_the_others(receiving: Receiving, session: Session) -> None:
    stream = Paused(receiving, session, data(), END)
    with pytest.raises(errors.DataLoss):
        send(receiving, session, frames.Ack(0, 0), number=2)
    assert stream.cut.is_set()
    stream.join()
    assert stream.error is receiving.problem


def test_closing_cuts_the_streams_and_waits_until_they_write_no_more(
    receiving: Receiving, session: Session
) -> None:
    stream = Paused(receiving, session, data(CONTENT[:LEAF_BYTES]), data(CONTENT[-1:]), END)
    closing = threading.Thread(target=receiving.close)
    closing.start()
    assert stream.cut.wait(WAIT_SECONDS_MAX)
    closing.join(0.1)
    assert closing.is_alive()
    stream.join()
    closing.join(WAIT_SECONDS_MAX)
    assert not closing.is_alive()
    assert isinstance(stream.error, errors.NotFound)
    assert receiving.problem is None
