"""Counts what a transfer does and tells how far, how fast and held back by what."""

import threading
from collections import deque
from dataclasses import dataclass

from prometheus_client import Counter

from watari import clock
from watari.v1 import common_pb2

BYTES = Counter(
    "watari_agent_bytes",
    "Of all transfers since the start: read from disks, and as sealed messages sent or received.",
    ["what"],
)
_READ, _SENT = BYTES.labels("read"), BYTES.labels("sent")
RECEIVED = BYTES.labels("received")

WINDOW_SECONDS = 5.0
"""Rate and ETA come from the last few seconds: long enough to be calm, short enough to be true."""

SAMPLE_SECONDS = 0.25

SHARE_WEIGHT = 0.1
"""Weight of one more frame in the share of its time that a frame spends at the receiver."""


@dataclass(frozen=True)
class Busy:
    """Seconds that the parts of a transfer were busy, or waited for the receiver, over threads."""

    read: float = 0.0
    cpu: float = 0.0
    network: float = 0.0
    write: float = 0.0

    def since(self, earlier: "Busy") -> "Busy":
        """What came after `earlier`."""
        return Busy(
            self.read - earlier.read,
            self.cpu - earlier.cpu,
            self.network - earlier.network,
            self.write - earlier.write,
        )


@dataclass
class Meter:
    """Counters of one attempt; any thread may add."""

    time: clock.Clock
    total_bytes: int
    data_bytes: int = 0
    """What has to be read of it; holes cost no time, so the ETA is about this."""
    attempt: int = 1
    read_bytes: int = 0
    zero_bytes: int = 0
    sent_bytes: int = 0
    wire_bytes: int = 0
    carried_bytes: int = 0
    """Content in what was handed to the network; `sent_bytes` is what was made ready for it."""
    settled_bytes: int = 0
    settled_wire_bytes: int = 0
    settled_frames: int = 0
    offered_wire_bytes: int = 0
    needed_bytes: int = 0
    deduplicated_bytes: int = 0
    streams: int = 0
    level: int = 0
    round_trip_seconds: float = 0.0
    busy: Busy = Busy()
    round: int = 0
    last_round: bool = False
    changed_bytes: int = 0
    expected_seconds: float = 0.0
    """How long the machine would stand still after this round."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._held_seconds, self._held_frames = 0.0, 0
        self._write_share = 0.0
        self._told_done = 0
        self._samples: deque[tuple[float, int, int, Busy]] = deque(
            [(self.time.monotonic(), 0, 0, Busy())]
        )

    def add(
        self,
        *,
        read: int = 0,
        zero: int = 0,
        sent: int = 0,
        wire: int = 0,
        carried: int = 0,
        settled: int = 0,
        settled_wire: int = 0,
        settled_frames: int = 0,
        offered_wire: int = 0,
        needed: int = 0,
        deduplicated: int = 0,
    ) -> None:
        """Adds bytes to the counters."""
        if read:
            _READ.inc(read)
        if wire:
            _SENT.inc(wire)
        with self._lock:
            self.settled_wire_bytes += settled_wire
            self.settled_frames += settled_frames
            self.offered_wire_bytes += offered_wire
            self.needed_bytes += needed
            self.deduplicated_bytes += deduplicated
            self.read_bytes += read
            self.zero_bytes += zero
            self.sent_bytes += sent
            self.wire_bytes += wire
            self.carried_bytes += carried
            self.settled_bytes += settled

    def held(self, seconds: float, since_sealed_seconds: float) -> None:
        """A frame was at the receiver for so long before it was acknowledged, and under way for so
        long in all.
        """
        with self._lock:
            self._held_seconds += seconds
            self._held_frames += 1
            share = min(1.0, seconds / since_sealed_seconds) if since_sealed_seconds > 0 else 0.0
            self._write_share += (share - self._write_share) * SHARE_WEIGHT

    def take_held(self) -> float:
        """How long frames were held since this was asked last, on average."""
        with self._lock:
            mean = self._held_seconds / max(1, self._held_frames)
            self._held_seconds, self._held_frames = 0.0, 0
        return mean

    def add_busy(self, *, read: float = 0.0, cpu: float = 0.0, away: float = 0.0) -> None:
        """Adds seconds of a worker. Waiting for what is `away` is the receiver's as far as frames
        are there, and the network's for the rest.
        """
        with self._lock:
            write = away * self._write_share
            self.busy = Busy(
                self.busy.read + read,
                self.busy.cpu + cpu,
                self.busy.network + away - write,
                self.busy.write + write,
            )

    def progress(self) -> common_pb2.Progress:
        """The counters as they stand, with rate and ETA."""
        with self._lock:
            rate, read_rate = self._rates(self.time.monotonic())
            self._told_done = max(self._told_done, self.settled_bytes)
            progress = common_pb2.Progress(
                total_bytes=self.total_bytes,
                done_bytes=self._told_done,
                read_bytes=self.read_bytes,
                zero_bytes=self.zero_bytes,
                deduplicated_bytes=self.deduplicated_bytes,
                needed_bytes=self.needed_bytes,
                streams=self.streams,
                compression_level=self.level,
                round_trip_seconds=self.round_trip_seconds,
                sent_bytes=self.sent_bytes,
                wire_bytes=self.wire_bytes,
                rate_bytes_per_second=int(rate),
                eta_seconds=self._eta(rate, read_rate),
                bottleneck=self._bottleneck(),
                attempt=self.attempt,
                round=self.round,
                last_round=self.last_round,
                changed_bytes=self.changed_bytes,
                downtime_seconds_estimated=self.expected_seconds,
            )
        progress.measured_at.FromDatetime(self.time.now())
        return progress

    def _rates(self, now: float) -> tuple[float, float]:
        """Bytes settled and bytes read per second, over the window."""
        if now - self._samples[-1][0] >= SAMPLE_SECONDS:
            self._samples.append((now, self.settled_bytes, self.read_bytes, self.busy))
        while len(self._samples) > 2 and now - self._samples[0][0] > WINDOW_SECONDS:
            self._samples.popleft()
        since, settled, read, _ = self._samples[0]
        if now <= since:
            return 0.0, 0.0
        seconds = now - since
        return (self.settled_bytes - settled) / seconds, (self.read_bytes - read) / seconds

    def _eta(self, rate: float, read_rate: float) -> float:
        """Seconds that are left; negative while it cannot be told."""
        unread = self.data_bytes - self.read_bytes
        if unread > 0:
            return unread / read_rate if read_rate else -1.0
        left = self.total_bytes - self.settled_bytes
        if not left:
            return 0.0
        return left / rate if rate else -1.0

    def _bottleneck(self) -> "common_pb2.Bottleneck.ValueType":
        lately = self.busy.since(self._samples[0][3])
        shares = {
            common_pb2.BOTTLENECK_READ: lately.read,
            common_pb2.BOTTLENECK_CPU: lately.cpu,
            common_pb2.BOTTLENECK_NETWORK: lately.network,
            common_pb2.BOTTLENECK_WRITE: lately.write,
        }
        kind = max(shares, key=lambda each: shares[each])
        return kind if shares[kind] else common_pb2.BOTTLENECK_UNSPECIFIED
