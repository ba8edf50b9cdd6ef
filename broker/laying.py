"""Clouds laid out as columns: a cloud's rows are a block, and blocks laid end to end are columns.

Pure, but for the dictionaries of a `Coder`, which only grow. A block is made anew when its cloud
changes; a change of its rooms alone, as most are, keeps the rows.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from broker import endpoints
from broker.columns import (
    ALWAYS,
    NEVER,
    PLAIN,
    Columns,
    Heads,
    Limits,
    Rooms,
    Rows,
    moment,
    others,
    plain,
    shares,
)
from broker.values import EARLIEST, Capacity, Cloud, Offer
from watari import errors

DICTIONARIES = ("region", "traits", "labels", "sheet", "currency", "other", "share", "text")


@dataclass(frozen=True)
class Block:
    """One cloud's part."""

    cloud: Cloud
    head: tuple[object, ...]
    """In the order of `Heads`."""
    rows: Rows
    """Where places of rooms begin at 1 for this cloud's first, and those of limits at 0."""
    limits: Limits
    rooms: Rooms
    images: frozenset[bytes | str]
    """Roots and names of the images that it holds."""

    @property
    def codes(self) -> int:
        """An upper bound of the dictionary entries that it uses."""
        return 3 + 8 * len(self.cloud.offers)


@dataclass(frozen=True)
class Laid:
    """Blocks, and the columns that they make."""

    blocks: Sequence[Block]
    columns: Columns

    def has_rows_of(self, blocks: Sequence[Block]) -> bool:
        """Whether these blocks have the same rows; then they have as many rooms each, too."""
        return len(blocks) == len(self.blocks) and all(
            one.rows is other.rows for one, other in zip(self.blocks, blocks, strict=True)
        )


class Coder:
    """Gives codes to values, and makes blocks with them. For one thread at a time."""

    def __init__(self) -> None:
        self._codes: dict[str, dict[Hashable, int]] = {name: {} for name in DICTIONARIES}
        self._words: dict[str, list[object]] = {name: [] for name in DICTIONARIES}
        self._copied: dict[str, tuple[object, ...]] = {}
        self._nowhere = self._rooms([Capacity("", {}, {}, {}, stale=False, updated_at=EARLIEST)])

    def __len__(self) -> int:
        return sum(map(len, self._words.values()))

    def block(self, cloud: Cloud, before: Block | None = None) -> Block:
        """A cloud's rows; of those that it had `before`, the same coder's, what still holds."""
        head = (
            len(cloud.offers),
            self._code("text", cloud.jurisdiction),
            self._code("text", cloud.provider_domain),
            cloud.stale,
            bool(cloud.taints),
            _callable(cloud),
        )
        if before is not None and _same_rows(before.cloud, cloud):
            rows, limits = before.rows, before.limits
        else:
            rows, limits = self._rows(cloud)
        return Block(
            cloud, head, rows, limits, self._rooms(cloud.capacities.values()), _held(cloud)
        )

    def columns(self, blocks: Sequence[Block], before: Laid | None = None) -> Columns:
        """The blocks laid end to end, in the order in which they are given. The rows of what was
        laid out `before` with this coder are taken over, where all of them still hold.
        """
        heads = zip(*(block.head for block in blocks), strict=True) if blocks else [()] * 6
        rooms = _joined([self._nowhere, *(block.rooms for block in blocks)], _OF_ROOMS)
        offers = _counts([len(block.cloud.offers) for block in blocks])
        regions = _counts([len(block.rooms.stale) for block in blocks])
        places = np.arange(len(blocks), dtype=np.intp)
        if before is not None and before.has_rows_of(blocks):
            rows, limits = before.columns.rows, before.columns.limits
        else:
            rows, limits = _end_to_end(blocks, offers, regions)
        return Columns(
            clouds=tuple(block.cloud for block in blocks),
            index={block.cloud.cloud_id: at for at, block in enumerate(blocks)},
            starts=_starts(offers),
            cloud_of=np.repeat(places, offers),
            room_starts=1 + _starts(regions),
            cloud_of_room=np.concatenate([np.zeros(1, np.intp), np.repeat(places, regions)]),
            heads=Heads(
                *(
                    np.array(column, kind)
                    for column, kind in zip(
                        heads, (np.int64, np.intp, np.intp, bool, bool, bool), strict=True
                    )
                )
            ),
            rows=rows,
            limits=limits,
            rooms=Rooms(**rooms),
            images=tuple(block.images for block in blocks),
            words={name: self._said(name) for name in DICTIONARIES},
        )

    def _rows(self, cloud: Cloud) -> tuple[Rows, Limits]:
        offers = cloud.offers
        labels = dict(cloud.labels)
        rooms = {region: place for place, region in enumerate(cloud.capacities, 1)}
        largest = [(plain(one.vm_max), others(one.vm_max)) for one in offers]
        limits = {value: place for place, value in enumerate(dict.fromkeys(largest))}
        own: dict[str, list[object]] = {
            "region": [self._code("region", one.region) for one in offers],
            "traits": [self._code("traits", one.traits) for one in offers],
            "labels": [self._code("labels", _pairs(labels | dict(one.labels))) for one in offers],
            "valid_from": [_moment_or(one.valid_from, NEVER) for one in offers],
            "valid_until": [_moment_or(one.valid_until, ALWAYS) for one in offers],
            "stale": [one.stale for one in offers],
            "limit": [limits[value] for value in largest],
            "room": [rooms.get(one.region, 0) for one in offers],
            "carbon": [_score(cloud, one, "carbon") for one in offers],
            "reliability": [_score(cloud, one, "reliability") for one in offers],
        }
        table: dict[str, list[object]] = {
            "most": [most for most, _ in limits],
            "other": [self._code("other", other) for _, other in limits],
        }
        rows = Rows(**_arrays(own | self._priced(cloud), _OF_ROWS))
        return rows, Limits(**_arrays(table, _OF_LIMITS))

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
        lists: dict[str, list[object]] = {
            "region": [self._code("region", one.region) for one in found],
            "stale": [one.stale for one in found],
            "updated": [moment(one.updated_at) for one in found],
            "fit": [plain(one.largest_fit) for one in found],
            "fit_other": [self._code("other", others(one.largest_fit)) for one in found],
            "free": [plain(one.free) for one in found],
            "total": [plain(one.total) for one in found],
            "share_other": [self._code("share", shares(one.free, one.total)) for one in found],
        }
        return Rooms(**_arrays(lists, _OF_ROOMS))

    def _said(self, dictionary: str) -> tuple[object, ...]:
        """The words as they are now: what is added later belongs to later columns."""
        words, copied = self._words[dictionary], self._copied.get(dictionary, ())
        if len(copied) != len(words):
            copied = self._copied[dictionary] = tuple(words)
        return copied

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
    "region": np.intp,
    "traits": np.intp,
    "labels": np.intp,
    "valid_from": np.int64,
    "valid_until": np.int64,
    "stale": bool,
    "sheet": np.intp,
    "currency": np.intp,
    "prices": np.float64,
    "limit": np.intp,
    "room": np.intp,
    "carbon": np.float64,
    "reliability": np.float64,
}
_OF_LIMITS: Mapping[str, type] = {"most": np.uint64, "other": np.intp}
_OF_ROOMS: Mapping[str, type] = {
    "region": np.intp,
    "stale": bool,
    "updated": np.int64,
    "fit": np.uint64,
    "fit_other": np.intp,
    "free": np.float64,
    "total": np.float64,
    "share_other": np.intp,
}
_WIDE = frozenset({"prices", "most", "fit", "free", "total"})
"""Columns of three rows, each of which lies in one piece."""


