"""Room that is held at a candidate before the source is asked to migrate there.

A candidate's manager holds it on the tenant's mandate, and it alone knows whether there is room.
What it refuses is remembered (`broker.refusals`); what it does not answer may be held, and is given
back (`broker.releasing`).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from broker import endpoints, metrics
from broker.feasible import Rejection
from broker.place import Placement
from broker.refusals import Refusal, Refusals, RefusalSettings, Wish
from broker.releasing import Releasing
from broker.values import Cloud
from watari import errors, logs
from watari.clock import Clock
from watari.settings import EndpointSettings
from watari.v1 import broker_pb2, manager_pb2

_log = logs.get(__name__)

UNANSWERED = (errors.Unavailable, errors.DeadlineExceeded)
"""After these room may be held, or not."""


LIVE = (
    manager_pb2.RESERVATION_STATE_HELD,
    manager_pb2.RESERVATION_STATE_PENDING,
    manager_pb2.RESERVATION_STATE_CONFIRMED,
)
"""States in which there is room; the source may have taken it over already."""


@dataclass(frozen=True)
class HoldSettings:
    """How room is held at candidates."""

    candidates_max: int = field(default=20, metadata={"min": 1, "max": 100})
    """Candidates of one request that are asked before the broker gives up."""

    call_seconds_max: float = field(default=2.0, metadata={"min": 0.1})
    """Deadline in seconds of one try to hold: a manager that takes longer is passed over."""

    seconds_max: float = field(default=6.0, metadata={"min": 0.1})
    """All candidates of a request together have so long: within the 10 s that callers wait by
    default the source's manager has to be asked too."""

    releases_max: int = field(default=1000, metadata={"min": 0})
    """Holds that wait to be given back at a time; further ones are left to expire."""

    refusals: RefusalSettings = field(default_factory=RefusalSettings)
    """How long a refusal keeps others from asking."""


class Destination(Protocol):
    """What is asked of a candidate's manager. Each call raises WatariError."""

    def hold(
        self, request: manager_pb2.HoldForMigrationRequest, seconds_max: float
    ) -> manager_pb2.Reservation:
        """ReservationService.HoldForMigration, within `seconds_max` for all tries together."""
        ...

    def release(self, reservation_id: str, until: threading.Event | None = None) -> None:
        """ReservationService.ReleaseReservation; for half a minute, or `until` is set, if it is."""
        ...


@dataclass(frozen=True)
class Held:
    """What a candidate's manager holds."""

    cloud: Cloud
    reservation: manager_pb2.Reservation


class Holder:
    """Asks candidates to hold room, and to give it back. May be used from any thread."""

    def __init__(
        self,
        destinations: Callable[[EndpointSettings], Destination],
        refusals: Refusals,
        releasing: Releasing,
        clock: Clock,
        settings: HoldSettings,
    ) -> None:
        self._destinations = destinations
        self._refusals = refusals
        self._releasing = releasing
        self._clock = clock
        self._settings = settings

    @property
    def candidates_max(self) -> int:
        """How many candidates of a request may be asked."""
        return self._settings.candidates_max

    def until(self, left_seconds: float | None, source_seconds: float) -> float:
        """The moment, by the monotonic clock, until which candidates may be asked: `left_seconds`
        is what the caller still waits, None for ever; `source_seconds` of it are the source's.
        """
        seconds = self._settings.seconds_max
        if left_seconds is not None:
            seconds = min(seconds, left_seconds - source_seconds)
        return self._clock.monotonic() + seconds

    def refused_before(self, cloud: Cloud, wish: Wish) -> Refusal | None:
        """Why this cloud need not be asked."""
        return self._refusals.of(cloud, wish, self._clock.now())

    def hold(
        self,
        cloud: Cloud,
        request: manager_pb2.HoldForMigrationRequest,
        reservation_id: str,
        wish: Wish,
        until: float,
    ) -> Held:
        """Room at a cloud. Raises the WatariError for which it holds none, which is remembered."""
        try:
            destination = self._destinations(endpoints.manager_of(cloud))
            self._releasing.forget((cloud.cloud_id, reservation_id))
            seconds = min(until - self._clock.monotonic(), self._settings.call_seconds_max)
            reservation = destination.hold(request, seconds)
            _require_held(cloud, reservation, reservation_id)
        except errors.WatariError as error:
            metrics.HOLDS.labels(metrics.reason(error)).inc()
            self._refusals.note(cloud, wish, error, self._clock.now())
            if isinstance(error, UNANSWERED):
                self._owe(cloud, reservation_id)
            _log.info("hold.refused", cloud=cloud.cloud_id, problem=str(error))
            raise
        metrics.HOLDS.labels("held").inc()
        return Held(cloud, reservation)

    def release(self, held: Held) -> None:
        """Give back what is not needed, at once if its manager answers."""
        try:
            destination = self._destinations(endpoints.manager_of(held.cloud))
            destination.release(held.reservation.reservation_id)
        except errors.WatariError as error:
            _log.info("hold.release_owed", cloud=held.cloud.cloud_id, problem=str(error))
            self._owe(held.cloud, held.reservation.reservation_id)
        else:
            metrics.RELEASES.labels("released").inc()

    def _owe(self, cloud: Cloud, reservation_id: str) -> None:
        def release(until: threading.Event) -> None:
            destination = self._destinations(endpoints.manager_of(cloud))
            destination.release(reservation_id, until)

        self._releasing.owe((cloud.cloud_id, reservation_id), release)


