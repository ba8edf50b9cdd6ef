"""How many connections, which zstd level, how much credit: from what is measured. Pure; no clock.

| seen | what follows |
|---|---|
| frames pile up before the connections | the network is behind: a higher level, more connections |
| connections wait for frames | the processor or the disk is behind: a lower level |
| more connections brought at least a tenth | and the network is still behind: more again |
| pings are late | frames queue on the way: no more credit, no more connections |

A connection over a long way starts slowly, is held down by each loss, and by the kernel's limit of
send buffers: hence more of them with a longer round trip, from the beginning.
"""

import math
from collections import deque
from dataclasses import dataclass

from agent.transfer.geometry import FRAME_CONTENT_BYTES_MAX

LEVELS = (1, 2, 3, 4, 5, 6, 7, 9)
"""zstd levels that are worth their time on root file systems: lower ones are hardly faster, higher
ones shrink hardly further.
"""

LEVEL_FIRST, LEVEL_FIRST_FAR = 3, 6
"""Levels to begin with; over a long way the network is behind at first, whatever it can carry."""


@dataclass(frozen=True)
class Way:
    """How to use a path of a certain length. The figures were found over an emulated link whose
    queue holds one bandwidth-delay product (docs/performance.md, "Steering").
    """

    round_trip_seconds_below: float
    streams: int
    """Connections to begin with."""
    gain: float
    """Credit as a multiple of the bandwidth-delay product, once the rate is known."""
    grain: float
    """Share of a frame that counts as under way on each connection and not yet whole: frames are
    large, and acknowledged as a whole.
    """
    sealed_bytes: int
    """What a frame is meant to have on the wire: large ones compress better, small ones spread
    evenly, and of one size they keep what is under way steady.
    """


WAYS = (
    Way(0.03, 2, 2.4, 1.0, 1 << 20),
    Way(0.09, 4, 2.4, 1.0, 1 << 20),
    Way(0.15, 8, 1.0, 0.5, 320 << 10),
    Way(math.inf, 16, 1.0, 0.5, 320 << 10),
)
"""Few connections: while one of them mends a loss it sits on its share of the credit, and the
others need more. Many: what one sits on is little, and credit beyond the queue on the way only
brings losses.
"""

FAR_SECONDS = 0.03
"""Round trip from which a path counts as long: it starts slowly and hides what it can carry."""

PROBED_SECONDS = 0.09
"""Round trip from which pings tell whether frames queue on the way. Shorter, and TCP finds out by
itself before the pilot does; with credit held back it was slower.
"""

FULL, HALF, EMPTY = 0.75, 0.5, 0.25
"""Shares of the queue from which the network counts as behind, below which a busy processor does,
and up to which all that is before the queue does.
"""

IDLE_MIN = 0.1
"""Idle share below which the machine counts as busy: nothing that costs processor time goes up."""

GAIN_MIN = 1.1
"""What more connections must have brought, or the further ones are not used any more."""

LOSSY_MIN = 0.5
"""Share of the time that the way was not full from which losses count as what is lacking."""

GROW_SECONDS_MIN = 2.0
"""How long a number of connections is tried: they have to get through their slow start."""

RATE_TICKS_STARTING, RATE_TICKS = 2, 4
"""Ticks over which the rate is measured: acknowledgements come in bursts, above all after a loss,
and while the rate grows what was long ago says little.
"""

BEST_TICKS = 2
"""Ticks of which the best counts."""

GAIN_STARTING = 2.0
"""Credit as a multiple of the bandwidth-delay product while the rate grows and nothing queues."""

QUEUED_SECONDS_MIN = 0.01
"""Delay of a ping, beyond the round trip, from which credit grows no further."""

QUEUED_MIN = 0.25
"""Delay of a ping, in round trips, from which the way counts as full: more credit or connections
would only make the queues longer. A busy processor alone was seen to delay one by 40 ms.
"""

PACE_GAIN = 1.25
"""Frames go to the connections at most so much faster than the best rate of late. Acknowledgements
come many at once after a loss, and what they let go at once would overflow the queues on the way.
"""

