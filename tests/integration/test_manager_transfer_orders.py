"""What the source's agent is told of a transfer, and what is told of its progress."""

import pytest

from tests.support.clouds import VM, eventually
from tests.support.holding import held
from tests.support.scripted_agent import FAILS, HANGS
from watari import errors, windows
from watari.rpc import client
from watari.v1 import common_pb2, manager_pb2

DAY, NIGHT = windows.parse("08:00-18:00=10M"), windows.parse("22:00-06:00=0")
OPTIONS = common_pb2.TransferOptions(limit_bytes_per_second=1 << 20, limit_schedule=[DAY, NIGHT])


def start(tokyo, *script, options=OPTIONS) -> str:
    """A migration to osaka with these options."""
    tokyo.agent.script.extend(script)
    request = manager_pb2.MigrateVmRequest(
        migration_id="6f1f2d2e-0000-4000-8000-00000000000a",
        vm=VM,
        to_cloud="osaka",
        options=options,
    )
    return client.call(tokyo.operator.MigrateVm, request).migration.migration_id


def set_limit(tokyo, migration_id: str, limit: int, *schedule) -> manager_pb2.Migration:
    """Changes the caps."""
    request = manager_pb2.SetMigrationLimitRequest(
        migration_id=migration_id, limit_bytes_per_second=limit, limit_schedule=schedule
    )
    return client.call(tokyo.operator.SetMigrationLimit, request).migration


def test_every_attempt_gets_the_schedule_that_was_asked_for(clouds):
    tokyo, _ = clouds
    migration_id = start(tokyo, FAILS, FAILS)
    ended = tokyo.wait_state(migration_id, "SUCCEEDED")
    assert [order.options for order in tokyo.agent.orders] == [OPTIONS] * 3
    assert ended.options == OPTIONS


def test_new_caps_take_the_place_of_the_schedule_for_the_running_and_every_later_attempt(clouds):
    tokyo, _ = clouds
    migration_id = start(tokyo, HANGS)
    eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    shown = set_limit(tokyo, migration_id, 2 << 20, NIGHT)
    (told,) = tokyo.agent.limits
    assert (told.limit_bytes_per_second, list(told.limit_schedule)) == (2 << 20, [NIGHT])
    assert list(shown.options.limit_schedule) == [NIGHT]
    tokyo.stop()
    tokyo.start()
    tokyo.agent.stop()
    tokyo.agent.start()
    tokyo.wait_state(migration_id, "SUCCEEDED")
    last = tokyo.agent.orders[-1].options
    assert (last.limit_bytes_per_second, list(last.limit_schedule)) == (2 << 20, [NIGHT])


def test_a_cap_that_changes_just_before_the_transfer_begins_is_not_lost(clouds):
    """The agent has no transfer yet when it is told, and the order to begin has the old cap."""
    tokyo, _ = clouds
    with held("manager.saga.before_start_transfer") as order:
        migration_id = start(tokyo, HANGS)
        order.await_there()
        set_limit(tokyo, migration_id, 2 << 20)
        assert tokyo.agent.attempts == 0
        order.let_go()
        eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    assert tokyo.agent.orders[-1].options.limit_bytes_per_second == 1 << 20
    eventually(lambda: len(tokyo.agent.limits) == 2, "the agent is told after all")
    assert tokyo.agent.limits[-1].limit_bytes_per_second == 2 << 20


def test_a_cap_without_windows_removes_the_schedule(clouds):
    tokyo, _ = clouds
    migration_id = start(tokyo, HANGS)
    eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    assert not set_limit(tokyo, migration_id, 0).options.limit_schedule
    assert not tokyo.migration(migration_id).options.limit_schedule


def test_a_schedule_out_of_bounds_is_refused_by_field(clouds):
    tokyo, _ = clouds
    wrong = common_pb2.LimitWindow(from_minute=1440)
    with pytest.raises(errors.InvalidArgument) as caught:
        start(tokyo, options=common_pb2.TransferOptions(limit_schedule=[DAY, wrong]))
    assert caught.value.metadata["field"] == "options.limit_schedule[1].from_minute"
    migration_id = start(tokyo, HANGS)
    with pytest.raises(errors.InvalidArgument) as caught:
        set_limit(tokyo, migration_id, 0, *[DAY] * 17)
    assert caught.value.metadata["field"] == "limit_schedule"


def test_the_source_agent_is_told_where_the_destination_takes_frames(clouds):
    tokyo, osaka = clouds
    tokyo.wait_state(start(tokyo, FAILS), "SUCCEEDED")
    told = {order.destination_data.address for order in tokyo.agent.orders}
    assert told == {f"127.0.0.1:{osaka.agent.port + 1}"}


def test_progress_reaches_the_watcher_as_the_agent_told_it(clouds):
    tokyo, _ = clouds
    told = common_pb2.Progress(bottleneck=common_pb2.BOTTLENECK_CPU)
    for number, field in enumerate(told.DESCRIPTOR.fields, 7):
        if field.message_type is None and field.enum_type is None:
            setattr(told, field.name, number)
    told.measured_at.FromSeconds(1_800_000_000)
    tokyo.agent.measured = told
    migration_id = start(tokyo, HANGS)
    eventually(lambda: tokyo.migration(migration_id).HasField("progress"), "it copies")
    transfer = tokyo.agent.transfers[migration_id].progress
    assert {field.name for field, _ in transfer.ListFields()} == {
        field.name for field in told.DESCRIPTOR.fields
    }
    watch = manager_pb2.WatchMigrationRequest(migration_id=migration_id)
    with client.stream(tokyo.operator.WatchMigration, watch, timeout_seconds=60) as answers:
        assert next(answers).migration.progress == transfer
