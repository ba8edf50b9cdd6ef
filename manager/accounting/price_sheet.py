"""Price sheets: versions of what a cloud charges, as values, and the book of all of them.

A version is never changed: other prices are another version, in effect from an instant on. What was
used is priced by the version that was in effect when it was used, or that a quote pins.
"""

import bisect
import enum
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from manager.accounting import exact
from manager.accounting.events import Pin
from manager.accounting.periods import MICROS
from watari import errors, validate

GIB = 1024**3
HOUR = 3600 * MICROS
MONTH = 730 * HOUR
"""Of the contract: a month of disk is 730 hours, whatever the calendar says."""

COMPONENTS_MAX = 100
TIERS_MAX = 20
DISCOUNTS_MAX = 10_000
TAXES_MAX = 10
VERSIONS_MAX = 10_000
GRANULARITY_SECONDS_MAX = 3600
MINIMUM_SECONDS_MAX = 24 * 3600


class Measure(enum.Enum):
    """What a component counts."""

    RUNNING = "running"
    """An amount of a resource class, for the time that the machine runs."""
    HELD = "held"
    """An amount of a resource class, for the time that the machine is here, stopped or not."""
    SENT = "sent"
    """Sealed bytes that migrations took out of the cloud."""
    RECEIVED = "received"
    """Sealed bytes that migrations brought."""
    ARRIVALS = "arrivals"
    """Migrations to this cloud."""
    DEPARTURES = "departures"
    """Migrations from this cloud."""
    MONTHLY = "monthly"
    """Billing months in which the payer had a machine here, each once."""


TIMED = frozenset({Measure.RUNNING, Measure.HELD})

UNITS: dict[str, tuple[int, frozenset[Measure]]] = {
    "vCPU-hour": (HOUR, TIMED),
    "unit-hour": (HOUR, TIMED),
    "GiB-hour": (GIB * HOUR, TIMED),
    "GiB-month": (GIB * MONTH, TIMED),
    "GiB": (GIB, frozenset({Measure.SENT, Measure.RECEIVED})),
    "migration": (1, frozenset({Measure.ARRIVALS, Measure.DEPARTURES})),
    "month": (1, frozenset({Measure.MONTHLY})),
}
"""Base units in one unit, and who may use it. The base of time is amount times microseconds."""


@dataclass(frozen=True)
class Tier:
    """A price for what lies between the end of the tier before and this one's."""

    price_nanos: int
    """For one unit."""
    up_to: int | None = None
    """Whole units of the month; None is without end, for the last tier and for no other."""


@dataclass(frozen=True)
class Component:
    """One thing that is charged."""

    name: str
    """Its stable key (SKU): the same in every version that has it."""
    measure: Measure
    unit: str
    tiers: tuple[Tier, ...]
    """Graduated: each unit costs what its own tier says."""
    resource: str = ""
    """The resource class, for RUNNING and HELD."""
    granularity_seconds: int = 1
    """Instants are rounded down to a multiple of this since 1970."""
    minimum_seconds: int = 0
    """RUNNING: what a run costs at least, if it was both started and stopped here."""

    @property
    def base(self) -> int:
        """Base units in one unit."""
        return UNITS[self.unit][0]


@dataclass(frozen=True)
class Discount:
    """What one payer is given off the list price."""

    payer: str
    percent: int
    """In ten-thousandths of a percent, as all percentages are kept."""
    component: str = ""
    """Empty is every component that has no discount of its own."""


@dataclass(frozen=True)
class Tax:
    """A tax on everything that is priced by this version."""

    name: str
    percent: int


@dataclass(frozen=True)
class PriceSheet:
    """One version. Raises InvalidArgument INVALID_FIELD when it makes no sense."""

    version: int
    currency: str
    effective_from: int
    """Microseconds since 1970, inclusive."""
    components: tuple[Component, ...]
    discounts: tuple[Discount, ...] = ()
    taxes: tuple[Tax, ...] = ()

    def __post_init__(self) -> None:
        validate.require_range(self.version, "version", 1, 2**63 - 1)
        validate.require_range(self.effective_from, "effective_from", 0, 2**62)
        if len(self.currency) != 3 or not (self.currency.isascii() and self.currency.isupper()):
            raise validate.invalid_field("currency", repr(self.currency), "an ISO 4217 code")
        validate.require_count(len(self.components), "components", COMPONENTS_MAX)
        validate.require_count(len(self.discounts), "discounts", DISCOUNTS_MAX)
        validate.require_count(len(self.taxes), "taxes", TAXES_MAX)
        _unique([each.name for each in self.components], "components.name")
        _unique([f"{each.payer} {each.component}" for each in self.discounts], "discounts")
        _unique([each.name for each in self.taxes], "taxes.name")
        for component in self.components:
            _check(component)
        known = {component.name for component in self.components} | {""}
        for discount in self.discounts:
            if discount.component not in known:
                raise validate.invalid_field(
                    "discounts.component",
                    f"{discount.component!r} is no component of this sheet",
                    "name one of its components, or leave it out for all of them",
                )
            validate.require_range(discount.percent, "discounts.percent", 0, exact.PERCENT_WHOLE)
        for tax in self.taxes:
            validate.require_text(tax.name, "taxes.name", bytes_max=64, empty=False)
            validate.require_range(tax.percent, "taxes.percent", 0, exact.PERCENT_WHOLE)

    @property
    def free(self) -> bool:
        """Whether it charges nothing for anything."""
        return all(not tier.price_nanos for each in self.components for tier in each.tiers)

    def discount(self, payer: str, component: str) -> int:
        """What the payer is given off a component: its own discount before the one for all."""
        found = {each.component: each.percent for each in self.discounts if each.payer == payer}
        return found.get(component, found.get("", 0))


