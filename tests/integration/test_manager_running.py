"""Machines that run, between two real managers over mTLS, with scripted agents."""

import uuid
from dataclasses import replace

import pytest

from manager.settings.reservations import ReservationSettings
from tests.support.clouds import VM, assert_one_owner, eventually
from tests.support.scripted_agent import GIB
from watari import errors, failpoint
from watari.rpc import client
from watari.v1 import agent_pb2, common_pb2, manager_pb2

UNFIT = errors.FailedPrecondition("VM_LIFECYCLE_FAILED", "no such CPU here", hint="another host")
AWAY = errors.Unavailable("HYPERVISOR_UNAVAILABLE", "libvirt is away")
ALWAYS = 500
"""Times that an agent answers so: more often than it is asked."""


@pytest.fixture
def pair(clouds):
    """tokyo, whose machine web-1 runs, and osaka."""
    clouds[0].agent.guests[VM].state = agent_pb2.GUEST_STATE_RUNNING
    return clouds


def migrate(cloud, mode="COLD", to_cloud="osaka", **options):
    """Ask for a migration of web-1."""
    request = manager_pb2.MigrateVmRequest(
        migration_id=str(uuid.uuid4()),
        vm="web-1",
        to_cloud=to_cloud,
        mode=common_pb2.MigrationMode.Value(f"MIGRATION_MODE_{mode}"),
        options=common_pb2.TransferOptions(**options),
    )
    return client.call(cloud.operator.MigrateVm, request).migration


def owed(cloud):
    """Calls that it still owes."""
    with cloud.database() as database:
        return database.execute("SELECT count(*) FROM owed_calls").fetchone()[0]


@pytest.mark.parametrize("mode", ["COLD", "SUSPEND", "WARM"])
def test_a_machine_that_runs_is_moved_in_every_mode_and_runs_there(pair, mode):
    tokyo, osaka = pair
    migration_id = migrate(tokyo, mode).migration_id
    done = tokyo.wait_state(migration_id, "SUCCEEDED")
    wanted = common_pb2.MigrationMode.Value(f"MIGRATION_MODE_{mode}")
    assert done.mode == wanted
    assert set(tokyo.agent.modes) == {wanted}
    assert {order.mode for order in tokyo.agent.orders} == {wanted}
    assert_one_owner(VM, osaka, tokyo)
    assert osaka.agent.ran == [VM]
    assert tokyo.agent.ran == []
    eventually(lambda: osaka.vms()[VM].state == "running", "it is shown as running")
    assert owed(osaka) == 0
    requested = next(each for each in tokyo.audit() if each.action == "migration.requested")
    assert requested.details["mode"] == mode.lower()


def test_the_time_that_a_machine_stood_still_is_shown_and_kept(pair):
    tokyo, _ = pair
    migration_id = migrate(tokyo).migration_id
    done = tokyo.wait_state(migration_id, "SUCCEEDED")
    assert 0 < done.downtime_seconds < 10
    tokyo.stop()
    tokyo.start()
    assert tokyo.migration(migration_id).downtime_seconds == done.downtime_seconds


def test_a_machine_that_was_off_stays_off_and_stood_still_for_no_time(clouds):
    tokyo, osaka = clouds
    done = tokyo.wait_state(migrate(tokyo).migration_id, "SUCCEEDED")
    assert done.downtime_seconds == 0
    assert osaka.vms()[VM].state == "shut off"
    assert osaka.agent.ran == []
    assert not osaka.agent.provisional


def test_saved_memory_is_reserved_and_granted_like_a_disk(pair):
    tokyo, osaka = pair
    osaka.agent.total.disk_bytes = 5 * GIB + 1
    eventually(lambda: osaka.inventory().total.disk_bytes == 5 * GIB + 1, "osaka has noticed")
    tokyo.wait_state(migrate(tokyo, "SUSPEND").migration_id, "SUCCEEDED")
    grant = common_pb2.Grant.FromString(tokyo.agent.orders[0].grant.granted.payload)
    assert [(disk.disk_id, disk.kind) for disk in grant.disks] == [
        ("vda", common_pb2.DISK_KIND_UNSPECIFIED),
        ("memory", common_pb2.DISK_KIND_MEMORY),
    ]
    (reservation,) = osaka.list_reservations()
    assert reservation.resources.disk_bytes == 5 * GIB


