"""What an operator can do when the other side of a migration is gone for good."""

import time
import uuid
from contextlib import suppress

import pytest

from tests.support.clouds import VM, WAIT_SECONDS_MAX, assert_one_owner, eventually
from tests.support.scripted_agent import HANGS
from watari import errors, failpoint
from watari.rpc import client
from watari.v1 import agent_pb2, manager_pb2

KEEP, GIVE_UP = "KEEP_HERE", "GIVE_UP_HERE"
ALWAYS = "error(SERVER_UNAVAILABLE)"
TENANT = "spiffe://tokyo.example/user/acme"


@pytest.fixture
def pair(clouds):
    """tokyo, whose machine web-1 runs, and osaka."""
    clouds[0].agent.guests[VM].state = agent_pb2.GUEST_STATE_RUNNING
    return clouds


def resolve(cloud, migration_id, resolution, justification="the data centre burned down"):
    """An operator's word."""
    request = manager_pb2.ResolveMigrationRequest(
        migration_id=migration_id,
        resolution=manager_pb2.Resolution.Value(f"RESOLUTION_{resolution}"),
        justification=justification,
    )
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        try:
            return client.call(cloud.operator.ResolveMigration, request)
        except errors.Unavailable as error:
            # The janitor works on what was decided already: whoever asks again gets its answer.
            if "being made ready" not in error.message or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def refused(cloud, migration_id, resolution):
    """The error that such a word is answered with."""
    with pytest.raises(errors.FailedPrecondition) as caught:
        resolve(cloud, migration_id, resolution)
    assert caught.value.reason == "MIGRATION_STATE"
    return caught.value


def handed_over(tokyo, osaka):
    """A migration whose destination disappears without having heard of the hand-over."""
    with failpoint.armed("manager.handover.before_record", ALWAYS):
        migration_id = tokyo.migrate("web-1", "osaka").migration_id
        tokyo.wait_state(migration_id, "HANDED_OVER")
        osaka.stop()
    return migration_id


def confirmed(tokyo, osaka):
    """A migration whose source disappears right before the commit."""
    with failpoint.armed("manager.saga.before_commit", ALWAYS):
        migration_id = tokyo.migrate("web-1", "osaka").migration_id
        tokyo.wait_state(migration_id, "CONFIRMING")
        eventually(lambda: room(osaka) == "CONFIRMED", "it is confirmed")
        tokyo.stop()
    return migration_id


def room(cloud):
    """The state of the cloud's one reservation."""
    (reservation,) = cloud.list_reservations()
    return cloud.reservation_state(reservation)


def told(cloud):
    """What the audit log has of resolutions."""
    return [each for each in cloud.audit() if each.action == "migration.resolved"]


def test_a_machine_whose_destination_is_gone_is_kept_and_runs_again(pair):
    tokyo, osaka = pair
    migration_id = handed_over(tokyo, osaka)
    answer = resolve(tokyo, migration_id, KEEP)
    assert answer.migration.state in (
        manager_pb2.MIGRATION_STATE_TAKING_BACK,
        manager_pb2.MIGRATION_STATE_FAILED,
    )
    failed = tokyo.wait_state(migration_id, "FAILED")
    assert failed.problem.reason == "MIGRATION_RESOLVED"
    assert "burned down" in failed.problem.message
    assert tokyo.agent.is_running(VM)
    assert tokyo.vms()[VM].epoch == tokyo.agent.guests[VM].epoch == 3
    assert tokyo.inventory().allocated.vcpus == 2
    (entry,) = told(tokyo)
    assert entry.actor == "spiffe://tokyo.example/operator/main"
    assert entry.details["justification"] == "the data centre burned down"
    assert entry.details["resolution"] == KEEP
    assert "there are two" in entry.details["consequence"]


def test_a_destination_that_comes_back_after_all_gives_its_room_back(pair):
    tokyo, osaka = pair
    migration_id = handed_over(tokyo, osaka)
    resolve(tokyo, migration_id, KEEP)
    tokyo.wait_state(migration_id, "FAILED")
    osaka.start()
    eventually(lambda: room(osaka) == "RELEASED", "the room is given back")
    assert_one_owner(VM, tokyo, osaka)


def test_the_same_word_again_changes_nothing_and_the_opposite_is_refused(pair):
    tokyo, osaka = pair
    migration_id = handed_over(tokyo, osaka)
    resolve(tokyo, migration_id, KEEP)
    tokyo.wait_state(migration_id, "FAILED")
    again = resolve(tokyo, migration_id, KEEP)
    assert again.migration.state == manager_pb2.MIGRATION_STATE_FAILED
    assert "ended" in refused(tokyo, migration_id, GIVE_UP).hint
    assert len(told(tokyo)) == 1


def test_a_machine_that_lives_at_a_silent_destination_is_given_up_and_retired(pair):
    tokyo, osaka = pair
    migration_id = handed_over(tokyo, osaka)
    resolve(tokyo, migration_id, GIVE_UP)
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert VM not in tokyo.vms()
    assert tokyo.agent.retained == {VM: migration_id}
    assert [each.kind for each in tokyo.usage()] == [manager_pb2.USAGE_KIND_LEFT]
    assert resolve(tokyo, migration_id, GIVE_UP).migration.state == (
        manager_pb2.MIGRATION_STATE_SUCCEEDED
    )


