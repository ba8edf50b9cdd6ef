"""The links between one cloud and all others, as NumPy columns. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from broker.columns import ALWAYS, NEVER, Bools, Floats, Moments, Sizes, moment
from broker.values import Link

Found = list[tuple[str, Link]]
"""Links, each with the cloud at its other end."""


@dataclass(frozen=True)
class Neighbours:
    """All links by either end: those of one cloud are found without a look at every pair."""

    measured_by: Mapping[str, Found]
    measured_of: Mapping[str, Found]
    """By the cloud that others have measured to."""

    @classmethod
    def of(cls, links: Mapping[tuple[str, str], Link]) -> Self:
        """Of links by the measuring cloud and the other one."""
        by: dict[str, Found] = {}
        of: dict[str, Found] = {}
        for (near, far), link in links.items():
            by.setdefault(near, []).append((far, link))
            of.setdefault(far, []).append((near, link))
        return cls(by, of)

    def ways(self, near: str, index: Mapping[str, int]) -> "Ways":
        """The links between `near` and each cloud; `index` has their places by id."""
        found = [self.measured_by.get(near, []), self.measured_of.get(near, [])]
        known = [[(index[far], link) for far, link in row if far in index] for row in found]
        side = np.array([at for at, row in enumerate(known) for _ in row], np.intp)
        place = np.array([place for row in known for place, _ in row], np.intp)
        links = [link for row in known for _, link in row]

        def all_of(of: Callable[[Link], object], otherwise: object, kind: type) -> npt.NDArray[Any]:
            column: npt.NDArray[Any] = np.full((2, len(index)), otherwise, kind)
            column[side, place] = np.array([of(link) for link in links], kind)
            return column

        return Ways(
            usable=all_of(lambda one: not one.stale, otherwise=False, kind=bool),
            rtt_ms=all_of(lambda one: one.rtt_ms, np.nan, np.float64),
            measured_at=all_of(lambda one: moment(one.measured_at), NEVER, np.int64),
            valid_until=all_of(lambda one: _until(one.valid_until), NEVER, np.int64),
            throughput=all_of(lambda one: one.throughput, 0, np.uint64),
        )


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


def _until(when: datetime | None) -> int:
    return ALWAYS if when is None else moment(when)
