"""Migration with a mandate: who is asked to hold room, who no more, and what is given back."""

import threading
import time
import uuid
from collections.abc import Callable

import pytest

from tests.conftest import OSAKA, TOKYO
from tests.support import catalogue_records as records
from tests.support.broker_world import TOKYO_USER, VM_ID, Destination, World
from tests.support.clouds import eventually
from watari import errors, mandate
from watari.v1 import broker_pb2, common_pb2, manager_pb2

FULL = errors.Exhausted(
    "INSUFFICIENT_CAPACITY",
    "no host has room; h1 comes closest: 4 of vcpus asked, 2 free",
    hint="a machine with at most 2 of vcpus would fit",
    resource="vcpus",
    asked=4,
    free=2,
)
GONE = errors.Unavailable("SERVER_UNAVAILABLE", "a moment", retryable=True)


@pytest.fixture
def best(world: World) -> Destination:
    """The cheapest cloud's manager."""
    world.publish_tokyo()
    return world.publish_holder("osaka-1", "0.01")


@pytest.fixture
def second(world: World, best: Destination) -> Destination:
    """The next one's."""
    return world.publish_holder("osaka-2", "0.02")


def attempts(answer: broker_pb2.MigrateResponse) -> list[tuple[str, str]]:
    """Each cloud that was looked at, and why it holds nothing."""
    return [(each.cloud_id, each.problem.reason) for each in answer.attempts]


def why(answer: broker_pb2.MigrateResponse, cloud_id: str) -> str:
    """What is told of a cloud that was refused."""
    (told,) = (each for each in answer.placement.rejections if each.cloud_id == cloud_id)
    assert told.constraint == "refused"
    return told.reason


def test_room_is_held_at_the_best_candidate_and_the_source_is_told_its_id(
    world: World, best: Destination, second: Destination
) -> None:
    world.manager.vm.disks.add(disk_id="vda", size_bytes=2**32, allocated_bytes=2**30)
    migration_id = str(uuid.uuid4())
    answer = world.hold(migration_id)
    (asked,) = best.holds
    assert asked.resources == world.manager.vm.resources
    assert asked.written_bytes == 2**30
    (order,) = world.manager.orders
    reservation_id = mandate.reservation_id(migration_id)
    assert (order.to_cloud, order.reservation_id) == ("osaka-1", reservation_id)
    assert answer.reservation == best.held[reservation_id]
    assert attempts(answer) == [("osaka-1", "")]
    assert not second.holds


def test_without_a_mandate_nobody_holds_anything(world: World, best: Destination) -> None:
    answer = world.migrate()
    assert answer.migration.to_cloud == "osaka-1"
    assert not answer.HasField("reservation")
    assert not answer.attempts
    assert not best.holds
    assert world.manager.orders[0].reservation_id == ""


def test_who_refuses_is_passed_over_told_and_not_asked_again(
    world: World, best: Destination, second: Destination
) -> None:
    best.refusal = FULL
    first = world.hold()
    assert first.migration.to_cloud == "osaka-2"
    assert attempts(first) == [("osaka-1", "INSUFFICIENT_CAPACITY"), ("osaka-2", "")]
    assert why(first, "osaka-1") == f"its manager holds no room: {FULL.message}"
    again = world.hold()
    assert again.migration.to_cloud == "osaka-2"
    assert attempts(again) == [("osaka-1", "INSUFFICIENT_CAPACITY"), ("osaka-2", "")]
    assert again.attempts[0].HasField("refused_before")
    assert "refused such a machine 0 s ago: no host has room" in why(again, "osaka-1")
    assert len(best.holds) == 1


def test_who_refused_is_asked_again_after_a_time_and_when_its_room_changes(
    world: World, best: Destination, second: Destination
) -> None:
    best.refusal = FULL
    world.hold()
    best.refusal = None
    world.clock.advance(11)
    assert world.hold().migration.to_cloud == "osaka-1"
    best.refusal = FULL
    assert world.hold().migration.to_cloud == "osaka-2"
    best.refusal = None
    world.publish_capacity("osaka-1", "0.01", machines=15)
    assert world.hold().migration.to_cloud == "osaka-1"