def test_a_host_that_is_lost_while_its_copy_is_retired_does_not_hold_the_migration(pair):
    tokyo, osaka = pair
    with failpoint.armed("manager.saga.after_hand_over", ALWAYS):
        migration_id = tokyo.migrate("web-1", "osaka").migration_id
        eventually(lambda: VM in osaka.vms(), "osaka owns it")
        tokyo.agent.stop()
    tokyo.wait_state(migration_id, "RETIRING")
    eventually(lambda: not tokyo.inventory().reachable, "the host is seen to be away")
    resolve(tokyo, migration_id, GIVE_UP)
    tokyo.wait_state(migration_id, "SUCCEEDED")
    tokyo.agent.start()
    eventually(lambda: VM not in tokyo.agent.guests, "a host that comes back retires its copy")
    assert_one_owner(VM, osaka, tokyo)


def test_a_host_that_answers_retires_its_copy_without_anybodys_word(pair):
    tokyo, _ = pair
    with failpoint.armed("manager.saga.after_retire", ALWAYS):
        migration_id = tokyo.migrate("web-1", "osaka").migration_id
        tokyo.wait_state(migration_id, "RETIRING")
        for resolution in (KEEP, GIVE_UP):
            assert "host" in refused(tokyo, migration_id, resolution).hint
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert not told(tokyo)


def test_before_the_commit_a_migration_is_cancelled_and_not_resolved(pair):
    tokyo, _ = pair
    tokyo.agent.script.append(HANGS)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    error = refused(tokyo, migration_id, KEEP)
    assert "COPYING" in error.message
    assert "cancel" in error.hint


def test_a_roll_back_whose_destination_is_gone_ends_by_itself(pair):
    tokyo, osaka = pair
    tokyo.agent.script.append(HANGS)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    osaka.stop()
    tokyo.cancel(migration_id)
    tokyo.wait_state(migration_id, "CANCELLED")
    assert tokyo.agent.is_running(VM)


def test_a_resolution_survives_a_crash_right_after_it(pair):
    tokyo, osaka = pair
    migration_id = handed_over(tokyo, osaka)
    with failpoint.armed("manager.saga.after_resolve", "1*error(SERVER_UNAVAILABLE)"):
        with pytest.raises(errors.Unavailable):
            resolve(tokyo, migration_id, KEEP)
        tokyo.stop()
    tokyo.start()
    tokyo.wait_state(migration_id, "FAILED")
    assert tokyo.agent.is_running(VM)
    resolve(tokyo, migration_id, KEEP)
    assert len(told(tokyo)) == 1


@pytest.mark.parametrize(
    "change",
    [{"migration_id": "x"}, {"resolution": 0}, {"resolution": 9}, {"justification": ""}],
)
def test_a_word_without_a_subject_a_decision_or_a_reason_is_refused(pair, change):
    tokyo, _ = pair
    request = manager_pb2.ResolveMigrationRequest(
        migration_id=str(uuid.uuid4()), resolution=1, justification="why"
    )
    for name, value in change.items():
        setattr(request, name, value)
    with pytest.raises(errors.InvalidArgument):
        client.call(tokyo.operator.ResolveMigration, request)


def test_an_unknown_migration_and_another_caller_are_refused(pair):
    tokyo, _ = pair
    with pytest.raises(errors.NotFound) as caught:
        resolve(tokyo, str(uuid.uuid4()), KEEP)
    assert caught.value.reason == "MIGRATION_NOT_FOUND"
    request = manager_pb2.ResolveMigrationRequest(
        migration_id=str(uuid.uuid4()), resolution=1, justification="why"
    )
    for caller in (TENANT, "spiffe://osaka.example/operator/main"):
        with pytest.raises(errors.Denied):
            client.call(tokyo.seen_by(caller).ResolveMigration, request)


# ---- at the destination ----


def test_a_destination_gives_up_and_a_hand_over_that_comes_after_all_is_given_back(pair):
    tokyo, osaka = pair
    migration_id = handed_over(tokyo, osaka)
    tokyo.stop()
    osaka.start()
    answer = resolve(osaka, migration_id, GIVE_UP)
    assert answer.reservation.state == manager_pb2.RESERVATION_STATE_RELEASED
    assert osaka.inventory().held.vcpus == 0
    eventually(lambda: not osaka.agent.arrivals, "what had arrived is deleted")
    tokyo.start()
    failed = tokyo.wait_state(migration_id, "FAILED")
    assert failed.problem.reason == "VM_RELINQUISHED"
    assert tokyo.agent.is_running(VM)
    assert room(osaka) == "RELINQUISHED"
    assert_one_owner(VM, tokyo, osaka)
    resolve(osaka, migration_id, GIVE_UP)
    assert len(told(osaka)) == 1
    # No clean-up is needed before it moves there after all.
    tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "SUCCEEDED")
    assert osaka.vms()[VM].epoch == 4


