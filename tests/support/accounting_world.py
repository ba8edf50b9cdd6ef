"""A month of two clouds for the accounting's tests: machines that start, stop, grow, move and go.

Everything follows from a seed. Instants are any microsecond, and often ones that matter: midnights,
the hour in which clocks change, the end of the month, the second of another event.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from manager.accounting import exact, periods
from manager.accounting.events import Event, Kind, Pin, payer
from manager.accounting.periods import MICROS, Month
from manager.accounting.price_sheet import (
    Component,
    Discount,
    Measure,
    PriceSheet,
    Tax,
    Tier,
)

GIB = 1024**3
DAY = 24 * 3600 * MICROS
CLOUDS = {"tokyo": "a.example", "berlin": "b.example"}


@dataclass
class Machine:
    """What is true of a machine: when it was, where, and how large its disk was."""

    vm_id: str
    stays: list[tuple[str, int, int, int]] = field(default_factory=list)
    """Cloud, start, end, disk in bytes: without a gap."""
    moves: int = 0


@dataclass(frozen=True)
class World:
    """Two clouds for a month."""

    month: Month
    events: Mapping[str, list[Event]]
    sheets: Mapping[str, list[PriceSheet]]
    machines: list[Machine]


def price(text: str) -> int:
    """Nanos of a price."""
    return exact.scaled(text, exact.NANOS, "price")


def sheets(middle: int, factor: int = 1) -> list[PriceSheet]:
    """Two versions: the second has other prices, tiers, discounts and taxes."""

    def version(number: int, since: int, cents: int) -> PriceSheet:
        def nanos(text: str) -> int:
            return price(text) * (100 + cents) * factor // 100

        return PriceSheet(
            version=number,
            currency="EUR",
            effective_from=since,
            components=(
                Component(
                    "vcpu",
                    Measure.RUNNING,
                    "vCPU-hour",
                    (
                        Tier(nanos("0.031234567"), 5_000 + number),
                        Tier(nanos("0.02"), 12_000),
                        Tier(nanos("0.0133")),
                    ),
                    "vcpus",
                    minimum_seconds=60 * number,
                ),
                Component(
                    "memory",
                    Measure.RUNNING,
                    "GiB-hour",
                    (Tier(nanos("0.004000001")),),
                    "memory_bytes",
                    granularity_seconds=60,
                    minimum_seconds=90,
                ),
                Component(
                    "disk",
                    Measure.HELD,
                    "GiB-month",
                    (Tier(nanos("0.08"), 700), Tier(nanos("0.0777777"))),
                    "disk_bytes",
                ),
                Component(
                    "accelerator",
                    Measure.RUNNING,
                    "unit-hour",
                    (Tier(nanos("1.7")),),
                    "accelerators",
                ),
                Component(
                    "address", Measure.HELD, "unit-hour", (Tier(nanos("0.005")),), "addresses"
                ),
                Component("egress", Measure.SENT, "GiB", (Tier(0, 10), Tier(nanos("0.087654321")))),
                Component("ingress", Measure.RECEIVED, "GiB", (Tier(nanos("0.001")),)),
                Component("migration-in", Measure.ARRIVALS, "migration", (Tier(nanos("0.5")),)),
                Component("migration-out", Measure.DEPARTURES, "migration", (Tier(nanos("0.25")),)),
                Component("account", Measure.MONTHLY, "month", (Tier(nanos("12")),)),
            ),
            discounts=(
                Discount("tenant:t1", 125_000),
                Discount("tenant:t2", 333_333, "vcpu"),
                Discount("tenant:t2", 50_000),
                *((Discount("peer:a.example", 70_000 + number),)),
            ),
            taxes=(Tax("VAT", 190_000 if number == 1 else 70_000), Tax("levy", 12_345)),
        )

    return [version(1, 0, 0), version(2, middle, 7)]


def world(seed: int, year: int, number: int, zone: str, machines: int = 1000) -> World:
    """The month with so many machines, a good part of which move."""
    chance = random.Random(seed)
    month = periods.month(year, number, zone)
    middle = month.start + 14 * DAY + 45_296_789_123
    notable = [month.start, month.end - 1, month.end, middle, middle - 1]
    notable += [month.start + day * DAY for day in range(31)]
    notable += [month.end - 25 * 3600 * MICROS * days for days in range(1, 8)]
    events: dict[str, list[Event]] = {cloud: [] for cloud in CLOUDS}
    found = [_machine(chance, index, month, notable, events) for index in range(machines)]
    books = {"tokyo": sheets(middle), "berlin": sheets(middle + 3600 * MICROS, 2)}
    return World(month, events, books, found)


def _machine(
    chance: random.Random,
    index: int,
    month: Month,
    notable: list[int],
    events: dict[str, list[Event]],
) -> Machine:
    home = cloud = chance.choice(list(CLOUDS))
    vm_id, tenant = f"vm-{index:05}", f"t{chance.randrange(12)}"
    machine = Machine(vm_id)
    at = month.start + chance.randrange(-8 * DAY, 20 * DAY)
    running = chance.random() < 0.8
    resources = _resources(chance)
    since = at

    def tell(kind: Kind, where: str, **more: object) -> None:
        events[where].append(
            Event(
                event_id=f"{vm_id}/{where}/{len(events[where])}",
                sequence=len(events[where]),
                cloud_id=where,
                kind=kind,
                at=at,
                vm_id=vm_id,
                vm_name=f"name {index}",
                payer=payer(CLOUDS[home], tenant, CLOUDS[where]),
                tenant=tenant,
                resources=resources,
                **more,  # type: ignore[arg-type]
            )
        )

    tell(Kind.STARTED if running else Kind.STOPPED, cloud)
    while True:
        before, at = at, _next(chance, at, notable)
        if at >= month.end + DAY:
            break
        what = chance.random()
        if what < 0.35:
            running = not running
            tell(Kind.STARTED if running else Kind.STOPPED, cloud)
            continue
        if at == before:
            continue
        machine.stays.append((cloud, since, at, resources["disk_bytes"]))
        since = at
        if what < 0.5:
            resources = _resources(chance)
            tell(Kind.RESIZED, cloud)
        elif what < 0.95:
            other = "berlin" if cloud == "tokyo" else "tokyo"
            moved = chance.randrange(1, 40 * GIB)
            migration = f"{vm_id}/{machine.moves}"
            tell(
                Kind.DEPARTED,
                cloud,
                running=running,
                migration_id=migration,
                peer=other,
                sent_bytes=moved,
            )
            until = at + chance.randrange(DAY, 9 * DAY)
            pin = Pin(1, until, f"quote of {migration}") if chance.random() < 0.3 else None
            tell(
                Kind.ARRIVED,
                other,
                running=running,
                migration_id=migration,
                peer=cloud,
                received_bytes=moved,
                pin=pin,
            )
            cloud = other
            machine.moves += 1
        else:
            tell(Kind.DELETED, cloud)
            return machine
    machine.stays.append((cloud, since, month.end, resources["disk_bytes"]))
    return machine


def _resources(chance: random.Random) -> dict[str, int]:
    found = {
        "vcpus": chance.choice([1, 2, 4, 8, 16]),
        "memory_bytes": chance.randrange(1, 64) * GIB + chance.randrange(2) * 12_345,
        "disk_bytes": chance.randrange(1, 200) * GIB + chance.randrange(2) * 4096,
    }
    if chance.random() < 0.3:
        found["addresses"] = chance.randrange(1, 3)
    if chance.random() < 0.1:
        found["accelerators"] = 1
    return found


def _next(chance: random.Random, at: int, notable: list[int]) -> int:
    kind = chance.random()
    if kind < 0.15:
        later = [each for each in notable if each > at]
        if later:
            return chance.choice(later[:5])
    if kind < 0.3:
        return at + chance.randrange(0, 120 * MICROS)
    return at + int(chance.expovariate(1 / (4 * DAY)))
