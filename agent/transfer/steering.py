"""How many connections, which zstd level, how much credit: from what is measured. Pure; no clock.

| seen | what follows |
|---|---|
| frames pile up before the connections | the network is behind: a higher level, more connections |
| connections wait for frames | the processor or the disk is behind: a lower level |
| more connections brought at least a tenth | and the network is still behind: more again |

A connection over a long way starts slowly, is held down by each loss, and by the kernel's limit of
send buffers: hence more of them with a longer round trip, from the beginning.
"""

from collections import deque
from dataclasses import dataclass

LEVELS = (-3, 1, 2, 3, 4, 5, 6, 7, 9)
"""zstd levels that are worth their time on root file systems; higher ones shrink hardly further."""

LEVEL_FIRST, LEVEL_FIRST_FAR = 3, 6
"""Levels to begin with; over a long way the network is behind at first, whatever it can carry."""

STREAMS_BY_ROUND_TRIP = ((0.002, 2), (0.03, 2), (0.09, 4))
"""(round trip in seconds, connections to begin with below it)."""

STREAMS_FAR = 8
"""Connections to begin with beyond the longest round trip of the table."""

FULL, EMPTY = 0.75, 0.25
"""Shares of the queue at which the network, or what is before it, counts as behind."""

IDLE_MIN = 0.1
"""Idle share below which the machine counts as busy: nothing that costs processor time goes up."""

GAIN_MIN = 1.1
"""What more connections must have brought, or the further ones are not used any more."""

GROW_SECONDS_MIN, GROW_ROUND_TRIPS = 2.0, 10
"""How long a number of connections is tried: they have to get through their slow start."""

RATE_TICKS_STARTING, RATE_TICKS = 2, 4
"""Ticks over which the rate is measured: acknowledgements come in bursts, above all after a loss,
and while the rate grows what was long ago says little.
"""

BEST_TICKS = 2
"""Ticks of which the best counts."""

GAIN_STARTING, GAIN_STEADY = 3.0, 2.4
"""Credit as a multiple of what is under way at that rate: while it grows, and afterwards. A third
more than fits keeps the way full, and is less than the queues of most routers hold.
"""

GROWTH_MIN, GROWTH_TICKS = 1.25, 2
"""The rate counts as growing while it gains so much within so many ticks."""

GRAIN = 1.0
"""Share of a frame that each connection has under way and not yet whole: frames are large, and
acknowledged as a whole.
"""

CREDIT_BYTES_FIRST, CREDIT_BYTES_FIRST_FAR = 4 * 1024 * 1024, 8 * 1024 * 1024
"""Credit before anything is known, near by and over a long way."""

CREDIT_BYTES_MIN = 2 * 1024 * 1024
"""The least there ever is: a frame, whole and raw, and one that follows."""


@dataclass(frozen=True)
class Seen:
    """What was measured since the last tick."""

    seconds: float
    """Length of the tick."""
    fill: float
    """How full the queue of packed frames is, 0 to 1."""
    settled_wire_bytes: int
    """Sealed bytes that were acknowledged in it."""
    settled_frames: int
    """Frames that were."""
    held_seconds: float
    """How long, at most, frames were at the receiver before they were acknowledged."""
    capped: bool
    """Whether a bandwidth cap holds the connections back."""
    idle: float
    """Share of the machine's processor time that nobody used, 0 to 1."""


