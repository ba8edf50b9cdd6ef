"""The ledger of decisions that the directory does not show yet, and who decides with it."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import amounts, place, snapshot
from broker.criteria import Criteria
from broker.deciding import Decider
from broker.inflight import Decision, InFlightSettings, Ledger
from broker.place import Placement
from broker.snapshot import Snapshot
from tests.support import catalogue_records as records
from tests.support.catalogue_records import NOW
from watari.v1 import directory_pb2

SETTINGS = InFlightSettings()
NEEDED = amounts.of(records.resources(4, 8, 40))
WANTED = Criteria(needed=NEEDED)
CLOUDS = ("berlin", "osaka", "oslo")
REGIONS = ("east", "west")


def catalogue(**machines: int) -> Snapshot:
    """Clouds, each of which has room for so many machines of `NEEDED` in jp-east."""
    published: list[directory_pb2.Record] = []
    for cloud_id, count in machines.items():
        room = records.resources(4 * count, 8 * count, 40 * count)
        published += [
            records.cloud(cloud_id),
            records.offer(cloud_id, prices=records.sheet()),
            records.capacity(cloud_id, total=records.resources(400, 800, 4000), free=room),
        ]
    return snapshot.build(published, revision=7, taken_at=NOW)


def in_regions(vcpus: int) -> Snapshot:
    published = [records.cloud(cloud_id) for cloud_id in CLOUDS]
    published += [
        records.capacity(one, region=region, total=records.resources(vcpus, 8, 40, gpu=vcpus))
        for one in CLOUDS
        for region in REGIONS
    ]
    return snapshot.build(published, revision=7, taken_at=NOW)


decisions = st.builds(
    Decision,
    decision_id=st.uuids().map(str),
    cloud_id=st.sampled_from((*CLOUDS, "unknown")),
    region=st.sampled_from((*REGIONS, "unknown")),
    needed=st.dictionaries(
        st.sampled_from(("vcpus", "other:gpu", "other:unknown")), st.integers(0, 20)
    ),
    decided_at=st.integers(-60_000, 60_000).map(lambda ms: NOW + timedelta(milliseconds=ms)),
)


def ledger_of(made: list[Decision]) -> Ledger:
    ledger = Ledger()
    for decision in made:
        ledger = ledger.noted(decision, SETTINGS.decisions_max)
    return ledger


def judge(view: Snapshot) -> Placement:
    return place.place(view, WANTED, NOW)


def chosen(placement: Placement) -> str:
    return placement.candidates[0].fit.cloud.cloud_id


@given(st.lists(decisions, max_size=12), st.integers(1, 64))
def test_exactly_what_is_in_flight_is_taken_off_each_place(
    made: list[Decision], vcpus: int
) -> None:
    before = in_regions(vcpus)
    after = ledger_of(made).adjusted(before)
    for cloud_id, cloud in before.clouds.items():
        for region, room in cloud.capacities.items():
            here = [one for one in made if (one.cloud_id, one.region) == (cloud_id, region)]
            less = after.clouds[cloud_id].capacities[region]
            assert less.total == room.total
            for kind, amount in room.free.items():
                needed = sum(one.needed.get(kind, 0) for one in here)
                assert less.free[kind] == max(0, amount - needed)
                assert less.largest_fit[kind] == min(room.largest_fit[kind], less.free[kind])


def test_the_largest_machine_stays_while_more_than_it_is_free() -> None:
    room = records.capacity(
        "oslo",
        region="east",
        free=records.resources(64, 64, 400),
        largest_fit=records.resources(16, 8, 40),
    )
    view = snapshot.build([records.cloud("oslo"), room], revision=7, taken_at=NOW)
    ledger = ledger_of([Decision("one", "oslo", "east", {"vcpus": 40}, NOW)])
    assert ledger.adjusted(view).clouds["oslo"].capacities["east"].largest_fit["vcpus"] == 16
    ledger = ledger.noted(Decision("two", "oslo", "east", {"vcpus": 14}, NOW), 10)
    assert ledger.adjusted(view).clouds["oslo"].capacities["east"].largest_fit["vcpus"] == 10


@given(st.lists(decisions, max_size=12), decisions)
def test_a_forgotten_decision_leaves_no_trace(made: list[Decision], another: Decision) -> None:
    ledger = ledger_of(made)
    with_it = ledger.noted(another, SETTINGS.decisions_max)
    assert with_it.decisions[another.decision_id] == another
    assert with_it.without(another.decision_id) == ledger


@given(st.lists(decisions, max_size=12), st.integers(0, 90_000))
def test_a_decision_counts_until_it_is_old_or_shown(made: list[Decision], later_ms: int) -> None:
    now, view = NOW + timedelta(milliseconds=later_ms), in_regions(8)
    current = ledger_of(made).current(view, now, SETTINGS)
    for decision in made:
        known = decision.cloud_id in CLOUDS and decision.region in REGIONS
        old = decision.decided_at + timedelta(seconds=SETTINGS.seconds_max) <= now
        # The records of the samples changed at NOW.
        shown = known and decision.decided_at <= NOW - timedelta(
            seconds=SETTINGS.shown_after_seconds
        )
        assert (decision.decision_id in current.decisions) == (not old and not shown)


@given(st.lists(decisions, max_size=12), st.integers(1, 5))
def test_only_the_newest_decisions_are_held(made: list[Decision], held_max: int) -> None:
    ledger = Ledger()
    for decision in made:
        ledger = ledger.noted(decision, held_max)
    assert list(ledger.decisions.values()) == made[-held_max:]


def test_deciding_again_replaces_the_decision_and_makes_it_the_newest() -> None:
    first = Decision("one", "oslo", "east", {"vcpus": 4}, NOW)
    second = replace(first, decision_id="two")
    again = replace(first, cloud_id="osaka")
    assert list(ledger_of([first, second, again]).decisions.values()) == [second, again]


def test_a_burst_on_many_threads_fills_every_cloud_and_none_beyond_its_room() -> None:
    room = {"berlin": 5, "osaka": 20, "oslo": 9}
    view, decider = catalogue(**room), Decider(SETTINGS)
    with ThreadPoolExecutor(16) as pool:
        placements = list(
            pool.map(
                lambda number: decider.decide(f"m{number}", view, NEEDED, NOW, judge), range(34)
            )
        )
    assert Counter(map(chosen, placements)) == room
    assert len(decider.in_flight(view, NOW).decisions) == 34


def test_what_is_too_old_is_not_in_flight_whether_or_not_anybody_decides_again() -> None:
    view, decider = catalogue(oslo=2), Decider(SETTINGS)
    decider.decide("m1", view, NEEDED, NOW, judge)
    until = NOW + timedelta(seconds=SETTINGS.seconds_max)
    assert decider.in_flight(view, until - timedelta(seconds=1)).decisions
    assert not decider.in_flight(view, until).decisions


def test_when_all_room_is_in_flight_the_snapshot_decides() -> None:
    view, decider = catalogue(oslo=1), Decider(SETTINGS)
    for number in range(3):
        assert chosen(decider.decide(f"m{number}", view, NEEDED, NOW, judge)) == "oslo"


def test_a_repeated_decision_is_not_counted_against_itself() -> None:
    view, decider = catalogue(oslo=2, osaka=1), Decider(SETTINGS)
    assert chosen(decider.decide("m1", view, NEEDED, NOW, judge)) == "oslo"
    assert chosen(decider.decide("m1", view, NEEDED, NOW, judge)) == "oslo"
    assert len(decider.in_flight(view, NOW).decisions) == 1


@pytest.mark.parametrize("forgotten", [True, False])
def test_a_forgotten_decision_gives_its_room_back(forgotten: bool) -> None:
    view, decider = catalogue(oslo=2, osaka=1), Decider(SETTINGS)
    for name in ("m1", "m2"):
        decider.decide(name, view, NEEDED, NOW, judge)
    if forgotten:
        decider.forget("m1")
        decider.forget("m2")
    placement = decider.decide("m3", view, NEEDED, NOW, judge)
    clouds = {one.fit.cloud.cloud_id for one in placement.candidates}
    assert (clouds == {"oslo", "osaka"}) == forgotten


def test_what_the_caller_leaves_out_is_not_noted() -> None:
    view, decider = catalogue(oslo=2), Decider(SETTINGS)
    placement = decider.decide(
        "m1", view, NEEDED, NOW, lambda view: replace(judge(view), candidates=())
    )
    assert not placement.candidates
    assert not decider.in_flight(view, NOW).decisions
