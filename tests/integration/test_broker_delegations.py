"""What a broker does with a delegation: looks whose it is and what for, and passes it on."""

import uuid

import pytest

from tests.conftest import HUB, OSAKA, TOKYO
from tests.support.broker_world import TOKYO_USER, VM_ID, World
from watari import errors

OSAKA_USER = f"spiffe://{OSAKA}/user/bob"


@pytest.fixture
def ready(world: World) -> World:
    """With two clouds to go to, of which osaka-2 is cheaper."""
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02")
    world.publish_osaka("osaka-2", vcpu="0.01")
    return world


def refused(world: World, why: str, **fields: object) -> None:
    """The broker refuses, and has asked nobody."""
    with pytest.raises(errors.Denied, match=why) as caught:
        world.migrate(**fields)
    assert caught.value.reason == "DELEGATION_INVALID"
    assert caught.value.hint
    assert not world.manager.delegations


def test_every_call_to_the_manager_shows_the_delegation_as_it_was_signed(ready: World) -> None:
    migration_id = str(uuid.uuid4())
    signed = ready.delegate(TOKYO_USER, migration_id=migration_id)
    ready.migrate(migration_id, delegation=signed)
    assert len(ready.manager.delegations) == 3
    assert all(shown == signed for shown in ready.manager.delegations)


@pytest.mark.parametrize(
    "caller", [f"spiffe://{TOKYO}/operator/main", OSAKA_USER, f"spiffe://{HUB}/user/carol"]
)
def test_anybody_may_ask_with_a_delegation_and_the_manager_decides(
    ready: World, caller: str
) -> None:
    assert ready.migrate(caller=caller).migration.to_cloud == "osaka-2"


def test_without_a_delegation_nobody_is_asked(ready: World) -> None:
    refused(ready, "there is none", delegation=None)


def test_who_asks_must_have_signed_it(ready: World) -> None:
    migration_id = str(uuid.uuid4())
    signed = ready.delegate(TOKYO_USER, migration_id=migration_id)
    for caller in (OSAKA_USER, f"spiffe://{TOKYO}/operator/main"):
        refused(
            ready,
            f"{TOKYO_USER} signed it, not {caller}",
            migration_id=migration_id,
            caller=caller,
            delegation=signed,
        )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"delegate": f"spiffe://{OSAKA}/broker/main"}, "it is for spiffe://osaka.example/broker"),
        ({"migration_id": str(uuid.uuid4())}, "it is for migration"),
        ({"from_cloud": "osaka-1"}, "of cloud osaka-1, not of tokyo"),
    ],
)
def test_one_that_is_for_something_else_is_refused_at_once(
    ready: World, changes: dict[str, str], why: str
) -> None:
    migration_id = str(uuid.uuid4())
    fields = {"migration_id": migration_id} | changes
    refused(ready, why, migration_id=migration_id, delegation=ready.delegate(TOKYO_USER, **fields))


def test_the_machine_that_is_asked_for_is_the_one_that_was_delegated(ready: World) -> None:
    with pytest.raises(errors.Denied, match=f"it is for machine {VM_ID}, not for web-2") as caught:
        ready.migrate(vm="web-2")
    assert caught.value.reason == "DELEGATION_INVALID"
    assert not ready.manager.orders


def test_only_clouds_that_the_delegation_names_are_candidates(ready: World) -> None:
    migration_id = str(uuid.uuid4())
    signed = ready.delegate(TOKYO_USER, migration_id=migration_id, to_clouds=["osaka-1"])
    answer = ready.migrate(migration_id, delegation=signed)
    assert answer.migration.to_cloud == "osaka-1"
    assert [one.cloud_id for one in answer.placement.candidates] == ["osaka-1"]
    (left_out,) = (one for one in answer.placement.rejections if one.cloud_id == "osaka-2")
    assert left_out.constraint == "delegation"
    assert left_out.reason == "the delegation lets the machine go to osaka-1"


def test_a_manager_may_ask_where_to_go_and_not_have_machines_moved(ready: World) -> None:
    with pytest.raises(errors.Denied) as caught:
        ready.migrate(caller=f"spiffe://{TOKYO}/manager/main")
    assert caught.value.reason == "NOT_ALLOWED"