def test_a_mode_that_does_not_fit_the_machine_ends_the_migration_with_the_agents_reason(clouds):
    tokyo, _ = clouds
    failed = tokyo.wait_state(migrate(tokyo, "SUSPEND").migration_id, "FAILED")
    assert failed.problem.reason == "VM_NOT_RUNNING"


@pytest.mark.parametrize("name", ["downtime_seconds_target", "stop_seconds_max"])
def test_limits_of_the_stop_are_bounded(clouds, name):
    tokyo, _ = clouds
    with pytest.raises(errors.InvalidArgument):
        migrate(tokyo, **{name: 3601})
    migrate(tokyo, **{name: 3600})


def test_a_roll_back_after_the_stop_starts_the_machine_again(pair):
    tokyo, osaka = pair
    with failpoint.armed("manager.saga.after_confirm", "error(SERVER_UNAVAILABLE)"):
        migration_id = migrate(tokyo).migration_id
        tokyo.wait_state(migration_id, "CONFIRMING")
        assert not tokyo.agent.is_running(VM)
        tokyo.cancel(migration_id)
        tokyo.wait_state(migration_id, "CANCELLED")
    assert tokyo.agent.is_running(VM)
    assert_one_owner(VM, tokyo, osaka)


def test_a_machine_that_its_source_cannot_start_again_at_once_is_started_later(pair):
    tokyo, _ = pair
    tokyo.agent.refuse("UnholdGuest", UNFIT, UNFIT)
    with failpoint.armed("manager.saga.after_confirm", "error(SERVER_UNAVAILABLE)"):
        migration_id = migrate(tokyo).migration_id
        tokyo.wait_state(migration_id, "CONFIRMING")
        tokyo.cancel(migration_id)
        tokyo.wait_state(migration_id, "CANCELLED")
    eventually(lambda: tokyo.agent.is_running(VM), "it runs again")
    eventually(lambda: owed(tokyo) == 0, "nothing is owed")


def test_a_destination_that_cannot_start_a_machine_gives_it_back_and_says_why(pair):
    tokyo, osaka = pair
    osaka.agent.refuse("prepare", UNFIT)
    migration_id = migrate(tokyo).migration_id
    failed = tokyo.wait_state(migration_id, "FAILED")
    assert failed.problem.reason == "VM_RELINQUISHED"
    assert "no such CPU here" in failed.problem.message
    assert failed.problem.hint == "another host"
    assert failed.problem.metadata["cause"] == "VM_LIFECYCLE_FAILED"
    assert tokyo.agent.is_running(VM)
    assert osaka.agent.ran == []
    assert tokyo.vms()[VM].epoch == tokyo.agent.guests[VM].epoch == 3
    eventually(lambda: VM not in osaka.agent.guests, "what was made ready is deleted")
    assert_one_owner(VM, tokyo, osaka)
    (reservation,) = osaka.list_reservations()
    assert osaka.reservation_state(reservation) == "RELINQUISHED"
    assert tokyo.inventory().allocated.vcpus == 2
    with pytest.raises(errors.FailedPrecondition):
        tokyo.cancel(migration_id)


def test_a_machine_that_came_back_can_be_moved_there_and_back_again(pair):
    tokyo, osaka = pair
    osaka.agent.refuse("prepare", UNFIT)
    # What is left of the first one is still there when the second one arrives.
    osaka.agent.refuse("DiscardIncoming", AWAY, AWAY)
    tokyo.wait_state(migrate(tokyo).migration_id, "FAILED")
    tokyo.wait_state(migrate(tokyo).migration_id, "SUCCEEDED")
    assert osaka.vms()[VM].epoch == 4
    tokyo.agent.retained.clear()
    osaka.wait_state(migrate(osaka, to_cloud="tokyo").migration_id, "SUCCEEDED")
    assert tokyo.vms()[VM].epoch == 5
    assert tokyo.agent.is_running(VM)


