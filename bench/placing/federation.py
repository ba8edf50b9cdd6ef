"""A federation made up from a seed: the same clouds, offers and changes every time."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support import catalogue_records as records
from watari.v1 import broker_pb2, directory_pb2

JURISDICTIONS = ("JP", "DE", "FR", "US", "BR")
TRAITS = ("kvm", "ssd", "cpu:avx2", "cpu:avx512", "gpu:a100", "gpu:l4", "tpm", "ecc", "sev")
TIERS = ("gold", "silver", "spot")
REGIONS_PER_CLOUD = 3
IMAGES = 40
LINKS_PER_CLOUD = 16


@dataclass(frozen=True)
class Size:
    """Of the federation."""

    clouds: int = 1000
    offers: int = 100_000
    seed: int = 1


def cloud_id(number: int) -> str:
    """Its id."""
    return f"cloud-{number:04}"


def published(size: Size) -> Iterator[tuple[str, list[directory_pb2.Record]]]:
    """Each cloud with its records."""
    rng = random.Random(size.seed)
    for number in range(size.clouds):
        yield cloud_id(number), _cloud(rng, number, size)


def change(rng: random.Random, size: Size) -> directory_pb2.Record:
    """A capacity that has changed, as most changes are."""
    number = rng.randrange(size.clouds)
    region = _region(number, rng.randrange(REGIONS_PER_CLOUD))
    return _capacity(rng, cloud_id(number), region)


def requirements(rng: random.Random, size: Size) -> broker_pb2.PlaceRequest:
    """A question as people ask: a size, and some of the constraints."""
    request = broker_pb2.PlaceRequest(
        requirements=broker_pb2.Requirements(
            resources=records.resources(
                rng.choice([1, 2, 4, 8, 16]), rng.choice([2, 4, 8, 32]), rng.choice([20, 100, 400])
            )
        )
    )
    wanted = request.requirements
    if rng.random() < 0.5:
        wanted.hourly_price_max.currency_code = "EUR"
        wanted.hourly_price_max.nanos = rng.randrange(50_000_000, 500_000_000)
    if rng.random() < 0.5:
        wanted.required_traits.extend(rng.sample(TRAITS, 2))
    if rng.random() < 0.3:
        wanted.jurisdictions.extend(rng.sample(JURISDICTIONS, 2))
    if rng.random() < 0.3:
        wanted.labels["tier"] = rng.choice(TIERS)
    if rng.random() < 0.3:
        request.source_cloud = cloud_id(rng.randrange(size.clouds))
        request.weights.latency = 0.3
        request.weights.price = 0.5
        request.weights.free_capacity = 0.2
    if rng.random() < 0.2:
        wanted.stay_seconds = 86_400
    return request


def _cloud(rng: random.Random, number: int, size: Size) -> list[directory_pb2.Record]:
    name = cloud_id(number)
    found = [
        records.cloud(
            name,
            domain=f"provider-{number // 10:03}.example",
            jurisdiction=rng.choice(JURISDICTIONS),
            taints=["draining"] if rng.random() < 0.02 else [],
            labels={"network": rng.choice(["1g", "10g"])},
        )
    ]
    found[0].scores["reliability"] = rng.uniform(0.9, 1)
    found[0].scores["carbon"] = rng.uniform(20, 600)
    found += [_capacity(rng, name, _region(number, each)) for each in range(REGIONS_PER_CLOUD)]
    for at in range(size.offers // size.clouds):
        vcpu, memory, disk = (f"{rng.uniform(0.001, 0.02):.6f}" for _ in range(3))
        currency = rng.choices(["EUR", "JPY"], [9, 1])[0]
        found.append(
            records.offer(
                name,
                f"offer-{at:04}",
                region=_region(number, rng.randrange(REGIONS_PER_CLOUD)),
                prices=records.sheet(vcpu, memory, disk, currency),
                vm_max=records.resources(
                    *rng.choice([(8, 32, 400), (32, 128, 2000), (64, 512, 0)])
                ),
                traits=rng.sample(TRAITS, rng.randrange(3, 7)),
                labels={"tier": rng.choice(TIERS)},
            )
        )
    found += [
        records.image(name, f"image-{each:02}", bytes([each]) * 32)
        for each in rng.sample(range(IMAGES), 4)
    ]
    for other in rng.sample(range(size.clouds), min(size.clouds, LINKS_PER_CLOUD)):
        if other != number:
            link = records.link(name, cloud_id(other), rng.uniform(1, 250))
            link.link.throughput_bytes_per_second = rng.randrange(10**7, 10**9)
            found.append(link)
    return found


def _region(number: int, each: int) -> str:
    return f"region-{number % 40:02}-{each}"


def _capacity(rng: random.Random, name: str, region: str) -> directory_pb2.Record:
    free = records.resources(
        rng.randrange(0, 2000), rng.randrange(0, 8000), rng.randrange(0, 100_000)
    )
    fit = records.resources(rng.randrange(0, 64), rng.randrange(0, 256), rng.randrange(0, 4000))
    total = records.resources(2048, 8192, 120_000)
    return records.capacity(name, region=region, total=total, free=free, largest_fit=fit)
