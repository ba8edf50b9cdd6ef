"""Which frames a stream takes, and what goes on beside the streams while content goes."""

import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from agent.settings import TransferSettings
from agent.transfer import frames, sending
from agent.transfer.flow import Credit, Failure, Throttle
from agent.transfer.geometry import LEAF_BYTES, WHOLE_LEAF
from agent.transfer.merkle import DigestKeys
from agent.transfer.meter import Meter
from agent.transfer.sending import WORKERS_NICE, Sending, Source
from agent.transfer.steering import PROBED_SECONDS, Steering
from agent.transfer.streams import FRAMES_AHEAD_FIRST, DataStream
from watari import errors
from watari.clock import FakeClock, SystemClock

WAIT_SECONDS_MAX = 30.0
FRAME = frames.Data(0, 0, LEAF_BYTES, (WHOLE_LEAF,), b"d" * 32, bytes(LEAF_BYTES), False)
FRAME_BYTES = frames.message_bytes(FRAME)
LARGE = frames.Data(
    0, 0, 4 * LEAF_BYTES, (WHOLE_LEAF,) * 4, b"d" * 128, bytes(4 * LEAF_BYTES), False
)


class Sealer:
    """Counts frames, and seals nothing."""

    def __init__(self) -> None:
        self.frames = 0

    def seal(self, frame: frames.Content) -> bytes:
        self.frames += 1
        return bytes(frames.message_bytes(frame))


class Streams:
    """Streams that share credit, and no connection."""

    def __init__(self, credit_bytes: int, used: int = 2) -> None:
        self.failure, self.clock = Failure(), FakeClock()
        self.credit = Credit(self.failure, credit_bytes)
        free = Throttle(self.failure, self.clock, 0)
        self._flow: Any = SimpleNamespace(
            session_id="any",
            bytes_max=1 << 40,
            keys=SimpleNamespace(
                sender_stream=lambda _number: (Sealer(), None), stream_proof=lambda _number: b""
            ),
            board=SimpleNamespace(settled=lambda *_: 0),
            credit=self.credit,
            throttle=free,
            pacer=free,
            meter=Meter(self.clock, 1),
            failure=self.failure,
            clock=self.clock,
            streams_used=lambda: used,
            held=lambda *_: None,
        )

    def stream(self, number: int) -> DataStream:
        return DataStream(self._flow, number, None)  # type: ignore[arg-type]


def acknowledge(stream: DataStream, count: int) -> None:
    """All frames so far, of one size, are settled."""
    stream._take(frames.Ack(count, count * FRAME_BYTES))


def test_a_frame_is_taken_only_with_the_credit_for_it() -> None:
    streams = Streams(2 * FRAME_BYTES)
    one, other = streams.stream(1), streams.stream(2)
    assert one._wanted(FRAME)
    one._seal(FRAME)
    assert not other._wanted(LARGE), "nothing is kept from others by who has to wait"
    assert other._wanted(FRAME)
    other._seal(FRAME)
    assert not one._wanted(FRAME)
    acknowledge(one, 1)
    acknowledge(other, 1)
    assert one._wanted(LARGE), "more than all credit goes alone"
    assert not streams.credit.try_take(1)


def test_a_stream_that_is_not_used_takes_nothing_and_no_credit() -> None:
    streams = Streams(FRAME_BYTES, used=1)
    assert not streams.stream(2)._wanted(FRAME)
    assert streams.stream(1)._wanted(FRAME)


def test_a_stream_has_two_frames_at_first_and_then_as_many_as_it_gets_through() -> None:
    streams = Streams(1 << 30)
    stream = streams.stream(1)
    for _ in range(FRAMES_AHEAD_FIRST):
        assert stream._wanted(FRAME)
        stream._seal(FRAME)
    assert not stream._wanted(FRAME)
    acknowledge(stream, 2)
    assert stream._wanted(FRAME)
    stream._seal(FRAME)
    streams.clock.advance(60)
    assert not stream._wanted(FRAME), "a stream that stands still has one"
    for count in range(3, 60):  # 50 a second
        acknowledge(stream, count)
        streams.clock.advance(0.02)
        assert stream._wanted(FRAME)
        stream._seal(FRAME)
    assert stream._wanted(FRAME), "one that is fast has several"


def test_waiting_for_credit_counts_as_waiting_for_the_network() -> None:
    streams = Streams(FRAME_BYTES)
    stream, meter = streams.stream(1), streams._flow.meter
    assert stream._wanted(FRAME)
    stream._seal(FRAME)
    assert not stream._wanted(FRAME)
    streams.clock.advance(3)
    acknowledge(stream, 1)
    assert stream._wanted(FRAME)
    stream._seal(FRAME)
    assert meter.busy.network + meter.busy.write == pytest.approx(3)


@pytest.mark.parametrize(
    ("round_trip", "pinged"), [(0.0, False), (PROBED_SECONDS * 0.9, False), (PROBED_SECONDS, True)]
)
def test_pings_go_beside_the_data_over_a_long_way(round_trip: float, pinged: bool) -> None:
    failure, clock, pings = Failure(), SystemClock(), list[Future[bytes]]()

    def ping() -> Future[bytes]:
        pings.append(Future())
        return pings[-1]

    meter = Meter(clock, 1, round_trip_seconds=round_trip)
    steering = Steering(level=0, streams=0, streams_max=16, round_trip_seconds=round_trip)
    throttle = Throttle(failure, clock, 0)
    source = Source((), DigestKeys(bytes(32)), None, full_read=False)  # type: ignore[arg-type]
    made = Sending(source, TransferSettings(), steering, throttle, meter, failure, clock)
    route: Any = SimpleNamespace(connections=SimpleNamespace(ping=ping), credit_bytes=1 << 24)
    with made._piloted(None, None, route):  # type: ignore[arg-type]
        until = time.monotonic() + (WAIT_SECONDS_MAX if pinged else 0.15)
        while not pings and time.monotonic() < until:
            time.sleep(0.01)
    assert bool(pings) is pinged
    assert all(each.cancelled() for each in pings)
    count = len(pings)
    time.sleep(0.1)
    assert len(pings) == count


def test_workers_step_back_and_nobody_else() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = niceness()
    with ThreadPoolExecutor(1, initializer=sending._give_way) as pool:
        assert pool.submit(niceness).result() == min(19, before + WORKERS_NICE)
    assert niceness() == before


@pytest.mark.parametrize("frame", [FRAME, LARGE, frames.Zeros(0, 0, 1 << 40)])
def test_the_size_of_a_message_is_known_before_it_is_sealed(frame: frames.Content) -> None:
    plain = frames.encode(frame)[-1]
    assert frames.message_bytes(frame) == frames.HEADER_BYTES + len(plain) + frames.TAG_BYTES


def test_no_byte_more_than_granted_is_sent_whichever_stream_would_send_it() -> None:
    streams = Streams(1 << 30)
    streams._flow.bytes_max = 2 * FRAME_BYTES
    one, other = streams.stream(1), streams.stream(2)
    one._seal(FRAME)
    other._seal(FRAME)
    for stream in (one, other):
        with pytest.raises(errors.Denied) as caught:
            stream._seal(FRAME)
        assert caught.value.reason == "GRANT_EXCEEDED"