class Steering:
    """The state between two ticks."""

    def __init__(
        self, *, level: int, streams: int, streams_max: int, round_trip_seconds: float
    ) -> None:
        """`level` and `streams` are fixed by the user, or 0."""
        self._fixed_level = level
        far = round_trip_seconds >= STREAMS_BY_ROUND_TRIP[1][0]
        self._at = LEVELS.index(LEVEL_FIRST_FAR if far else LEVEL_FIRST)
        self._streams_max = streams or streams_max
        self.streams = min(streams or first_streams(round_trip_seconds), self._streams_max)
        self._round_trip = round_trip_seconds
        self._first_credit = CREDIT_BYTES_FIRST_FAR if far else CREDIT_BYTES_FIRST
        self._settled: deque[tuple[float, int]] = deque(maxlen=RATE_TICKS)
        self._rates: deque[float] = deque(maxlen=BEST_TICKS)
        self._held: deque[float] = deque(maxlen=BEST_TICKS)
        self._frame_bytes = 0.0
        self._starting = True
        self._ticks_without_growth = 0
        self._best = 0.0
        self._before_growth: tuple[int, float] | None = None
        self._since_growth = 0.0

    @property
    def level(self) -> int:
        """The zstd level of the next frame."""
        return self._fixed_level or LEVELS[self._at]

    def credit_bytes(self, bytes_max: int) -> int:
        """Sealed bytes that may be unacknowledged: somewhat more than the way and the receiver hold
        at the best rate. Much more would pile up in the kernel's queues and in those of routers,
        which then drop; and what waits for one connection cannot be given to another, so the last
        ones would be late.
        """
        rate = max(self._rates, default=0.0)
        gain = GAIN_STARTING if self._starting else GAIN_STEADY
        under_way = gain * rate * self._round_trip + GRAIN * self.streams * self._frame_bytes
        held = rate * max(self._held, default=0.0)
        least = self._first_credit if self._starting else CREDIT_BYTES_MIN
        return min(bytes_max, max(least, int(under_way + held)))

    def tick(self, seen: Seen) -> None:
        """Takes a measurement."""
        if seen.settled_wire_bytes or self._settled:
            self._settled.append((seen.seconds, seen.settled_wire_bytes))
        rate = self._measured()
        self._rates.append(rate)
        self._held.append(seen.held_seconds)
        if seen.settled_frames:
            self._frame_bytes = seen.settled_wire_bytes / seen.settled_frames
        if rate > self._best * GROWTH_MIN:
            self._best, self._ticks_without_growth = rate, 0
            self._starting = True
        else:
            self._ticks_without_growth += 1
            patience = GROWTH_TICKS + int(self._round_trip / seen.seconds)
            if self._starting and self._ticks_without_growth >= patience:
                self._starting = False
        self._steer_level(seen)
        self._grow(seen)

    def _steer_level(self, seen: Seen) -> None:
        busy = seen.idle < IDLE_MIN
        if seen.fill <= EMPTY or (busy and self.level > LEVEL_FIRST):
            self._at = max(self._at - 1, 0)
        elif seen.fill >= FULL and not busy:
            self._at = min(self._at + 1, len(LEVELS) - 1)

    def _measured(self) -> float:
        """Bytes per second over the last ticks, from the first acknowledgement on."""
        last = list(self._settled)[-RATE_TICKS_STARTING if self._starting else 0 :]
        seconds = sum(each for each, _ in last)
        return sum(each for _, each in last) / seconds if seconds else 0.0

    def _grow(self, seen: Seen) -> None:
        """More connections while they bring something; back to fewer when they do not."""
        self._since_growth += seen.seconds
        tried = max(GROW_SECONDS_MIN, GROW_ROUND_TRIPS * self._round_trip)
        if self._since_growth < tried or self._starting or seen.capped:
            return
        rate = sum(self._rates) / len(self._rates)
        if self._before_growth is not None:
            streams, earlier = self._before_growth
            if rate < earlier * GAIN_MIN:
                self.streams = self._streams_max = streams
                self._before_growth = None
                return
        if seen.fill >= FULL and seen.idle >= IDLE_MIN and self.streams < self._streams_max:
            self._before_growth = self.streams, rate
            self._since_growth = 0.0
            self.streams = min(2 * self.streams, self._streams_max)


def first_streams(round_trip_seconds: float) -> int:
    """Connections to begin with."""
    for below, streams in STREAMS_BY_ROUND_TRIP:
        if round_trip_seconds < below:
            return streams
    return STREAMS_FAR
