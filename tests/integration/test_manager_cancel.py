"""Cancelling a migration in each of its states."""

import pytest

from tests.support.clouds import VM, Cloud, assert_one_owner, eventually
from tests.support.holding import held
from tests.support.scripted_agent import BREAKS, HANGS
from watari import errors, failpoint
from watari.v1 import manager_pb2

REFUSE = "error(SERVER_UNAVAILABLE)"


def refused(cloud: Cloud, migration_id: str) -> str:
    """The reason why a cancellation is refused."""
    with pytest.raises(errors.FailedPrecondition) as caught:
        cloud.cancel(migration_id)
    return caught.value.reason


@pytest.mark.parametrize(
    ("state", "point"),
    [
        ("REQUESTED", "manager.saga.before_state"),
        ("RESERVING", "manager.saga.after_hold"),
        ("RESERVING", "manager.saga.after_reserve"),
        ("COPYING", "manager.saga.before_start_transfer"),
        ("CONFIRMING", "manager.saga.after_confirm"),
        ("CONFIRMING", "manager.saga.in_commit"),
    ],
)
def test_before_the_commit_point_a_cancellation_leaves_the_machine_where_it_was(
    clouds: tuple[Cloud, Cloud], state: str, point: str
) -> None:
    tokyo, osaka = clouds
    with failpoint.armed(point, REFUSE):
        migration_id = tokyo.migrate("web-1", "osaka").migration_id
        tokyo.wait_state(migration_id, state)
        assert tokyo.cancel(migration_id).cancel_requested
    ended = tokyo.wait_state(migration_id, "CANCELLED")
    assert not ended.HasField("problem")
    assert tokyo.cancel(migration_id).state == manager_pb2.MIGRATION_STATE_CANCELLED
    assert_one_owner(VM, tokyo, osaka)
    assert not tokyo.usage() + osaka.usage()
    eventually(lambda: not osaka.agent.arrivals, "what had arrived is discarded")
    assert osaka.inventory().held.vcpus == 0
    tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "SUCCEEDED")


def test_a_cancellation_that_comes_just_before_the_commit_wins(
    clouds: tuple[Cloud, Cloud],
) -> None:
    tokyo, osaka = clouds
    with held("manager.saga.before_commit") as commit:
        migration_id = tokyo.migrate("web-1", "osaka").migration_id
        commit.await_there()
        tokyo.cancel(migration_id)
        commit.let_go()
        tokyo.wait_state(migration_id, "CANCELLED")
    assert_one_owner(VM, tokyo, osaka)
    eventually(lambda: not osaka.agent.arrivals, "what had arrived is discarded")
    assert osaka.inventory().held.vcpus == 0


def test_a_copy_is_cancelled_while_it_runs(clouds: tuple[Cloud, Cloud]) -> None:
    tokyo, osaka = clouds
    tokyo.agent.script.append(HANGS)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    tokyo.cancel(migration_id)
    tokyo.wait_state(migration_id, "CANCELLED")
    assert_one_owner(VM, tokyo, osaka)
    eventually(lambda: not osaka.agent.arrivals, "what had arrived is discarded")


@pytest.mark.parametrize(
    ("state", "point"),
    [
        ("HANDED_OVER", "manager.handover.before_record"),
        ("HANDED_OVER", "manager.handover.after_owned"),
        ("RETIRING", "manager.saga.after_retire"),
    ],
)
def test_after_the_commit_point_a_cancellation_is_refused_and_the_machine_arrives(
    clouds: tuple[Cloud, Cloud], state: str, point: str
) -> None:
    tokyo, osaka = clouds
    with failpoint.armed(point, REFUSE):
        migration_id = tokyo.migrate("web-1", "osaka").migration_id
        tokyo.wait_state(migration_id, state)
        assert refused(tokyo, migration_id) == "MIGRATION_COMMITTED"
    ended = tokyo.wait_state(migration_id, "SUCCEEDED")
    assert not ended.cancel_requested
    assert refused(tokyo, migration_id) == "MIGRATION_STATE"
    assert_one_owner(VM, osaka, tokyo)


def test_a_migration_that_rolls_back_or_has_failed_cannot_be_cancelled(
    clouds: tuple[Cloud, Cloud],
) -> None:
    tokyo, osaka = clouds
    tokyo.agent.script.append(BREAKS)
    with failpoint.armed("manager.saga.after_undo", REFUSE):
        migration_id = tokyo.migrate("web-1", "osaka").migration_id
        tokyo.wait_state(migration_id, "ROLLING_BACK")
        assert refused(tokyo, migration_id) == "MIGRATION_STATE"
    ended = tokyo.wait_state(migration_id, "FAILED")
    assert ended.problem.reason == "DISK_IO"
    assert refused(tokyo, migration_id) == "MIGRATION_STATE"
    assert_one_owner(VM, tokyo, osaka)


def test_an_unknown_migration_cannot_be_cancelled(clouds: tuple[Cloud, Cloud]) -> None:
    with pytest.raises(errors.NotFound) as caught:
        clouds[0].cancel("6f1f2d2e-0000-4000-8000-0000000000ff")
    assert caught.value.reason == "MIGRATION_NOT_FOUND"
