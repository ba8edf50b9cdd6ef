"""Which offers fit, and for each that does not, every constraint that it misses, in words. Pure.

One offer at a time: `broker.screening` judges all at once, and must say the same.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from broker import cloud_constraints, offer_constraints, pricing
from broker.question import Question
from broker.snapshot import Capacity, Cloud, Offer


@dataclass(frozen=True)
class Fit:
    """An offer that meets every hard constraint."""

    cloud: Cloud
    offer: Offer
    capacity: Capacity
    hourly: pricing.Price | None
    """What the machine would cost; None when the offer has no usable prices."""


class Rejection(NamedTuple):
    """One constraint that a cloud (`offer` empty) or an offer misses."""

    cloud_id: str
    offer: str
    constraint: str
    reason: str
    would_fit: str


@dataclass(frozen=True)
class Verdict:
    """All offers of a snapshot, judged; both sides in the order of cloud and offer."""

    fits: tuple[Fit, ...]
    rejections: tuple[Rejection, ...]


def judge(question: Question) -> Verdict:
    """Judges every offer of the snapshot, and names clouds asked for that do not exist."""
    fits: list[Fit] = []
    rejections = list(unknown_clouds(question))
    for cloud in question.snapshot.clouds.values():
        whole = list(cloud_rejections(question, cloud))
        rejections += whole
        for offer in cloud.offers:
            own = list(offer_rejections(question, cloud, offer))
            rejections += own
            if not whole and not own:
                fits.append(fit(question, cloud, offer))
    return Verdict(tuple(fits), in_order(rejections))


def in_order(rejections: Iterable[Rejection]) -> tuple[Rejection, ...]:
    """By cloud and offer; within an offer the constraints keep the order of their table."""
    return tuple(sorted(rejections, key=itemgetter(0, 1)))


def unknown_clouds(question: Question) -> Iterator[Rejection]:
    """Clouds that were named and that the directory does not have."""
    known = question.snapshot.clouds
    for cloud_id in dict.fromkeys((*question.criteria.clouds, *question.criteria.explained_clouds)):
        if cloud_id not in known:
            reason = f"the directory has no such cloud at revision {question.snapshot.revision}"
            yield Rejection(cloud_id, "", "cloud", reason, "")


def cloud_rejections(question: Question, cloud: Cloud) -> Iterator[Rejection]:
    """What a whole cloud misses."""
    for name, constraint in cloud_constraints.CONSTRAINTS.items():
        for miss in constraint(question, cloud):
            yield Rejection(cloud.cloud_id, "", name, *miss)


def offer_rejections(question: Question, cloud: Cloud, offer: Offer) -> Iterator[Rejection]:
    """What one offer misses by itself."""
    for name, constraint in offer_constraints.CONSTRAINTS.items():
        for miss in constraint(question, cloud, offer):
            yield Rejection(cloud.cloud_id, offer.name, name, *miss)


def fit(question: Question, cloud: Cloud, offer: Offer) -> Fit:
    """An offer that misses nothing."""
    return Fit(
        cloud=cloud,
        offer=offer,
        capacity=cloud.capacities[offer.region],
        hourly=pricing.hourly(offer.prices, question.criteria.needed) if offer.prices else None,
    )
