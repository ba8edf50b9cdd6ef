"""PlaceBatch by a broker over a real directory."""

import threading
import time
import uuid

import pytest

from broker.batch import batcher, solve
from tests.support import catalogue_records as records
from tests.support.broker_world import World
from watari import errors, rpc
from watari.v1 import broker_pb2

NEEDS = broker_pb2.Requirements(resources=records.resources(4, 8, 40))


def machine(name: str, **fields: object) -> broker_pb2.BatchMachine:
    return broker_pb2.BatchMachine(**{"name": name, "requirements": NEEDS} | fields)


def ask(
    world: World, *machines: broker_pb2.BatchMachine, seconds: float = 20, **fields: object
) -> broker_pb2.PlaceBatchResponse:
    request = broker_pb2.PlaceBatchRequest(
        request_id=str(uuid.uuid4()),
        machines=machines,
        directory_revision_min=world.revision,
        **fields,
    )
    return rpc.call(world.broker().PlaceBatch, request, timeout_seconds=seconds)


def where(answer: broker_pb2.PlaceBatchResponse) -> dict[str, str]:
    return {one.machine: one.candidate.cloud_id for one in answer.placements}


@pytest.mark.parametrize("solver", ["GREEDY", "MILP", "STABLE"])
def test_replicas_are_spread_and_each_tells_its_offer(world: World, solver: str) -> None:
    for number in (1, 2, 3):
        world.publish_osaka(f"osaka-{number}", vcpu=f"0.0{number}")
    group = broker_pb2.BatchGroup(name="web", per_cloud_max=1)
    answer = ask(
        world, machine("web", group="web", count=2), groups=[group], solver=f"BATCH_SOLVER_{solver}"
    )
    assert sorted(where(answer)) == ["web-1", "web-2"]
    assert sorted(where(answer).values()) == ["osaka-1", "osaka-2"]
    assert answer.placements[0].candidate.scores
    hours = sum(float(f"0.0{number}") * 4 + 0.02 for number in (1, 2))
    assert answer.cost == pytest.approx(hours * 720)
    assert 0 <= answer.bound <= answer.objective
    assert answer.currency == "EUR"


def test_a_machine_stays_where_no_saving_pays_for_the_move(world: World) -> None:
    world.publish_osaka("osaka-1", vcpu="0.02", largest_vcpus=1)
    world.publish_osaka("osaka-2", vcpu="0.01")
    cost = records.sheet("100").vcpu_hour
    answer = ask(
        world,
        machine("a", current_cloud="osaka-1", move_cost=cost),
        machine("b", current_cloud="osaka-1"),
    )
    assert where(answer) == {"a": "osaka-1", "b": "osaka-2"}
    assert [one.stays for one in answer.placements] == [True, False]


def test_who_finds_no_cloud_is_told_what_comes_nearest(world: World) -> None:
    world.publish_osaka("osaka-1", vcpu="0.01", largest_vcpus=2)
    placement = ask(world, machine("a")).placements[0]
    assert placement.unplaced == "nowhere_allowed"
    assert [(one.cloud_id, one.constraint) for one in placement.rejections] == [
        ("osaka-1", "capacity")
    ]


def test_what_is_not_of_one_currency_or_beyond_a_bound_is_refused(world: World) -> None:
    world.publish_osaka("osaka-1", vcpu="0.01")
    yen = records.sheet(currency="JPY").vcpu_hour
    for machines, fields, field in (
        ((machine("a", count=2001),), {}, "machines"),
        ((machine("a"), machine("a")), {}, "machines.name"),
        ((machine("a", group="b"),), {}, "machines.group"),
        ((machine("a", move_cost=yen),), {}, "machines.move_cost"),
        ((machine("a"),), {"limit_seconds": 61}, "limit_seconds"),
        ((machine("a", weight=-1),), {}, "machines.weight"),
        ((), {}, "machines"),
    ):
        with pytest.raises(errors.InvalidArgument) as refused:
            ask(world, *machines, **fields)
        assert refused.value.metadata["field"] == field


def test_one_batch_at_a_time_and_other_questions_are_answered_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publish_osaka("osaka-1", vcpu="0.01")
    begun, go_on, real = threading.Event(), threading.Event(), solve.solve

    def held(*arguments: object) -> solve.Solution:
        begun.set()
        assert go_on.wait(60)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(batcher.solve, "solve", held)
    first = threading.Thread(target=lambda: ask(world, machine("a")))
    first.start()
    try:
        assert begun.wait(60)
        with pytest.raises(errors.Exhausted) as refused:
            ask(world, machine("a"))
        assert refused.value.reason == "TOO_MANY_BATCHES"
        assert world.place().candidates
    finally:
        go_on.set()
        first.join(60)
    assert where(ask(world, machine("a"))) == {"a": "osaka-1"}


def test_a_deadline_is_respected(world: World) -> None:
    world.publish_osaka("osaka-1", vcpu="0.01")
    with pytest.raises(errors.DeadlineExceeded):
        ask(world, machine("a"), seconds=0.4)
    begin = time.monotonic()
    assert ask(world, machine("a", count=500), seconds=10, limit_seconds=60).placements
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("solver", ["GREEDY", "MILP", "STABLE"])
def test_where_there_is_no_cloud_at_all_nothing_is_placed(world: World, solver: str) -> None:
    cost = records.sheet("1").vcpu_hour
    answer = ask(world, machine("a", move_cost=cost), solver=f"BATCH_SOLVER_{solver}")
    assert [one.unplaced for one in answer.placements] == ["nowhere_allowed"]
