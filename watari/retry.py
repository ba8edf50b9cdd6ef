"""Bounded retry with exponential backoff, for calls that are idempotent.

Only errors that say of themselves that they are retryable are retried. The delays are a pure
function of the settings and a random source.
"""

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from watari import errors
from watari.clock import Clock

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Backoff:
    """How often to try, and how long to wait in between."""

    initial_seconds: float = 0.1
    """Before the second attempt: about one RTT over a long-distance link."""

    factor: float = 2.0
    """Each further delay is this many times the one before."""

    max_seconds: float = 5.0
    """No delay is longer, jitter aside: a peer that comes back is noticed soon."""

    attempts_max: int = 6
    """Attempts in all, the first included: some 3 seconds of waiting with these defaults."""

    jitter: float = 0.2
    """Each delay varies by this share up and down, so that callers do not return in step."""

    def __post_init__(self) -> None:
        if self.attempts_max < 1 or self.initial_seconds < 0 or not 0 <= self.jitter <= 1:
            raise ValueError(
                "backoff needs at least 1 attempt, a delay >= 0 and a jitter of 0 to 1"
            )


def delays(backoff: Backoff, rng: random.Random) -> Iterator[float]:
    """The `attempts_max - 1` delays in seconds between the attempts."""
    delay = min(backoff.initial_seconds, backoff.max_seconds)
    for _ in range(backoff.attempts_max - 1):
        yield delay * (1 + backoff.jitter * rng.uniform(-1, 1))
        delay = min(delay * backoff.factor, backoff.max_seconds)


def call(
    fn: Callable[[], _Result],
    *,
    backoff: Backoff,
    clock: Clock,
    stop: threading.Event | None = None,
    rng: random.Random | None = None,
) -> _Result:
    """The result of `fn`, which is repeated while it raises a retryable WatariError.

    Raises its last error when the attempts are used up or `stop` is set during a delay, and any
    other error at once.
    """
    never = threading.Event()
    for delay in delays(backoff, rng or random.Random()):
        try:
            return fn()
        except errors.WatariError as error:
            if not error.retryable or clock.wait(stop or never, delay):
                raise
    return fn()
