"""The hard constraints, one function each, and the two tables of them. Pure.

A constraint yields a `Miss` for each way in which a cloud or an offer does not meet it, and nothing
when it does. The names in the tables are part of the contract; docs/placement.md lists them.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from broker import amounts, endpoints, pricing
from broker.criteria import Criteria
from broker.snapshot import Cloud, Link, Offer, Snapshot
from watari import errors, units

LISTED_MAX = 5
"""Names that a reason lists before it only counts them."""

LISTED_CHARS_MAX = 64
"""Longer names are cut in reasons."""


@dataclass(frozen=True)
class Miss:
    """One way in which a constraint is not met."""

    reason: str
    """In words, with both numbers."""
    would_fit: str = ""
    """What would have met it; empty when the caller can do nothing about it."""


@dataclass(frozen=True)
class Question:
    """What all constraints may look at besides the cloud and the offer."""

    criteria: Criteria
    snapshot: Snapshot
    now: datetime


CloudConstraint = Callable[[Question, Cloud], Iterator[Miss]]
OfferConstraint = Callable[[Question, Cloud, Offer], Iterator[Miss]]


def asked_for(question: Question, cloud: Cloud) -> Iterator[Miss]:
    wanted = question.criteria.clouds
    if wanted and cloud.cloud_id not in wanted:
        yield Miss(
            f"is not among the clouds asked for ({listed(wanted)})",
            f"fits with {cloud.cloud_id} among clouds",
        )


def not_excluded(question: Question, cloud: Cloud) -> Iterator[Miss]:
    if cloud.cloud_id in question.criteria.excluded_clouds:
        yield Miss(
            "is excluded by the request", f"fits without {cloud.cloud_id} among excluded_clouds"
        )


def not_the_source(question: Question, cloud: Cloud) -> Iterator[Miss]:
    if cloud.cloud_id == question.criteria.source_cloud:
        yield Miss("is where the machine is already")


def jurisdiction(question: Question, cloud: Cloud) -> Iterator[Miss]:
    wanted = question.criteria.jurisdictions
    if wanted and cloud.jurisdiction not in wanted:
        if not cloud.jurisdiction:
            yield Miss(f"names no jurisdiction, wanted is {listed(wanted)}")
        else:
            yield Miss(
                f"is under the law of {cut(cloud.jurisdiction)}, wanted is {listed(wanted)}",
                f"fits with {cut(cloud.jurisdiction)} among jurisdictions",
            )


def fresh_cloud(question: Question, cloud: Cloud) -> Iterator[Miss]:
    if cloud.stale:
        yield _stale(question, "the cloud's record", cloud.updated_at)


def untainted(_question: Question, cloud: Cloud) -> Iterator[Miss]:
    if cloud.taints:
        yield Miss(
            f"its provider keeps new machines away ({listed(cloud.taints)})",
            "fits once its provider removes the taint",
        )


def reachable_manager(_question: Question, cloud: Cloud) -> Iterator[Miss]:
    try:
        endpoints.manager_of(cloud)
    except errors.WatariError as error:
        yield Miss(error.message)


def near_the_source(question: Question, cloud: Cloud) -> Iterator[Miss]:
    limit, source = question.criteria.rtt_ms_max, question.criteria.source_cloud
    if limit is None or source is None or source == cloud.cloud_id:
        return
    link = _link(question, source, cloud.cloud_id)
    if link is None:
        yield Miss(
            f"no measured link between {source} and {cloud.cloud_id}, limit is {limit:g} ms",
            "fits without rtt_ms_max",
        )
    elif link.rtt_ms > limit:
        rtt = math.ceil(link.rtt_ms * 100) / 100
        yield Miss(
            f"round trip from {source} is {rtt} ms, limit is {limit:g} ms",
            f"fits with rtt_ms_max of {rtt} or more",
        )


def sells_something(_question: Question, cloud: Cloud) -> Iterator[Miss]:
    if not cloud.offers:
        yield Miss("publishes no offer")


CLOUD_CONSTRAINTS: Mapping[str, CloudConstraint] = {
    "cloud": asked_for,
    "excluded_cloud": not_excluded,
    "source": not_the_source,
    "jurisdiction": jurisdiction,
    "stale": fresh_cloud,
    "taint": untainted,
    "manager": reachable_manager,
    "rtt": near_the_source,
    "offer": sells_something,
}
"""What a whole cloud must meet; a miss keeps all of its offers out."""


def region(question: Question, _cloud: Cloud, offer: Offer) -> Iterator[Miss]:
    wanted = question.criteria.regions
    if wanted and offer.region not in wanted:
        yield Miss(
            f"is in {cut(offer.region)}, wanted is {listed(wanted)}",
            f"fits with {cut(offer.region)} among regions",
        )


def required_trait(question: Question, _cloud: Cloud, offer: Offer) -> Iterator[Miss]:
    lacking = [t for t in question.criteria.required_traits if t not in offer.traits]
    if lacking:
        yield Miss(f"lacks {listed(lacking)}", f"fits without requiring {listed(lacking)}")


def forbidden_trait(question: Question, _cloud: Cloud, offer: Offer) -> Iterator[Miss]:
    present = [t for t in question.criteria.forbidden_traits if t in offer.traits]
    if present:
        yield Miss(f"has {listed(present)}", f"fits without forbidding {listed(present)}")


def label(question: Question, cloud: Cloud, offer: Offer) -> Iterator[Miss]:
    """An offer's labels add to its cloud's, and win over them."""
    labels = {**cloud.labels, **offer.labels}
    for key, wanted in question.criteria.labels.items():
        if key not in labels:
            yield Miss(f"has no label {cut(key)}, wanted is {cut(wanted)!r}")
        elif labels[key] != wanted:
            yield Miss(
                f"label {cut(key)} is {cut(labels[key])!r}, wanted is {cut(wanted)!r}",
                f"fits with label {cut(key)} {cut(labels[key])!r}",
            )


def validity(question: Question, _cloud: Cloud, offer: Offer) -> Iterator[Miss]:
    now = question.now
    if offer.valid_from is not None and now < offer.valid_from:
        yield Miss(
            f"is valid from {date(offer.valid_from)}, now is {date(now)}",
            f"fits from {date(offer.valid_from)} on",
        )
    if offer.valid_until is not None and now >= offer.valid_until:
        yield Miss(f"was valid until {date(offer.valid_until)}, now is {date(now)}")


def fresh_offer(question: Question, cloud: Cloud, offer: Offer) -> Iterator[Miss]:
    if cloud.stale:
        return  # the cloud's own miss says it for all of its records
    room = cloud.capacities.get(offer.region)
    if offer.stale:
        yield _stale(question, "the offer", offer.updated_at)
    if room is not None and room.stale:
        yield _stale(question, f"the capacity of {cut(offer.region)}", room.updated_at)


def vm_max(question: Question, _cloud: Cloud, offer: Offer) -> Iterator[Miss]:
    for kind, needed in question.criteria.needed.items():
        most = offer.vm_max.get(kind, 0)
        if most and needed > most:
            yield Miss(
                f"needs {amounts.words_up(kind, needed)}, "
                f"largest machine of this offer has {amounts.words_down(kind, most)}",
                f"fits with {amounts.limit_words(kind, most)}",
            )


def capacity(question: Question, cloud: Cloud, offer: Offer) -> Iterator[Miss]:
    room = cloud.capacities.get(offer.region)
    if room is None:
        yield Miss(f"publishes no capacity for region {cut(offer.region)}")
        return
    for kind, needed in question.criteria.needed.items():
        free = room.largest_fit.get(kind, 0)
        if needed > free:
            yield Miss(
                f"needs {amounts.words_up(kind, needed)}, "
                f"largest host has {amounts.words_down(kind, free)} free",
                f"fits with {amounts.limit_words(kind, free)}" if free else "",
            )


def price(question: Question, _cloud: Cloud, offer: Offer) -> Iterator[Miss]:
    ceiling = question.criteria.ceiling
    if ceiling is None:
        return
    if offer.prices is None:
        yield Miss(f"{offer.prices_problem}, ceiling is {ceiling}", "fits without a ceiling")
        return
    hourly = pricing.hourly(offer.prices, question.criteria.needed)
    if hourly.currency != ceiling.currency:
        yield Miss(
            f"costs {hourly}, ceiling is {ceiling}: the currencies differ",
            f"fits with a ceiling of {hourly} or more",
        )
    elif hourly.amount > ceiling.amount:
        yield Miss(
            f"costs {hourly}, ceiling is {ceiling}", f"fits with a ceiling of {hourly} or more"
        )


OFFER_CONSTRAINTS: Mapping[str, OfferConstraint] = {
    "region": region,
    "required_trait": required_trait,
    "forbidden_trait": forbidden_trait,
    "label": label,
    "validity": validity,
    "stale": fresh_offer,
    "vm_max": vm_max,
    "capacity": capacity,
    "price": price,
}
"""What each offer must meet by itself."""


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    every = list(names)
    text = ", ".join(cut(name) for name in every[:LISTED_MAX])
    return f"{text} and {len(every) - LISTED_MAX} more" if len(every) > LISTED_MAX else text


def cut(name: str) -> str:
    """The name, shortened when it is long: it comes from a provider or a caller."""
    return name if len(name) <= LISTED_CHARS_MAX else f"{name[:LISTED_CHARS_MAX]}..."


def date(moment: datetime) -> str:
    """Such as 2026-01-31 12:00:00 UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _link(question: Question, source: str, cloud_id: str) -> Link | None:
    """The newest usable measurement between the two, whichever of them made it."""
    links = question.snapshot.links
    found = (links.get((source, cloud_id)), links.get((cloud_id, source)))
    usable = [link for link in found if link is not None and link.usable(question.now)]
    return max(usable, key=lambda link: link.measured_at, default=None)


def _stale(question: Question, what: str, updated_at: datetime) -> Miss:
    age = max(0.0, (question.now - updated_at).total_seconds())
    return Miss(
        f"{what} is stale: its lease expired, last change {units.format_duration(age)} ago",
        "fits once its manager renews the lease",
    )
