"""Scores and their order, and the answer that is made from them."""

import random
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import amounts, place, pricing, rank, snapshot
from broker.criteria import Criteria, Weights
from broker.place import Placement
from broker.question import Question
from tests.support import catalogue_records as records
from tests.support.catalogue_records import NOW
from watari import rpc
from watari.v1 import common_pb2, directory_pb2

NEEDED = amounts.of(records.resources(4, 8, 40))
PRICE_ONLY = Weights(Fraction(1), Fraction(0), Fraction(0))


def placed(published: list[directory_pb2.Record], **wanted: Any) -> Placement:
    criteria = Criteria(**({"needed": NEEDED} | wanted))
    view = snapshot.build(published, revision=7, taken_at=NOW)
    return place.place(view, criteria, NOW)


def order(placement: Placement) -> list[str]:
    return [candidate.fit.cloud.cloud_id for candidate in placement.candidates]


def in_federation(*clouds: list[directory_pb2.Record]) -> list[directory_pb2.Record]:
    return [record for cloud in clouds for record in cloud]


def selling(
    cloud_id: str,
    *,
    vcpu: str = "0.01",
    currency: str = "EUR",
    region: str = "jp-east",
    free: common_pb2.Resources | None = None,
) -> list[directory_pb2.Record]:
    return [
        records.cloud(cloud_id),
        records.offer(cloud_id, region=region, prices=records.sheet(vcpu, currency=currency)),
        records.capacity(cloud_id, region=region, free=free),
    ]


def test_the_default_weights_put_price_before_room_before_region() -> None:
    published = in_federation(
        selling("cheap", vcpu="0.01", region="r1", free=records.resources(4, 8, 40)),
        selling("roomy", vcpu="0.09", region="r1"),
        selling("near", vcpu="0.09", region="r2", free=records.resources(4, 8, 40)),
    )
    placement = placed(published, preferred_regions=("r2",))
    assert order(placement) == ["cheap", "roomy", "near"]
    first = placement.candidates[0]
    assert [(score.name, score.weight) for score in first.scores] == [
        ("price", Fraction(1, 2)),
        ("region", Fraction(1, 5)),
        ("free_capacity", Fraction(3, 10)),
    ]
    assert [float(one.score) for one in placement.candidates] == [0.5, 0.3, 0.2]


def test_an_earlier_preferred_region_is_better_and_no_preference_ranks_none() -> None:
    published = in_federation(
        selling("a", region="r1"), selling("b", region="r2"), selling("c", region="r3")
    )
    region_only = Weights(Fraction(0), Fraction(1), Fraction(0))
    ranked = placed(published, weights=region_only, preferred_regions=("r3", "r2")).candidates
    assert [(one.fit.cloud.cloud_id, one.score) for one in ranked] == [
        ("c", 1),
        ("b", Fraction(1, 2)),
        ("a", 0),
    ]
    assert [one.scores[1].value for one in ranked] == [
        "r3, choice 1 of 2",
        "r2, choice 2 of 2",
        "r1, not preferred",
    ]
    unranked = placed(published, weights=region_only).candidates
    assert [one.score for one in unranked] == [1, 1, 1]


def test_the_scarcest_resource_decides_on_the_room_that_is_left() -> None:
    published = in_federation(selling("a", free=records.resources(60, 24, 4000)))
    (candidate,) = placed(published).candidates
    # (24 - 8) of 256 GiB of memory; vCPUs and disk leave more.
    assert candidate.scores[2].value == "6.2% free afterwards (memory)"


def test_room_that_does_not_suffice_by_the_coarse_total_counts_as_none_left() -> None:
    published = in_federation(selling("a"))
    published[2].capacity.free.CopyFrom(records.resources(2, 4, 20))
    (candidate,) = placed(published).candidates
    assert candidate.scores[2].value == "0.0% free afterwards (disk)"


def test_equal_scores_are_ordered_by_cloud_and_offer() -> None:
    published = in_federation(selling("b"), selling("a"))
    published.append(records.offer("a", "economy"))
    placement = placed(published)
    keys = [(one.fit.cloud.cloud_id, one.fit.offer.name) for one in placement.candidates]
    assert keys == [("a", "economy"), ("a", "standard"), ("b", "standard")]


def test_prices_of_another_currency_rank_last_and_say_so() -> None:
    published = in_federation(
        selling("a", vcpu="0.09"),
        selling("b", vcpu="0.01"),
        selling("c", vcpu="0.000001", currency="JPY"),
    )
    placement = placed(published, weights=PRICE_ONLY)
    assert order(placement) == ["b", "a", "c"]
    assert "not comparable with EUR" in placement.candidates[2].scores[0].value


def test_without_prices_an_offer_ranks_last_by_price_and_has_none_in_the_answer() -> None:
    published = in_federation(selling("a"), selling("b"))
    published[1].offer.ClearField("prices")
    answer = place.response(placed(published, weights=PRICE_ONLY), 10)
    assert [one.cloud_id for one in answer.candidates] == ["b", "a"]
    assert answer.candidates[1].scores[0].value == "publishes no prices"
    assert not answer.candidates[1].HasField("hourly_price")


