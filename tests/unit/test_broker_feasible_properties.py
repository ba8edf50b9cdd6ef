"""Hard constraints: what holds of every catalogue, and that what is said to fit does fit."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from broker import amounts, feasible, pricing
from broker.criteria import Criteria
from broker.question import Question
from tests.support import catalogue_records as records
from tests.support.catalogue_records import GIB, NOW
from tests.support.verdicts import judge, snapshot_of
from watari import units
from watari.v1 import directory_pb2

RESOURCES = st.builds(
    records.resources,
    vcpus=st.integers(1, 20),
    memory_gib=st.integers(1, 20),
    disk_gib=st.integers(0, 20),
)
PRICES = st.decimals("0", "3", places=9).map(str)
CRITERIA: dict[str, st.SearchStrategy[Any]] = {
    "clouds": st.lists(st.sampled_from(["a", "b", "c"]), unique=True).map(tuple),
    "excluded_clouds": st.lists(st.sampled_from(["a", "b", "c"]), unique=True).map(tuple),
    "regions": st.lists(st.sampled_from(["r1", "r2"]), unique=True).map(tuple),
    "jurisdictions": st.lists(st.sampled_from(["JP", "DE"]), unique=True).map(tuple),
    "required_traits": st.lists(st.sampled_from(["x", "y"]), unique=True).map(tuple),
    "forbidden_traits": st.lists(st.sampled_from(["x", "y"]), unique=True).map(tuple),
    "labels": st.dictionaries(st.just("tier"), st.sampled_from(["gold", "spot"])),
    "ceiling": st.none()
    | st.builds(
        pricing.Price,
        currency=st.sampled_from(["EUR", "JPY"]),
        amount=st.decimals("0", "30", places=9),
    ),
    "rtt_ms_max": st.none() | st.floats(0.1, 100),
    "source_cloud": st.sampled_from(["a", "d"]),
}


@st.composite
def catalogues(draw: Callable[[Any], Any]) -> list[directory_pb2.Record]:
    flag = st.integers(0, 7).map(lambda number: number == 0)
    published = []
    for cloud_id in draw(st.lists(st.sampled_from(["a", "b", "c"]), unique=True)):
        published.append(
            records.cloud(
                cloud_id,
                jurisdiction=draw(st.sampled_from(["JP", "DE"])),
                taints=["draining"] if draw(flag) else [],
                stale=draw(flag),
            )
        )
        published.append(records.link(cloud_id, "d", draw(st.floats(0.1, 100))))
        for region in ("r1", "r2"):
            published.append(records.capacity(cloud_id, region=region, largest_fit=draw(RESOURCES)))
            published.append(
                records.offer(
                    cloud_id,
                    f"offer-{region}",
                    region=region,
                    traits=draw(st.lists(st.sampled_from(["x", "y"]), unique=True)),
                    labels=draw(CRITERIA["labels"]),
                    vm_max=draw(st.none() | RESOURCES),
                    prices=records.sheet(draw(PRICES), draw(PRICES), draw(PRICES)),
                )
            )
    return published


def names(verdict: feasible.Verdict) -> set[tuple[str, str]]:
    return {(fit.cloud.cloud_id, fit.offer.name) for fit in verdict.fits}


@given(catalogues(), RESOURCES, st.fixed_dictionaries(CRITERIA), st.sampled_from(sorted(CRITERIA)))
def test_adding_a_constraint_never_adds_a_fit(
    published: list[directory_pb2.Record], needed: Any, wanted: dict[str, Any], name: str
) -> None:
    constrained = Criteria(needed=amounts.of(needed), **wanted)
    default = {"clouds": (), "labels": {}, "ceiling": None, "rtt_ms_max": None}.get(name, ())
    relaxed = replace(constrained, **{name: None if name == "source_cloud" else default})
    now, view = NOW, snapshot_of(*published)
    fewer = names(feasible.judge(Question(constrained, view, now)))
    more = names(feasible.judge(Question(relaxed, view, now)))
    assert fewer <= more


@given(catalogues(), RESOURCES, st.fixed_dictionaries(CRITERIA))
def test_every_offer_is_either_a_fit_or_rejected(
    published: list[directory_pb2.Record], needed: Any, wanted: dict[str, Any]
) -> None:
    verdict = judge(published, needed=amounts.of(needed), **wanted)
    rejected = {(one.cloud_id, one.offer) for one in verdict.rejections}
    fits = names(verdict)
    for record in published:
        if record.key.kind == directory_pb2.RECORD_KIND_OFFER:
            key = (record.key.cloud_id, record.key.name)
            assert (key in fits) != (key in rejected or (key[0], "") in rejected)


def applied(criteria: Criteria, rejection: feasible.Rejection) -> Criteria:
    """The criteria changed in the way that the words of `would_fit` say."""
    words = rejection.would_fit.split()
    if rejection.constraint == "price":
        currency = words[6].removesuffix("/h")
        return replace(criteria, ceiling=pricing.Price(currency, Decimal(words[5])))
    if words[3].startswith("vCPU"):
        return replace(criteria, needed={**criteria.needed, "vcpus": int(words[2])})
    size = units.parse_bytes(" ".join(words[2:4]))
    return replace(criteria, needed={**criteria.needed, words[5]: size})


SIZES = st.integers(1, 20 * GIB)


@given(
    needed=st.fixed_dictionaries({"vcpus": st.integers(1, 9), "memory": SIZES, "disk": SIZES}),
    most=st.fixed_dictionaries({"vcpus": st.integers(1, 9), "memory": SIZES, "disk": SIZES}),
    prices=st.tuples(PRICES, PRICES, PRICES),
    ceiling=st.builds(
        pricing.Price,
        currency=st.sampled_from(["EUR", "JPY"]),
        amount=st.decimals("0", "30", places=9),
    ),
)
def test_what_is_said_to_fit_does_fit(
    needed: dict[str, int],
    most: dict[str, int],
    prices: tuple[str, str, str],
    ceiling: pricing.Price,
) -> None:
    largest = records.resources(most["vcpus"])
    largest.memory_bytes, largest.disk_bytes = most["memory"], most["disk"]
    published = [
        records.cloud("osaka"),
        records.offer("osaka", prices=records.sheet(*prices)),
        records.capacity("osaka", largest_fit=largest),
    ]
    criteria = Criteria(needed=needed, ceiling=ceiling)
    for constraint in ("capacity", "price"):
        verdict = feasible.judge(Question(criteria, snapshot_of(*published), NOW))
        missed = [one for one in verdict.rejections if one.constraint == constraint]
        for rejection in missed:
            assert rejection.would_fit
            criteria = applied(criteria, rejection)
    assert names(feasible.judge(Question(criteria, snapshot_of(*published), NOW))) == {
        ("osaka", "standard")
    }


@given(
    st.integers(0, 2**63), st.integers(0, 2**63), st.sampled_from(["vcpus", "memory", "other:g"])
)
def test_unequal_amounts_never_read_the_same(first: int, second: int, kind: str) -> None:
    less, more = sorted((first, second))
    assert (amounts.words_down(kind, less) == amounts.words_up(kind, more)) <= (less == more)