def test_a_host_that_does_not_answer_is_waited_for_and_then_the_machine_comes_back(pair):
    tokyo, osaka = pair
    osaka.stop()
    osaka.change(reservations=replace(ReservationSettings(), prepare_seconds_max=1.0))
    osaka.start()
    osaka.agent.refuse("prepare", *[AWAY] * ALWAYS)
    migration_id = migrate(tokyo).migration_id
    waiting = tokyo.wait_state(migration_id, "HANDED_OVER", "FAILED")
    assert waiting.state == manager_pb2.MIGRATION_STATE_HANDED_OVER
    failed = tokyo.wait_state(migration_id, "FAILED")
    assert failed.problem.metadata["cause"] == "HYPERVISOR_UNAVAILABLE"
    assert tokyo.agent.is_running(VM)
    eventually(lambda: VM not in osaka.agent.guests, "what was made ready is deleted")


def test_a_host_that_answers_again_in_time_gets_the_machine(pair):
    tokyo, osaka = pair
    osaka.agent.refuse("prepare", AWAY, AWAY, AWAY)
    tokyo.wait_state(migrate(tokyo).migration_id, "SUCCEEDED")
    assert osaka.agent.ran == [VM]


def test_while_the_start_gets_no_answer_the_source_is_told_so(pair):
    tokyo, osaka = pair
    osaka.agent.refuse("StartGuest", *[AWAY] * ALWAYS)
    migration_id = migrate(tokyo).migration_id
    eventually(lambda: VM in osaka.vms(), "osaka owns it")
    eventually(
        lambda: tokyo.migration(migration_id).waiting_for.reason == "HYPERVISOR_UNAVAILABLE",
        "what is waited for is shown",
    )
    assert tokyo.migration(migration_id).state == manager_pb2.MIGRATION_STATE_HANDED_OVER
    osaka.agent.refusing.clear()
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert osaka.agent.ran == [VM]


def test_a_start_that_is_refused_is_owed_and_the_machine_is_never_given_back(pair):
    tokyo, osaka = pair
    osaka.agent.refuse("StartGuest", UNFIT, UNFIT)
    tokyo.wait_state(migrate(tokyo).migration_id, "SUCCEEDED")
    eventually(lambda: osaka.agent.is_running(VM), "the janitor starts it")
    eventually(lambda: owed(osaka) == 0, "nothing is owed")
    assert_one_owner(VM, osaka, tokyo)


def test_somebody_who_stops_a_machine_overrules_a_start_that_is_owed(pair):
    tokyo, osaka = pair
    osaka.agent.refuse("StartGuest", *[UNFIT] * ALWAYS)
    tokyo.wait_state(migrate(tokyo).migration_id, "SUCCEEDED")
    client.call(osaka.operator.StopVm, manager_pb2.StopVmRequest(vm="web-1"))
    eventually(lambda: owed(osaka) == 0, "nothing is owed")


@pytest.mark.parametrize("answer", [AWAY, UNFIT])
def test_an_order_to_start_that_fails_leaves_the_start_owed(pair, answer):
    tokyo, osaka = pair
    osaka.agent.refuse("StartGuest", *[UNFIT] * ALWAYS)
    tokyo.wait_state(migrate(tokyo).migration_id, "SUCCEEDED")
    osaka.agent.refusing.clear()
    osaka.agent.refuse("StartGuest", *[answer] * ALWAYS)
    with pytest.raises(type(answer)):
        client.call(osaka.operator.StartVm, manager_pb2.StartVmRequest(vm="web-1"))
    assert owed(osaka) == 1
    osaka.agent.refusing.clear()
    eventually(lambda: osaka.agent.is_running(VM), "the janitor starts it")


