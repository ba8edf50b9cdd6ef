"""All offers of a catalogue as NumPy columns, one row an offer, for judging them at once. Pure.

Rows are in the order of cloud and offer, and a cloud's rows lie together. Texts, sets and sheets
are codes: places in a dictionary of the values, so that a question is put to each value once and
taken by code for all rows. A cloud's rows are a `Block`, made anew when the cloud changes; columns
are blocks laid end to end, copied, and never written to afterwards.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from broker import amounts, endpoints
from broker.values import EARLIEST, Capacity, Cloud, Link, Offer
from watari import errors

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Sizes = npt.NDArray[np.uint64]
Moments = npt.NDArray[np.int64]
"""Microseconds since 1970 UTC."""
Codes = npt.NDArray[np.int32]

NEVER, ALWAYS = np.iinfo(np.int64).min, np.iinfo(np.int64).max
PLAIN = ("vcpus", "memory", "disk")
"""Resource classes that have a column; the further ones of an offer are one code."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def moment(when: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (when - _EPOCH) // _MICROSECOND


@dataclass(frozen=True)
class Rows:
    """Of each offer, shape (offers,) or (3, offers) with a row for each of `PLAIN`."""

    region: Codes
    traits: Codes
    """Codes of frozensets."""
    labels: Codes
    """Codes of an offer's labels added to its cloud's, as sorted pairs."""
    valid_from: Moments
    valid_until: Moments
    stale: Bools
    sheet: Codes
    """Codes of price sheets; -1 without usable prices."""
    currency: Codes
    prices: Floats
    """Per vCPU and hour, GiB of memory and hour, GiB of disk and month; to the last bit or so."""
    vm_max: Sizes
    vm_max_other: Codes
    """Codes of further classes, as sorted pairs."""
    room: Codes
    """Its place in `Rooms`; 0, which is no room, without a capacity record of its region."""
    carbon: Floats
    """Published score; NaN without."""
    reliability: Floats


@dataclass(frozen=True)
class Rooms:
    """Of each region of a cloud with a capacity record, shape (rooms,) or (3, rooms); the first
    stands for all that have none, and has nothing.
    """

    stale: Bools
    updated: Moments
    fit: Sizes
    """Largest machine that one host takes."""
    fit_other: Codes
    free: Floats
    total: Floats
    share_other: Codes
    """Codes of (class, free, total) of further classes."""


@dataclass(frozen=True)
class Heads:
    """Of each cloud, shape (clouds,)."""

    offers: npt.NDArray[np.int64]
    jurisdiction: Codes
    provider: Codes
    stale: Bools
    tainted: Bools
    manager: Bools
    """Whether its record names a manager that can be called."""


@dataclass(frozen=True)
class Block:
    """One cloud's part."""

    cloud: Cloud
    head: tuple[object, ...]
    """In the order of `Heads`."""
    rows: Rows
    """With places of rooms that begin at 1 for this cloud's first."""
    rooms: Rooms
    images: frozenset[bytes | str]
    """Roots and names of the images that it holds."""

    @property
    def codes(self) -> int:
        """An upper bound of the dictionary entries that it uses."""
        return 3 + 8 * len(self.cloud.offers)


