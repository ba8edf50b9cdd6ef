"""Metering: from events to intervals, whatever the order in which they are told."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.accounting import metering
from manager.accounting.events import Event, Kind, payer
from manager.accounting.metering import Interval, Metered, meter
from watari import errors

SIZE = {"vcpus": 2}
LARGER = {"vcpus": 4}


def event(number: int, kind: Kind, at: int, vm: str = "vm", **more: object) -> Event:
    more.setdefault("resources", SIZE)
    return Event(str(number), number, "tokyo", kind, at, vm, "tenant:t", "t", **more)  # type: ignore[arg-type]


def spans(metered: Metered) -> list[tuple[int, int, bool, int]]:
    return [(i.start, i.end, i.running, i.resources["vcpus"]) for i in metered.intervals]


STORY = [
    event(1, Kind.STARTED, 10),
    event(2, Kind.RESIZED, 20, resources=LARGER),
    event(3, Kind.STOPPED, 30, resources=LARGER),
    event(4, Kind.STARTED, 40, resources=LARGER),
    event(5, Kind.DEPARTED, 50, resources=LARGER, peer="osaka"),
]


def test_a_stopped_machine_is_still_held_and_what_departed_is_not() -> None:
    found = meter(STORY, 100)
    assert spans(found) == [
        (10, 20, True, 2),
        (20, 30, True, 4),
        (30, 40, False, 4),
        (40, 50, True, 4),
    ]
    assert [crossing.event.event_id for crossing in found.crossings] == ["5"]
    assert found.held == []


@given(st.randoms(), st.lists(st.sampled_from(STORY)))
def test_neither_the_order_nor_a_repetition_changes_anything(
    chance: random.Random, again: list[Event]
) -> None:
    told = [*STORY, *again]
    chance.shuffle(told)
    assert meter(told, 100) == meter(STORY, 100)


@given(st.lists(st.integers(0, 110), max_size=6))
def test_metering_in_steps_is_metering_at_once(stops: list[int]) -> None:
    whole = meter(STORY, 110)
    held: tuple[metering.Holding, ...] = ()
    intervals: list[Interval] = []
    since = 0
    for until in sorted([*stops, 110]):
        step = meter([each for each in STORY if each.at >= since], until, held)
        intervals += step.intervals
        held, since = tuple(step.held), until
    assert _joined(intervals) == _joined(list(whole.intervals))


def _joined(intervals: list[Interval]) -> list[Interval]:
    found: list[Interval] = []
    for each in intervals:
        if found and replace(found[-1], end=each.end) == replace(each, start=found[-1].start):
            found[-1] = replace(found[-1], end=each.end)
        else:
            found.append(each)
    return found


@given(st.randoms())
def test_events_of_one_instant_happen_in_their_sequence(chance: random.Random) -> None:
    told = [
        event(1, Kind.STARTED, 10),
        event(2, Kind.STOPPED, 20),
        event(3, Kind.STARTED, 20),
        event(4, Kind.DEPARTED, 30),
        event(5, Kind.ARRIVED, 30),
    ]
    chance.shuffle(told)
    found = meter(told, 40)
    assert spans(found) == [(10, 20, True, 2), (20, 30, True, 2), (30, 40, False, 2)]
    assert [crossing.event.event_id for crossing in found.crossings] == ["4", "5"]


def test_the_instant_of_a_hand_over_belongs_to_the_destination_alone() -> None:
    out = [event(1, Kind.STARTED, 0), event(2, Kind.DEPARTED, 5, peer="osaka")]
    into = [event(1, Kind.ARRIVED, 5, running=True, peer="tokyo")]
    assert spans(meter(out, 9))[-1][:2] == (0, 5)
    assert spans(meter(into, 9))[0][:2] == (5, 9)


def test_a_minimum_holds_for_runs_that_began_and_ended_here() -> None:
    found = meter(
        [
            event(1, Kind.ARRIVED, 0, running=True),
            event(2, Kind.STOPPED, 10),
            event(3, Kind.STARTED, 20),
            event(4, Kind.RESIZED, 22, resources=LARGER),
            event(5, Kind.DELETED, 25),
        ],
        99,
    )
    assert [(run.start, run.end, run.at_end.resources) for run in found.runs] == [(20, 25, LARGER)]
    assert meter(STORY, 100).runs[0].start == 10
    assert len(meter(STORY, 100).runs) == 1


def test_an_event_from_the_time_after_is_left_for_later() -> None:
    found = meter([event(1, Kind.STARTED, 10), event(2, Kind.STOPPED, 50)], 50)
    assert spans(found) == [(10, 50, True, 2)]
    assert found.held[0].running


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ([event(1, Kind.DEPARTED, 5)], "is not here"),
        ([event(1, Kind.DELETED, 5)], "is not here"),
        ([event(1, Kind.STARTED, 5), event(2, Kind.ARRIVED, 6)], "is here already"),
        (
            [event(1, Kind.STARTED, 5), replace(event(2, Kind.STOPPED, 6), payer="tenant:u")],
            "is tenant:t's",
        ),
    ],
)
def test_an_event_that_cannot_follow_is_refused(told: list[Event], why: str) -> None:
    with pytest.raises(errors.FailedPrecondition, match=why) as caught:
        meter(told, 100)
    assert caught.value.metadata["vm_id"] == "vm"


def test_an_event_from_before_what_is_accounted_for_is_refused() -> None:
    held = meter([event(1, Kind.STARTED, 5)], 50).held
    with pytest.raises(errors.FailedPrecondition, match="accounted for"):
        meter([event(2, Kind.STOPPED, 40)], 100, held)


def test_an_id_that_comes_with_another_content_is_refused() -> None:
    with pytest.raises(errors.Conflict) as caught:
        meter([event(1, Kind.STARTED, 5), event(1, Kind.STARTED, 6)], 100)
    assert caught.value.reason == "ID_REUSED"


def test_a_tenant_is_billed_at_home_and_its_provider_elsewhere() -> None:
    assert payer("a.example", "acme", "a.example") == "tenant:acme"
    assert payer("a.example", "acme", "b.example") == "peer:a.example"


@pytest.mark.parametrize("resources", [{"vcpus": -1}, {"vcpus": 2**53}])
def test_an_event_with_an_impossible_amount_is_refused(resources: dict[str, int]) -> None:
    with pytest.raises(errors.InvalidArgument):
        event(1, Kind.STARTED, 5, resources=resources)