def test_somebody_who_starts_a_machine_does_it_in_the_place_of_a_start_that_is_owed(pair):
    tokyo, osaka = pair
    osaka.agent.refuse("StartGuest", *[UNFIT] * ALWAYS)
    tokyo.wait_state(migrate(tokyo).migration_id, "SUCCEEDED")
    osaka.agent.refusing.clear()
    client.call(osaka.operator.StartVm, manager_pb2.StartVmRequest(vm="web-1"))
    assert osaka.agent.ran == [VM]
    eventually(lambda: owed(osaka) == 0, "nothing is owed")


def test_a_copy_that_cannot_be_deleted_after_it_was_given_back_stays_owed(pair):
    tokyo, osaka = pair
    osaka.agent.refuse("prepare", UNFIT)
    ran = errors.FailedPrecondition("MIGRATION_COMMITTED", "somebody let it run")
    osaka.agent.refuse("DiscardIncoming", ran, ran)
    tokyo.wait_state(migrate(tokyo).migration_id, "FAILED")
    eventually(lambda: not osaka.agent.refusing["DiscardIncoming"], "it was refused")
    eventually(lambda: VM not in osaka.agent.guests, "it is asked for until it is gone")
    eventually(lambda: owed(osaka) == 0, "nothing is owed")


def test_a_host_that_runs_nothing_keeps_the_machine_off(pair):
    tokyo, osaka = pair
    osaka.agent.runs = False
    tokyo.wait_state(migrate(tokyo).migration_id, "SUCCEEDED")
    assert owed(osaka) == 0
    assert osaka.agent.ran == []


def test_a_machine_that_is_being_made_ready_is_not_adopted_after_it_was_given_back(pair):
    tokyo, osaka = pair
    osaka.agent.refuse("prepare", UNFIT)
    osaka.agent.refuse("DiscardIncoming", AWAY, AWAY)
    tokyo.wait_state(migrate(tokyo).migration_id, "FAILED")
    eventually(lambda: osaka.agent.refusing["DiscardIncoming"] != [], "it is looked at")
    assert VM in osaka.agent.guests
    for _ in range(20):
        assert VM not in osaka.vms()
    eventually(lambda: VM not in osaka.agent.guests, "it is deleted in the end")


def test_a_relinquishment_that_is_not_the_destinations_word_is_not_believed(pair):
    tokyo, osaka = pair
    osaka.agent.refuse("prepare", UNFIT)
    with failpoint.armed("manager.saga.after_relinquished", "error(SERVER_UNAVAILABLE)"):
        migration_id = migrate(tokyo).migration_id
        tokyo.wait_state(migration_id, "HANDED_OVER")
        eventually(
            lambda: osaka.reservation_state(osaka.list_reservations()[0]) == "RELINQUISHED",
            "osaka gives it back",
        )
        osaka.stop()
        tokyo.stop()
    with osaka.database() as database:
        (document,) = database.execute("SELECT relinquishment FROM reservations").fetchone()
        forged = common_pb2.SignedDocument.FromString(document)
        given = common_pb2.Relinquishment.FromString(forged.payload)
        given.ownership.epoch += 1
        forged.payload = given.SerializeToString()
        database.execute(
            "UPDATE reservations SET relinquishment = ?", (forged.SerializeToString(),)
        )
    tokyo.start()
    osaka.start()
    eventually(
        lambda: tokyo.migration(migration_id).waiting_for.reason == "SIGNATURE_INVALID",
        "it says what is wrong",
    )
    assert tokyo.migration(migration_id).state == manager_pb2.MIGRATION_STATE_HANDED_OVER
    assert not tokyo.agent.can_start(VM)


def test_a_hold_that_comes_too_late_ends_at_the_epoch_at_which_the_machine_came_back(pair):
    tokyo, osaka = pair
    osaka.agent.refuse("prepare", UNFIT)
    migration_id = migrate(tokyo).migration_id
    tokyo.wait_state(migration_id, "FAILED")
    with tokyo.agent.lock:
        guest = tokyo.agent.guests[VM]
        guest.held_by, guest.epoch = migration_id, 1
    eventually(lambda: tokyo.agent.can_start(VM), "the hold is ended")
    assert tokyo.agent.guests[VM].epoch == 3
