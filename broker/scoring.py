"""The best of many candidates: scores as doubles over all, exact only for those that are shown.

Pure. Raw values are as `broker.rank` has them, prices in whole 10^-9 of a unit. Scores are compared
in steps of 10^-9 and ties go by cloud and offer, so that the choice does not depend on how a sum
was rounded; the chosen are then ordered by their exact scores.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from broker import charges, feasible, rank
from broker.columns import PLAIN, Floats, moment
from broker.feasible import Fit
from broker.rank import Field, Ranked
from broker.screening import Screening

STEPS = 1e9
"""Scores that round to the same one of these are equal when candidates are chosen."""

SPARE = 2
"""Candidates ranked beyond those asked for: with exact scores some may go before others."""

Rows = npt.NDArray[np.int64]
_Scorer = Callable[[Screening, Rows], Floats]


def best(screening: Screening, count: int) -> tuple[Ranked, ...]:
    """At most so many candidates, best first."""
    rows = screening.fits
    if not len(rows):
        return ()
    question, columns = screening.question, screening.columns
    currency = _currency(screening, rows)
    total = np.zeros(len(rows))
    outermost: dict[str, tuple[int, int]] = {}
    for name in rank.shown(question):
        raw = (
            _price(screening, rows, currency) if name == "price" else SCORERS[name](screening, rows)
        )
        known = ~np.isnan(raw)
        if not known.any():
            continue
        worst, top = int(np.nanargmin(raw)), int(np.nanargmax(raw))
        outermost[name] = int(rows[worst]), int(rows[top])
        weight = float(getattr(question.criteria.weights, name))
        if weight:
            total += weight * _normalised(raw, known, raw[worst], raw[top])

    def fit(row: int) -> Fit:
        return feasible.fit(question, *columns.offer(row))

    extremes: dict[str, tuple[Fraction, Fraction]] = {}
    for name, pair in outermost.items():
        ends = rank.measure(name, [fit(row) for row in pair], question, currency)
        raws = [end.raw for end in ends if end.raw is not None]
        if raws:
            extremes[name] = min(raws), max(raws)
    chosen = rows[_first(np.rint(total * STEPS), count + SPARE)]
    fits = [fit(row) for row in chosen.tolist()]
    return rank.rank(fits, question, Field(currency, extremes))[:count]


def _normalised(
    raw: Floats, known: npt.NDArray[np.bool_], worst: np.float64, top: np.float64
) -> Floats:
    if top > worst:
        return np.where(known, (raw - worst) / (top - worst), 0.0)
    return known.astype(np.float64)


def _first(steps: Floats, count: int) -> Rows:
    """Places of the greatest, ties by place."""
    if len(steps) > count:
        edge = np.partition(steps, len(steps) - count)[len(steps) - count]
        above, at = np.flatnonzero(steps > edge), np.flatnonzero(steps == edge)
        places = np.concatenate([above, at[: count - len(above)]])
    else:
        places = np.arange(len(steps))
    return places[np.argsort(-steps[places], kind="stable")]


def _currency(screening: Screening, rows: Rows) -> str:
    """As `rank.currency_of`."""
    ceiling = screening.question.criteria.ceiling
    if ceiling is not None:
        return ceiling.currency
    codes = screening.columns.rows.currency[rows]
    counts = np.bincount(codes[codes >= 0], minlength=1)
    names = screening.columns.words["currency"]
    counted = [(-int(counts[code]), str(names[code])) for code in np.flatnonzero(counts).tolist()]
    return min(counted, default=(0, ""))[1]


def _price(screening: Screening, rows: Rows, currency: str) -> Floats:
    columns = screening.columns
    nanos = charges.hourly_nanos(columns, screening.question.criteria.needed, rows)
    codes = columns.rows.currency[rows]
    comparable = codes >= 0
    if comparable.any():
        comparable &= columns.where("currency", np.maximum(codes, 0), currency.__eq__)
    return np.where(comparable, -nanos, np.nan)


def _region(screening: Screening, rows: Rows) -> Floats:
    preferred = screening.question.criteria.preferred_regions
    return _position(screening, "region", screening.columns.rows.region[rows], preferred)


def _provider(screening: Screening, rows: Rows) -> Floats:
    columns, preferred = screening.columns, screening.question.criteria.preferred_providers
    return _position(screening, "text", columns.heads.provider, preferred)[columns.cloud_of[rows]]


def _position(
    screening: Screening, dictionary: str, codes: npt.NDArray[np.int32], preferred: tuple[str, ...]
) -> Floats:
    if not preferred:
        return np.zeros(len(codes))
    places = {name: -float(place) for place, name in enumerate(preferred)}
    return screening.columns.measure(
        dictionary, codes, lambda name: places.get(str(name), -float(len(preferred)))
    )


def _free_capacity(screening: Screening, rows: Rows) -> Floats:
    rooms, needed = screening.columns.rooms, screening.question.criteria.needed
    least = np.ones(len(rooms.stale))
    with np.errstate(divide="ignore", invalid="ignore"):
        for place, kind in enumerate(PLAIN):
            if amount := needed.get(kind, 0):
                left, total = rooms.free[place] - float(amount), rooms.total[place]
                share = np.where((total > 0) & (left > 0), left / total, 0.0)
                least = np.minimum(least, share)
    further = {kind: amount for kind, amount in needed.items() if kind not in PLAIN and amount}
    if further:

        def share_of(value: object) -> float:
            held = {kind: (free, total) for kind, free, total in value}  # type: ignore[attr-defined]
            shares = []
            for kind, amount in further.items():
                free, total = held.get(kind, (0, 0))
                shares.append((free - amount) / total if total and free > amount else 0.0)
            return min(shares)

        found = screening.columns.measure("share", rooms.share_other, share_of)
        least = np.minimum(least, found)
    return least[screening.columns.rows.room[rows]]


def _latency(screening: Screening, rows: Rows) -> Floats:
    longest = _farthest(screening, lambda rtt_ms, _carried: rtt_ms)
    return -longest[screening.columns.cloud_of[rows]]


def _throughput(screening: Screening, rows: Rows) -> Floats:
    def slowness(_rtt_ms: Floats, carried: npt.NDArray[np.uint64]) -> Floats:
        bounded = np.minimum(carried, np.uint64(rank.THROUGHPUT_MAX)).astype(np.float64)
        return np.where(carried > 0, rank.THROUGHPUT_MAX - bounded, np.nan)

    slowest = _farthest(screening, slowness)
    return rank.THROUGHPUT_MAX - slowest[screening.columns.cloud_of[rows]]


def _farthest(
    screening: Screening, of: Callable[[Floats, npt.NDArray[np.uint64]], Floats]
) -> Floats:
    """Of each cloud, the most of a measure of its distance over all endpoints; NaN when one is
    unknown, and when there is none.
    """
    question, columns = screening.question, screening.columns
    ends = question.criteria.endpoints
    most = np.full(len(columns.clouds), 0.0 if ends else np.nan)
    for end in ends:
        found = of(*question.snapshot.ways(end).at(moment(question.now)))
        if end in columns.index:
            found[columns.index[end]] = 0.0
        most = np.maximum(most, found)  # NaN wins
    return most


def _carbon(screening: Screening, rows: Rows) -> Floats:
    return -screening.columns.rows.carbon[rows]


def _reliability(screening: Screening, rows: Rows) -> Floats:
    columns, experience = screening.columns, screening.question.experience
    published = np.clip(columns.rows.reliability[rows], -1e9, 1e9)
    seen = np.ones(len(columns.clouds))
    for cloud_id, value in experience.items():
        if cloud_id in columns.index:
            seen[columns.index[cloud_id]] = value
    return published * seen[columns.cloud_of[rows]]


def _data(screening: Screening, rows: Rows) -> Floats:
    columns = screening.columns
    keys = [need.key for need in screening.question.criteria.images]
    held = [float(sum(key in images for key in keys)) for images in columns.images]
    return np.array(held)[columns.cloud_of[rows]]


def _updated(screening: Screening, rows: Rows) -> npt.NDArray[np.int64]:
    columns = screening.columns
    updated: npt.NDArray[np.int64] = columns.rooms.updated[columns.rows.room[rows]]
    return updated


def _freshness(screening: Screening, rows: Rows) -> Floats:
    age = moment(screening.question.now) - _updated(screening, rows)
    return -np.clip(age, 0, rank.AGE_SECONDS_MAX * 1_000_000).astype(np.float64)


SCORERS: Mapping[str, _Scorer] = {
    "region": _region,
    "free_capacity": _free_capacity,
    "latency": _latency,
    "throughput": _throughput,
    "carbon": _carbon,
    "reliability": _reliability,
    "data": _data,
    "freshness": _freshness,
    "provider": _provider,
}
"""By the name of their weight, as `rank.SCORERS`."""
