"""The order of what fits: scores, normalised over the candidates, weighted, added. Pure.

Exact fractions until the end, so that neither the order of the input nor rounding decides. Among
more candidates than are shown, `broker.scoring` finds the best and the extremes.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from typing import NamedTuple

from broker.cloud_constraints import holds_image
from broker.criteria import WEIGHT_NAMES
from broker.feasible import Fit
from broker.question import Question, distance
from watari import units


class Measure(NamedTuple):
    """What one score sees in one candidate."""

    value: str
    """In words, with its unit."""
    raw: Fraction | None
    """More is better; None cannot be compared and counts as worst."""


class Score(NamedTuple):
    """One score of a candidate; see `watari.v1.Score`."""

    name: str
    value: str
    normalised: Fraction
    weight: Fraction


@dataclass(frozen=True)
class Ranked:
    """A candidate with its score, 0 to 1."""

    fit: Fit
    score: Fraction
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Field:
    """What the shown candidates are compared with: all of them."""

    currency: str
    """In which prices compare."""
    extremes: Mapping[str, tuple[Fraction, Fraction]]
    """The worst and the best raw value of each score; a score without known values is absent."""


LATENCY_NONE = "no other cloud is named"
THROUGHPUT_MAX = 1_250_000_000
"""More bytes per second than 10 Gbit/s count as that, and so does the cloud itself: no machine is
better off with more, and one fast link would else make all others equal."""

AGE_SECONDS_MAX = 3600
"""A capacity record that is older counts as this old."""


def rank(fits: Sequence[Fit], question: Question, field: Field | None = None) -> tuple[Ranked, ...]:
    """Best first; equal scores by cloud, then offer. Without a field, `fits` are all there are."""
    weights = question.criteria.weights
    currency = field.currency if field else currency_of(fits, question)
    columns = []
    for name in shown(question):
        measures = measure(name, fits, question, currency)
        known = [each.raw for each in measures if each.raw is not None]
        extremes = (min(known), max(known)) if known else None
        if field is not None:
            extremes = field.extremes.get(name)
        columns.append(_column(name, getattr(weights, name), measures, extremes))
    ranked = [
        Ranked(
            fit=fit,
            score=_total(scores),
            scores=scores,
        )
        for fit, *row in zip(fits, *columns, strict=True)
        for scores in [tuple(row)]
    ]
    # Doubles first: they are in the order of the fractions, and those are dear to compare.
    ranked.sort(
        key=lambda one: (-float(one.score), -one.score, one.fit.cloud.cloud_id, one.fit.offer.name)
    )
    return tuple(ranked)


def shown(question: Question) -> list[str]:
    """Scores of an answer: the three that every candidate has, and further ones with a weight."""
    weights = question.criteria.weights
    return [name for name in WEIGHT_NAMES if name in ALWAYS_SHOWN or getattr(weights, name)]


_NOTHING, _WHOLE = Fraction(), Fraction(1)
ALWAYS_SHOWN = frozenset({"price", "region", "free_capacity"})


def measure(name: str, fits: Sequence[Fit], question: Question, currency: str) -> list[Measure]:
    """What one score sees in each candidate."""
    return price(fits, currency) if name == "price" else SCORERS[name](fits, question)


def price(fits: Sequence[Fit], currency: str) -> list[Measure]:
    """Cheaper is better. Only prices of one currency compare; the others count as worst."""
    measures = []
    for fit in fits:
        if fit.hourly is None:
            measures.append(Measure(fit.offer.prices_problem, None))
        elif fit.hourly.currency != currency:
            measures.append(Measure(f"{fit.hourly}, not comparable with {currency}", None))
        else:
            above, whole = fit.hourly.amount.as_integer_ratio()
            measures.append(Measure(str(fit.hourly), Fraction(-above, whole)))
    return measures


def region(fits: Sequence[Fit], question: Question) -> list[Measure]:
    """Earlier among the preferred regions is better; not being among them is worst."""
    preferred = question.criteria.preferred_regions
    measures = []
    for fit in fits:
        name = fit.offer.region
        if name in preferred:
            place = preferred.index(name)
            words = f"{name}, choice {place + 1} of {len(preferred)}"
            measures.append(Measure(words, Fraction(-place)))
        else:
            words = f"{name}, not preferred" if preferred else f"{name}, no preference"
            measures.append(Measure(words, Fraction(-len(preferred))))
    return measures


def free_capacity(fits: Sequence[Fit], question: Question) -> list[Measure]:
    """More room is better: the share of the scarcest class that stays free with the machine in."""
    measures = []
    for fit in fits:
        least, of, scarcest = 1, 1, "nothing is needed"
        for kind, needed in sorted(question.criteria.needed.items()):
            if needed:
                left, total = _share_left(fit, kind, needed)
                if left * of < least * total or (scarcest not in question.criteria.needed):
                    least, of, scarcest = left, total, kind
        share = Fraction(least, of)
        words = f"{float(share):.1%} free afterwards ({scarcest.removeprefix('other:')})"
        measures.append(Measure(words, share))
    return measures


def latency(fits: Sequence[Fit], question: Question) -> list[Measure]:
    """The longest of the round trips to the source and the clouds of `links`; less is better."""
    return [_latency(fit.cloud.cloud_id, question) for fit in fits]


def _latency(cloud_id: str, question: Question) -> Measure:
    ends = question.criteria.endpoints
    if not ends:
        return Measure(LATENCY_NONE, None)
    longest, farthest = 0.0, cloud_id
    for end in ends:
        if end == cloud_id:
            continue
        rtt_ms, _ = distance(question, end, cloud_id)
        if rtt_ms is None:
            return Measure(f"not measured to {end}", None)
        if rtt_ms > longest:
            longest, farthest = rtt_ms, end
    return Measure(f"{longest:.2f} ms to {farthest}", -Fraction(longest))


def throughput(fits: Sequence[Fit], question: Question) -> list[Measure]:
    """The least of the throughputs to them; more is better, up to `THROUGHPUT_MAX`."""
    return [_throughput(fit.cloud.cloud_id, question) for fit in fits]


def _throughput(cloud_id: str, question: Question) -> Measure:
    ends = question.criteria.endpoints
    if not ends:
        return Measure(LATENCY_NONE, None)
    least, slowest = THROUGHPUT_MAX, cloud_id
    for end in ends:
        if end == cloud_id:
            continue
        _, carried = distance(question, end, cloud_id)
        if carried is None:
            return Measure(f"not measured to {end}", None)
        if carried < least:
            least, slowest = carried, end
    return Measure(f"{least / 1e6:.1f} MB/s to {slowest}", Fraction(least))


def carbon(fits: Sequence[Fit], _question: Question) -> list[Measure]:
    """Less of the published score "carbon" is better."""
    found = [fit.cloud.score_of(fit.offer, "carbon") for fit in fits]
    return [
        Measure("not published", None) if one is None else Measure(f"{one:g}", -Fraction(one))
        for one in found
    ]


def reliability(fits: Sequence[Fit], question: Question) -> list[Measure]:
    """More of the published score "reliability" times the broker's own experience is better."""
    measures = []
    for fit in fits:
        published = fit.cloud.score_of(fit.offer, "reliability")
        seen = question.experience.get(fit.cloud.cloud_id, 1.0)
        if published is None:
            measures.append(Measure("not published", None))
        else:
            words = f"{published:g} published, {seen:g} seen"
            # As one product of doubles, which is how it is compared with all others.
            measures.append(Measure(words, Fraction(min(1e9, max(-1e9, published)) * seen)))
    return measures


