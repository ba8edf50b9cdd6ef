"""One direction of a link: a queue, a wire of a rate, a delay line, losses and outages. Pure.

    offer --> [queue, bounded] --> wire at `rate` --> lost? --> [delay line] --> due

Time is given by the caller in seconds, so that a test needs none.
"""

import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from bench.link import packets
from bench.link.shape import Shape


@dataclass
class Counters:
    """Segments and bytes (IP packets, one header for each segment) since the link was made."""

    offered_segments: int = 0
    offered_bytes: int = 0
    sent_bytes: int = 0
    """Of these, sent on the wire: not refused by the queue or an outage."""
    delivered_segments: int = 0
    delivered_bytes: int = 0
    queue_dropped_segments: int = 0
    lost_segments: int = 0
    outage_dropped_segments: int = 0

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)


class Direction:
    """Takes frames, and gives what arrives when its time has come."""

    def __init__(self, shape: Shape, rng: random.Random) -> None:
        self._rng = rng
        self._wire_free_at = 0.0
        self.reshape(shape)
        self._line: deque[tuple[float, bytes, int, int]] = deque()
        self._outages: list[tuple[float, float]] = []
        self.counters = Counters()

    def reshape(self, shape: Shape) -> None:
        """What enters from now on finds this link; what is under way arrives as it would have, and
        nothing overtakes it.
        """
        self._seconds_per_byte = 8 / shape.rate_bits if shape.rate_bits else 0.0
        self._delay_seconds = shape.round_trip_seconds / 2
        self._queue_seconds_max = shape.queue_bytes_max * self._seconds_per_byte
        self._loss = shape.loss
        self._until_loss = self._next_loss()

    def offer(self, now: float, frame: bytes) -> None:
        """A frame enters the queue; the segments that it has no room for are dropped."""
        row = packets.measure(frame)
        counters = self.counters
        counters.offered_segments += row.segments
        counters.offered_bytes += row.wire_bytes
        if self._outages and self._is_out(now):
            counters.outage_dropped_segments += row.segments
            return
        free_at = max(self._wire_free_at, now)
        taken = self._room_for(row, free_at - now)
        counters.queue_dropped_segments += row.segments - taken
        if not taken:
            return
        sent = packets.wire_bytes(row, 0, taken)
        counters.sent_bytes += sent
        self._wire_free_at = free_at + sent * self._seconds_per_byte
        due_at = self._wire_free_at + self._delay_seconds
        if self._line:  # a link that became shorter keeps the order
            due_at = max(due_at, self._line[-1][0])
        if self._loss == 0 and taken == row.segments:  # nearly always, so without the detour
            self._line.append((due_at, frame, taken, sent))
            return
        for first, last in self._kept(taken):
            part = packets.cut(frame, row, first, last)
            size = packets.wire_bytes(row, first, last)
            self._line.append((due_at, part, last - first, size))

    def due(self, now: float) -> Iterator[bytes]:
        """The frames that have arrived by now, in order."""
        line, counters = self._line, self.counters
        while line and line[0][0] <= now:
            _, frame, segments, size = line.popleft()
            if self._outages and self._is_out(now):
                counters.outage_dropped_segments += segments
                continue
            counters.delivered_segments += segments
            counters.delivered_bytes += size
            yield frame

    @property
    def next_due(self) -> float:
        """When the next frame arrives; infinity when none is under way."""
        return self._line[0][0] if self._line else math.inf

    def add_outage(self, start: float, end: float) -> None:
        """Nothing enters and nothing arrives from `start` to `end`."""
        self._outages.append((start, end))

    def end_outages(self) -> None:
        """Those that have begun, and those that were to come."""
        self._outages.clear()

    def _is_out(self, now: float) -> bool:
        self._outages = [each for each in self._outages if now < each[1]]
        return any(start <= now for start, _ in self._outages)

    def _room_for(self, row: packets.Row, waiting_seconds: float) -> int:
        """Segments of a row that fit; an idle wire takes any one segment."""
        if not self._seconds_per_byte:
            return row.segments
        room = (self._queue_seconds_max - waiting_seconds) / self._seconds_per_byte
        if row.wire_bytes <= room:
            return row.segments
        if row.segments == 1:
            return 0
        return max(0, min(int(room // (row.header_bytes + row.segment_bytes)), row.segments))

    def _kept(self, segments: int) -> Iterator[tuple[int, int]]:
        """Ranges of segments that are not lost."""
        start = 0
        while self._until_loss < segments - start:
            lost = start + int(self._until_loss)
            self.counters.lost_segments += 1
            if lost > start:
                yield start, lost
            start = lost + 1
            self._until_loss = self._next_loss()
        self._until_loss -= segments - start
        if start < segments:
            yield start, segments

    def _next_loss(self) -> float:
        """Segments that pass before the next one is lost: geometric, one draw for each loss."""
        if not self._loss:
            return math.inf
        return math.floor(math.log(1 - self._rng.random()) / math.log1p(-self._loss))
