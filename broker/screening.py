"""All offers judged at once: which fit, how many miss what, which clouds are nearest. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from broker import masks
from broker.columns import Bools, Columns
from broker.question import Question

RULED_OUT = ("cloud", "excluded_cloud", "source")
"""Constraints by which the caller has ruled a cloud out: the least worth telling."""

Counts = npt.NDArray[np.uint8]
"""Constraints that are missed: there are fewer than 256."""


@dataclass(frozen=True)
class Count:
    """How many miss a constraint."""

    constraint: str
    clouds: int
    """As a whole."""
    offers: int
    """By themselves, and all offers of those clouds."""


@dataclass(frozen=True)
class Screening:
    """Who misses what, as masks; without words yet."""

    asked: masks.Asked
    of_clouds: Mapping[str, Bools]
    """By constraint that was asked for: of each cloud, whether it misses it."""
    of_offers: Mapping[str, Bools]

    @property
    def question(self) -> Question:
        """What was asked."""
        return self.asked.question

    @property
    def columns(self) -> Columns:
        """What it was put to."""
        return self.asked.columns

    @cached_property
    def cloud_misses(self) -> Counts:
        """Constraints that each cloud misses as a whole."""
        return _sum(self.of_clouds.values(), len(self.columns.clouds))

    @cached_property
    def offer_misses(self) -> Counts:
        """Constraints that each offer misses by itself."""
        return _sum(self.of_offers.values(), len(self.columns))

    @cached_property
    def fits(self) -> npt.NDArray[np.intp]:
        """Rows that miss nothing, in order."""
        out = self.cloud_misses > 0
        missed = np.repeat(out, self.columns.heads.offers)
        missed |= self.offer_misses > 0
        return np.flatnonzero(~missed)

    @property
    def pairs(self) -> int:
        """Pairs of a constraint and a cloud or offer that misses it."""
        return int(self.cloud_misses.sum(dtype=np.int64) + self.offer_misses.sum(dtype=np.int64))

    def counts(self) -> tuple[Count, ...]:
        """Of every constraint that somebody misses, in the order of the tables."""
        found = []
        sold = self.columns.heads.offers
        for name in dict.fromkeys((*self.of_clouds, *self.of_offers)):
            whole = self.of_clouds.get(name)
            own = self.of_offers.get(name)
            clouds = int(np.count_nonzero(whole)) if whole is not None else 0
            offers = int(sold[whole].sum()) if whole is not None else 0
            offers += int(np.count_nonzero(own)) if own is not None else 0
            if clouds or offers:
                found.append(Count(name, clouds, offers))
        return tuple(found)

    def rejected_clouds(self) -> int:
        """Clouds none of whose offers fits."""
        return len(self._by_nearness)

    def nearest(self, count: int) -> list[int]:
        """Places of clouds that do not fit, nearest first: those that the caller ruled out last,
        then by the fewest misses of the whole cloud and its nearest offer together, then by id.
        """
        found: list[int] = self._by_nearness[:count].tolist()
        return found

    def rejected_rows(self, place: int) -> npt.NDArray[np.intp]:
        """Rows of a cloud that miss something by themselves."""
        first, end = self.columns.starts[place : place + 2].tolist()
        found: npt.NDArray[np.intp] = first + np.flatnonzero(self.offer_misses[first:end])
        return found

    def nearest_row(self, place: int) -> int | None:
        """The first of a cloud's rows that miss least by themselves, unless that is nothing."""
        first, end = self.columns.starts[place : place + 2].tolist()
        if first == end:
            return None
        row = first + int(self.offer_misses[first:end].argmin())
        return row if self.offer_misses[row] else None

    @cached_property
    def _by_nearness(self) -> npt.NDArray[np.intp]:
        columns = self.columns
        selling = np.flatnonzero(columns.heads.offers)
        misses = self.cloud_misses.copy()
        if len(selling):
            misses[selling] += np.minimum.reduceat(self.offer_misses, columns.starts[selling])
        ruled_out = np.zeros(len(misses), bool)
        for name in RULED_OUT:
            if name in self.of_clouds:
                ruled_out |= self.of_clouds[name]
        order = np.lexsort((misses, ruled_out))
        return order[misses[order] > 0]


def screen(question: Question) -> Screening:
    """Judges every offer of the question's snapshot."""
    asked = masks.Asked(question, question.snapshot.columns)
    return Screening(asked, _missed(asked, masks.CLOUD_MASKS), _missed(asked, masks.OFFER_MASKS))


def _missed(asked: masks.Asked, table: Mapping[str, masks.Mask]) -> dict[str, Bools]:
    found = ((name, mask(asked)) for name, mask in table.items())
    return {name: mask for name, mask in found if mask is not None}


def _sum(found: Iterable[Bools], length: int) -> Counts:
    total = np.zeros(length, np.uint8)
    for mask in found:
        total += mask.view(np.uint8)
    return total