class PriceBook:
    """All versions of one cloud. Raises InvalidArgument when they contradict one another."""

    def __init__(self, sheets: Iterable[PriceSheet]) -> None:
        self._sheets = sorted(sheets, key=lambda each: (each.effective_from, each.version))
        self._from = [each.effective_from for each in self._sheets]
        self._by_version = {each.version: each for each in self._sheets}
        validate.require_range(len(self._sheets), "sheets", 1, VERSIONS_MAX)
        _unique([str(each.version) for each in self._sheets], "version")
        _unique([str(each) for each in self._from], "effective_from")
        priced = [sheet for sheet in self._sheets if not sheet.free]
        self._currency = (priced or self._sheets)[-1].currency
        kinds: dict[str, tuple[object, ...]] = {}
        for sheet in self._sheets:
            if sheet.currency != self._currency and not sheet.free:
                raise validate.invalid_field(
                    "currency", "versions differ in it", "one cloud charges in one currency"
                )
            for each in sheet.components:
                kind = (each.measure, each.resource, each.unit)
                if kinds.setdefault(each.name, kind) != kind:
                    raise validate.invalid_field(
                        "components.name",
                        f"{each.name!r} counts something else in version {sheet.version}",
                        "give a component that counts other things another name",
                    )

    @property
    def currency(self) -> str:
        """Of all amounts; versions that charge nothing may name another one."""
        return self._currency

    def at(self, instant: int) -> PriceSheet:
        """The version in effect. Raises FailedPrecondition INVALID_FIELD before the first."""
        index = bisect.bisect_right(self._from, instant) - 1
        if index < 0:
            raise errors.FailedPrecondition(
                "INVALID_FIELD",
                f"no price sheet was in effect at {instant} microseconds since 1970",
                hint="record one whose effective_from is not later than the first usage",
            )
        return self._sheets[index]

    def knows(self, number: int) -> bool:
        """Whether there is that version."""
        return number in self._by_version

    @property
    def versions(self) -> tuple[PriceSheet, ...]:
        """All of them, as they come into effect."""
        return tuple(self._sheets)

    def version(self, number: int) -> PriceSheet:
        """That version. Raises NotFound RECORD_NOT_FOUND."""
        if number not in self._by_version:
            raise errors.NotFound(
                "RECORD_NOT_FOUND",
                f"there is no price sheet of version {number}",
                hint="record the version that quotes and reservations name",
            )
        return self._by_version[number]

    def price(self, instant: int, pin: Pin | None) -> PriceSheet:
        """The version for what is used at an instant: the pinned one until the pin ends."""
        if pin is not None and pin.holds(instant):
            return self.version(pin.version)
        return self.at(instant)

    def parts(self, start: int, end: int, pin: Pin | None) -> list[tuple[int, int, PriceSheet]]:
        """[start, end) cut where another version takes over, with the version of each part."""
        low, high = bisect.bisect_right(self._from, start), bisect.bisect_left(self._from, end)
        cuts = self._from[low:high]
        if pin is not None:
            cuts = [cut for cut in cuts if cut > pin.until]
            if start < pin.until < end:
                cuts = [pin.until, *cuts]
        edges = [start, *cuts, end]
        return [
            (first, last, self.price(first, pin))
            for first, last in itertools.pairwise(edges)
            if first < last
        ]


def _check(component: Component) -> None:
    where = f"components.{component.name}"
    validate.require_name(component.name, "components.name")
    divisor, measures = UNITS.get(component.unit, (0, frozenset()))
    if not divisor or component.measure not in measures:
        fitting = [name for name, (_, each) in UNITS.items() if component.measure in each]
        raise validate.invalid_field(
            f"{where}.unit", f"{component.unit!r} is none here", f"one of {', '.join(fitting)}"
        )
    if bool(component.resource) != (component.measure in TIMED):
        raise validate.invalid_field(
            f"{where}.resource",
            f"does not go with measure {component.measure.value}",
            "running and held count a resource class; the others have none",
        )
    validate.require_range(
        component.granularity_seconds, f"{where}.granularity_seconds", 1, GRANULARITY_SECONDS_MAX
    )
    most = MINIMUM_SECONDS_MAX if component.measure is Measure.RUNNING else 0
    validate.require_range(component.minimum_seconds, f"{where}.minimum_seconds", 0, most)
    _check_tiers(component.tiers, where)


def _check_tiers(tiers: Sequence[Tier], where: str) -> None:
    validate.require_range(len(tiers), f"{where}.tiers", 1, TIERS_MAX)
    below = 0
    for number, tier in enumerate(tiers, 1):
        validate.require_range(tier.price_nanos, f"{where}.tiers.price", 0, 2**63 - 1)
        if (tier.up_to is None) != (number == len(tiers)):
            raise validate.invalid_field(
                f"{where}.tiers.up_to", "is missing, or too much", "all tiers but the last have one"
            )
        if tier.up_to is not None and tier.up_to <= below:
            raise validate.invalid_field(
                f"{where}.tiers.up_to", f"{tier.up_to} does not grow", f"more than {below}"
            )
        below = tier.up_to or below


def _unique(names: Sequence[str], field: str) -> None:
    for first, second in itertools.pairwise(sorted(names)):
        if first == second:
            raise validate.invalid_field(field, f"{first!r} is there twice", "each once")
