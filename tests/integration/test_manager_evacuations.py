"""Evacuations between real managers over mTLS, with scripted agents."""

import itertools
import uuid
from contextlib import suppress
from dataclasses import replace

import grpc
import pytest

from tests.support.clouds import VM, Cloud, assert_one_owner, eventually
from tests.support.scripted_agent import BREAKS, FAILS, GIB, HANGS
from watari import errors, failpoint
from watari.rpc import client
from watari.v1 import common_pb2, manager_pb2


def vm_id(number: int) -> str:
    return f"6f1f2d2e-0000-4000-8000-{number:012}"


def fill(cloud: Cloud, count: int = 4, **size: int) -> list[str]:
    """Machines beside web-1; returns the UUIDs of all, once the manager knows them."""
    for number in range(2, count + 1):
        cloud.agent.add(vm_id(number), f"web-{number}", **({"vcpus": 1} | size))
    wanted = [VM, *(vm_id(number) for number in range(2, count + 1))]
    eventually(lambda: set(cloud.vms()) == set(wanted), "it knows its machines")
    return wanted


def actions(cloud: Cloud, evacuation_id: str) -> list[str]:
    return [each.action for each in cloud.audit() if each.subject == evacuation_id]


def test_every_machine_of_a_host_moves_and_the_audit_log_tells_of_it(clouds):
    tokyo, osaka = clouds
    machines = fill(tokyo)
    started = tokyo.evacuate(host_id="host1")
    assert (started.remaining, started.succeeded, started.done) == (4, 0, False)
    assert not started.migration_ids
    done = tokyo.wait_evacuated(started.evacuation_id)
    assert (done.succeeded, done.failed, done.remaining, done.running) == (4, 0, 0, 0)
    assert done.ended_at.seconds
    for each in machines:
        assert_one_owner(each, osaka, tokyo)
        assert osaka.vms()[each].epoch == 2
    assert len(set(done.migration_ids)) == 4
    for migration_id in done.migration_ids:
        assert tokyo.migration(migration_id).state == manager_pb2.MIGRATION_STATE_SUCCEEDED
    first, last = (each for each in tokyo.audit() if each.subject == started.evacuation_id)
    assert (first.action, first.details["machines"]) == ("evacuation.started", "4")
    assert first.actor == "spiffe://tokyo.example/operator/main"
    assert (last.action, last.details["succeeded"]) == ("evacuation.ended", "4")
    assert last.actor == tokyo.manager_id


def test_machines_go_in_the_order_asked_and_no_more_at_a_time_than_asked(clouds):
    tokyo, _ = clouds
    fill(tokyo)
    started = tokyo.evacuate(concurrency=1, first=["web-3", vm_id(2)])
    tokyo.wait_evacuated(started.evacuation_id)
    names = [order.vm_id for order in tokyo.agent.orders]
    assert names[:2] == [vm_id(3), vm_id(2)]
    page = client.call(tokyo.operator.ListMigrations, manager_pb2.ListMigrationsRequest())
    times = sorted(
        (each.created_at.ToNanoseconds(), each.ended_at.ToNanoseconds()) for each in page.migrations
    )
    assert all(ended <= begun for (_, ended), (begun, _) in itertools.pairwise(times))


def test_a_machine_that_cannot_move_is_listed_and_does_not_stop_the_rest(clouds):
    tokyo, osaka = clouds
    fill(tokyo, 3)
    tokyo.agent.script.append(BREAKS)
    started = tokyo.evacuate(concurrency=1, first=["web-2"])
    done = tokyo.wait_evacuated(started.evacuation_id)
    assert (done.succeeded, done.failed) == (2, 1)
    (failure,) = done.failures
    assert (failure.vm_name, failure.problem.reason) == ("web-2", "DISK_IO")
    assert tokyo.migration(failure.migration_id).vm_id == failure.vm_id == vm_id(2)
    assert set(tokyo.vms()) == {vm_id(2)}
    assert set(osaka.vms()) == {VM, vm_id(3)}


def test_a_destination_without_room_gives_way_to_the_next(clouds):
    tokyo, osaka = clouds
    fill(tokyo, 2, vcpus=100)
    started = tokyo.evacuate(to_clouds=["osaka", "kyoto"])
    # kyoto is not there: it is refused before anything is recorded.
    assert started.to_clouds == ["osaka", "kyoto"]
    done = tokyo.wait_evacuated(started.evacuation_id)
    assert set(osaka.vms()) == {VM}
    (failure,) = done.failures
    assert failure.vm_name == "web-2"
    assert failure.problem.reason in ("PEER_UNAVAILABLE", "INSUFFICIENT_CAPACITY")
    tried = [tokyo.migration(each) for each in done.migration_ids]
    assert {each.to_cloud for each in tried if each.vm_name == "web-2"} == {"osaka", "kyoto"}