@pytest.mark.parametrize(
    ("vcpu", "memory", "disk", "expected"),
    [
        ("0.01", "0.002", "0.073", "0.06"),
        ("0", "0", "0", "0"),
        ("0", "0", "0.01", "0.000547945"),  # 40 x 0.01 / 730 = 0.00054794520...
        ("1000000", "1000000", "0", "12000000"),
    ],
)
def test_the_hourly_price_is_the_sum_of_its_parts_rounded_once(
    vcpu: str, memory: str, disk: str, expected: str
) -> None:
    sheet, problem = pricing.read(records.sheet(vcpu, memory, disk))
    assert sheet is not None, problem
    assert pricing.hourly(sheet, NEEDED) == pricing.Price("EUR", Decimal(expected))


@pytest.mark.parametrize("amount", ["-0.01", "1000000.000000001"])
def test_a_price_that_is_negative_or_absurd_makes_the_sheet_unusable(amount: str) -> None:
    sheet, problem = pricing.read(records.sheet(amount))
    assert sheet is None
    assert "out of bounds" in problem


def test_an_answer_has_the_price_its_version_and_where_it_was_decided_from() -> None:
    answer = place.response(placed(in_federation(selling("a"))), 10)
    (candidate,) = answer.candidates
    assert (candidate.offer, candidate.region, candidate.price_version) == (
        "standard",
        "jp-east",
        3,
    )
    assert candidate.hourly_price == common_pb2.Money(currency_code="EUR", nanos=60_000_000)
    assert answer.directory_revision == 7
    assert answer.snapshot_at.ToDatetime(tzinfo=NOW.tzinfo) == NOW


def test_an_answer_has_at_most_the_candidates_asked_for() -> None:
    published = in_federation(*(selling(f"c{number}") for number in range(12)))
    answer = place.response(placed(published), 3)
    assert [one.cloud_id for one in answer.candidates] == ["c0", "c1", "c10"]


def test_rejections_beyond_the_limit_are_counted_and_the_answer_fits_a_message() -> None:
    trait, label = "t" * 128, "l" * 128
    published = in_federation(
        [records.cloud("osaka")],
        [records.offer("osaka", f"{'o' * 120}{number}") for number in range(1600)],
    )
    wanted = {
        "required_traits": tuple(f"{trait[:120]}{number}" for number in range(64)),
        "labels": {label: label, f"{label[1:]}2": label},
    }
    placement = placed(published, **wanted)
    answer = place.response(placement, 10)
    assert len(placement.rejections) == 6400
    assert not answer.rejections_complete
    assert len(answer.rejections) == place.REJECTIONS_MAX
    assert answer.rejections[-1].constraint == "limit"
    assert answer.rejections[-1].reason.startswith("1401 further rejections are left out")
    assert answer.ByteSize() < rpc.MESSAGE_BYTES_MAX


PRICE = st.decimals("0", "3", places=9).map(str)
CLOUD = st.tuples(
    PRICE,
    st.sampled_from(["EUR", "JPY"]),
    st.sampled_from(["r1", "r2", "r3"]),
    st.builds(
        records.resources,
        vcpus=st.integers(4, 64),
        memory_gib=st.integers(8, 256),
        disk_gib=st.integers(40, 4000),
    ),
)
WEIGHT = st.fractions(0, 1)


@given(
    clouds=st.lists(CLOUD, max_size=6),
    parts=st.tuples(WEIGHT, WEIGHT, WEIGHT).filter(any),
    preferred=st.lists(st.sampled_from(["r1", "r2", "r4"]), unique=True).map(tuple),
    seed=st.integers(),
)
def test_scores_are_within_0_and_1_and_independent_of_the_order_of_input(
    clouds: list[tuple[str, str, str, common_pb2.Resources]],
    parts: tuple[Fraction, Fraction, Fraction],
    preferred: tuple[str, ...],
    seed: int,
) -> None:
    weights = Weights(*(part / sum(parts) for part in parts))
    criteria = Criteria(needed=NEEDED, weights=weights, preferred_regions=preferred)
    published = in_federation(
        *(
            selling(f"c{number}", vcpu=vcpu, currency=currency, region=region, free=free)
            for number, (vcpu, currency, region, free) in enumerate(clouds)
        )
    )
    view = snapshot.build(published, revision=1, taken_at=NOW)
    placement = place.place(view, criteria, NOW)
    assert len(placement.candidates) == len(clouds)
    for candidate in placement.candidates:
        assert 0 <= candidate.score <= 1
        assert all(0 <= score.normalised <= 1 for score in candidate.scores)
        assert sum(score.weight for score in candidate.scores) == 1
    scores = [candidate.score for candidate in placement.candidates]
    assert scores == sorted(scores, reverse=True)

    fits = [candidate.fit for candidate in placement.candidates]
    random.Random(seed).shuffle(fits)
    assert rank.rank(fits, Question(criteria, view, NOW)) == placement.candidates
    random.Random(seed).shuffle(published)
    again = snapshot.build(published, revision=1, taken_at=NOW)
    assert place.place(again, criteria, NOW).candidates == placement.candidates