def test_when_nobody_holds_room_the_error_tells_of_each_cloud_why(
    world: World, best: Destination, second: Destination
) -> None:
    best.refusal = FULL
    second.refusal = errors.Exhausted("QUOTA_EXCEEDED", "the quota of alice does not allow it")
    for _ in range(2):
        with pytest.raises(errors.FailedPrecondition) as caught:
            world.hold()
        assert caught.value.reason == "NO_CANDIDATE"
        assert "no host has room" in caught.value.metadata["cloud.osaka-1"]
        assert "the quota of alice" in caught.value.metadata["cloud.osaka-2"]
    assert (len(best.holds), len(second.holds)) == (1, 1)
    assert not world.manager.orders


def test_what_a_refused_migration_held_is_given_back(world: World, best: Destination) -> None:
    world.manager.refusals["osaka-1"] = errors.FailedPrecondition("VM_BUSY", "in a migration")
    with pytest.raises(errors.FailedPrecondition, match="in a migration"):
        world.hold()
    assert len(best.released) == 1
    assert not best.held


def test_a_destination_that_the_source_refuses_gets_its_room_back(
    world: World, best: Destination, second: Destination
) -> None:
    world.manager.refusals["osaka-1"] = errors.NotFound("CLOUD_NOT_FOUND", "never heard of it")
    answer = world.hold()
    assert answer.migration.to_cloud == "osaka-2"
    assert not best.held
    assert len(second.held) == 1
    assert answer.reservation == next(iter(second.held.values()))


def test_while_the_migration_may_have_begun_its_room_stays_held(
    world: World, best: Destination
) -> None:
    world.manager.refusals["osaka-1"] = errors.Unavailable("PEER_UNAVAILABLE", "gone")
    with pytest.raises(errors.Unavailable):
        world.hold()
    assert len(best.held) == 1
    assert not best.released


def test_who_lost_a_race_gives_back_what_it_held_elsewhere(world: World, best: Destination) -> None:
    migration_id = str(uuid.uuid4())
    world.manager.before_migrate = lambda: world.manager.begin(migration_id, "osaka-9")
    answer = world.hold(migration_id)
    assert answer.migration.to_cloud == "osaka-9"
    assert not best.held


def test_what_is_not_answered_in_time_may_be_held_and_is_given_back(
    world: World, best: Destination, second: Destination
) -> None:
    answers = threading.Event()
    best.before_answer = lambda: answers.wait(20) and None
    best.release_refusals = [GONE, GONE]
    try:
        answer = world.hold()
    finally:
        answers.set()
    assert answer.migration.to_cloud == "osaka-2"
    assert attempts(answer)[0] == ("osaka-1", "DEADLINE_EXCEEDED")
    eventually(lambda: not best.held, "the room is given back")
    assert len(best.released) == 1


def test_who_does_not_wait_long_enough_is_told_so_and_what_the_source_needs_is_kept(
    world: World, best: Destination
) -> None:
    with pytest.raises(errors.DeadlineExceeded, match="no cloud held room for machine web-1"):
        world.hold(timeout_seconds=4.0)
    assert not best.holds
    assert not world.manager.orders
    assert world.hold().migration.to_cloud == "osaka-1", "its room is not counted any more"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": manager_pb2.RESERVATION_STATE_RELEASED}, "RESERVATION_STATE"),
        ({"reservation_id": str(uuid.UUID(int=7))}, "PEER_ERROR"),
    ],
)
def test_an_answer_that_is_no_room_is_a_refusal(
    world: World,
    best: Destination,
    second: Destination,
    changes: dict[str, object],
    reason: str,
) -> None:
    best.changes = changes
    answer = world.hold()
    assert answer.migration.to_cloud == "osaka-2"
    assert attempts(answer)[0] == ("osaka-1", reason)


def test_a_manager_that_is_away_is_passed_over(
    world: World, best: Destination, second: Destination
) -> None:
    world.addresses["osaka-1"] = "127.0.0.1:1"
    world.publish_capacity("osaka-1", "0.01", machines=4)
    answer = world.hold()
    assert answer.migration.to_cloud == "osaka-2"
    assert attempts(answer)[0] == ("osaka-1", "PEER_UNAVAILABLE")
    assert "127.0.0.1:1 does not answer" in why(answer, "osaka-1")


