"""Hard constraints: each one, its words, and that what is said to fit does fit."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import amounts, constraints, feasible, pricing, snapshot
from broker.criteria import Criteria
from broker.snapshot import Snapshot
from tests.support import catalogue_records as records
from tests.support.catalogue_records import GIB, NOW
from watari import units
from watari.v1 import directory_pb2

NEEDED = amounts.of(records.resources(4, 8, 40))


def snapshot_of(*published: directory_pb2.Record) -> Snapshot:
    return snapshot.build(published, revision=7, taken_at=NOW)


def osaka(**offer: Any) -> list[directory_pb2.Record]:
    return [records.cloud("osaka"), records.offer("osaka", **offer), records.capacity("osaka")]


def judge(
    published: list[directory_pb2.Record], now: datetime = NOW, **wanted: Any
) -> feasible.Verdict:
    wanted.setdefault("needed", NEEDED)
    question = constraints.Question(Criteria(**wanted), snapshot_of(*published), now)
    return feasible.judge(question)


def only_rejection(verdict: feasible.Verdict) -> feasible.Rejection:
    assert not verdict.fits
    (rejection,) = verdict.rejections
    return rejection


def test_an_offer_that_meets_everything_is_a_fit_with_its_price() -> None:
    verdict = judge(osaka())
    (fit,) = verdict.fits
    assert (fit.cloud.cloud_id, fit.offer.name, fit.capacity.region) == (
        "osaka",
        "standard",
        "jp-east",
    )
    # 4 x 0.01 + 8 x 0.002 + 40 x 0.073 / 730
    assert fit.hourly == pricing.Price("EUR", Decimal("0.06"))
    assert not verdict.rejections


@pytest.mark.parametrize(
    ("wanted", "constraint", "reason", "would_fit"),
    [
        (
            {"clouds": ("tokyo", "osaka-2")},
            "cloud",
            "is not among the clouds asked for (tokyo, osaka-2)",
            "fits with osaka among clouds",
        ),
        (
            {"excluded_clouds": ("osaka",)},
            "excluded_cloud",
            "is excluded by the request",
            "fits without osaka among excluded_clouds",
        ),
        ({"source_cloud": "osaka"}, "source", "is where the machine is already", ""),
        (
            {"jurisdictions": ("DE", "FR")},
            "jurisdiction",
            "is under the law of JP, wanted is DE, FR",
            "fits with JP among jurisdictions",
        ),
        (
            {"source_cloud": "tokyo", "rtt_ms_max": 20.0},
            "rtt",
            "no measured link between tokyo and osaka, limit is 20 ms",
            "fits without rtt_ms_max",
        ),
        (
            {"regions": ("eu-west",)},
            "region",
            "is in jp-east, wanted is eu-west",
            "fits with jp-east among regions",
        ),
        (
            {"required_traits": ("kvm", "gpu", "nvme")},
            "required_trait",
            "lacks gpu, nvme",
            "fits without requiring gpu, nvme",
        ),
        (
            {"forbidden_traits": ("ssd", "gpu")},
            "forbidden_trait",
            "has ssd",
            "fits without forbidding ssd",
        ),
        ({"labels": {"tier": "gold"}}, "label", "has no label tier, wanted is 'gold'", ""),
        (
            {"ceiling": pricing.Price("EUR", Decimal("0.05"))},
            "price",
            "costs 0.06 EUR/h, ceiling is 0.05 EUR/h",
            "fits with a ceiling of 0.06 EUR/h or more",
        ),
        (
            {"ceiling": pricing.Price("JPY", Decimal(1000))},
            "price",
            "costs 0.06 EUR/h, ceiling is 1000.00 JPY/h: the currencies differ",
            "fits with a ceiling of 0.06 EUR/h or more",
        ),
        (
            {"needed": amounts.of(records.resources(65, 8, 40))},
            "capacity",
            "needs 65 vCPUs, largest host has 64 vCPUs free",
            "fits with 64 vCPUs or fewer",
        ),
        (
            {"needed": amounts.of(records.resources(4, 8, 40, gpu=2))},
            "capacity",
            "needs 2 gpu, largest host has 0 gpu free",
            "",
        ),
    ],
)
def test_a_missed_constraint_is_told_with_both_sides_and_what_would_fit(
    wanted: dict[str, Any], constraint: str, reason: str, would_fit: str
) -> None:
    clouds = wanted.pop("clouds", ())
    published = osaka()
    published += [records.cloud(name) for name in clouds]
    verdict = judge(published, clouds=clouds, **wanted)
    found = [one for one in verdict.rejections if one.cloud_id == "osaka"]
    assert not verdict.fits
    assert [(one.constraint, one.reason, one.would_fit) for one in found] == [
        (constraint, reason, would_fit)
    ]


@pytest.mark.parametrize(
    ("offer", "constraint", "reason"),
    [
        (
            {"valid_from": NOW + timedelta(hours=1)},
            "validity",
            "is valid from 2026-03-01 13:00:00 UTC, now is 2026-03-01 12:00:00 UTC",
        ),
        (
            {"valid_until": NOW},
            "validity",
            "was valid until 2026-03-01 12:00:00 UTC, now is 2026-03-01 12:00:00 UTC",
        ),
        ({"stale": True}, "stale", "the offer is stale: its lease expired, last change 0 ms ago"),
        (
            {"vm_max": records.resources(2, 8, 40)},
            "vm_max",
            "needs 4 vCPUs, largest machine of this offer has 2 vCPUs",
        ),
        (
            {"region": "jp-west"},
            "capacity",
            "publishes no capacity for region jp-west",
        ),
    ],
)
def test_an_offer_is_rejected_for_what_it_says_of_itself(
    offer: dict[str, Any], constraint: str, reason: str
) -> None:
    rejection = only_rejection(judge(osaka(**offer)))
    assert (rejection.offer, rejection.constraint, rejection.reason) == (
        "standard",
        constraint,
        reason,
    )


@pytest.mark.parametrize(
    ("cloud", "constraint", "reason"),
    [
        (
            {"taints": ("draining",)},
            "taint",
            "its provider keeps new machines away (draining)",
        ),
        (
            {"stale": True},
            "stale",
            "the cloud's record is stale: its lease expired, last change 0 ms ago",
        ),
        (
            {"manager": "spiffe://tokyo.internal/manager/main"},
            "manager",
            (
                "the record of cloud osaka names a manager of tokyo.internal, "
                "its provider is osaka.internal"
            ),
        ),
        (
            {"manager": "spiffe://osaka.internal/agent/host-1"},
            "manager",
            (
                "the record of cloud osaka names spiffe://osaka.internal/agent/host-1, "
                "which is no manager"
            ),
        ),
    ],
)
def test_a_whole_cloud_is_rejected_once_and_not_by_offer(
    cloud: dict[str, Any], constraint: str, reason: str
) -> None:
    published = [
        records.cloud("osaka", **cloud),
        records.offer("osaka", "small", stale=bool(cloud.get("stale"))),
        records.offer("osaka", "large", stale=bool(cloud.get("stale"))),
        records.capacity("osaka", stale=bool(cloud.get("stale"))),
    ]
    rejection = only_rejection(judge(published))
    assert (rejection.offer, rejection.constraint, rejection.reason) == ("", constraint, reason)


def test_every_missed_constraint_of_every_offer_is_reported() -> None:
    published = [
        records.cloud("osaka", taints=("draining",), jurisdiction="JP"),
        records.offer("osaka", "a", region="jp-west", traits=()),
        records.offer("osaka", "b"),
        records.capacity("osaka", largest_fit=records.resources(1, 4, 10)),
    ]
    verdict = judge(
        published, jurisdictions=("DE",), regions=("jp-east",), required_traits=("kvm",)
    )
    assert [(one.offer, one.constraint) for one in verdict.rejections] == [
        ("", "jurisdiction"),
        ("", "taint"),
        ("a", "region"),
        ("a", "required_trait"),
        ("a", "capacity"),
        ("b", "capacity"),
        ("b", "capacity"),
        ("b", "capacity"),
    ]


def test_a_cloud_without_offers_and_one_that_does_not_exist_are_explained_too() -> None:
    verdict = judge([records.cloud("osaka")], clouds=("osaka", "nara"))
    assert [(one.cloud_id, one.constraint, one.reason) for one in verdict.rejections] == [
        ("nara", "cloud", "the directory has no such cloud at revision 7"),
        ("osaka", "offer", "publishes no offer"),
    ]


@pytest.mark.parametrize(
    ("links", "fits"),
    [
        ([records.link("tokyo", "osaka", 9.5)], True),
        ([records.link("osaka", "tokyo", 9.5)], True),
        ([records.link("tokyo", "nara", 9.5)], False),
        ([records.link("tokyo", "osaka", 10.001)], False),
        ([records.link("tokyo", "osaka", 9.5, stale=True)], False),
        ([records.link("tokyo", "osaka", 9.5, valid_until=NOW)], False),
        ([records.link("tokyo", "osaka", 9.5, valid_until=NOW + timedelta(seconds=1))], True),
        ([records.link("tokyo", "osaka", 0.0)], False),
        ([records.link("tokyo", "osaka", float("nan"))], False),
        (
            [
                records.link("tokyo", "osaka", 9.5, measured_at=NOW - timedelta(hours=1)),
                records.link("osaka", "tokyo", 50.0),
            ],
            False,
        ),
    ],
)
def test_the_newest_usable_measurement_in_either_direction_decides_on_the_rtt(
    links: list[directory_pb2.Record], fits: bool
) -> None:
    published = [*osaka(), records.cloud("tokyo"), *links]
    verdict = judge(published, source_cloud="tokyo", rtt_ms_max=10.0)
    assert [fit.cloud.cloud_id for fit in verdict.fits] == (["osaka"] if fits else [])
    reasons = [one.constraint for one in verdict.rejections if one.cloud_id == "osaka"]
    assert reasons == ([] if fits else ["rtt"])


def test_labels_of_an_offer_win_over_those_of_its_cloud() -> None:
    published = [
        records.cloud("osaka", labels={"tier": "gold", "green": "yes"}),
        records.offer("osaka", labels={"tier": "spot"}),
        records.capacity("osaka"),
    ]
    assert judge(published, labels={"green": "yes", "tier": "spot"}).fits
    rejection = only_rejection(judge(published, labels={"tier": "gold"}))
    assert rejection.reason == "label tier is 'spot', wanted is 'gold'"


def test_a_fresh_capacity_record_counts_before_a_stale_one_of_the_same_region() -> None:
    stale = records.capacity("osaka", stale=True)
    fresh = records.capacity("osaka", largest_fit=records.resources(8, 8, 40))
    stale.key.name, fresh.key.name = "a", "b"
    published = [records.cloud("osaka"), records.offer("osaka"), stale, fresh]
    (fit,) = judge(published).fits
    assert fit.capacity.largest_fit["vcpus"] == 8


def test_prices_of_several_currencies_are_no_prices() -> None:
    prices = records.sheet()
    prices.disk_gib_month.currency_code = "JPY"
    assert judge(osaka(prices=prices)).fits[0].hourly is None
    ceiling = pricing.Price("EUR", Decimal(1))
    rejection = only_rejection(judge(osaka(prices=prices), ceiling=ceiling))
    assert rejection.reason == (
        "publishes prices of 2 currencies in one sheet, ceiling is 1.00 EUR/h"
    )


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
    fewer = names(feasible.judge(constraints.Question(constrained, view, now)))
    more = names(feasible.judge(constraints.Question(relaxed, view, now)))
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
        verdict = feasible.judge(constraints.Question(criteria, snapshot_of(*published), NOW))
        missed = [one for one in verdict.rejections if one.constraint == constraint]
        for rejection in missed:
            assert rejection.would_fit
            criteria = applied(criteria, rejection)
    assert names(feasible.judge(constraints.Question(criteria, snapshot_of(*published), NOW))) == {
        ("osaka", "standard")
    }


@given(
    st.integers(0, 2**63), st.integers(0, 2**63), st.sampled_from(["vcpus", "memory", "other:g"])
)
def test_unequal_amounts_never_read_the_same(first: int, second: int, kind: str) -> None:
    less, more = sorted((first, second))
    assert (amounts.words_down(kind, less) == amounts.words_up(kind, more)) <= (less == more)
