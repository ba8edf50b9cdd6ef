"""The hard constraints on one offer, one function each, and the table of them. Pure.

A constraint yields a `Miss` for each way in which an offer does not meet it, and nothing when it
does. The names in the table are part of the contract; docs/placement.md lists them.
"""

from collections.abc import Callable, Iterator, Mapping

from broker import amounts, pricing
from broker.question import Miss, Question, cut, date, listed, stale
from broker.snapshot import Cloud, Offer

Constraint = Callable[[Question, Cloud, Offer], Iterator[Miss]]


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
        yield stale(question, "the offer", offer.updated_at)
    if room is not None and room.stale:
        yield stale(question, f"the capacity of {cut(offer.region)}", room.updated_at)


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


CONSTRAINTS: Mapping[str, Constraint] = {
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
