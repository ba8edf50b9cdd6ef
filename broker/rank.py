"""The order of what fits: three scores, normalised over the candidates, weighted, added. Pure.

Exact fractions until the end, so that neither the order of the input nor rounding decides.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from broker.criteria import Criteria
from broker.feasible import Fit


@dataclass(frozen=True)
class Measure:
    """What one score sees in one candidate."""

    value: str
    """In words, with its unit."""
    raw: Fraction | None
    """More is better; None cannot be compared and counts as worst."""


@dataclass(frozen=True)
class Score:
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


def rank(fits: Sequence[Fit], criteria: Criteria) -> tuple[Ranked, ...]:
    """The fits, best first; equal scores in the order of cloud id and offer."""
    columns = [
        _column(name, getattr(criteria.weights, name), scorer(fits, criteria))
        for name, scorer in SCORERS.items()
    ]
    ranked = [
        Ranked(
            fit=fit,
            score=sum((score.weight * score.normalised for score in scores), Fraction()),
            scores=scores,
        )
        for fit, *row in zip(fits, *columns, strict=True)
        for scores in [tuple(row)]
    ]
    ranked.sort(key=lambda one: (-one.score, one.fit.cloud.cloud_id, one.fit.offer.name))
    return tuple(ranked)


def price(fits: Sequence[Fit], criteria: Criteria) -> list[Measure]:
    """Cheaper is better. Only prices of one currency compare; the others count as worst."""
    currency = _currency(fits, criteria)
    measures = []
    for fit in fits:
        if fit.hourly is None:
            measures.append(Measure(fit.offer.prices_problem, None))
        elif fit.hourly.currency != currency:
            measures.append(Measure(f"{fit.hourly}, not comparable with {currency}", None))
        else:
            measures.append(Measure(str(fit.hourly), -Fraction(fit.hourly.amount)))
    return measures


def region(fits: Sequence[Fit], criteria: Criteria) -> list[Measure]:
    """Earlier among the preferred regions is better; not being among them is worst."""
    preferred = criteria.preferred_regions
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


def free_capacity(fits: Sequence[Fit], criteria: Criteria) -> list[Measure]:
    """More room is better: the share of the scarcest class that stays free with the machine in."""
    measures = []
    for fit in fits:
        share, scarcest = min(
            (
                (_share_left(fit, kind, needed), kind)
                for kind, needed in criteria.needed.items()
                if needed
            ),
            default=(Fraction(1), "nothing is needed"),
        )
        words = f"{float(share):.1%} free afterwards ({scarcest.removeprefix('other:')})"
        measures.append(Measure(words, share))
    return measures


SCORERS: Mapping[str, Callable[[Sequence[Fit], Criteria], list[Measure]]] = {
    "price": price,
    "region": region,
    "free_capacity": free_capacity,
}
"""By the name of their weight."""


def normalise(raws: Sequence[Fraction | None]) -> list[Fraction]:
    """The worst becomes 0 and the best 1; all equal become 1, and None becomes 0."""
    known = [raw for raw in raws if raw is not None]
    worst, best = min(known, default=Fraction()), max(known, default=Fraction())
    normalised = []
    for raw in raws:
        if raw is None:
            normalised.append(Fraction())
        else:
            normalised.append((raw - worst) / (best - worst) if best > worst else Fraction(1))
    return normalised


def _column(name: str, weight: Fraction, measures: Sequence[Measure]) -> list[Score]:
    parts = normalise([measure.raw for measure in measures])
    return [
        Score(name, measure.value, part, weight)
        for measure, part in zip(measures, parts, strict=True)
    ]


def _currency(fits: Sequence[Fit], criteria: Criteria) -> str:
    """The currency of the ceiling, else the one of most candidates, else the first by name."""
    if criteria.ceiling is not None:
        return criteria.ceiling.currency
    counts = Counter(fit.hourly.currency for fit in fits if fit.hourly is not None)
    return min(counts, key=lambda currency: (-counts[currency], currency), default="")


def _share_left(fit: Fit, kind: str, needed: int) -> Fraction:
    total = fit.capacity.total.get(kind, 0)
    left = fit.capacity.free.get(kind, 0) - needed
    return min(Fraction(1), Fraction(left, total)) if total and left > 0 else Fraction()
