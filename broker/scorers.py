"""What each score sees in all candidates at once, as doubles; more is better, NaN counts as worst.

Pure. As the functions of `broker.rank`, which have the words and the exact values. Only price is
elsewhere: it has to be exact, and `broker.charges` knows how.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from broker import rank
from broker.columns import PLAIN, Codes, Floats, moment
from broker.screening import Screening

Rows = npt.NDArray[np.intp]


def _region(screening: Screening) -> Floats:
    preferred = screening.question.criteria.preferred_regions
    return _position(screening, "region", screening.columns.rooms.region, preferred)


def _provider(screening: Screening) -> Floats:
    columns, preferred = screening.columns, screening.question.criteria.preferred_providers
    of_clouds = _position(screening, "text", columns.heads.provider, preferred)
    return _of_rooms(screening, of_clouds)


def _position(
    screening: Screening, dictionary: str, codes: Codes, preferred: tuple[str, ...]
) -> Floats:
    if not preferred:
        return np.zeros(len(codes))
    places = {name: -float(place) for place, name in enumerate(preferred)}
    return screening.columns.measure(
        dictionary, codes, lambda name: places.get(str(name), -float(len(preferred)))
    )


def _free_capacity(screening: Screening) -> Floats:
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
    return least


def _latency(screening: Screening) -> Floats:
    return -_farthest(screening, lambda rtt_ms, _carried: rtt_ms)


def _throughput(screening: Screening) -> Floats:
    def slowness(_rtt_ms: Floats, carried: npt.NDArray[np.uint64]) -> Floats:
        bounded = np.minimum(carried, np.uint64(rank.THROUGHPUT_MAX)).astype(np.float64)
        return np.where(carried > 0, rank.THROUGHPUT_MAX - bounded, np.nan)

    return rank.THROUGHPUT_MAX - _farthest(screening, slowness)


def _farthest(
    screening: Screening, of: Callable[[Floats, npt.NDArray[np.uint64]], Floats]
) -> Floats:
    """Of each room, the most of a measure of its cloud's distance over all endpoints; NaN when one
    is unknown, and when there is none.
    """
    question, columns = screening.question, screening.columns
    ends = question.criteria.endpoints
    most = np.full(len(columns.clouds), 0.0 if ends else np.nan)
    for end in ends:
        found = of(*question.snapshot.ways(end).at(moment(question.now)))
        if end in columns.index:
            found[columns.index[end]] = 0.0
        most = np.maximum(most, found)  # NaN wins
    return _of_rooms(screening, most)


def _data(screening: Screening) -> Floats:
    keys = [need.key for need in screening.question.criteria.images]
    held = [float(sum(key in images for key in keys)) for images in screening.columns.images]
    return _of_rooms(screening, np.array(held))


def _freshness(screening: Screening) -> Floats:
    age = moment(screening.question.now) - screening.columns.rooms.updated
    return -np.clip(age, 0, rank.AGE_SECONDS_MAX * 1_000_000).astype(np.float64)


def _of_rooms(screening: Screening, of_clouds: Floats) -> Floats:
    found: Floats = of_clouds.take(screening.columns.cloud_of_room)
    return found


OF_ROOMS: Mapping[str, Callable[[Screening], Floats]] = {
    "region": _region,
    "free_capacity": _free_capacity,
    "latency": _latency,
    "throughput": _throughput,
    "data": _data,
    "freshness": _freshness,
    "provider": _provider,
}
"""Scores that all offers of a room share: of each room, by the name of their weight."""


def _carbon(screening: Screening, rows: Rows) -> Floats:
    found: Floats = -screening.columns.rows.carbon.take(rows)
    return found


def _reliability(screening: Screening, rows: Rows) -> Floats:
    columns, experience = screening.columns, screening.question.experience
    published = np.clip(columns.rows.reliability.take(rows), -1e9, 1e9)
    seen = np.ones(len(columns.clouds))
    for cloud_id, value in experience.items():
        if cloud_id in columns.index:
            seen[columns.index[cloud_id]] = value
    found: Floats = published * seen.take(columns.cloud_of.take(rows))
    return found


OF_OFFERS: Mapping[str, Callable[[Screening, Rows], Floats]] = {
    "carbon": _carbon,
    "reliability": _reliability,
}
"""Scores of each offer at some rows, by the name of their weight."""
