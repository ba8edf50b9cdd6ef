"""Judging all offers at once agrees with judging one at a time, whatever is published and asked."""

import random
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.placing import federation
from broker import (
    amounts,
    charges,
    choosing,
    cloud_constraints,
    demands,
    feasible,
    masks,
    offer_constraints,
    place,
    pricing,
    rank,
    scorers,
    screening,
)
from broker.criteria import Criteria
from broker.inflight import Decision, Ledger
from broker.question import Question
from broker.snapshot import Snapshot, Store
from tests.support import catalogue_records as records
from tests.support.catalogue_records import NOW
from tests.support.federation_strategies import (
    CLOUDS,
    REGIONS,
    RESOURCES,
    criteria,
    federations,
    with_room,
)
from tests.support.verdicts import snapshot_of
from watari.v1 import common_pb2, directory_pb2


def test_every_constraint_has_a_mask_in_the_same_order() -> None:
    assert list(masks.CLOUD_MASKS) == list(cloud_constraints.CONSTRAINTS)
    assert list(masks.OFFER_MASKS) == list(offer_constraints.CONSTRAINTS)
    assert {*scorers.OF_ROOMS, *scorers.OF_OFFERS} == {*rank.SCORERS}


@settings(max_examples=60)
@given(federations() | with_room(), criteria())
def test_each_mask_agrees_with_the_constraint_that_has_the_words(
    published: list[directory_pb2.Record], wanted: Criteria
) -> None:
    question = Question(wanted, snapshot_of(*published), NOW)
    screened = screening.screen(question)
    for name, constraint in cloud_constraints.CONSTRAINTS.items():
        expected = [bool(list(constraint(question, cloud))) for cloud in screened.columns.clouds]
        mask = screened.of_clouds.get(name, np.zeros(len(expected), bool))
        assert mask.tolist() == expected, name
    for name, judge in offer_constraints.CONSTRAINTS.items():
        rows = [screened.columns.offer(row) for row in range(len(screened.columns))]
        expected = [bool(list(judge(question, cloud, offer))) for cloud, offer in rows]
        mask = screened.of_offers.get(name, np.zeros(len(expected), bool))
        assert mask.tolist() == expected, name


@settings(max_examples=80)
@given(
    federations() | with_room(),
    criteria(),
    st.dictionaries(st.sampled_from([*CLOUDS, "nowhere"]), st.sampled_from([0.0, 0.5, 0.9])),
)
def test_an_answer_is_that_of_judging_and_ranking_one_offer_at_a_time(
    published: list[directory_pb2.Record], wanted: Criteria, experience: dict[str, float]
) -> None:
    question = Question(wanted, snapshot_of(*published), NOW, experience)
    verdict = feasible.judge(question)
    placed = place.place(question.snapshot, wanted, NOW, experience=experience, held_max=100)
    assert placed.candidates == rank.rank(verdict.fits, question)
    assert placed.rejections == verdict.rejections
    assert placed.found == len(verdict.fits)
    for count in placed.counts:
        named = {
            (one.cloud_id, one.offer)
            for one in verdict.rejections
            if one.constraint == count.constraint and one.cloud_id in question.snapshot.clouds
        }
        assert count.clouds == sum(not offer for _, offer in named)


@given(
    st.lists(st.tuples(*([st.decimals("0", "1000000", places=9)] * 3)), min_size=1, max_size=20),
    RESOURCES,
    st.integers(-2, 2),
    st.sampled_from([1, 3600, 3601, 10_000_000]),
)
def test_prices_are_exact_at_the_very_edge_of_a_limit(
    sheets: list[tuple[Decimal, Decimal, Decimal]],
    needed: common_pb2.Resources,
    nanos: int,
    seconds: int,
) -> None:
    published = [records.cloud("a"), records.capacity("a")]
    for number, prices in enumerate(sheets):
        sheet = records.sheet(*(f"{price:f}" for price in prices))
        published.append(records.offer("a", f"o{number:02}", prices=sheet))
    view, wanted = snapshot_of(*published), amounts.of(needed)
    offers = view.clouds["a"].offers
    costs = [pricing.hourly(one.prices, wanted) for one in offers if one.prices]
    limit = pricing.over(costs[0], seconds).amount + Decimal(nanos).scaleb(-9)
    charged = charges.Costs(view.columns, wanted)
    dearer = charged.dearer(pricing.Price("EUR", limit), seconds)
    assert dearer.tolist() == [pricing.over(cost, seconds).amount > limit for cost in costs]
    exact = [cost.amount.scaleb(9) for cost in costs]
    found = charged.nanos(np.arange(len(costs))).tolist()
    assert [n for n, e in zip(found, exact, strict=True) if e < 2**53 and n != e] == []


