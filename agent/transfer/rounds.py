"""When a warm migration stops copying a machine that runs, and stops the machine. Pure.

Each round sends what changed while the one before it ran, so rounds get shorter as long as the way
carries more than the guest changes. The last one runs with the machine stopped, and the machine
stands still for as long as it takes.
"""

from dataclasses import dataclass, field

ROUNDS_MAX = 30
"""Rounds with the machine running. Each writes to the destination what a later one may replace."""

ROUNDS_MIN = 2
"""The first tells nothing about how fast the guest changes its disks."""

SHRINK_MIN = 0.9
"""A round whose expected standstill is not below this share of the best before it did not help."""

FRUITLESS_MAX = 2
"""Rounds in a row that did not help before it is accepted that more of them will not either."""

DOWNTIME_SECONDS_TARGET = 2.0
"""Expected standstill at which the last round begins, unless the migration says otherwise."""

STOP_SECONDS_EXPECTED = 1.0
"""Stopping the guest here and starting it there, beside all that depends on the way."""

HANDSHAKES = 6
"""Round trips of the last round, receipt and hand-over included, beside its content."""

_GOODPUT_BYTES_MIN = 1024 * 1024
"""A round that sent less says nothing about what the way carries."""


@dataclass(frozen=True)
class Ran:
    """One round that has ended."""

    seconds: float
    """From its view to its end: in that time the next one's changes came about."""
    read_seconds: float
    """What reading took of it."""
    changed_bytes: int
    """What of the disks turned out to differ from what the receiver had."""
    sent_bytes: int
    """Content that was sent."""
    whole: bool
    """Whether it had to read whole disks to find out, as the last one will."""


@dataclass
class Rounds:
    """What has been seen so far. For one thread."""

    target_seconds: float
    round_trip_seconds: float = 0.0
    expected_seconds: float = 0.0
    """How long the machine would stand still if the last round began now; 0 while unknown."""
    _ran: list[Ran] = field(default_factory=list)
    _best: float = float("inf")
    _fruitless: int = 0
    _goodput: float = 0.0
    """Bytes of content a second."""

    @property
    def number(self) -> int:
        """The round that is next or runs, from 1."""
        return len(self._ran) + 1

    def ended(self, ran: Ran) -> None:
        """Takes a round into account."""
        if ran.sent_bytes >= _GOODPUT_BYTES_MIN and ran.seconds > 0:
            self._goodput = max(self._goodput, ran.sent_bytes / ran.seconds)
        self._ran.append(ran)
        if len(self._ran) < ROUNDS_MIN:
            return
        self.expected_seconds = self._expected()
        helped = self.expected_seconds < self._best * SHRINK_MIN
        self._fruitless = 0 if helped else self._fruitless + 1
        self._best = min(self._best, self.expected_seconds)

    @property
    def another(self) -> bool:
        """Whether a further round with the machine running is worth it."""
        if len(self._ran) < ROUNDS_MIN:
            return True
        return (
            self.expected_seconds > self.target_seconds
            and self._fruitless < FRUITLESS_MAX
            and len(self._ran) < ROUNDS_MAX
        )

    def _expected(self) -> float:
        """The guest goes on as in the last round: what changes by the end of this one has to cross,
        and where nobody tells what that is, everything has to be read.
        """
        before, last = self._ran[-2], self._ran[-1]
        changing = last.changed_bytes / before.seconds if before.seconds > 0 else 0.0
        content = changing * last.seconds / self._goodput if self._goodput else 0.0
        reading = last.read_seconds if last.whole else 0.0
        trips = HANDSHAKES * self.round_trip_seconds
        return STOP_SECONDS_EXPECTED + trips + max(content, reading)
