"""Migration through a broker: which destination it orders, and what a repeated order gives."""

import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import catalogue_records as records
from tests.support.broker_world import BROKER, VM_ID, World
from watari import errors
from watari.v1 import common_pb2


def test_migrate_asks_the_sources_manager_for_the_best_other_cloud(world: World) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02")
    world.publish_osaka("osaka-2", vcpu="0.01")
    migration_id = str(uuid.uuid4())
    answer = world.migrate(
        migration_id,
        mode=common_pb2.MIGRATION_MODE_COLD,
        options={"streams": 4},
        requirements={"rtt_ms_max": 10.0},
    )
    assert answer.migration.to_cloud == "osaka-2"
    (order,) = world.manager.orders
    assert (order.migration_id, order.vm, order.to_cloud) == (migration_id, VM_ID, "osaka-2")
    assert (order.mode, order.options.streams) == (common_pb2.MIGRATION_MODE_COLD, 4)
    assert world.manager.callers == {BROKER}
    placement = answer.placement
    assert [one.cloud_id for one in placement.candidates] == ["osaka-2", "osaka-1"]
    assert [(one.cloud_id, one.constraint) for one in placement.rejections] == [("tokyo", "source")]


def test_the_machines_own_resources_decide_unless_the_request_says_more(world: World) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02", largest_vcpus=4)
    world.publish_osaka("osaka-2", vcpu="0.03", largest_vcpus=8)
    assert world.migrate().migration.to_cloud == "osaka-1"
    bigger = {"resources": records.resources(8, 8, 40)}
    assert world.migrate(requirements=bigger).migration.to_cloud == "osaka-2"


def test_a_destination_that_the_manager_refuses_is_passed_over_and_explained(
    world: World,
) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02")
    world.publish_osaka("osaka-2", vcpu="0.01")
    world.manager.refusals["osaka-2"] = errors.NotFound("CLOUD_NOT_FOUND", "never heard of it")
    answer = world.migrate()
    assert answer.migration.to_cloud == "osaka-1"
    assert [one.cloud_id for one in answer.placement.candidates] == ["osaka-1"]
    (refused,) = (one for one in answer.placement.rejections if one.cloud_id == "osaka-2")
    assert (refused.constraint, refused.reason) == (
        "refused",
        "the source's manager refused it: never heard of it",
    )


def test_a_refusal_that_does_not_depend_on_the_destination_is_passed_on(world: World) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02")
    world.publish_osaka("osaka-2", vcpu="0.01")
    world.manager.refusals["osaka-2"] = errors.FailedPrecondition("VM_BUSY", "in a migration")
    with pytest.raises(errors.FailedPrecondition) as caught:
        world.migrate()
    assert caught.value.reason == "VM_BUSY"
    assert [order.to_cloud for order in world.manager.orders] == ["osaka-2"]


def test_no_candidate_names_the_nearest_clouds_and_what_would_fit(world: World) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02", largest_vcpus=2)
    world.publish_osaka("osaka-2", vcpu="0.02", largest_vcpus=3)
    with pytest.raises(errors.FailedPrecondition) as caught:
        world.migrate(requirements={"excluded_clouds": ["osaka-2"]})
    error = caught.value
    assert error.reason == "NO_CANDIDATE"
    assert error.message.startswith(
        "no cloud fits machine web-1: osaka-1: needs 4 vCPUs, largest host has 2 vCPUs free; "
    )
    assert error.hint == "osaka-1 fits with 2 vCPUs or fewer"
    assert error.metadata["rejections"] == "4"
    assert error.metadata["cloud.tokyo"] == "tokyo: is where the machine is already"
    assert not world.manager.orders


def test_when_every_destination_is_refused_there_is_no_candidate(world: World) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02")
    world.manager.refusals["osaka-1"] = errors.NotFound("CLOUD_NOT_FOUND", "never heard of it")
    with pytest.raises(errors.FailedPrecondition, match="never heard of it") as caught:
        world.migrate()
    assert caught.value.reason == "NO_CANDIDATE"


