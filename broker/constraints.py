"""The hard constraints, one function each, and the two tables of them. Pure.

A constraint yields a `Miss` for each way in which a cloud or an offer does not meet it, and nothing
when it does. The names in the tables are part of the contract; docs/placement.md lists them.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from broker import amounts, endpoints, pricing
from broker.criteria import Criteria, ImageNeed
from broker.snapshot import Cloud, Offer, Snapshot
from watari import errors, units

LISTED_MAX = 5
"""Names that a reason lists before it only counts them."""

LISTED_CHARS_MAX = 64
"""Longer names are cut in reasons."""


class Miss(NamedTuple):
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
    experience: Mapping[str, float] = field(default_factory=dict)
    """By cloud, from 0 to 1, what this broker has seen of its reliability; 1 where it knows
    nothing."""

    @property
    def stay(self) -> tuple[datetime, datetime]:
        """When the machine is to be there: from, and until."""
        begins = self.criteria.starts_at or self.now
        return begins, begins + timedelta(seconds=self.criteria.stay_seconds)


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
    rtt_ms, _ = distance(question, source, cloud.cloud_id)
    yield from _too_far(source, cloud.cloud_id, rtt_ms, limit)


def _too_far(near: str, cloud_id: str, rtt_ms: float | None, limit: float) -> Iterator[Miss]:
    if rtt_ms is None:
        yield Miss(
            f"no measured link between {near} and {cloud_id}, limit is {limit:g} ms",
            "fits without rtt_ms_max",
        )
    elif rtt_ms > limit:
        rtt = math.ceil(rtt_ms * 100) / 100
        yield Miss(
            f"round trip from {near} is {rtt} ms, limit is {limit:g} ms",
            f"fits with rtt_ms_max of {rtt} or more",
        )


def provider(question: Question, cloud: Cloud) -> Iterator[Miss]:
    wanted = question.criteria.providers
    if wanted and cloud.provider_domain not in wanted:
        yield Miss(
            f"is {cut(cloud.provider_domain)}'s, wanted is {listed(wanted)}",
            f"fits with {cut(cloud.provider_domain)} among providers",
        )


def not_excluded_provider(question: Question, cloud: Cloud) -> Iterator[Miss]:
    if cloud.provider_domain in question.criteria.excluded_providers:
        yield Miss(
            f"is {cut(cloud.provider_domain)}'s, which is excluded by the request",
            f"fits without {cut(cloud.provider_domain)} among excluded_providers",
        )


def residency(question: Question, cloud: Cloud) -> Iterator[Miss]:
    """Of every cloud that would hold the machine's data if it went there."""
    criteria = question.criteria
    if not criteria.residency:
        return
    problem = _resident(criteria, cloud.cloud_id, cloud.jurisdiction)
    if problem is not None:
        yield problem
    for held, why in holders(criteria):
        known = question.snapshot.clouds.get(held)
        problem = _resident(criteria, held, known.jurisdiction if known else "", why)
        if problem is not None:
            yield problem


def holders(criteria: Criteria) -> Iterator[tuple[str, str]]:
    """Clouds that hold the machine's data wherever it goes, and what they hold."""
    if criteria.source_cloud is not None:
        yield criteria.source_cloud, "which retains the disks as rollback target"
    for cloud_id in criteria.copy_clouds:
        yield cloud_id, "which holds copies"


def _resident(criteria: Criteria, cloud_id: str, found: str, why: str = "") -> Miss | None:
    if found in criteria.residency:
        return None
    wanted = listed(criteria.residency)
    if not found:
        subject = f"{cloud_id}, {why}," if why else "it"
        return Miss(f"{subject} names no jurisdiction, data may be in {wanted}")
    remedy = f"fits with {cut(found)} among residency_jurisdictions"
    if why:
        return Miss(f"{cloud_id}, {why}, is in {cut(found)}, data may be in {wanted}", remedy)
    return Miss(f"would hold the data in {cut(found)}, data may be in {wanted}", remedy)


def links(question: Question, cloud: Cloud) -> Iterator[Miss]:
    """Only where the destination is another cloud than the one that it must be near to."""
    for limit in question.criteria.links:
        if limit.cloud_id == cloud.cloud_id:
            continue
        rtt_ms, throughput = distance(question, limit.cloud_id, cloud.cloud_id)
        if limit.rtt_ms_max is not None:
            yield from _too_far(limit.cloud_id, cloud.cloud_id, rtt_ms, limit.rtt_ms_max)
        if throughput is None and limit.throughput_min:
            yield Miss(
                f"no measured throughput between {limit.cloud_id} and {cloud.cloud_id}, "
                f"at least {units.format_bytes(limit.throughput_min)}/s are wanted",
                f"fits without a throughput to {limit.cloud_id}",
            )
        elif throughput is not None and throughput < limit.throughput_min:
            yield Miss(
                f"throughput to {limit.cloud_id} is {throughput} B/s, "
                f"wanted are {limit.throughput_min} B/s",
                f"fits with {throughput} B/s or less to {limit.cloud_id}",
            )


