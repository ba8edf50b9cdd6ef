"""The broker's snapshot and constraints as a problem. The only module here that knows them. Pure.

Every distinct set of requirements is judged once. A place is a region of a cloud; of several offers
that fit there, a machine takes the cheapest, then the one with the better score.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

import numpy as np

from broker import feasible, pricing, rank
from broker.batch import stable
from broker.batch.problem import AMOUNT_MAX, NOWHERE, ROOM_MAX, Level, Problem
from broker.batch.request import Batch, Item
from broker.feasible import Fit, Rejection
from broker.question import Question
from broker.rank import Ranked
from broker.snapshot import Capacity, Snapshot
from watari import errors, validate

STAYING_IGNORES = frozenset({"source", "rtt", "taint", "capacity"})
"""Constraints that speak of arriving: a machine that is there already may stay."""

CURRENCY = "currency"
"""Name of the one constraint that is the batch's own: costs of one sum are in one currency."""

PAIRS_MAX = 4_000_000
"""Machines times places of a problem: it bounds its memory, at about 100 bytes a pair."""

_NOTHING: dict[str, int] = {}

Place = tuple[str, str]
"""Cloud and region."""


@dataclass(frozen=True)
class Look:
    """One set of requirements, judged."""

    options: dict[Place, Ranked]
    """The offer that it takes in each place."""
    rejections: tuple[Rejection, ...]


@dataclass(frozen=True)
class Built:
    """A problem, and the way back to what it stands for."""

    problem: Problem
    currency: str
    looks: Sequence[Look]
    items: Sequence[Item]
    places: Sequence[Place]
    """Those that some machine may be in."""

    def option(self, machine: int, place: int) -> Ranked:
        """The offer that a machine takes in a place."""
        return self.looks[self.items[machine].look].options[self.places[place]]


def build(snapshot: Snapshot, batch: Batch, now: datetime, running: Callable[[], bool]) -> Built:
    """The problem. Raises DeadlineExceeded once `running` says no, and InvalidArgument
    INVALID_FIELD for costs of moves in another currency.
    """
    currency = batch.currency or _currency(snapshot)
    for item in batch.items:
        if currency and item.move_currency not in ("", currency):
            raise validate.invalid_field(
                "machines.move_cost", f"is in {item.move_currency}", f"this batch is in {currency}"
            )
    wants = {item.look: item for item in batch.items}
    looks = []
    for look in range(len(wants)):
        if not running():
            raise errors.DeadlineExceeded(
                "DEADLINE_EXCEEDED",
                f"{look} of {len(wants)} sets of requirements were judged in time",
                hint="allow more time, or ask for fewer different ones",
            )
        looks.append(_judged(snapshot, wants[look], currency, now))
    places = sorted({place for look in looks for place in look.options})
    if len(places) * len(batch.items) > PAIRS_MAX:
        raise validate.invalid_field(
            "machines",
            f"{len(batch.items)} machines and {len(places)} places are too many together",
            f"at most {PAIRS_MAX} pairs; ask for fewer machines, or name clouds or regions",
        )
    problem = _problem(snapshot, batch, places, looks)
    return Built(problem, currency, looks, batch.items, places)


def _judged(
    snapshot: Snapshot,
    item: Item,
    currency: str,
    now: datetime,
) -> Look:
    question = Question(item.criteria, snapshot, now)
    verdict = feasible.judge(question)
    fits = [*verdict.fits, *_staying(snapshot, item, verdict.rejections)]
    usable, rejections = [], list(verdict.rejections)
    for fit in fits:
        if fit.hourly is not None and fit.hourly.currency == currency:
            usable.append(fit)
        else:
            reason = str(fit.hourly) if fit.hourly else fit.offer.prices_problem
            rejections.append(
                Rejection(
                    fit.cloud.cloud_id,
                    fit.offer.name,
                    CURRENCY,
                    f"{reason}; this batch is in {currency or 'no currency'}",
                    "",
                )
            )
    options: dict[Place, Ranked] = {}
    # Best score first, so that of two equally cheap ones the better is kept.
    for ranked in rank.rank(usable, question):
        place = (ranked.fit.cloud.cloud_id, ranked.fit.offer.region)
        if place not in options or _hourly(ranked) < _hourly(options[place]):
            options[place] = ranked
    return Look(options, tuple(rejections))