def test_while_one_that_may_have_room_is_away_nobody_says_that_nothing_fits(
    world: World, best: Destination, second: Destination
) -> None:
    world.addresses["osaka-1"] = "127.0.0.1:1"
    world.publish_capacity("osaka-1", "0.01", machines=4)
    second.refusal = FULL
    for _ in range(2):
        with pytest.raises(errors.Unavailable) as caught:
            world.hold()
        assert (caught.value.reason, caught.value.retryable) == ("PEER_UNAVAILABLE", True)
        assert "127.0.0.1:1 does not answer" in caught.value.metadata["cloud.osaka-1"]
        assert "no host has room" in caught.value.metadata["cloud.osaka-2"]
    assert len(second.holds) == 1
    assert not world.manager.orders


def test_only_clouds_of_the_mandate_are_asked(
    world: World, best: Destination, second: Destination
) -> None:
    migration_id = str(uuid.uuid4())
    answer = world.hold(
        migration_id, mandate=world.mandate(TOKYO_USER, migration_id, to_clouds=["osaka-2"])
    )
    assert answer.migration.to_cloud == "osaka-2"
    assert not best.holds


def test_while_the_directory_is_away_room_is_held_and_the_answer_says_what_it_is_from(
    world: World, best: Destination
) -> None:
    world.hold()
    assert world.directory_server.stop(0).wait(10)
    deadline = time.monotonic() + 60
    while not (answer := world.hold()).placement.snapshot_stale:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert answer.migration.to_cloud == "osaka-1"
    assert answer.reservation.reservation_id in best.held


def test_a_cloud_whose_lease_has_lapsed_is_not_asked(world: World, best: Destination) -> None:
    world.publish_capacity("osaka-1", "0.01", machines=16, ttl_seconds=5)
    world.publish_holder("osaka-2", "0.02")
    assert world.hold().migration.to_cloud == "osaka-1"
    deadline = time.monotonic() + 60
    while "osaka-1" in {each.cloud_id for each in world.place().candidates}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    answer = world.hold()
    assert attempts(answer) == [("osaka-2", "")]
    assert len(best.holds) == 1
    missed = {each.constraint for each in answer.placement.rejections if each.cloud_id == "osaka-1"}
    assert "stale" in missed


Changed = Callable[[World, str], common_pb2.SignedDocument]


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (lambda w, m: w.mandate(f"spiffe://{OSAKA}/user/bob", m), "signed it, not"),
        (lambda w, _: w.mandate(TOKYO_USER, str(uuid.uuid4())), "its migration_id is"),
        (lambda w, m: w.mandate(TOKYO_USER, m, vm_id=str(uuid.uuid4())), "its vm_id is"),
        (lambda w, m: w.mandate(TOKYO_USER, m, from_cloud="osaka-1"), "its from_cloud is"),
        (lambda w, m: w.mandate(TOKYO_USER, m, life_seconds=-1), "it expired"),
        (
            lambda w, m: w.mandate(TOKYO_USER, m, resources=records.resources(3, 8, 40)),
            "it lets 3 vCPUs be held, machine web-1 has 4 vCPUs",
        ),
        (lambda w, m: w.delegate(TOKYO_USER, migration_id=m), "the reservation mandate"),
    ],
)
def test_a_mandate_for_something_else_is_refused_and_nobody_is_asked_to_hold(
    world: World, best: Destination, shown: Changed, told: str
) -> None:
    migration_id = str(uuid.uuid4())
    with pytest.raises(errors.Denied, match=told) as caught:
        world.hold(migration_id, mandate=shown(world, migration_id))
    assert caught.value.reason == "MANDATE_INVALID"
    assert not best.holds
    assert not world.manager.orders


def test_mandate_and_delegation_must_have_a_cloud_in_common(
    world: World, best: Destination
) -> None:
    migration_id = str(uuid.uuid4())
    delegation = world.delegate(TOKYO_USER, migration_id=migration_id, to_clouds=["osaka-7"])
    with pytest.raises(errors.Denied, match="none of its clouds") as caught:
        world.hold(migration_id, delegation=delegation)
    assert caught.value.reason == "MANDATE_INVALID"


def test_an_operator_may_have_room_held_for_a_tenant(world: World, best: Destination) -> None:
    operator = f"spiffe://{TOKYO}/operator/main"
    migration_id = str(uuid.uuid4())
    shown = world.mandate(operator, migration_id, tenant="alice", vm_id=VM_ID)
    assert world.hold(migration_id, operator, mandate=shown).reservation.reservation_id
