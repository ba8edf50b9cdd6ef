"""Placement: a snapshot and criteria in, candidates and rejections out. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from broker import rejecting, scoring, screening
from broker.criteria import Criteria
from broker.feasible import Rejection
from broker.question import Question
from broker.rank import Ranked
from broker.screening import Count
from broker.snapshot import Snapshot
from watari.v1 import broker_pb2

REJECTIONS_MAX = 5000
"""Rejections of an answer, which must stay below a message's limit; a last one counts the rest."""

NO_EXPERIENCE: Mapping[str, float] = MappingProxyType({})
"""The broker has seen nothing yet."""


@dataclass(frozen=True)
class Placement:
    """How a machine can be placed."""

    candidates: tuple[Ranked, ...]
    """Best first: at most as many as were to be held."""
    rejections: tuple[Rejection, ...]
    """Every one, or when `complete` is unset those of the nearest and of named clouds."""
    snapshot: Snapshot
    found: int = 0
    """Offers that fit."""
    counts: tuple[Count, ...] = ()
    complete: bool = True
    rejected_clouds: int = 0
    """Clouds none of whose offers fits."""


def place(
    snapshot: Snapshot,
    criteria: Criteria,
    now: datetime,
    *,
    experience: Mapping[str, float] = NO_EXPERIENCE,
    held_max: int = 0,
) -> Placement:
    """Judges every offer, and ranks the best `held_max` of those that fit; 0 is
    `criteria.candidates_max`.
    """
    screened = screening.screen(Question(criteria, snapshot, now, experience))
    complete = screened.pairs <= REJECTIONS_MAX
    return Placement(
        candidates=scoring.best(screened, held_max or criteria.candidates_max),
        rejections=(rejecting.every if complete else rejecting.nearest)(screened),
        snapshot=snapshot,
        found=len(screened.fits),
        counts=screened.counts(),
        complete=complete,
        rejected_clouds=screened.rejected_clouds(),
    )


def response(
    placement: Placement, candidates_max: int, now: datetime | None = None
) -> broker_pb2.PlaceResponse:
    """The placement as it travels: at most `candidates_max` candidates, and its age at `now`."""
    snapshot = placement.snapshot
    bounded = _bounded(placement.rejections)
    answer = broker_pb2.PlaceResponse(
        candidates=[candidate(one) for one in placement.candidates[:candidates_max]],
        rejections=[rejection_message(one) for one in bounded],
        directory_revision=snapshot.revision,
        counts=[
            broker_pb2.ConstraintCount(
                constraint=one.constraint, clouds=one.clouds, offers=one.offers
            )
            for one in placement.counts
        ],
        clouds_judged=len(snapshot.clouds),
        offers_judged=len(snapshot.columns),
        candidates_found=placement.found,
        rejections_complete=placement.complete and len(placement.rejections) <= REJECTIONS_MAX,
        snapshot_stale=snapshot.stale,
    )
    answer.snapshot_at.FromDatetime(snapshot.taken_at)
    if now is not None:
        answer.snapshot_age.FromTimedelta(max(timedelta(), now - snapshot.taken_at))
    return answer


def candidate(ranked: Ranked) -> broker_pb2.Candidate:
    """A candidate as it travels."""
    fit = ranked.fit
    told = broker_pb2.Candidate(
        cloud_id=fit.cloud.cloud_id,
        offer=fit.offer.name,
        region=fit.offer.region,
        score=float(ranked.score),
        scores=[
            broker_pb2.Score(
                name=score.name,
                value=score.value,
                normalised=float(score.normalised),
                weight=float(score.weight),
            )
            for score in ranked.scores
        ],
    )
    if fit.offer.prices is not None and fit.hourly is not None:
        told.hourly_price.CopyFrom(fit.hourly.message())
        told.price_version = fit.offer.prices.version
    return told


def rejection_message(rejection: Rejection) -> broker_pb2.Rejection:
    """A rejection as it travels."""
    return broker_pb2.Rejection(
        cloud_id=rejection.cloud_id,
        offer=rejection.offer,
        constraint=rejection.constraint,
        reason=rejection.reason,
        would_fit=rejection.would_fit,
    )


def _bounded(rejections: tuple[Rejection, ...]) -> tuple[Rejection, ...]:
    if len(rejections) <= REJECTIONS_MAX:
        return rejections
    left_out = len(rejections) - REJECTIONS_MAX + 1
    note = Rejection(
        cloud_id="",
        offer="",
        constraint="limit",
        reason=f"{left_out} further rejections are left out, an answer has {REJECTIONS_MAX}",
        would_fit="name fewer clouds to see all of theirs",
    )
    return (*rejections[: REJECTIONS_MAX - 1], note)