@pytest.fixture
def clouds(clouds):
    """They know of a cloud that never answers, and give up on it soon."""
    tokyo, osaka = clouds
    tokyo.stop()
    impatient = replace(tokyo.settings.migrations, peer_wait_seconds_max=0.2)
    nobody = replace(osaka.endpoint, address="127.0.0.1:1")
    peers = {**tokyo.settings.peers, "kyoto": nobody}
    tokyo.change(migrations=impatient, peers=peers)
    tokyo.start()
    return tokyo, osaka


def test_a_passing_failure_is_tried_again_a_named_number_of_times(clouds):
    tokyo, _ = clouds
    tokyo.stop()
    tokyo.change(migrations=replace(tokyo.settings.migrations, transfer_attempts_max=1))
    tokyo.start()
    tokyo.agent.script.extend([FAILS] * 2)
    done = tokyo.wait_evacuated(tokyo.evacuate().evacuation_id)
    assert (done.succeeded, len(done.migration_ids)) == (1, 3)
    tokyo.agent.add(vm_id(9), "web-9")
    eventually(lambda: vm_id(9) in tokyo.vms(), "it is adopted")
    tokyo.agent.script.extend([FAILS] * 9)
    done = tokyo.wait_evacuated(tokyo.evacuate().evacuation_id)
    assert (done.failed, len(done.migration_ids)) == (1, 3)
    assert done.failures[0].problem.retryable


def test_a_machine_in_another_migration_is_waited_for(clouds):
    tokyo, osaka = clouds
    tokyo.agent.script.append(HANGS)
    other = tokyo.migrate("web-1", "osaka").migration_id
    tokyo.wait_state(other, "COPYING")
    started = tokyo.evacuate()
    eventually(
        lambda: tokyo.evacuation(started.evacuation_id).waiting_for.reason == "VM_BUSY",
        "it says what it waits for",
    )
    tokyo.cancel(other)
    assert tokyo.wait_evacuated(started.evacuation_id).succeeded == 1
    assert_one_owner(VM, osaka, tokyo)


def test_machines_that_come_meanwhile_go_too(clouds):
    tokyo, osaka = clouds
    tokyo.agent.script.append(HANGS)
    started = tokyo.evacuate()
    eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    tokyo.agent.add(vm_id(7), "late")
    eventually(lambda: vm_id(7) in osaka.vms(), "it goes while the other hangs")
    (hanging,) = (
        each
        for each in tokyo.evacuation(started.evacuation_id).migration_ids
        if tokyo.migration(each).vm_name == "web-1"
    )
    tokyo.cancel(hanging)
    done = tokyo.wait_evacuated(started.evacuation_id)
    assert (done.succeeded, done.failed) == (1, 1)
    assert done.failures[0].problem.reason == "CANCELLED"


def test_a_cancelled_evacuation_starts_no_more_and_what_runs_goes_on(clouds):
    tokyo, osaka = clouds
    fill(tokyo, 3)
    tokyo.agent.script.append(HANGS)
    evacuation_id = tokyo.evacuate(concurrency=1, first=["web-1"]).evacuation_id
    eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    request = manager_pb2.CancelEvacuationRequest(evacuation_id=evacuation_id)
    for _ in range(2):
        cancelled = client.call(tokyo.operator.CancelEvacuation, request).evacuation
        assert (cancelled.cancelled, cancelled.done, cancelled.running) == (True, False, 1)
    tokyo.agent.stop()  # breaks the transfer, which is tried again and succeeds
    tokyo.agent.start()
    done = tokyo.wait_evacuated(evacuation_id)
    assert (done.succeeded, done.remaining) == (1, 2)
    assert set(osaka.vms()) == {VM}
    assert actions(tokyo, evacuation_id) == [
        "evacuation.started",
        "evacuation.cancelled",
        "evacuation.ended",
    ]


def test_no_more_watch_than_may(clouds):
    tokyo, _ = clouds
    tokyo.agent.script.append(HANGS)
    evacuation_id = tokyo.evacuate().evacuation_id
    request = manager_pb2.WatchEvacuationRequest(evacuation_id=evacuation_id)
    streams = [tokyo.operator.WatchEvacuation(request) for _ in range(4)]
    for stream in streams:
        next(stream)
    with pytest.raises(grpc.RpcError) as caught:
        next(tokyo.operator.WatchEvacuation(request))
    assert errors.from_rpc_error(caught.value).reason == "SERVER_UNAVAILABLE"
    streams[0].cancel()

    def admitted() -> bool:
        with suppress(grpc.RpcError):
            return not next(tokyo.operator.WatchEvacuation(request)).evacuation.done
        return False

    eventually(admitted, "who goes makes room")


