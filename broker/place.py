"""Placement: a snapshot and criteria in, candidates and rejections out. Pure."""

from dataclasses import dataclass
from datetime import datetime

from broker import feasible, rank
from broker.constraints import Question
from broker.criteria import Criteria
from broker.feasible import Rejection
from broker.rank import Ranked
from broker.snapshot import Snapshot
from watari.v1 import broker_pb2

REJECTIONS_MAX = 5000
"""Rejections of an answer, which must stay below a message's limit; a last one counts the rest."""


@dataclass(frozen=True)
class Placement:
    """How a machine can be placed."""

    candidates: tuple[Ranked, ...]
    """Best first; not yet cut to `candidates_max`."""
    rejections: tuple[Rejection, ...]
    snapshot: Snapshot


def place(snapshot: Snapshot, criteria: Criteria, now: datetime) -> Placement:
    """Judges every offer, and ranks those that fit."""
    verdict = feasible.judge(Question(criteria, snapshot, now))
    return Placement(rank.rank(verdict.fits, criteria), verdict.rejections, snapshot)


def response(placement: Placement, candidates_max: int) -> broker_pb2.PlaceResponse:
    """The placement as it travels, with at most `candidates_max` candidates."""
    answer = broker_pb2.PlaceResponse(
        candidates=[candidate(one) for one in placement.candidates[:candidates_max]],
        rejections=[rejection_message(one) for one in _bounded(placement.rejections)],
        directory_revision=placement.snapshot.revision,
    )
    answer.snapshot_at.FromDatetime(placement.snapshot.taken_at)
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