def _require_held(cloud: Cloud, reservation: manager_pb2.Reservation, reservation_id: str) -> None:
    """Raises FailedPrecondition RESERVATION_STATE for one that has ended, Internal PEER_ERROR for
    another one than was asked for.
    """
    if reservation.reservation_id != reservation_id:
        raise errors.Internal(
            "PEER_ERROR",
            f"cloud {cloud.cloud_id} answers with another reservation than it was asked for",
            hint="its operator must look",
        )
    if reservation.state not in LIVE:
        state = manager_pb2.ReservationState.Name(reservation.state)
        raise errors.FailedPrecondition(
            "RESERVATION_STATE",
            f"what was held for this migration is {state}",
            hint="migrate again with a new id",
            state=state,
        )


@dataclass(frozen=True)
class Attempt:
    """What came of one candidate."""

    cloud_id: str
    error: errors.WatariError | None = None
    """None for the one that holds room."""
    refused_before_seconds: float | None = None
    """How long ago it refused; None when it was asked now."""
    took_seconds: float = 0.0

    def message(self) -> broker_pb2.HoldAttempt:
        """As it travels."""
        made = broker_pb2.HoldAttempt(cloud_id=self.cloud_id)
        if self.error is not None:
            made.problem.CopyFrom(errors.to_problem(self.error))
        if self.refused_before_seconds is not None:
            made.refused_before.FromMilliseconds(round(self.refused_before_seconds * 1000))
        else:
            made.took.FromMilliseconds(round(self.took_seconds * 1000))
        return made


def passed_over(cloud_id: str, refusal: Refusal, now: datetime) -> tuple[Attempt, Rejection]:
    """What is told of a cloud that refused such a machine before."""
    age = max(0.0, (now - refusal.at).total_seconds())
    reason = f"its manager refused such a machine {age:.0f} s ago: {refusal.error.message}"
    told = Rejection(cloud_id, "", "refused", reason, refusal.error.hint)
    return Attempt(cloud_id, refusal.error, age), told


def refused(cloud_id: str, error: errors.WatariError) -> Rejection:
    """What is told of a cloud whose manager has just refused."""
    reason = f"its manager holds no room: {error.message}"
    return Rejection(cloud_id, "", "refused", reason, error.hint)


def without(placement: Placement, rejection: Rejection) -> Placement:
    """The placement once a cloud has been refused as destination, with all of its offers."""
    gone = rejection.cloud_id
    return replace(
        placement,
        candidates=tuple(c for c in placement.candidates if c.fit.cloud.cloud_id != gone),
        rejections=tuple(
            sorted((*placement.rejections, rejection), key=lambda one: (one.cloud_id, one.offer))
        ),
    )