def _staying(snapshot: Snapshot, item: Item, rejections: Sequence[Rejection]) -> list[Fit]:
    """The offers of the machine's own cloud that it misses only as somebody who arrives."""
    cloud = snapshot.clouds.get(item.criteria.source_cloud or "")
    if cloud is None:
        return []
    missed = {
        one.offer
        for one in rejections
        if one.cloud_id == cloud.cloud_id and one.constraint not in STAYING_IGNORES
    }
    nothing = Capacity("", _NOTHING, _NOTHING, _NOTHING, stale=False, updated_at=cloud.updated_at)
    return [
        Fit(
            cloud=cloud,
            offer=offer,
            capacity=cloud.capacities.get(offer.region, nothing),
            hourly=pricing.hourly(offer.prices, item.criteria.needed) if offer.prices else None,
        )
        for offer in cloud.offers
        if not {"", offer.name} & missed
    ]


def _problem(snapshot: Snapshot, batch: Batch, places: list[Place], looks: list[Look]) -> Problem:
    items, count = batch.items, (len(batch.items), len(places))
    kinds = sorted({kind for item in items for kind, n in item.criteria.needed.items() if n})
    clouds = {cloud: at for at, cloud in enumerate(snapshot.clouds)}
    number = {place: at for at, place in enumerate(places)}
    free, largest = [], []
    for cloud_id, region in places:
        capacity = snapshot.clouds[cloud_id].capacities.get(region)
        free.append([min(capacity.free.get(k, 0), ROOM_MAX) if capacity else 0 for k in kinds])
        largest.append(
            [min(capacity.largest_fit.get(k, 0), AMOUNT_MAX) if capacity else 0 for k in kinds]
        )
    may, cost, score = np.zeros(count, np.bool_), np.zeros(count), np.zeros(count)
    earned = np.zeros(count)
    for row, item in enumerate(items):
        for at, ranked in looks[item.look].options.items():
            place, stays = number[at], at[0] == item.criteria.source_cloud
            hourly = float(_hourly(ranked))
            moving = 0.0 if stays or not item.criteria.source_cloud else float(item.move_cost)
            may[row, place] = True
            cost[row, place] = hourly * batch.hours + moving
            earned[row, place] = hourly
            score[row, place] = float(ranked.score)
    shape = (len(places), len(kinds))
    return _with_wishes(
        Problem(
            need=np.array(
                [[item.criteria.needed.get(kind, 0) for kind in kinds] for item in items], np.int64
            ).reshape(len(items), len(kinds)),
            current=np.array(
                [clouds.get(item.criteria.source_cloud or "", NOWHERE) for item in items], np.int64
            ),
            group=np.array([item.group for item in items], np.int64),
            weight=np.array([item.weight for item in items]),
            feasible=may,
            cost=cost,
            free=np.array(free, np.int64).reshape(shape),
            largest=np.array(largest, np.int64).reshape(shape),
            domains=_domains(snapshot, places, clouds),
            groups=batch.groups,
            vm_score=score,
        ),
        earned,
    )


def _with_wishes(problem: Problem, earned: "np.typing.NDArray[np.float64]") -> Problem:
    """With what places like: an hour's price for the scarcest share of room, their own first."""

    return replace(problem, place_score=stable.place_scores(replace(problem, cost=earned)))


def _domains(
    snapshot: Snapshot, places: list[Place], clouds: dict[str, int]
) -> "np.typing.NDArray[np.int64]":
    regions = {region: at for at, region in enumerate(sorted({region for _, region in places}))}
    laws = sorted({cloud.jurisdiction for cloud in snapshot.clouds.values()})
    found = np.empty((len(Level), len(places)), np.int64)
    for at, (cloud_id, region) in enumerate(places):
        law = laws.index(snapshot.clouds[cloud_id].jurisdiction)
        found[:, at] = clouds[cloud_id], regions[region], law
    return found


def _hourly(ranked: Ranked) -> Decimal:
    assert ranked.fit.hourly is not None  # noqa: S101 - others were left out
    return ranked.fit.hourly.amount


def _currency(snapshot: Snapshot) -> str:
    """That of most offers; of equally many the first by name."""
    counts = Counter(
        offer.prices.currency
        for cloud in snapshot.clouds.values()
        for offer in cloud.offers
        if offer.prices is not None
    )
    return min(counts, key=lambda currency: (-counts[currency], currency), default="")
