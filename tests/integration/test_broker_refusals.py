"""Whom and what a broker refuses, and which manager it believes."""

import uuid

import pytest

from tests.support import catalogue_records as records
from tests.support.broker_world import OSAKA_MANAGER, TOKYO_MANAGER, TOKYO_USER, World
from watari import errors, rpc
from watari.v1 import broker_pb2, manager_pb2_grpc


def test_an_unknown_cloud_or_machine_is_not_found(world: World) -> None:
    world.publish_tokyo()
    with pytest.raises(errors.NotFound) as caught:
        world.migrate(from_cloud="kyoto")
    assert caught.value.reason == "CLOUD_NOT_FOUND"
    other = str(uuid.uuid4())
    with pytest.raises(errors.NotFound) as caught:
        world.migrate(
            (migration_id := str(uuid.uuid4())),
            vm=other,
            delegation=world.delegate(TOKYO_USER, migration_id=migration_id, vm_id=other),
        )
    assert caught.value.reason == "VM_NOT_FOUND"


def test_a_manager_that_is_away_is_named(world: World) -> None:
    world.publish(
        TOKYO_MANAGER,
        "tokyo",
        records.cloud("tokyo", domain="tokyo.example", address="127.0.0.1:1"),
    )
    with pytest.raises(errors.Unavailable, match=r"manager/main at 127\.0\.0\.1:1") as caught:
        world.migrate()
    assert caught.value.metadata == {"peer": TOKYO_MANAGER, "address": "127.0.0.1:1"}


def test_only_the_provider_named_in_the_record_can_answer_as_its_manager(world: World) -> None:
    impostor = world.serve(
        OSAKA_MANAGER,
        lambda server: manager_pb2_grpc.add_ManagerServiceServicer_to_server(world.manager, server),
    )
    world.publish(
        TOKYO_MANAGER,
        "tokyo",
        records.cloud("tokyo", domain="tokyo.example", address=impostor.address),
    )
    with pytest.raises(errors.Unavailable):
        world.migrate()
    assert not world.manager.callers


def test_ids_are_checked_and_policies_are_refused_where_none_are_kept(world: World) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        rpc.call(world.broker().Place, broker_pb2.PlaceRequest(request_id="1"))
    assert caught.value.reason == "INVALID_ID"
    with pytest.raises(errors.InvalidArgument) as caught:
        world.migrate("not-a-uuid")
    assert caught.value.reason == "INVALID_ID"
    operator = "spiffe://hub.example/operator/main"
    with pytest.raises(errors.FailedPrecondition) as refused:
        rpc.call(world.broker(operator).ListPolicies, broker_pb2.ListPoliciesRequest())
    assert refused.value.reason == "AUTOMATION_OFF"