def _arrays(lists: Mapping[str, Sequence[object]], kinds: Mapping[str, type]) -> _Arrays:
    found = {}
    for name, kind in kinds.items():
        array: npt.NDArray[Any] = np.array(lists[name], kind)
        wide = name in _WIDE
        found[name] = array.reshape(len(array), len(PLAIN)).T if wide else array
    return found


def _joined(
    parts: Sequence[Rows] | Sequence[Limits] | Sequence[Rooms], kinds: Mapping[str, type]
) -> _Arrays:
    found = {}
    for name, kind in kinds.items():
        nothing: npt.NDArray[Any] = np.empty((len(PLAIN), 0) if name in _WIDE else (0,), kind)
        found[name] = np.concatenate([nothing, *(getattr(part, name) for part in parts)], axis=-1)
    return found


def _end_to_end(
    blocks: Sequence[Block], offers: npt.NDArray[np.int64], regions: npt.NDArray[np.int64]
) -> tuple[Rows, Limits]:
    """The rows and limits of blocks with so many offers and regions."""
    rows = _joined([block.rows for block in blocks], _OF_ROWS)
    limits = _joined([block.limits for block in blocks], _OF_LIMITS)
    largest = _counts([len(block.limits.other) for block in blocks])
    # Places of rooms and limits are of the cloud's own; those of the clouds before come first.
    before = np.repeat(_starts(regions)[:-1], offers)
    rows["room"] = np.where(rows["room"] > 0, rows["room"] + before, 0)
    rows["limit"] += np.repeat(_starts(largest)[:-1], offers)
    return Rows(**rows), Limits(**limits)


def _counts(lengths: list[int]) -> npt.NDArray[np.int64]:
    return np.array(lengths, np.int64)


def _starts(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each begins when they lie end to end, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def _same_rows(before: Cloud, cloud: Cloud) -> bool:
    """Whether all that a cloud's rows are made of is equal."""
    return (
        before.offers == cloud.offers
        and before.labels == cloud.labels
        and before.scores == cloud.scores
        and list(before.capacities) == list(cloud.capacities)
    )


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


def _moment_or(when: datetime | None, otherwise: int) -> int:
    return otherwise if when is None else moment(when)


def _score(cloud: Cloud, offer: Offer, name: str) -> float:
    found = cloud.score_of(offer, name)
    return float("nan") if found is None else found
