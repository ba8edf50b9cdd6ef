"""What a hard constraint looks at, and how it says what it misses. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from broker.criteria import Criteria
from broker.snapshot import Snapshot
from watari import units

LISTED_MAX = 5
"""Names that a reason lists before it only counts them."""

LISTED_CHARS_MAX = 64
"""Longer names are cut in reasons."""


class Miss(NamedTuple):
    """One way in which a constraint is not met."""

    reason: str
    """In words, with both numbers."""
    would_fit: str = ""
    """What would have met it; empty when the caller can do nothing about it."""


@dataclass(frozen=True)
class Question:
    """What all constraints may look at besides the cloud and the offer."""

    criteria: Criteria
    snapshot: Snapshot
    now: datetime
    experience: Mapping[str, float] = field(default_factory=dict)
    """By cloud, from 0 to 1, what this broker has seen of its reliability; 1 where it knows
    nothing."""

    @property
    def stay(self) -> tuple[datetime, datetime]:
        """When the machine is to be there: from, and until."""
        begins = self.criteria.starts_at or self.now
        return begins, begins + timedelta(seconds=self.criteria.stay_seconds)


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    every = list(names)
    text = ", ".join(cut(name) for name in every[:LISTED_MAX])
    return f"{text} and {len(every) - LISTED_MAX} more" if len(every) > LISTED_MAX else text


def cut(name: str) -> str:
    """The name, shortened when it is long: it comes from a provider or a caller."""
    return name if len(name) <= LISTED_CHARS_MAX else f"{name[:LISTED_CHARS_MAX]}..."


def date(moment: datetime) -> str:
    """Such as 2026-01-31 12:00:00 UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def distance(question: Question, near: str, cloud_id: str) -> tuple[float | None, int | None]:
    """Round trip in ms by the newest usable measurement between the two, whichever of them made it,
    and the lower of the usable throughputs of both directions, in bytes per second.
    """
    links = question.snapshot.links
    found = (links.get((near, cloud_id)), links.get((cloud_id, near)))
    usable = [link for link in found if link is not None and link.usable(question.now)]
    newest = max(usable, key=lambda link: link.measured_at, default=None)
    carried = [link.throughput for link in usable if link.throughput]
    return newest.rtt_ms if newest else None, min(carried, default=None)


def stale(question: Question, what: str, updated_at: datetime) -> Miss:
    """For a record whose lease has run out."""
    age = max(0.0, (question.now - updated_at).total_seconds())
    return Miss(
        f"{what} is stale: its lease expired, last change {units.format_duration(age)} ago",
        "fits once its manager renews the lease",
    )
