"""Migrations between two real managers over mTLS, with scripted agents."""

import pytest

from tests.support.clouds import (
    VM,
    assert_one_owner,
    eventually,
)
from tests.support.scripted_agent import BREAKS, HANGS, LIES
from watari import errors
from watari.rpc import client
from watari.v1 import manager_pb2

BIG = "6f1f2d2e-0000-4000-8000-000000000002"


def test_a_machine_moves_and_both_sides_agree_on_owner_epoch_and_usage(clouds):
    tokyo, osaka = clouds
    migration = tokyo.migrate("web-1", "osaka")
    ended = tokyo.wait_state(migration.migration_id, "SUCCEEDED")
    assert_one_owner(VM, osaka, tokyo)
    assert osaka.vms()[VM].epoch == 2
    assert ended.source_epoch == 1
    assert ended.progress.done_bytes == ended.progress.total_bytes
    (left,), (arrived,) = tokyo.usage(), osaka.usage()
    assert (left.kind, arrived.kind) == (
        manager_pb2.USAGE_KIND_LEFT,
        manager_pb2.USAGE_KIND_ARRIVED,
    )
    for same in ("occurred_at", "receipt_root", "raw_bytes", "wire_bytes", "vm_name", "tenant"):
        assert getattr(left, same) == getattr(arrived, same)
    assert (left.peer_cloud, arrived.peer_cloud) == ("osaka", "tokyo")
    assert tokyo.inventory().allocated.vcpus == 0
    assert osaka.inventory().allocated.vcpus == 2
    assert osaka.inventory().held.vcpus == 0


def test_the_source_copy_is_retired_and_the_arrival_is_activated_once(clouds):
    tokyo, osaka = clouds
    migration_id = tokyo.migrate(VM, "osaka").migration_id
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert tokyo.agent.retained == {VM: migration_id}
    assert VM not in tokyo.agent.guests
    assert osaka.agent.activated == {migration_id: VM}
    assert osaka.agent.guests[VM].epoch == 2


def test_a_machine_goes_there_and_back_with_growing_epochs(clouds):
    tokyo, osaka = clouds
    tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "SUCCEEDED")
    tokyo.agent.retained.clear()
    osaka.wait_state(osaka.migrate("web-1", "tokyo").migration_id, "SUCCEEDED")
    assert_one_owner(VM, tokyo, osaka)
    assert tokyo.vms()[VM].epoch == 3
    assert [record.kind for record in tokyo.usage()] == [
        manager_pb2.USAGE_KIND_LEFT,
        manager_pb2.USAGE_KIND_ARRIVED,
    ]


def test_the_same_id_gives_the_same_migration_and_other_content_is_refused(clouds):
    tokyo, _ = clouds
    first = tokyo.migrate("web-1", "osaka")
    tokyo.wait_ended(first.migration_id)
    again = tokyo.migrate("web-1", "osaka", first.migration_id)
    assert again.migration_id == first.migration_id
    assert again.created_at == first.created_at
    with pytest.raises(errors.AlreadyExists) as caught:
        tokyo.migrate("web-1", "kyoto", first.migration_id)
    assert caught.value.reason == "ID_REUSED"


def test_an_unknown_cloud_is_refused_at_once(clouds):
    tokyo, _ = clouds
    with pytest.raises(errors.NotFound) as caught:
        tokyo.migrate("web-1", "kyoto")
    assert caught.value.reason == "CLOUD_NOT_FOUND"
    assert tokyo.vms()[VM].migration_id == ""


def test_the_own_cloud_is_no_destination(clouds):
    tokyo, _ = clouds
    with pytest.raises(errors.FailedPrecondition) as caught:
        tokyo.migrate("web-1", "tokyo")
    assert caught.value.reason == "VM_ALREADY_THERE"


def test_an_unknown_machine_is_refused_and_one_that_left_says_where_to(clouds):
    tokyo, _ = clouds
    with pytest.raises(errors.NotFound) as caught:
        tokyo.migrate("nobody", "osaka")
    assert caught.value.reason == "VM_NOT_FOUND"
    tokyo.wait_state(tokyo.migrate(VM, "osaka").migration_id, "SUCCEEDED")
    with pytest.raises(errors.NotFound, match="osaka") as caught:
        tokyo.migrate(VM, "osaka")
    assert caught.value.reason == "VM_NOT_FOUND"