@dataclass(frozen=True)
class Columns:
    """A catalogue, to be judged at once."""

    clouds: tuple[Cloud, ...]
    index: Mapping[str, int]
    """Places of clouds by id."""
    starts: npt.NDArray[np.int64]
    """First row of each cloud, and the number of rows: shape (clouds + 1,)."""
    cloud_of: npt.NDArray[np.int64]
    """The cloud of each row."""
    heads: Heads
    rows: Rows
    rooms: Rooms
    images: tuple[frozenset[bytes | str], ...]
    """Of each cloud, roots and names of the images that it holds."""
    words: Mapping[str, Sequence[object]]
    """The values behind codes, by the name of their dictionary."""

    def __len__(self) -> int:
        return len(self.cloud_of)

    def offer(self, row: int) -> tuple[Cloud, Offer]:
        """The values behind a row."""
        place = int(self.cloud_of[row])
        cloud = self.clouds[place]
        return cloud, cloud.offers[row - int(self.starts[place])]

    def where(self, dictionary: str, codes: Codes, holds: Callable[[object], bool]) -> Bools:
        """For each code, whether something holds of its value, which is asked once."""
        values = self.words[dictionary]
        if not values:  # codes stand for nothing: no offer has any
            return np.zeros(codes.shape, np.bool_)
        if len(codes) < len(values):  # a dictionary with more than is in use
            answers = np.zeros(len(values), bool)
            used = np.unique(codes)
            answers[used] = [holds(values[code]) for code in used.tolist()]
        else:
            answers = np.fromiter((holds(value) for value in values), bool, len(values))
        return answers[codes]

    def measure(self, dictionary: str, codes: Codes, of: Callable[[object], float]) -> Floats:
        """For each code, a number of its value."""
        values = self.words[dictionary]
        used, inverse = np.unique(codes, return_inverse=True)
        return np.array([of(values[code]) for code in used.tolist()], np.float64)[inverse]

    def nbytes(self) -> int:
        """What the arrays take."""
        parts = (self.heads, self.rows, self.rooms)
        arrays = [getattr(part, each.name) for part in parts for each in fields(part)]
        return sum(array.nbytes for array in (*arrays, self.starts, self.cloud_of))


@dataclass(frozen=True)
class Ways:
    """The links between one cloud and all clouds, shape (2, clouds): measured by the one, and by
    the others.
    """

    usable: Bools
    """Whether there is a link whose lease is alive."""
    rtt_ms: Floats
    measured_at: Moments
    valid_until: Moments
    throughput: Sizes
    """Bytes per second; 0 when unknown."""

    def at(self, now: int) -> tuple[Floats, Sizes]:
        """Of each cloud: the round trip by the newest usable measurement, NaN without one, and the
        lower of the usable throughputs of both directions, 0 without one.
        """
        usable = self.usable & (now < self.valid_until)
        second = usable[1] & (~usable[0] | (self.measured_at[1] > self.measured_at[0]))
        rtt_ms = np.where(second, self.rtt_ms[1], np.where(usable[0], self.rtt_ms[0], np.nan))
        unknown = np.iinfo(np.uint64).max
        carried = np.where(usable & (self.throughput > 0), self.throughput, unknown).min(axis=0)
        return rtt_ms, np.where(carried == unknown, 0, carried).astype(np.uint64)


def ways(links: Mapping[tuple[str, str], Link], clouds: Sequence[Cloud], near: str) -> Ways:
    """The links between `near` and each of the clouds."""
    found = [
        [links.get((near, cloud.cloud_id)) for cloud in clouds],
        [links.get((cloud.cloud_id, near)) for cloud in clouds],
    ]

    def all_of(of: Callable[[Link], object], otherwise: object, kind: type) -> npt.NDArray[Any]:
        return np.array([[of(one) if one else otherwise for one in row] for row in found], kind)

    return Ways(
        usable=all_of(lambda one: not one.stale, otherwise=False, kind=bool),
        rtt_ms=all_of(lambda one: one.rtt_ms, np.nan, np.float64),
        measured_at=all_of(lambda one: moment(one.measured_at), NEVER, np.int64),
        valid_until=all_of(lambda one: _moment_or(one.valid_until, ALWAYS), NEVER, np.int64),
        throughput=all_of(lambda one: one.throughput, 0, np.uint64),
    )