@settings(max_examples=40)
@given(federations() | with_room(), federations() | with_room())
def test_what_changed_piece_by_piece_is_what_would_have_been_read_at_once(
    before: list[directory_pb2.Record], after: list[directory_pb2.Record]
) -> None:
    store = Store()
    for record in before:
        store.put(record)
    first = store.snapshot(1, NOW)
    kept = {(one.key.kind, one.key.cloud_id, one.key.name) for one in after}
    for record in before:
        if (record.key.kind, record.key.cloud_id, record.key.name) not in kept:
            store.delete(record.key)
    for record in after:
        store.put(record)
    fed, whole = store.snapshot(7, NOW), snapshot_of(*after)
    assert fed == whole
    assert len(store) == len(after)
    assert fed.columns.starts.tolist() == whole.columns.starts.tolist()
    assert rooms_of(fed) == rooms_of(whole)
    needed = Criteria(needed=amounts.of(records.resources(1, 1, 1)))
    assert place.place(fed, needed, NOW) == place.place(whole, needed, NOW)
    assert first == replace(snapshot_of(*before), revision=1)  # untouched by what came later


def test_rows_that_stay_find_their_rooms_among_those_that_come_and_go() -> None:
    store = Store()
    store.put(records.cloud("a"))
    for region in REGIONS:
        store.put(records.offer("a", f"of-{region}", region=region, prices=records.sheet()))
    wanted = Criteria({"vcpus": 1, "memory": 1, "disk": 0})
    changes = [
        ("r2", 1, "put"),
        ("r1", 2, "put"),
        ("r2", 3, "put"),
        ("r1", 0, "delete"),
        ("r2", 0, "put"),
    ]
    held: dict[str, directory_pb2.Record] = {}
    for region, vcpus, what in changes:
        room = records.resources(vcpus, 8, 8)
        record = records.capacity("a", region=region, total=room, free=room, largest_fit=room)
        if what == "put":
            store.put(record)
            held[region] = record
        else:
            store.delete(record.key)
            del held[region]
        placed = place.place(store.snapshot(7, NOW), wanted, NOW)
        fitting = {one.fit.offer.region for one in placed.candidates}
        assert fitting == {one for one, put in held.items() if put.capacity.free.vcpus}


def test_among_thousands_of_offers_the_same_are_chosen_as_one_at_a_time() -> None:
    size = federation.Size(clouds=12, offers=6000, seed=3)
    view = snapshot_of(*(one for _, all_of in federation.published(size) for one in all_of))
    rng = random.Random(4)
    found = []
    for _ in range(6):
        wanted = demands.of_place(federation.requirements(rng, size))
        fits = feasible.judge(Question(wanted, view, NOW)).fits
        placed = place.place(view, wanted, NOW, held_max=20)
        assert placed.candidates == rank.rank(fits, Question(wanted, view, NOW))[:20]
        found.append(placed.found)
    assert max(found) > choosing.STRIPES * 22  # as many as are narrowed down by their best


def test_where_no_offer_has_a_price_a_ceiling_keeps_all_of_them_out() -> None:
    offer = records.offer("a")
    offer.offer.ClearField("prices")
    published = [records.cloud("a"), offer, records.capacity("a")]
    ceiling = pricing.Price("EUR", Decimal(1))
    wanted = Criteria({"vcpus": 1, "memory": 1, "disk": 0}, ceiling=ceiling)
    found = place.place(snapshot_of(*published), wanted, NOW)
    assert not found.candidates
    assert [one.constraint for one in found.rejections] == ["price"]


@settings(max_examples=60)
@given(
    with_room(),
    criteria(),
    st.lists(
        st.tuples(st.sampled_from(CLOUDS[:3]), st.sampled_from(REGIONS), RESOURCES), max_size=4
    ),
)
def test_what_is_in_flight_leaves_the_columns_that_laying_out_anew_would_make(
    published: list[directory_pb2.Record],
    wanted: Criteria,
    decided: list[tuple[str, str, common_pb2.Resources]],
) -> None:
    ledger, before = Ledger(), snapshot_of(*published)
    for number, (cloud_id, region, needed) in enumerate(decided):
        decision = Decision(f"m{number}", cloud_id, region, amounts.of(needed), NOW)
        ledger = ledger.noted(decision, 10)
    adjusted = ledger.adjusted(before)
    anew = replace(adjusted, ready=None)
    assert adjusted.columns.rows is before.columns.rows  # which are dear to lay out
    assert rooms_of(adjusted) == rooms_of(anew)
    assert place.place(adjusted, wanted, NOW) == place.place(anew, wanted, NOW)
    again = snapshot_of(*published)
    assert (before, rooms_of(before)) == (again, rooms_of(again))


def rooms_of(view: Snapshot) -> list[tuple[Any, ...]]:
    """Of each room, what its columns say."""
    columns = view.columns
    rooms, words = columns.rooms, columns.words
    return [
        (
            *rooms.fit[:, room].tolist(),
            *rooms.free[:, room].tolist(),
            words["other"][rooms.fit_other[room]],
            words["share"][rooms.share_other[room]],
        )
        for room in range(len(rooms.stale))
    ]