PACE_TICKS = 12
"""Ticks of which the best rate counts for that."""

FRAME_BYTES_LAST = 128 * 1024
"""Content of the last frames over a long path, so that all connections end at the same time. Before
that they are large: small ones compress worse, 128 KiB by a tenth.
"""

LAST_BYTES = 16 * 1024 * 1024
"""What is left to be read when frames get small."""

GROWTH_MIN, GROWTH_TICKS = 1.25, 2
"""The rate counts as growing while it gains so much within so many ticks."""

CREDIT_BYTES_FIRST, CREDIT_BYTES_FIRST_FAR = 4 * 1024 * 1024, 6 * 1024 * 1024
"""Credit before anything is known, near by and over a long way."""

CREDIT_BYTES_STARTING_MAX = 48 * 1024 * 1024
"""What credit grows to while nothing queues: two times 1 Gbit/s over 200 ms."""

QUEUE_FACTOR_FAR = 8
"""Over a long way the processor gets ahead by so much more while TCP starts. Near by the level
would only follow the network too late.
"""

HELD_GAIN = 3.0
"""Credit for what the receiver holds, as a multiple of the average: it works in bursts."""

CREDIT_DOUBLINGS_MAX = 2
"""How often it doubles in a tick at most."""

USED_MIN = 0.25
"""Share of the credit that a round trip's acknowledgements must be for it to grow: else it is TCP
that is still slow, and more of it would only wait in the kernel.
"""

CREDIT_BYTES_MIN = 3 * 1024 * 1024
"""The least there ever is. A frame that is larger goes alone."""


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
    """How long frames were at the receiver before they were acknowledged, on average."""
    capped: bool
    """Whether a bandwidth cap holds the connections back."""
    idle: float
    """Share of the machine's processor time that nobody used, 0 to 1."""
    queued_seconds: float | None = None
    """How long a ping took beyond the round trip; None without one."""


