"""PlaceBatch: a bounded number of runs at a time, each within its deadline."""

import threading
import time

from broker import explain, place
from broker.batch import adapter, request, solve
from broker.batch.adapter import Built
from broker.batch.solve import Solution, Unplaced
from broker.catalogue import Catalogue
from broker.feasible import Rejection
from broker.place import Placement
from broker.snapshot import Snapshot
from watari import errors
from watari.clock import Clock
from watari.v1 import broker_pb2

REJECTIONS_EACH_MAX = 3
"""Clouds explained for a machine that no place takes: 2,000 of them must fit into a message."""

EXPLAINED_MAX = 500
"""Machines whose rejections are told; the reason itself is told of all."""

ANSWER_SECONDS = 1.0
"""Kept of a deadline for a solver that ends late, for building the answer and sending it."""

JUDGING_SHARE = 0.5
"""Of the time until the deadline that judging all requirements may take."""


class Batcher:
    """Solves batches in the thread of their call. HiGHS runs outside of Python's lock."""

    def __init__(self, catalogue: Catalogue, clock: Clock, runs_max: int) -> None:
        self._catalogue = catalogue
        self._clock = clock
        self._runs_max = runs_max
        self._slots = threading.BoundedSemaphore(runs_max)

    def place(
        self, asked: broker_pb2.PlaceBatchRequest, remaining_seconds: float | None
    ) -> broker_pb2.PlaceBatchResponse:
        """Places a batch; nothing waits for a slot."""
        begin = time.monotonic()
        batch = request.read(asked)
        if not self._slots.acquire(blocking=False):
            raise errors.Exhausted(
                "TOO_MANY_BATCHES",
                f"{self._runs_max} batches are being solved, which is as many as may be",
                hint="try again in some seconds",
                retryable=True,
                runs_max=self._runs_max,
            )
        try:
            snapshot = self._catalogue.current(asked.directory_revision_min)
            allowed = request.LIMIT_SECONDS_MAX if remaining_seconds is None else remaining_seconds
            end = begin + allowed - ANSWER_SECONDS
            judged = begin + JUDGING_SHARE * allowed
            built = adapter.build(
                snapshot, batch, self._clock.now(), lambda: time.monotonic() < judged
            )
            seconds = min(batch.limit_seconds, end - time.monotonic())
            if seconds < request.LIMIT_SECONDS_MIN:
                raise errors.DeadlineExceeded(
                    "DEADLINE_EXCEEDED",
                    f"the deadline leaves {max(0.0, seconds):.1f} s to solve in",
                    hint="allow more time",
                )
            solution = solve.solve(built.problem, batch.solver, seconds)
        finally:
            self._slots.release()
        return _response(built, solution, snapshot)


def _response(
    built: Built, solution: Solution, snapshot: Snapshot
) -> broker_pb2.PlaceBatchResponse:
    answer = broker_pb2.PlaceBatchResponse(
        placements=_placements(built, solution, snapshot),
        currency=built.currency,
        cost=solution.cost,
        objective=solution.objective,
        bound=solution.bound,
        gap=solution.gap,
        wall_seconds=solution.wall_seconds,
        cpu_seconds=solution.cpu_seconds,
        directory_revision=snapshot.revision,
    )
    if solution.matching is not None:
        answer.blocking_pairs = solution.matching.blocking_pairs
        answer.rank_sum = solution.matching.rank_sum
        answer.rank_max = solution.matching.rank_max
    answer.snapshot_at.FromDatetime(snapshot.taken_at)
    return answer


def _placements(
    built: Built, solution: Solution, snapshot: Snapshot
) -> list[broker_pb2.BatchPlacement]:
    told, explained, nearest = [], 0, {}
    for machine, item in enumerate(built.items):
        one = broker_pb2.BatchPlacement(machine=item.name)
        if machine not in solution.unplaced:
            at = int(solution.assignment[machine])
            one.candidate.CopyFrom(place.candidate(built.option(machine, at)))
            one.stays = built.places[at][0] == item.criteria.source_cloud
        else:
            one.unplaced = solution.unplaced[machine].value
            if solution.unplaced[machine] is Unplaced.NOWHERE_ALLOWED and explained < EXPLAINED_MAX:
                explained += 1
                if item.look not in nearest:
                    nearest[item.look] = _nearest(built.looks[item.look].rejections, snapshot)
                one.rejections.extend(map(place.rejection_message, nearest[item.look]))
        told.append(one)
    return told


def _nearest(rejections: tuple[Rejection, ...], snapshot: Snapshot) -> list[Rejection]:
    """The misses of those clouds that come nearest."""
    clouds = explain.nearest(Placement((), rejections, snapshot))
    return [miss for cloud in clouds for miss in cloud.misses][:REJECTIONS_EACH_MAX]
