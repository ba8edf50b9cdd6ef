"""Placements of this broker's requests, one at a time, each of which sees those before it."""

import threading
from collections.abc import Callable
from datetime import datetime

from broker import place
from broker.criteria import Criteria
from broker.inflight import Decision, InFlightSettings, Ledger
from broker.place import Placement
from broker.rank import Ranked
from broker.snapshot import Snapshot

Narrow = Callable[[Placement], Placement]
"""Leaves candidates out for a reason that placement does not know."""


class Decider:
    """Decides, and remembers what is in flight. May be used from any thread."""

    def __init__(self, settings: InFlightSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        """Held while one request is judged: two that were judged at once would choose the same
        room. Nobody is asked meanwhile."""
        self._ledger = Ledger()

    def decide(
        self, decision_id: str, snapshot: Snapshot, wanted: Criteria, now: datetime, narrow: Narrow
    ) -> Placement:
        """The placement with what is in flight taken off, whose best candidate is noted.

        When nothing fits beside what is in flight, the snapshot alone decides: its manager knows
        better than this estimate, and says so.
        """
        with self._lock:
            # Deciding again is about the same machine, which is not to be counted against itself.
            ledger = self._ledger.without(decision_id)
            self._ledger = ledger.current(snapshot, now, self._settings)
            placement = narrow(place.place(self._ledger.adjusted(snapshot), wanted, now))
            if not placement.candidates:
                placement = narrow(place.place(snapshot, wanted, now))
            if placement.candidates:
                self._note(decision_id, placement.candidates[0], wanted, now)
        return placement

    def note(self, decision_id: str, candidate: Ranked, wanted: Criteria, now: datetime) -> None:
        """The decision is for `candidate` now, no longer for what it was for before."""
        with self._lock:
            self._note(decision_id, candidate, wanted, now)

    def forget(self, decision_id: str) -> None:
        """Nothing comes of the decision: it no longer counts."""
        with self._lock:
            self._ledger = self._ledger.without(decision_id)

    def in_flight(self) -> Ledger:
        """What is counted, including what the next decision will find too old."""
        return self._ledger

    def _note(self, decision_id: str, candidate: Ranked, wanted: Criteria, now: datetime) -> None:
        fit = candidate.fit
        decision = Decision(decision_id, fit.cloud.cloud_id, fit.offer.region, wanted.needed, now)
        self._ledger = self._ledger.noted(decision, self._settings.decisions_max)