def test_a_watcher_sees_it_to_its_end(clouds):
    tokyo, _ = clouds
    fill(tokyo)
    evacuation_id = tokyo.evacuate(concurrency=1).evacuation_id
    request = manager_pb2.WatchEvacuationRequest(evacuation_id=evacuation_id)
    seen = [each.evacuation for each in tokyo.operator.WatchEvacuation(request)]
    assert seen[0].evacuation_id == evacuation_id
    assert seen[-1].done
    assert [each.succeeded for each in seen] == sorted(each.succeeded for each in seen)


def test_the_same_id_gives_the_same_evacuation_and_other_content_is_refused(clouds):
    tokyo, _ = clouds
    evacuation_id = tokyo.evacuate().evacuation_id
    tokyo.wait_evacuated(evacuation_id)
    assert tokyo.evacuate(evacuation_id).done
    with pytest.raises(errors.AlreadyExists) as caught:
        tokyo.evacuate(evacuation_id, concurrency=3)
    assert caught.value.reason == "ID_REUSED"
    assert actions(tokyo, evacuation_id) == ["evacuation.started", "evacuation.ended"]


@pytest.mark.parametrize(
    ("asked", "reason", "told"),
    [
        ({"to_clouds": ["nara"]}, "CLOUD_NOT_FOUND", ""),
        ({"to_clouds": ["tokyo"]}, "INVALID_FIELD", "is evacuated"),
        ({"to_clouds": []}, "INVALID_FIELD", "where to"),
        ({"to_clouds": ["osaka", "osaka"]}, "INVALID_FIELD", "twice"),
        ({"to_cloud": "osaka"}, "INVALID_FIELD", "where to"),
        ({"host_id": "host9"}, "INVALID_FIELD", "no host host9"),
        ({"concurrency": 0}, "INVALID_FIELD", "concurrency"),
        ({"concurrency": 33}, "INVALID_FIELD", "concurrency"),
        ({"first": ["a"] * 1001}, "INVALID_FIELD", "first"),
        (
            {"window": manager_pb2.MaintenanceWindow(from_minute=1440)},
            "INVALID_FIELD",
            "window.from_minute",
        ),
        (
            {"options": common_pb2.TransferOptions(streams=99)},
            "INVALID_FIELD",
            "options.streams",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(clouds, asked, reason, told):
    tokyo, _ = clouds
    with pytest.raises(errors.WatariError) as caught:
        tokyo.evacuate(**asked)
    assert caught.value.reason == reason
    assert told in str(caught.value)


def test_an_unknown_evacuation_is_said_to_be_unknown(clouds):
    tokyo, _ = clouds
    for call, request in (
        (tokyo.operator.GetEvacuation, manager_pb2.GetEvacuationRequest),
        (tokyo.operator.CancelEvacuation, manager_pb2.CancelEvacuationRequest),
    ):
        with pytest.raises(errors.NotFound) as caught:
            client.call(call, request(evacuation_id=str(uuid.uuid4())))
        assert caught.value.reason == "EVACUATION_NOT_FOUND"


def test_tenants_do_not_evacuate(clouds):
    tokyo, _ = clouds
    request = manager_pb2.StartEvacuationRequest(
        evacuation_id=str(uuid.uuid4()), to_clouds=["osaka"], concurrency=1
    )
    stub = tokyo.seen_by("spiffe://tokyo.example/user/acme")
    with pytest.raises(errors.Denied):
        client.call(stub.StartEvacuation, request)


def test_the_smallest_go_first(clouds):
    tokyo, _ = clouds
    for number, gib in ((2, 3), (3, 2)):
        tokyo.agent.add(vm_id(number), f"web-{number}")
        tokyo.agent.guests[vm_id(number)].disks[0].allocated_bytes = gib * GIB
    eventually(lambda: len(tokyo.vms()) == 3, "it knows its machines")
    tokyo.wait_evacuated(tokyo.evacuate(concurrency=1).evacuation_id)
    assert [order.vm_id for order in tokyo.agent.orders] == [VM, vm_id(3), vm_id(2)]


def test_machines_that_are_off_move_as_they_are_when_memory_is_to_be_saved(clouds):
    tokyo, osaka = clouds
    done = tokyo.wait_evacuated(
        tokyo.evacuate(mode=common_pb2.MIGRATION_MODE_SUSPEND).evacuation_id
    )
    assert (done.mode, done.succeeded) == (common_pb2.MIGRATION_MODE_SUSPEND, 1)
    (migration_id,) = done.migration_ids
    assert tokyo.migration(migration_id).mode == common_pb2.MIGRATION_MODE_COLD
    assert_one_owner(VM, osaka, tokyo)


def test_a_migration_whose_start_fails_after_it_was_recorded_is_the_one_that_moves(clouds):
    tokyo, osaka = clouds
    with failpoint.armed("manager.saga.after_request", "1*error(SERVER_UNAVAILABLE)"):
        done = tokyo.wait_evacuated(tokyo.evacuate().evacuation_id)
    assert (done.succeeded, len(done.migration_ids)) == (1, 1)
    assert_one_owner(VM, osaka, tokyo)
