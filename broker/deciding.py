"""Placements of this broker's requests, one at a time, each of which sees those before it."""

import threading
from collections.abc import Callable
from datetime import datetime

from broker.amounts import Amounts
from broker.inflight import Decision, InFlightSettings, Ledger
from broker.place import Placement
from broker.rank import Ranked
from broker.snapshot import Snapshot

Judge = Callable[[Snapshot], Placement]
"""Places one request in a snapshot. Pure, since it may be called twice."""


class Decider:
    """Decides, and remembers what is in flight. May be used from any thread."""

    def __init__(self, settings: InFlightSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        """Held while one request is judged: two that were judged at once would choose the same
        room. Nobody is asked meanwhile."""
        self._ledger = Ledger()

    def decide(
        self, decision_id: str, snapshot: Snapshot, needed: Amounts, now: datetime, judge: Judge
    ) -> Placement:
        """The placement with what is in flight taken off, whose best candidate is noted.

        When nothing fits beside what is in flight, the snapshot alone decides: its manager knows
        better than this estimate, and says so.
        """
        with self._lock:
            # Deciding again is about the same machine, which is not to be counted against itself.
            ledger = self._ledger.without(decision_id)
            self._ledger = ledger.current(snapshot, now, self._settings)
            placement = judge(self._ledger.adjusted(snapshot))
            if not placement.candidates:
                placement = judge(snapshot)
            if placement.candidates:
                self._note(decision_id, placement.candidates[0], needed, now)
        return placement

    def note(self, decision_id: str, candidate: Ranked, needed: Amounts, now: datetime) -> None:
        """The decision is for `candidate` now, no longer for what it was for before."""
        with self._lock:
            self._note(decision_id, candidate, needed, now)

    def forget(self, decision_id: str) -> None:
        """Nothing comes of the decision: it no longer counts."""
        with self._lock:
            self._ledger = self._ledger.without(decision_id)

    def in_flight(self, snapshot: Snapshot, now: datetime) -> Ledger:
        """What counts beside a snapshot at a moment."""
        return self._ledger.current(snapshot, now, self._settings)

    def _note(self, decision_id: str, candidate: Ranked, needed: Amounts, now: datetime) -> None:
        fit = candidate.fit
        decision = Decision(decision_id, fit.cloud.cloud_id, fit.offer.region, needed, now)
        self._ledger = self._ledger.noted(decision, self._settings.decisions_max)