def data(fits: Sequence[Fit], question: Question) -> list[Measure]:
    """More of the wanted images is better."""
    wanted = question.criteria.images
    measures = []
    for fit in fits:
        there = sum(holds_image(fit.cloud, need) for need in wanted)
        measures.append(Measure(f"{there} of {len(wanted)} images there", Fraction(there)))
    return measures


def freshness(fits: Sequence[Fit], question: Question) -> list[Measure]:
    """A younger capacity record is better."""
    measures = []
    for fit in fits:
        age = (question.now - fit.capacity.updated_at) // timedelta(microseconds=1)
        bounded = min(AGE_SECONDS_MAX * 1_000_000, max(0, age))
        words = f"capacity told {units.format_duration(bounded / 1e6)} ago"
        measures.append(Measure(words, Fraction(-bounded)))
    return measures


def provider(fits: Sequence[Fit], question: Question) -> list[Measure]:
    """Earlier among the preferred providers is better; not being among them is worst."""
    preferred = question.criteria.preferred_providers
    measures = []
    for fit in fits:
        name = fit.cloud.provider_domain
        place = preferred.index(name) if name in preferred else len(preferred)
        among = f"choice {place + 1} of {len(preferred)}" if name in preferred else "not preferred"
        measures.append(Measure(f"{name}, {among}", Fraction(-place)))
    return measures


SCORERS: Mapping[str, Callable[[Sequence[Fit], Question], list[Measure]]] = {
    "region": region,
    "free_capacity": free_capacity,
    "latency": latency,
    "throughput": throughput,
    "carbon": carbon,
    "reliability": reliability,
    "data": data,
    "freshness": freshness,
    "provider": provider,
}
"""By the name of their weight; price knows a currency besides."""


def normalise(raw: Fraction | None, extremes: tuple[Fraction, Fraction] | None) -> Fraction:
    """From 0, which is the worst, to 1, the best; all equal are 1, and None is 0."""
    if raw is None or extremes is None:
        return _NOTHING
    # (raw - worst) / (best - worst) in whole numbers: a fraction is made once, not at each step.
    worst, best = extremes
    below = worst.numerator, worst.denominator
    span = best.numerator * below[1] - below[0] * best.denominator
    if span <= 0:
        return _WHOLE
    above = (raw.numerator * below[1] - below[0] * raw.denominator) * best.denominator
    whole = span * raw.denominator
    if above <= 0:
        return _NOTHING
    return _WHOLE if above >= whole else Fraction(above, whole)


def _total(scores: Sequence[Score]) -> Fraction:
    """The sum of weight times normalised."""
    above, whole = 0, 1
    for score in scores:
        part, of = score.normalised, score.weight
        if part and of:
            denominator = part.denominator * of.denominator
            above = above * denominator + part.numerator * of.numerator * whole
            whole *= denominator
    return Fraction(above, whole)


def _column(
    name: str,
    weight: Fraction,
    measures: Sequence[Measure],
    extremes: tuple[Fraction, Fraction] | None,
) -> list[Score]:
    return [Score(name, each.value, normalise(each.raw, extremes), weight) for each in measures]


def currency_of(fits: Sequence[Fit], question: Question) -> str:
    """In which prices compare: that of the ceiling, else that of most candidates; of several the
    first by name.
    """
    if question.criteria.ceiling is not None:
        return question.criteria.ceiling.currency
    counts = Counter(fit.hourly.currency for fit in fits if fit.hourly is not None)
    return min(counts, key=lambda currency: (-counts[currency], currency), default="")


def _share_left(fit: Fit, kind: str, needed: int) -> tuple[int, int]:
    """As numerator and denominator."""
    total = fit.capacity.total.get(kind, 0)
    left = fit.capacity.free.get(kind, 0) - needed
    return (min(left, total), total) if total and left > 0 else (0, 1)
