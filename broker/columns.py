"""All offers of a catalogue as NumPy columns, one row an offer, for judging them at once. Pure.

Rows are in the order of cloud and offer, and a cloud's rows lie together. Texts, sets and sheets
are codes: places in a dictionary of the values, so that a question is put to each value once and
taken by code for all rows. What rows of a cloud share, the room of a region and the largest machine
of an offer, are tables of their own, with one line for all rows that have it. Columns are never
written to; `broker.laying` makes them.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property

import numpy as np
import numpy.typing as npt

from broker import amounts
from broker.values import Cloud, Offer

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Sizes = npt.NDArray[np.uint64]
Moments = npt.NDArray[np.int64]
"""Microseconds since 1970 UTC."""
Codes = npt.NDArray[np.intp]
"""As wide as NumPy's own places: narrower ones take twice as long to look up by."""

NEVER, ALWAYS = np.iinfo(np.int64).min, np.iinfo(np.int64).max
PLAIN = ("vcpus", "memory", "disk")
"""Resource classes that have a column; the further ones of an offer are one code."""

HELD_MAX = 256
"""Answers of `Columns.holding` that are kept, at a byte for each value of a dictionary."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def moment(when: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (when - _EPOCH) // _MICROSECOND


def plain(of: amounts.Amounts) -> tuple[int, ...]:
    """The amounts of `PLAIN`."""
    return tuple(of.get(kind, 0) for kind in PLAIN)


def others(of: amounts.Amounts) -> tuple[tuple[str, int], ...]:
    """The amounts of all other classes, as sorted pairs."""
    return tuple(sorted((kind, amount) for kind, amount in of.items() if kind not in PLAIN))


def shares(free: amounts.Amounts, total: amounts.Amounts) -> tuple[tuple[str, int, int], ...]:
    """(class, free, total) of all other classes that there are in all."""
    return tuple((kind, free.get(kind, 0), amount) for kind, amount in others(total))


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
    limit: Codes
    """Its place in `Limits`."""
    room: Codes
    """Its place in `Rooms`; 0, which is no room, without a capacity record of its region."""
    carbon: Floats
    """Published score; NaN without."""
    reliability: Floats

    @cached_property
    def valid(self) -> tuple[int, int]:
        """From when, and until when, every offer is valid."""
        begins, ends = self.valid_from, self.valid_until
        return int(begins.max(initial=NEVER)), int(ends.min(initial=ALWAYS))

    @cached_property
    def some_stale(self) -> bool:
        """Whether any is stale."""
        return bool(self.stale.any())


@dataclass(frozen=True)
class Limits:
    """Of each largest machine that a cloud's offers name, shape (limits,) or (3, limits)."""

    most: Sizes
    """0 is no limit."""
    other: Codes
    """Codes of further classes, as sorted pairs."""


@dataclass(frozen=True)
class Rooms:
    """Of each region of a cloud with a capacity record, shape (rooms,) or (3, rooms); the first
    stands for all that have none, and has nothing.
    """

    region: Codes
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
class Columns:
    """A catalogue, to be judged at once."""

    clouds: tuple[Cloud, ...]
    index: Mapping[str, int]
    """Places of clouds by id."""
    starts: npt.NDArray[np.int64]
    """First row of each cloud, and the number of rows: shape (clouds + 1,)."""
    cloud_of: Codes
    """The cloud of each row."""
    room_starts: npt.NDArray[np.int64]
    """First room of each cloud, and the number of rooms: shape (clouds + 1,)."""
    cloud_of_room: Codes
    """The cloud of each room; 0 of the one that is no room."""
    heads: Heads
    rows: Rows
    limits: Limits
    rooms: Rooms
    images: tuple[frozenset[bytes | str], ...]
    """Of each cloud, roots and names of the images that it holds."""
    words: Mapping[str, Sequence[object]]
    """The values behind codes, by the name of their dictionary."""
    held: dict[tuple[str, Hashable], Bools] = field(default_factory=dict, repr=False)
    """What `holding` has found; filled by any thread, since one result is as good as another."""

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
        found: Bools = answers.take(codes)
        return found

    def holding(self, dictionary: str, item: Hashable) -> Bools:
        """Of each value of a dictionary of collections, whether `item` is in it."""
        found = self.held.get((dictionary, item))
        if found is None:
            values = self.words[dictionary]
            found = np.array([item in value for value in values], np.bool_)  # type: ignore[operator]
            if len(self.held) >= HELD_MAX:
                self.held.clear()
            self.held[dictionary, item] = found
        return found

    def measure(self, dictionary: str, codes: Codes, of: Callable[[object], float]) -> Floats:
        """For each code, a number of its value."""
        values = self.words[dictionary]
        used, inverse = np.unique(codes, return_inverse=True)
        return np.array([of(values[code]) for code in used.tolist()], np.float64)[inverse]

    def with_room(self, changed: Mapping[str, Cloud]) -> "Columns":
        """The same, where some clouds have as much free and as large a largest fit as these say;
        all else of them is as it was. Only the table of rooms is copied.
        """
        clouds, words = list(self.clouds), {**self.words}
        added = {name: dict[object, int]() for name in ("other", "share")}
        rooms = replace(
            self.rooms,
            fit=self.rooms.fit.copy(),
            fit_other=self.rooms.fit_other.copy(),
            free=self.rooms.free.copy(),
            share_other=self.rooms.share_other.copy(),
        )

        def code(dictionary: str, value: object, before: int) -> int:
            if words[dictionary][before] == value:
                return before
            known = added[dictionary]
            return known.setdefault(value, len(words[dictionary]) + len(known))

        for cloud_id, cloud in changed.items():
            place = self.index[cloud_id]
            before, clouds[place] = clouds[place], cloud
            for room, (region, one) in enumerate(
                cloud.capacities.items(), int(self.room_starts[place])
            ):
                if one is before.capacities[region]:
                    continue
                rooms.fit[:, room], rooms.free[:, room] = plain(one.largest_fit), plain(one.free)
                fit_other, share = others(one.largest_fit), shares(one.free, one.total)
                rooms.fit_other[room] = code("other", fit_other, int(rooms.fit_other[room]))
                rooms.share_other[room] = code("share", share, int(rooms.share_other[room]))
        for name, values in added.items():
            words[name] = (*words[name], *values)
        # Nothing of what is kept is about rooms: `holding` is asked for traits and labels.
        return replace(self, clouds=tuple(clouds), rooms=rooms, words=words)

    def nbytes(self) -> int:
        """What the arrays take."""
        parts = (self.heads, self.rows, self.limits, self.rooms)
        arrays = [getattr(part, each.name) for part in parts for each in fields(part)]
        places = (self.starts, self.cloud_of, self.room_starts, self.cloud_of_room)
        return sum(array.nbytes for array in (*arrays, *places))