def test_a_source_that_had_not_committed_rolls_back_when_the_destination_gave_up(pair):
    tokyo, osaka = pair
    migration_id = confirmed(tokyo, osaka)
    resolve(osaka, migration_id, GIVE_UP)
    tokyo.start()
    tokyo.wait_state(migration_id, "FAILED")
    assert_one_owner(VM, tokyo, osaka)
    assert tokyo.vms()[VM].epoch == 1


def test_a_destination_keeps_what_has_arrived_completely_and_its_operator_starts_it(pair):
    tokyo, osaka = pair
    migration_id = confirmed(tokyo, osaka)
    answer = resolve(osaka, migration_id, KEEP)
    assert answer.reservation.state == manager_pb2.RESERVATION_STATE_USED
    assert osaka.vms()[VM].epoch == 2
    assert osaka.agent.ran == []
    client.call(osaka.operator.StartVm, manager_pb2.StartVmRequest(vm=VM))
    assert osaka.agent.is_running(VM)
    assert "two" in told(osaka)[0].details["consequence"]
    assert [each.kind for each in osaka.usage()] == [manager_pb2.USAGE_KIND_ARRIVED]
    resolve(osaka, migration_id, KEEP)
    assert len(told(osaka)) == 1
    # The source comes back and had not given it up: it commits, and both agree again.
    tokyo.start()
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert_one_owner(VM, osaka, tokyo)


def test_a_machine_that_is_to_be_kept_becomes_one_after_a_crash_too(pair):
    tokyo, osaka = pair
    migration_id = confirmed(tokyo, osaka)
    with failpoint.armed("manager.resolutions.after_decided", "1*error(SERVER_UNAVAILABLE)"):
        with suppress(errors.Unavailable):
            resolve(osaka, migration_id, KEEP)
        osaka.stop()
    osaka.start()
    eventually(lambda: VM in osaka.vms(), "the janitor finishes it")
    assert room(osaka) == "USED"


def test_what_the_host_can_make_nothing_of_can_still_be_given_up(pair):
    tokyo, osaka = pair
    migration_id = confirmed(tokyo, osaka)
    unfit = errors.FailedPrecondition("VM_DEFINITION_INVALID", "not here")
    osaka.agent.refuse("ActivateIncoming", *[unfit] * 50)  # the manager tries again by itself

    def answered():
        with pytest.raises((errors.FailedPrecondition, errors.Unavailable)) as caught:
            resolve(osaka, migration_id, KEEP)
        if isinstance(caught.value, errors.Unavailable):
            assert "being made ready" in str(caught.value), "the manager was just trying"
            return False
        assert caught.value.reason == "VM_DEFINITION_INVALID"
        return True

    eventually(answered, "the host's answer is told")
    resolve(osaka, migration_id, GIVE_UP)
    assert room(osaka) == "RELEASED"


def test_an_old_copy_of_a_machine_that_came_by_another_way_cannot_be_kept(pair):
    tokyo, osaka = pair
    with failpoint.armed("manager.reservation.before_release", ALWAYS):
        with failpoint.armed("manager.saga.before_commit", ALWAYS):
            old = tokyo.migrate("web-1", "osaka").migration_id
            eventually(lambda: old in osaka.agent.arrivals, "it has arrived")
            eventually(lambda: room(osaka) == "CONFIRMED", "it is confirmed")
            tokyo.cancel(old)
            tokyo.wait_state(old, "CANCELLED")
        tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "SUCCEEDED")
        with pytest.raises(errors.FailedPrecondition) as caught:
            resolve(osaka, old, KEEP)
        assert caught.value.reason == "EPOCH_MISMATCH"
        assert "GIVE_UP_HERE" in caught.value.hint
        assert osaka.vms()[VM].epoch == 2
    resolve(osaka, old, GIVE_UP)
    assert_one_owner(VM, osaka, tokyo)


def test_what_has_not_arrived_completely_cannot_be_kept(pair):
    tokyo, osaka = pair
    migration_id = confirmed(tokyo, osaka)
    osaka.agent.arrivals[migration_id].complete = False
    assert "GIVE_UP_HERE" in refused(osaka, migration_id, KEEP).hint
    assert room(osaka) == "CONFIRMED"


def test_a_pending_reservation_can_be_given_up_only_and_a_used_one_not_at_all(pair):
    tokyo, osaka = pair
    tokyo.agent.script.append(HANGS)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    assert "GIVE_UP_HERE" in refused(osaka, migration_id, KEEP).hint
    resolve(osaka, migration_id, GIVE_UP)
    tokyo.cancel(migration_id)
    tokyo.wait_ended(migration_id)
    second = tokyo.migrate("web-1", "osaka").migration_id
    tokyo.wait_state(second, "SUCCEEDED")
    for resolution in (KEEP, GIVE_UP):
        assert "migration of its own" in refused(osaka, second, resolution).hint