def test_only_so_many_destinations_are_tried_and_the_error_counts_the_others(
    world: World,
) -> None:
    world.publish_tokyo()
    for number in range(7):
        world.publish_osaka(f"osaka-{number}", vcpu="0.02")
        world.manager.refusals[f"osaka-{number}"] = errors.NotFound("CLOUD_NOT_FOUND", "unknown")
    with pytest.raises(errors.FailedPrecondition, match="2 more candidates were not tried"):
        world.migrate()
    assert len(world.manager.orders) == 5


def test_repeating_a_request_gives_the_same_migration_even_if_another_cloud_is_best_now(
    world: World,
) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02")
    migration_id = str(uuid.uuid4())
    first = world.migrate(migration_id)
    world.publish_osaka("osaka-2", vcpu="0.01")
    world.clock.advance(10)
    again = world.migrate(migration_id)
    assert again.migration == first.migration
    assert not again.HasField("placement")
    assert len(world.manager.orders) == 1


def test_an_id_of_another_machines_migration_is_refused(world: World) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02")
    migration_id = str(uuid.uuid4())
    world.migrate(migration_id)
    with pytest.raises(errors.AlreadyExists) as caught:
        world.migrate(migration_id, vm="web-2")
    assert caught.value.reason == "ID_REUSED"


def test_of_two_racing_requests_with_one_id_both_get_the_migration_that_began(
    world: World,
) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02")
    migration_id = str(uuid.uuid4())
    world.manager.before_migrate = lambda: world.manager.begin(migration_id, "osaka-9")
    assert world.migrate(migration_id).migration.to_cloud == "osaka-9"


def test_a_burst_spreads_over_the_clouds_with_room(world: World) -> None:
    world.publish_tokyo()
    for number, machines in enumerate((3, 2, 4)):
        world.publish_room(f"osaka-{number}", machines)
    with ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(lambda _: world.migrate(), range(9)))
    chosen = Counter(answer.migration.to_cloud for answer in answers)
    assert chosen == {"osaka-0": 3, "osaka-1": 2, "osaka-2": 4}


def test_a_refused_migration_gives_its_room_back(world: World) -> None:
    world.publish_tokyo()
    world.publish_room("osaka-1", 1, vcpu="0.01")
    world.publish_room("osaka-2", 1, vcpu="0.02")
    world.manager.refusals["osaka-1"] = errors.FailedPrecondition("VM_BUSY", "in a migration")
    with pytest.raises(errors.FailedPrecondition):
        world.migrate()
    del world.manager.refusals["osaka-1"]
    assert world.migrate().migration.to_cloud == "osaka-1"
    assert world.migrate().migration.to_cloud == "osaka-2"


def test_a_refused_cloud_keeps_its_room_and_the_next_one_loses_it(world: World) -> None:
    world.publish_tokyo()
    world.publish_room("osaka-1", 1, vcpu="0.01")
    world.publish_room("osaka-2", 1, vcpu="0.02")
    world.publish_room("osaka-3", 1, vcpu="0.03")
    world.manager.refusals["osaka-1"] = errors.NotFound("CLOUD_NOT_FOUND", "never heard of it")
    assert world.migrate().migration.to_cloud == "osaka-2"
    del world.manager.refusals["osaka-1"]
    assert world.migrate().migration.to_cloud == "osaka-1"
    assert world.migrate().migration.to_cloud == "osaka-3"


def test_without_an_answer_the_room_stays_taken_since_the_migration_may_have_begun(
    world: World,
) -> None:
    world.publish_tokyo()
    world.publish_room("osaka-1", 1, vcpu="0.01")
    world.publish_room("osaka-2", 1, vcpu="0.02")
    world.manager.refusals["osaka-1"] = errors.Unavailable("PEER_UNAVAILABLE", "gone")
    with pytest.raises(errors.Unavailable):
        world.migrate()
    assert world.migrate().migration.to_cloud == "osaka-2"