def images(question: Question, cloud: Cloud) -> Iterator[Miss]:
    for need in question.criteria.images:
        if need.required and not holds_image(cloud, need):
            yield Miss(
                f"does not hold {cut(str(need))}", f"fits without requiring {cut(str(need))}"
            )


def holds_image(cloud: Cloud, need: ImageNeed) -> bool:
    """Whether a cloud has a fresh record of an image."""
    return any(
        not image.stale and need.key in (image.public_root, image.name) for image in cloud.images
    )


def delegated(question: Question, cloud: Cloud) -> Iterator[Miss]:
    named = question.criteria.to_clouds
    if named and cloud.cloud_id not in named:
        yield Miss(
            f"the delegation lets the machine go to {listed(named)}",
            "fits with a delegation that names it",
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
    "provider": provider,
    "excluded_provider": not_excluded_provider,
    "residency": residency,
    "link": links,
    "image": images,
    "delegation": delegated,
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


def any_trait(question: Question, _cloud: Cloud, offer: Offer) -> Iterator[Miss]:
    for choice in question.criteria.any_traits:
        if offer.traits.isdisjoint(choice):
            yield Miss(
                f"has none of {listed(choice)}", f"fits without the choice of {listed(choice)}"
            )


def validity(question: Question, _cloud: Cloud, offer: Offer) -> Iterator[Miss]:
    """Over the whole stay: from its start, and until its end where it has a length."""
    begins, ends = question.stay
    what = "now is" if begins == question.now else "the stay begins"
    if offer.valid_from is not None and begins < offer.valid_from:
        yield Miss(
            f"is valid from {date(offer.valid_from)}, {what} {date(begins)}",
            f"fits from {date(offer.valid_from)} on",
        )
    if offer.valid_until is None:
        return
    if begins >= offer.valid_until:
        was = "was" if offer.valid_until <= question.now else "is"
        yield Miss(f"{was} valid until {date(offer.valid_until)}, {what} {date(begins)}")
    elif ends > offer.valid_until:
        seconds = int((offer.valid_until - begins).total_seconds())
        yield Miss(
            f"is valid until {date(offer.valid_until)}, the stay ends {date(ends)}",
            f"fits with stay_seconds of {seconds} or less" if seconds else "",
        )


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


def budget(question: Question, _cloud: Cloud, offer: Offer) -> Iterator[Miss]:
    wanted = question.criteria.budget
    if wanted is None:
        return
    given = wanted.amount
    if offer.prices is None:
        yield Miss(f"{offer.prices_problem}, budget is {given.words}", "fits without a budget")
        return
    cost = pricing.over(pricing.hourly(offer.prices, question.criteria.needed), wanted.seconds)
    differ = ": the currencies differ" if cost.currency != given.currency else ""
    if differ or cost.amount > given.amount:
        yield Miss(
            f"costs {cost.words} in {wanted.seconds} s, budget is {given.words}{differ}",
            f"fits with a budget of {cost.words} or more",
        )


OFFER_CONSTRAINTS: Mapping[str, OfferConstraint] = {
    "region": region,
    "required_trait": required_trait,
    "forbidden_trait": forbidden_trait,
    "any_trait": any_trait,
    "label": label,
    "validity": validity,
    "stale": fresh_offer,
    "vm_max": vm_max,
    "capacity": capacity,
    "price": price,
    "budget": budget,
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


def distance(question: Question, near: str, cloud_id: str) -> tuple[float | None, int | None]:
    """Round trip in ms by the newest usable measurement between the two, whichever of them made it,
    and the lower of the usable throughputs of both directions, in bytes per second.
    """
    links = question.snapshot.links
    found = (links.get((near, cloud_id)), links.get((cloud_id, near)))
    usable = [link for link in found if link is not None and link.usable(question.now)]
    newest = max(usable, key=lambda link: link.measured_at, default=None)
    carried = [link.throughput for link in usable if link.throughput]
    return newest.rtt_ms if newest else None, min(carried, default=None)


def _stale(question: Question, what: str, updated_at: datetime) -> Miss:
    age = max(0.0, (question.now - updated_at).total_seconds())
    return Miss(
        f"{what} is stale: its lease expired, last change {units.format_duration(age)} ago",
        "fits once its manager renews the lease",
    )
