"""A steering that is shown what a test says."""

from dataclasses import replace

from agent.transfer.geometry import STREAMS_MAX
from agent.transfer.steering import EMPTY, FULL, Seen, Steering

MIB = 1 << 20
NEAR, MIDDLE, FAR = 0.0005, 0.05, 0.2
TICK = 0.25

QUIET = Seen(TICK, (EMPTY + FULL) / 2, 0, 0, 0.0, capped=False, idle=1.0)
"""Nothing that asks for a change."""

BEHIND = replace(QUIET, fill=FULL)
"""The network is behind."""


def steering(
    round_trip: float = NEAR, *, level: int = 0, streams: int = 0, streams_max: int = STREAMS_MAX
) -> Steering:
    """One that has seen nothing yet."""
    return Steering(
        level=level, streams=streams, streams_max=streams_max, round_trip_seconds=round_trip
    )


def at_rate(rate: int, like: Seen = QUIET) -> Seen:
    """A tick in which so many bytes a second are settled, in frames of 1 MiB."""
    settled = int(rate * like.seconds)
    return replace(like, settled_wire_bytes=settled, settled_frames=max(1, settled // MIB))


def run(steered: Steering, seen: Seen, ticks: int) -> None:
    """The same is seen so many times."""
    for _ in range(ticks):
        steered.tick(seen)


def run_for(steered: Steering, seen: Seen, seconds: float) -> None:
    """The same is seen for so long."""
    run(steered, seen, round(seconds / seen.seconds))