class Coder:
    """Gives codes to values, and makes blocks with them. For one thread at a time."""

    def __init__(self) -> None:
        self._codes: dict[str, dict[Hashable, int]] = {}
        self._words: dict[str, list[object]] = {}
        for name in ("region", "traits", "labels", "sheet", "currency", "other", "share", "text"):
            self._codes[name], self._words[name] = {}, []
        self._nowhere = self._rooms([Capacity("", {}, {}, {}, stale=False, updated_at=EARLIEST)])

    def __len__(self) -> int:
        return sum(map(len, self._words.values()))

    def block(self, cloud: Cloud) -> Block:
        """A cloud's rows."""
        offers = cloud.offers
        head = (
            len(offers),
            self._code("text", cloud.jurisdiction),
            self._code("text", cloud.provider_domain),
            cloud.stale,
            bool(cloud.taints),
            _callable(cloud),
        )
        labels = dict(cloud.labels)
        own: dict[str, list[object]] = {
            "region": [self._code("region", one.region) for one in offers],
            "traits": [self._code("traits", one.traits) for one in offers],
            "labels": [self._code("labels", _pairs(labels | dict(one.labels))) for one in offers],
            "valid_from": [_moment_or(one.valid_from, NEVER) for one in offers],
            "valid_until": [_moment_or(one.valid_until, ALWAYS) for one in offers],
            "stale": [one.stale for one in offers],
            "vm_max": [_plain(one.vm_max) for one in offers],
            "vm_max_other": [self._code("other", _others(one.vm_max)) for one in offers],
            "carbon": [_score(cloud, one, "carbon") for one in offers],
            "reliability": [_score(cloud, one, "reliability") for one in offers],
        }
        places = {region: place for place, region in enumerate(cloud.capacities, 1)}
        own["room"] = [places.get(one.region, 0) for one in offers]
        rows = Rows(**_arrays(own | self._priced(cloud), _OF_ROWS))
        return Block(cloud, head, rows, self._rooms(cloud.capacities.values()), _held(cloud))

    def columns(self, blocks: Sequence[Block]) -> Columns:
        """The blocks laid end to end, in the order in which they are given."""
        counts = np.array([len(block.cloud.offers) for block in blocks], np.int64)
        heads = zip(*(block.head for block in blocks), strict=True) if blocks else [()] * 6
        rows = _joined([block.rows for block in blocks], _OF_ROWS)
        rooms = _joined([self._nowhere, *(block.rooms for block in blocks)], _OF_ROOMS)
        # Places of rooms are of the cloud's own; those of the clouds before it come first.
        sizes = np.array([len(block.rooms.stale) for block in blocks], np.int32)
        before = np.repeat(np.cumsum(sizes) - sizes, counts)
        rows["room"] = np.where(rows["room"] > 0, rows["room"] + before, 0).astype(np.int32)
        return Columns(
            clouds=tuple(block.cloud for block in blocks),
            index={block.cloud.cloud_id: at for at, block in enumerate(blocks)},
            starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
            cloud_of=np.repeat(np.arange(len(blocks), dtype=np.int64), counts),
            heads=Heads(
                *(
                    np.array(column, kind)
                    for column, kind in zip(
                        heads, (np.int64, np.int32, np.int32, bool, bool, bool), strict=True
                    )
                )
            ),
            rows=Rows(**rows),
            rooms=Rooms(**rooms),
            images=tuple(block.images for block in blocks),
            # As long as they are now: what is added later belongs to later columns.
            words={name: tuple(words) for name, words in self._words.items()},
        )

    def _priced(self, cloud: Cloud) -> dict[str, list[object]]:
        sheet: list[object] = []
        currency: list[object] = []
        prices: list[object] = []
        for one in cloud.offers:
            found = one.prices
            if found is None:
                sheet.append(-1)
                currency.append(-1)
                prices.append((0.0, 0.0, 0.0))
                continue
            given = (found.vcpu_hour, found.memory_gib_hour, found.disk_gib_month)
            sheet.append(self._code("sheet", (found.currency, *given)))
            currency.append(self._code("currency", found.currency))
            prices.append(tuple(map(float, given)))
        return {"sheet": sheet, "currency": currency, "prices": prices}

    def _rooms(self, capacities: Iterable[Capacity]) -> Rooms:
        found = list(capacities)
        shares = [
            tuple((kind, one.free.get(kind, 0), total) for kind, total in _others(one.total))
            for one in found
        ]
        lists: dict[str, list[object]] = {
            "stale": [one.stale for one in found],
            "updated": [moment(one.updated_at) for one in found],
            "fit": [_plain(one.largest_fit) for one in found],
            "fit_other": [self._code("other", _others(one.largest_fit)) for one in found],
            "free": [_plain(one.free) for one in found],
            "total": [_plain(one.total) for one in found],
            "share_other": [self._code("share", share) for share in shares],
        }
        return Rooms(**_arrays(lists, _OF_ROOMS))

    def _code(self, dictionary: str, value: Hashable) -> int:
        codes = self._codes[dictionary]
        code = codes.get(value)
        if code is None:
            code = codes[value] = len(codes)
            self._words[dictionary].append(value)
        return code