class Steering:
    """The state between two ticks."""

    def __init__(
        self, *, level: int, streams: int, streams_max: int, round_trip_seconds: float
    ) -> None:
        """`level` and `streams` are fixed by the user, or 0."""
        self._fixed_level = level
        self._far = round_trip_seconds >= FAR_SECONDS
        self._at = LEVELS.index(LEVEL_FIRST_FAR if self._far else LEVEL_FIRST)
        self._way = way(round_trip_seconds)
        self._streams_max = min(streams or streams_max, streams_max)
        self.streams = min(streams or self._way.streams, self._streams_max)
        self._round_trip = round_trip_seconds
        self._least_credit = CREDIT_BYTES_FIRST_FAR if self._far else CREDIT_BYTES_FIRST
        self._settled: deque[tuple[float, int]] = deque(maxlen=RATE_TICKS)
        self._rates: deque[float] = deque(maxlen=BEST_TICKS)
        self._held: deque[float] = deque(maxlen=BEST_TICKS)
        self._paces: deque[float] = deque(maxlen=PACE_TICKS)
        self._frame_bytes = 0.0
        self._starting = True
        self._filling = self._full = False
        self._fill = 0.0
        self._ticks_without_growth = 0
        self._best = 0.0
        self._before_growth: tuple[int, float] | None = None
        self._since_growth = self._free_seconds = 0.0

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
        gain = GAIN_STARTING if self._starting and not self._filling else self._way.gain
        partial = self._way.grain * self.streams * self._frame_bytes
        under_way = gain * rate * self._round_trip + partial
        held = HELD_GAIN * rate * max(self._held, default=0.0)
        least = self._least_credit if self._starting else CREDIT_BYTES_MIN
        return min(bytes_max, max(least, int(under_way + held)))

    @property
    def pace_bytes_per_second(self) -> int:
        """How fast frames may be handed to the connections; 0 is as fast as credit allows."""
        return 0 if self._starting else int(PACE_GAIN * max(self._paces, default=0.0))

    @property
    def queue_factor(self) -> int:
        """How many times more frames than near by may wait for a connection."""
        return QUEUE_FACTOR_FAR if self._round_trip >= PROBED_SECONDS else 1

    def frame_bytes(self, left_bytes: int, kept: float) -> int:
        """Content of the next frame, of a transfer that has `left_bytes` to read, when content
        keeps a share `kept` of its size.
        """
        if self._far and left_bytes < LAST_BYTES:
            return FRAME_BYTES_LAST
        return min(FRAME_CONTENT_BYTES_MAX, int(self._way.sealed_bytes / kept))

    def tick(self, seen: Seen) -> None:
        """Takes a measurement."""
        if seen.settled_wire_bytes or self._settled:
            self._settled.append((seen.seconds, seen.settled_wire_bytes))
        rate = self._measured()
        self._rates.append(rate)
        self._paces.append(rate)
        self._held.append(seen.held_seconds)
        self._look_for_queues(seen)
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

    def _look_for_queues(self, seen: Seen) -> None:
        """Credit grows as TCP does, twofold in a round trip, while it is used and no ping waits."""
        if seen.queued_seconds is None:
            return
        self._filling = seen.queued_seconds >= QUEUED_SECONDS_MIN
        self._full = self._filling and seen.queued_seconds >= QUEUED_MIN * self._round_trip
        if self._full:
            self._least_credit = CREDIT_BYTES_MIN
        elif self._starting and not self._filling:
            under_way = seen.settled_wire_bytes / seen.seconds * self._round_trip
            if under_way >= USED_MIN * self._least_credit:
                round_trip = max(self._round_trip, seen.seconds / CREDIT_DOUBLINGS_MAX)
                grown = int(2 ** (seen.seconds / round_trip) * self._least_credit)
                self._least_credit = min(grown, CREDIT_BYTES_STARTING_MAX)

    def _steer_level(self, seen: Seen) -> None:
        busy = seen.idle < IDLE_MIN
        if seen.fill <= min(EMPTY, self._fill):
            least = 0 if busy else max(self._at - 1, 0)
            self._at = min(least, LEVELS.index(LEVEL_FIRST))
        elif busy and seen.fill < self._fill and self.level > LEVEL_FIRST:
            self._at = self._at - 1 if seen.fill >= HALF else LEVELS.index(LEVEL_FIRST)
        elif seen.fill >= FULL and not busy:
            self._at = min(self._at + 1, len(LEVELS) - 1)
        self._fill = seen.fill

    def _measured(self) -> float:
        """Bytes per second over the last ticks, from the first acknowledgement on."""
        last = list(self._settled)[-RATE_TICKS_STARTING if self._starting else 0 :]
        seconds = sum(each for each, _ in last)
        return sum(each for _, each in last) / seconds if seconds else 0.0

    def _grow(self, seen: Seen) -> None:
        """More connections while they bring something; back to fewer when they do not, unless the
        way was hardly ever full: then it is losses that hold each of them back.
        """
        self._since_growth += seen.seconds
        if seen.queued_seconds is not None and not self._full:
            self._free_seconds += seen.seconds
        if self._since_growth < GROW_SECONDS_MIN or self._starting or seen.capped:
            return
        rate = sum(self._rates) / len(self._rates)
        trial, self._before_growth = self._before_growth, None
        behind = seen.fill >= FULL and not self._full
        lossy = self._free_seconds >= LOSSY_MIN * self._since_growth
        if trial is not None and rate < trial[1] * GAIN_MIN and not lossy:
            self.streams = trial[0]
            if behind:
                self._streams_max = trial[0]
        elif behind and seen.idle >= IDLE_MIN and self.streams < self._streams_max:
            self._before_growth = self.streams, rate
            self._since_growth = self._free_seconds = 0.0
            self.streams = min(2 * self.streams, self._streams_max)


def way(round_trip_seconds: float) -> Way:
    """How to use a path with this round trip."""
    return next(each for each in WAYS if round_trip_seconds < each.round_trip_seconds_below)