def test_a_machine_in_a_migration_is_busy(clouds):
    tokyo, _ = clouds
    tokyo.agent.script.append(HANGS)
    first = tokyo.migrate("web-1", "osaka")
    with pytest.raises(errors.FailedPrecondition) as caught:
        tokyo.migrate("web-1", "osaka")
    assert caught.value.reason == "VM_BUSY"
    tokyo.cancel(first.migration_id)
    tokyo.wait_state(first.migration_id, "CANCELLED")
    assert_one_owner(VM, tokyo, clouds[1])


def test_a_machine_with_a_problem_is_refused_with_the_problems_reason(clouds):
    tokyo, _ = clouds
    tokyo.agent.guests[VM].problem.reason = "IMAGE_UNREADABLE"
    eventually(lambda: tokyo.vms()[VM].HasField("problem"), "the problem is seen")
    with pytest.raises(errors.FailedPrecondition) as caught:
        tokyo.migrate("web-1", "osaka")
    assert caught.value.reason == "IMAGE_UNREADABLE"


def test_a_destination_without_room_fails_the_migration_and_frees_the_machine(clouds):
    tokyo, osaka = clouds
    tokyo.agent.add(BIG, "big", vcpus=9)
    eventually(lambda: BIG in tokyo.vms(), "the machine is adopted")
    ended = tokyo.wait_state(tokyo.migrate("big", "osaka").migration_id, "FAILED")
    assert ended.problem.reason == "INSUFFICIENT_CAPACITY"
    metadata = ended.problem.metadata
    assert (metadata["resource"], metadata["asked"], metadata["free"]) == ("vcpus", "9", "8")
    assert "9 of vcpus asked, 8 free" in ended.problem.message
    assert_one_owner(BIG, tokyo, osaka)
    assert osaka.inventory().held.vcpus == 0


def test_a_receipt_that_differs_from_what_the_source_read_never_commits(clouds):
    tokyo, osaka = clouds
    tokyo.agent.script.append(LIES)
    ended = tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "FAILED")
    assert ended.problem.reason == "RECEIPT_MISMATCH"
    assert_one_owner(VM, tokyo, osaka)
    eventually(lambda: not osaka.agent.arrivals, "the destination discards what arrived")


def test_a_watcher_sees_every_state_in_order_and_the_stream_ends(clouds):
    tokyo, _ = clouds
    tokyo.agent.script.append(HANGS)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    request = manager_pb2.WatchMigrationRequest(migration_id=migration_id)
    seen = []
    with client.stream(tokyo.operator.WatchMigration, request, timeout_seconds=20) as changes:
        for change in changes:
            if not seen:
                tokyo.cancel(migration_id)
            if change.migration.state not in seen:
                seen.append(change.migration.state)
    assert seen == [
        manager_pb2.MIGRATION_STATE_COPYING,
        manager_pb2.MIGRATION_STATE_ROLLING_BACK,
        manager_pb2.MIGRATION_STATE_CANCELLED,
    ]


def test_a_watch_ends_as_unavailable_when_the_manager_stops(clouds):
    tokyo, _ = clouds
    tokyo.agent.script.append(HANGS)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    request = manager_pb2.WatchMigrationRequest(migration_id=migration_id)
    with client.stream(tokyo.operator.WatchMigration, request, timeout_seconds=20) as changes:
        next(changes)
        tokyo.stop()
        with pytest.raises(errors.WatariError) as caught:
            list(changes)
    assert isinstance(caught.value, errors.Unavailable | errors.Cancelled)


def test_migrations_are_listed_newest_first_in_pages(clouds):
    tokyo, _ = clouds
    for _ in range(3):
        tokyo.agent.script.append(BREAKS)
        tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "FAILED")
    request = manager_pb2.ListMigrationsRequest(page_size=2)
    page = client.call(tokyo.operator.ListMigrations, request)
    request.page_token = page.next_page_token
    rest = client.call(tokyo.operator.ListMigrations, request)
    times = [each.created_at.ToNanoseconds() for each in (*page.migrations, *rest.migrations)]
    assert len(times) == 3
    assert times == sorted(times, reverse=True)
    active = manager_pb2.ListMigrationsRequest(active_only=True)
    assert not client.call(tokyo.operator.ListMigrations, active).migrations
