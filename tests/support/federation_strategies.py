"""Federations as a directory may publish them, and what may be asked of them, for hypothesis.

Names are few, so that what is asked for is often there; moments and amounts are at their edges.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

from broker import amounts, pricing
from broker.criteria import WEIGHT_NAMES, Budget, Criteria, ImageNeed, LinkLimit, Weights
from tests.support import catalogue_records as records
from tests.support.catalogue_records import NOW
from watari.v1 import directory_pb2

CLOUDS = ["a", "b", "c", "d"]
REGIONS = ["r1", "r2"]
TRAITS = ["x", "y", "z"]
ROOTS = [b"1" * 32, b"2" * 32]
PRICE = st.sampled_from(["0", "0.01", "0.010000001", "0.3", "2.999999999", "1000000"])
MOMENT = st.none() | st.sampled_from([-7200, -1, 0, 1, 3600]).map(
    lambda seconds: NOW + timedelta(seconds=seconds)
)
FLAG = st.sampled_from([False] * 7 + [True])
SIZE = st.integers(0, 8)
RESOURCES = st.builds(
    lambda vcpus, memory, disk, gpus: records.resources(
        vcpus, memory, disk, **({"gpu": gpus} if gpus else {})
    ),
    SIZE,
    SIZE,
    SIZE,
    st.integers(0, 2),
)
Draw = Callable[[Any], Any]


def some(values: list[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.just(()) | st.lists(st.sampled_from(values), unique=True, max_size=3).map(tuple)


@st.composite
def federations(draw: Draw) -> list[directory_pb2.Record]:
    published = []
    for cloud_id in draw(st.lists(st.sampled_from(CLOUDS), unique=True, max_size=4)):
        published.append(
            records.cloud(
                cloud_id,
                domain=draw(st.sampled_from(["p.example", "q.example"])),
                address=draw(st.sampled_from(["127.0.0.1:1"] * 7 + [""])),
                jurisdiction=draw(st.sampled_from(["JP", "de", ""])),
                taints=["draining"] if draw(FLAG) else [],
                labels=draw(st.dictionaries(st.just("tier"), st.sampled_from(["gold", "spot"]))),
                stale=draw(FLAG),
            )
        )
        published[-1].scores.update(draw(scores()))
        for other in draw(some(CLOUDS)):
            link = records.link(
                cloud_id,
                other,
                draw(st.sampled_from([1.0, 10.0, 50.0])),
                measured_at=NOW - timedelta(seconds=draw(st.integers(0, 2))),
                valid_until=draw(MOMENT),
                stale=draw(FLAG),
            )
            link.link.throughput_bytes_per_second = draw(st.sampled_from([0, 1000, 2000]))
            published.append(link)
        published += [
            records.capacity(
                cloud_id,
                region=region,
                total=draw(RESOURCES),
                free=draw(RESOURCES),
                largest_fit=draw(RESOURCES),
                stale=draw(FLAG),
            )
            for region in draw(some(REGIONS))
        ]
        published += [draw(offers(cloud_id, f"o{n}")) for n in range(draw(st.integers(0, 3)))]
        published += [
            records.image(cloud_id, f"image-{root[:1].decode()}", root, stale=draw(FLAG))
            for root in draw(some([*ROOTS, b""]))
        ]
    return published


@st.composite
def with_room(draw: Draw) -> list[directory_pb2.Record]:
    """Federations where two clouds have room everywhere, and sell it."""
    published = draw(federations())
    for cloud_id in CLOUDS[:2]:
        published.append(records.cloud(cloud_id))
        for region in REGIONS:
            room = draw(RESOURCES), draw(RESOURCES)
            published += [
                records.offer(cloud_id, f"of-{region}", region=region, prices=records.sheet()),
                records.capacity(
                    cloud_id,
                    region=region,
                    total=records.resources(9, 9, 9, gpu=3),
                    free=room[0],
                    largest_fit=room[1],
                ),
            ]
    # What is added comes in place of what has its key.
    return list({(one.key.kind, one.key.cloud_id, one.key.name): one for one in published}.values())


@st.composite
def offers(draw: Draw, cloud_id: str, name: str) -> directory_pb2.Record:
    record = records.offer(
        cloud_id,
        name,
        region=draw(st.sampled_from(REGIONS)),
        prices=records.sheet(
            draw(PRICE), draw(PRICE), draw(PRICE), draw(st.sampled_from(["EUR", "JPY"]))
        ),
        vm_max=draw(st.none() | RESOURCES),
        traits=draw(some(TRAITS)),
        valid_from=draw(MOMENT),
        valid_until=draw(MOMENT),
        labels=draw(st.dictionaries(st.just("tier"), st.sampled_from(["gold", "spot"]))),
        stale=draw(FLAG),
    )
    record.scores.update(draw(scores()))
    if draw(FLAG):
        record.offer.ClearField("prices")
    return record


def scores() -> st.SearchStrategy[dict[str, float]]:
    return st.dictionaries(
        st.sampled_from(["carbon", "reliability"]), st.sampled_from([0.0, 0.5, 0.99, 300.0])
    )


def rare(strategy: st.SearchStrategy[Any], otherwise: Any) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(otherwise), st.just(otherwise), strategy)


AMOUNT = st.builds(
    pricing.Price,
    currency=st.sampled_from(["EUR", "JPY"]),
    amount=st.sampled_from(["0", "0.06", "0.060000001", "1", "1000000"]).map(Decimal),
)
LIMIT = st.builds(
    LinkLimit,
    st.sampled_from([*CLOUDS, "nowhere"]),
    st.none() | st.sampled_from([1.0, 20.0]),
    st.sampled_from([0, 1000, 1500]),
)
NEED = st.builds(
    lambda root, name, required: ImageNeed(root, "" if root else name, required),
    st.sampled_from([*ROOTS, b""]),
    st.sampled_from(["image-1", "image-"]),
    st.booleans(),
)
PARTS = st.lists(st.integers(0, 3), min_size=len(WEIGHT_NAMES), max_size=len(WEIGHT_NAMES)).filter(
    any
)


@st.composite
def criteria(draw: Draw) -> Criteria:
    parts = draw(PARTS)
    return Criteria(
        needed=amounts.of(draw(RESOURCES)),
        clouds=draw(rare(some([*CLOUDS, "nowhere"]), ())),
        excluded_clouds=draw(rare(some(CLOUDS), ())),
        regions=draw(rare(some(REGIONS), ())),
        jurisdictions=draw(rare(some(["JP", "DE"]), ())),
        required_traits=draw(rare(some(TRAITS), ())),
        forbidden_traits=draw(rare(some(TRAITS), ())),
        any_traits=draw(rare(st.tuples(st.just(("x", "y"))), ())),
        labels=draw(rare(st.just({"tier": "gold"}), {})),
        ceiling=draw(rare(AMOUNT, None)),
        budget=draw(rare(st.builds(Budget, AMOUNT, st.sampled_from([1, 3600, 86_400])), None)),
        rtt_ms_max=draw(rare(st.sampled_from([1.0, 20.0]), None)),
        source_cloud=draw(st.sampled_from([None, *CLOUDS, "nowhere"])),
        residency=draw(rare(some(["JP", "DE"]), ())),
        copy_clouds=draw(rare(some(CLOUDS), ())),
        links=draw(rare(st.lists(LIMIT, max_size=2).map(tuple), ())),
        images=draw(rare(st.lists(NEED, max_size=2).map(tuple), ())),
        providers=draw(rare(some(["p.example", "q.example"]), ())),
        excluded_providers=draw(rare(some(["p.example"]), ())),
        preferred_providers=draw(some(["p.example", "q.example", "none.example"])),
        preferred_regions=draw(some([*REGIONS, "r3"])),
        starts_at=draw(rare(MOMENT, None)),
        stay_seconds=draw(st.sampled_from([0, 1, 7200])),
        to_clouds=draw(rare(some(CLOUDS), ())),
        weights=Weights(*(Fraction(part, sum(parts)) for part in parts)),
    )
