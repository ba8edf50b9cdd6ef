"""What a request asks for, as a value that the pure parts read."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from fractions import Fraction

from broker import amounts, pricing

CANDIDATES_DEFAULT = 10
"""Candidates of an answer when the request says 0."""

EXPLAINED_DEFAULT = 10
"""Clouds explained when not every rejection is listed and the request says 0."""


@dataclass(frozen=True)
class Weights:
    """How much each score counts; they add up to 1."""

    price: Fraction
    region: Fraction
    free_capacity: Fraction
    latency: Fraction = Fraction()
    throughput: Fraction = Fraction()
    carbon: Fraction = Fraction()
    reliability: Fraction = Fraction()
    data: Fraction = Fraction()
    freshness: Fraction = Fraction()
    provider: Fraction = Fraction()


WEIGHT_NAMES = tuple(each.name for each in fields(Weights))

WEIGHTS_DEFAULT = Weights(Fraction(1, 2), Fraction(1, 5), Fraction(3, 10))
"""Price first; room next, since a full cloud refuses the reservation; region breaks near ties."""


@dataclass(frozen=True)
class Budget:
    """An amount for a time."""

    amount: pricing.Price
    """Of the whole time, though it is a price."""
    seconds: int


@dataclass(frozen=True)
class LinkLimit:
    """How near a destination must be to another cloud."""

    cloud_id: str
    rtt_ms_max: float | None
    throughput_min: int
    """Bytes per second; 0 is no limit."""


@dataclass(frozen=True)
class ImageNeed:
    """An image that a destination should hold: by root, or by name where that is empty."""

    public_root: bytes
    name: str
    required: bool

    @property
    def key(self) -> bytes | str:
        """What it is known by."""
        return self.public_root or self.name

    def __str__(self) -> str:
        return f"image {self.public_root.hex()[:12]}" if self.public_root else f"image {self.name}"


@dataclass(frozen=True)
class Criteria:
    """Hard constraints and preferences. An empty collection or None constrains nothing."""

    needed: amounts.Amounts
    clouds: tuple[str, ...] = ()
    excluded_clouds: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    jurisdictions: tuple[str, ...] = ()
    required_traits: tuple[str, ...] = ()
    forbidden_traits: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    ceiling: pricing.Price | None = None
    """For an hour of the whole machine."""
    rtt_ms_max: float | None = None
    """Needs `source_cloud`."""
    source_cloud: str | None = None
    """Where the machine is, when it is one that exists; never a candidate."""
    weights: Weights = WEIGHTS_DEFAULT
    preferred_regions: tuple[str, ...] = ()
    """Best first."""
    candidates_max: int = CANDIDATES_DEFAULT
    any_traits: tuple[tuple[str, ...], ...] = ()
    """Of each choice, one at least."""
    residency: tuple[str, ...] = ()
    """Jurisdictions allowed for every cloud that holds the machine's data."""
    copy_clouds: tuple[str, ...] = ()
    budget: Budget | None = None
    links: tuple[LinkLimit, ...] = ()
    images: tuple[ImageNeed, ...] = ()
    providers: tuple[str, ...] = ()
    excluded_providers: tuple[str, ...] = ()
    preferred_providers: tuple[str, ...] = ()
    """Best first."""
    starts_at: datetime | None = None
    """None is now."""
    stay_seconds: int = 0
    to_clouds: tuple[str, ...] = ()
    """Those that the machine's delegation names."""
    explained_clouds_max: int = EXPLAINED_DEFAULT
    explained_clouds: tuple[str, ...] = ()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The clouds that a destination is to be near to: those of `links`, and the source."""
        named = [limit.cloud_id for limit in self.links]
        return tuple(dict.fromkeys([*named, *([self.source_cloud] if self.source_cloud else [])]))