def lay(clouds: Iterable[Cloud]) -> Columns:
    """The columns of clouds, which are in the order of their ids."""
    coder = Coder()
    return coder.columns([coder.block(cloud) for cloud in clouds])


_Arrays = dict[str, npt.NDArray[Any]]
_OF_ROWS: Mapping[str, type] = {
    "region": np.int32,
    "traits": np.int32,
    "labels": np.int32,
    "valid_from": np.int64,
    "valid_until": np.int64,
    "stale": bool,
    "sheet": np.int32,
    "currency": np.int32,
    "prices": np.float64,
    "vm_max": np.uint64,
    "vm_max_other": np.int32,
    "room": np.int32,
    "carbon": np.float64,
    "reliability": np.float64,
}
_OF_ROOMS: Mapping[str, type] = {
    "stale": bool,
    "updated": np.int64,
    "fit": np.uint64,
    "fit_other": np.int32,
    "free": np.float64,
    "total": np.float64,
    "share_other": np.int32,
}
_WIDE = frozenset({"prices", "vm_max", "fit", "free", "total"})
"""Columns of three rows, each of which lies in one piece."""


def _arrays(lists: Mapping[str, Sequence[object]], kinds: Mapping[str, type]) -> _Arrays:
    found = {}
    for name, kind in kinds.items():
        array: npt.NDArray[Any] = np.array(lists[name], kind)
        wide = name in _WIDE
        found[name] = array.reshape(len(array), len(PLAIN)).T if wide else array
    return found


def _joined(parts: Sequence[Rows] | Sequence[Rooms], kinds: Mapping[str, type]) -> _Arrays:
    found = {}
    for name, kind in kinds.items():
        nothing: npt.NDArray[Any] = np.empty((len(PLAIN), 0) if name in _WIDE else (0,), kind)
        found[name] = np.concatenate([nothing, *(getattr(part, name) for part in parts)], axis=-1)
    return found


def _callable(cloud: Cloud) -> bool:
    try:
        endpoints.manager_of(cloud)
    except errors.WatariError:
        return False
    return True


def _held(cloud: Cloud) -> frozenset[bytes | str]:
    fresh = [image for image in cloud.images if not image.stale]
    roots = {image.public_root for image in fresh if image.public_root}
    return frozenset(roots | {image.name for image in fresh})


def _pairs(mapping: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(mapping.items()))


def _plain(of: amounts.Amounts) -> tuple[int, ...]:
    return tuple(of.get(kind, 0) for kind in PLAIN)


def _others(of: amounts.Amounts) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((kind, amount) for kind, amount in of.items() if kind not in PLAIN))


def _moment_or(when: datetime | None, otherwise: int) -> int:
    return otherwise if when is None else moment(when)


def _score(cloud: Cloud, offer: Offer, name: str) -> float:
    found = cloud.score_of(offer, name)
    return float("nan") if found is None else found
