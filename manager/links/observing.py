"""What a transfer's progress tells of the way that it took. Pure."""

from dataclasses import dataclass, field

from watari.v1 import common_pb2

SECONDS_MIN = 1.0
"""A shorter stretch says more of its beginning than of the way."""


@dataclass(frozen=True)
class Observed:
    """Of one transfer."""

    throughput: int
    """Sealed bytes per second."""

    at_least: bool
    """The way could have carried more: something else was slower."""

    round_trip_seconds: float
    """The least that was measured; 0 if none was."""


@dataclass
class _Stretch:
    seconds: float = 0.0
    wire_bytes: int = 0

    def add(self, seconds: float, wire_bytes: int) -> None:
        self.seconds += seconds
        self.wire_bytes += wire_bytes

    @property
    def rate(self) -> int:
        return round(self.wire_bytes / self.seconds)


@dataclass
class Observation:
    """Takes progress as it comes. Of one thread."""

    _last: common_pb2.Progress | None = None
    _all: _Stretch = field(default_factory=_Stretch)
    _network: _Stretch = field(default_factory=_Stretch)
    """While nothing but the network held the transfer back."""
    _round_trip: float = 0.0

    def add(self, progress: common_pb2.Progress) -> None:
        """One report. Counts that go back began anew: another attempt, or another round."""
        if progress.round_trip_seconds > 0:
            least = self._round_trip or progress.round_trip_seconds
            self._round_trip = min(least, progress.round_trip_seconds)
        last, self._last = self._last, progress
        if last is None or not progress.HasField("measured_at"):
            return
        seconds = (progress.measured_at.ToNanoseconds() - last.measured_at.ToNanoseconds()) / 1e9
        wire_bytes = progress.wire_bytes - last.wire_bytes
        if seconds <= 0 or wire_bytes < 0:
            return
        self._all.add(seconds, wire_bytes)
        if common_pb2.BOTTLENECK_NETWORK == last.bottleneck == progress.bottleneck:
            self._network.add(seconds, wire_bytes)

    def result(self) -> Observed | None:
        """What the way carried; None when that cannot be told."""
        bound = self._network.seconds >= SECONDS_MIN
        stretch = self._network if bound else self._all
        if stretch.seconds < SECONDS_MIN or not stretch.wire_bytes:
            return None
        return Observed(stretch.rate, not bound, self._round_trip)
