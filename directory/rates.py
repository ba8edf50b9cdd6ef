"""How often each lease may publish, so that one that publishes on every tick harms nobody else."""

import threading
from collections import OrderedDict

from watari import errors
from watari.clock import Clock

BURST_SECONDS = 10.0
"""What a lease may publish at once after a pause: so many seconds' worth."""

LEASES_MAX = 10_000
"""Leases in mind; the one that published longest ago is forgotten."""


class Rates:
    """A token bucket for each lease. Thread-safe."""

    def __init__(self, per_second: float, time: Clock) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second * BURST_SECONDS)
        self._clock = time
        self._lock = threading.Lock()
        self._left: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()
        """Tokens, and when that was counted, by provider and lease: nobody can spend another's."""

    def take(self, owner: str, lease_id: str) -> None:
        """One publish. Raises Exhausted QUOTA_EXCEEDED, to be repeated, when it is too soon."""
        key, now = (owner, lease_id), self._clock.monotonic()
        with self._lock:
            tokens, counted_at = self._left.pop(key, (self._most, now))
            tokens = min(self._most, tokens + (now - counted_at) * self._per_second)
            allowed = tokens >= 1
            self._left[key] = (tokens - allowed, now)
            if len(self._left) > LEASES_MAX:
                self._left.popitem(last=False)
        if not allowed:
            raise errors.Exhausted(
                "QUOTA_EXCEEDED",
                f"more than {self._per_second:g} publishes a second under one lease",
                hint="publish several changes together, and amounts coarsely",
                retryable=True,
                limit=self._per_second,
            )
