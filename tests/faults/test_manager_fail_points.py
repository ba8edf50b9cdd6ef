"""A manager is cut off at every fail point; the machine always ends with exactly one owner.

At each point three things happen in turn: an error once (the step is repeated), the manager dropped
and built again over its database while the point holds, and a process killed with SIGKILL.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from tests.conftest import Federation
from tests.support import processes
from tests.support.clouds import FORWARD, Cloud, assert_one_owner, eventually, two_clouds
from tests.support.scripted_agent import HANGS
from watari import errors, failpoint
from watari.v1 import manager_pb2

VM = "6f1f2d2e-0000-4000-8000-000000000001"
ONCE = "1*error(SERVER_UNAVAILABLE)"
ALWAYS = "error(SERVER_UNAVAILABLE)"

SOURCE_FORWARD = [
    "manager.saga.after_request",
    "manager.saga.before_state",
    "manager.saga.after_state",
    "manager.saga.after_hold",
    "manager.saga.after_reserve",
    "manager.saga.before_start_transfer",
    "manager.saga.after_start_transfer",
    "manager.saga.after_confirm",
    "manager.saga.before_commit",
    "manager.saga.in_commit",
    "manager.saga.after_commit",
    "manager.saga.after_hand_over",
    "manager.saga.after_retire",
]
DESTINATION_FORWARD = [
    "manager.reservation.before_reserve",
    "manager.reservation.after_reserve",
    "manager.reservation.before_confirm",
    "manager.reservation.after_confirm",
    "manager.handover.before_record",
    "manager.handover.after_record",
    "manager.handover.after_activate",
    "manager.handover.after_owned",
    "manager.handover.after_start",
]
SOURCE_RETURNING = [
    "manager.saga.after_relinquished",
    "manager.saga.in_taking_back",
    "manager.saga.after_taking_back",
    "manager.saga.after_unhold",
    "manager.saga.before_state",
    "manager.saga.after_state",
]
DESTINATION_RETURNING = [
    "manager.handover.before_relinquish",
    "manager.handover.after_relinquish",
    "manager.janitor.after_owed_call",
]
SOURCE_BACK = [
    "manager.saga.after_cancel",
    "manager.saga.after_undo",
    "manager.saga.before_state",
    "manager.saga.after_state",
]
DESTINATION_BACK = [
    "manager.reservation.before_release",
    "manager.reservation.after_release",
    "manager.janitor.after_owed_call",
]
ELSEWHERE = [
    "manager.publisher.after_lease",
    "manager.reservation.before_hold",
    "manager.reservation.after_hold",
    "manager.accounts.after_closed",
    "manager.accounts.after_post",
    "manager.accounts.after_rated",
    "manager.accounts.in_post",
    "manager.metering.after_read",
    "manager.metering.in_record",
    "manager.metering.after_record",
    "manager.evacuation.after_request",
    "manager.evacuation.after_cancel",
    "manager.evacuation.after_claim",
    "manager.evacuation.after_start",
    "manager.saga.after_resolve",
    "manager.resolutions.after_decided",
]
"""Tested with the publisher, in test_broker_burst.py, test_accounts.py, test_evacuation.py,
test_metering.py, and with ResolveMigration.
"""

UNFIT = errors.FailedPrecondition("VM_LIFECYCLE_FAILED", "no such machine type here")

Clouds = tuple[Cloud, Cloud]


@pytest.fixture
def clouds(federation: Federation, tmp_path: Path) -> Iterator[Clouds]:
    """tokyo with the machine web-1, which runs, and osaka; their agents run, their managers not."""
    with two_clouds(federation, tmp_path) as (tokyo, osaka):
        tokyo.agent.add(VM, "web-1", running=True)
        yield tokyo, osaka


def test_every_fail_point_of_the_manager_is_tested_here() -> None:
    tested = {
        *SOURCE_FORWARD,
        *DESTINATION_FORWARD,
        *SOURCE_BACK,
        *DESTINATION_BACK,
        *SOURCE_RETURNING,
        *DESTINATION_RETURNING,
        *ELSEWHERE,
    }
    assert tested == {name for name in failpoint.names() if name.startswith("manager.")}


@pytest.mark.parametrize("point", SOURCE_FORWARD + DESTINATION_FORWARD)
def test_an_error_at_a_point_delays_a_migration_and_nothing_else(
    clouds: Clouds, point: str
) -> None:
    tokyo, osaka = clouds
    tokyo.start()
    osaka.start()
    with failpoint.armed(point, ONCE):
        migration_id = ask(tokyo)
        tokyo.wait_state(migration_id, "SUCCEEDED")
    assert_moved_once(tokyo, osaka)


@pytest.mark.parametrize("point", SOURCE_FORWARD)
def test_a_source_manager_that_is_dropped_at_a_point_finishes_after_its_restart(
    clouds: Clouds, point: str
) -> None:
    tokyo, osaka = clouds
    tokyo.start()
    osaka.start()
    with failpoint.armed(point, ALWAYS):
        migration_id = ask(tokyo)
        settle(tokyo, migration_id)
        tokyo.stop()
    tokyo.start()
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert_moved_once(tokyo, osaka)


@pytest.mark.parametrize("point", DESTINATION_FORWARD)
def test_a_destination_manager_that_is_dropped_at_a_point_finishes_after_its_restart(
    clouds: Clouds, point: str
) -> None:
    tokyo, osaka = clouds
    tokyo.start()
    osaka.start()
    with failpoint.armed(point, ALWAYS):
        migration_id = ask(tokyo)
        settle(tokyo, migration_id)
        osaka.stop()
    osaka.start()
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert_moved_once(tokyo, osaka)


@pytest.mark.parametrize("point", SOURCE_FORWARD)
def test_a_source_manager_that_is_killed_at_a_point_finishes_after_its_restart(
    clouds: Clouds, point: str
) -> None:
    tokyo, osaka = clouds
    osaka.start()
    with process(tokyo) as manager:
        manager.start({failpoint.ENVIRONMENT_VARIABLE: f"{point}=1*kill"})
        migration_id = ask(tokyo)
        manager.wait_killed(20)
        manager.start()
        ask(tokyo, migration_id)
        tokyo.wait_state(migration_id, "SUCCEEDED")
        assert_moved_once(tokyo, osaka)


@pytest.mark.parametrize("point", DESTINATION_FORWARD)
def test_a_destination_manager_that_is_killed_at_a_point_finishes_after_its_restart(
    clouds: Clouds, point: str
) -> None:
    tokyo, osaka = clouds
    tokyo.start()
    with process(osaka) as manager:
        manager.start({failpoint.ENVIRONMENT_VARIABLE: f"{point}=1*kill"})
        migration_id = ask(tokyo)
        manager.wait_killed(20)
        manager.start()
        tokyo.wait_state(migration_id, "SUCCEEDED")
        assert_moved_once(tokyo, osaka)


@pytest.mark.parametrize("point", SOURCE_BACK)
def test_a_source_manager_that_is_killed_while_it_rolls_back_leaves_the_machine_at_home(
    clouds: Clouds, point: str
) -> None:
    tokyo, osaka = clouds
    osaka.start()
    tokyo.agent.script.append(HANGS)
    with process(tokyo) as manager:
        manager.start()
        migration_id = ask(tokyo)
        eventually(lambda: tokyo.agent.attempts == 1, "it copies")
        manager.kill()
        manager.start({failpoint.ENVIRONMENT_VARIABLE: f"{point}=1*kill"})
        with pytest.raises(errors.WatariError) if point.endswith("cancel") else nullcontext():
            tokyo.cancel(migration_id)
        manager.wait_killed(20)
        manager.start()
        tokyo.wait_state(migration_id, "CANCELLED")
        assert_stayed(tokyo, osaka)


@pytest.mark.parametrize("point", DESTINATION_BACK)
def test_a_destination_manager_that_is_killed_during_a_roll_back_gives_the_room_back(
    clouds: Clouds, point: str
) -> None:
    tokyo, osaka = clouds
    tokyo.start()
    tokyo.agent.script.append(HANGS)
    with process(osaka) as manager:
        manager.start({failpoint.ENVIRONMENT_VARIABLE: f"{point}=1*kill"})
        migration_id = ask(tokyo)
        eventually(lambda: tokyo.agent.attempts == 1, "it copies")
        tokyo.cancel(migration_id)
        manager.wait_killed(20)
        manager.start()
        tokyo.wait_state(migration_id, "CANCELLED")
        assert_stayed(tokyo, osaka)


@pytest.mark.parametrize("point", SOURCE_RETURNING + DESTINATION_RETURNING)
def test_an_error_at_a_point_delays_the_way_back_and_nothing_else(
    clouds: Clouds, point: str
) -> None:
    tokyo, osaka = clouds
    osaka.agent.refuse("prepare", *[UNFIT] * 50)
    tokyo.start()
    osaka.start()
    with failpoint.armed(point, ONCE):
        migration_id = ask(tokyo)
        tokyo.wait_state(migration_id, "FAILED")
    assert_returned(tokyo, osaka)


@pytest.mark.parametrize("point", SOURCE_RETURNING[:4])
def test_a_source_manager_that_is_dropped_on_the_way_back_finishes_after_its_restart(
    clouds: Clouds, point: str
) -> None:
    tokyo, osaka = clouds
    osaka.agent.refuse("prepare", *[UNFIT] * 50)
    tokyo.start()
    osaka.start()
    with failpoint.armed(point, ALWAYS):
        migration_id = ask(tokyo)
        settle(tokyo, migration_id)
        tokyo.stop()
    tokyo.start()
    tokyo.wait_state(migration_id, "FAILED")
    assert_returned(tokyo, osaka)


@pytest.mark.parametrize("point", SOURCE_RETURNING[:4])
def test_a_source_manager_that_is_killed_on_the_way_back_finishes_after_its_restart(
    clouds: Clouds, point: str
) -> None:
    tokyo, osaka = clouds
    osaka.agent.refuse("prepare", *[UNFIT] * 50)
    osaka.start()
    with process(tokyo) as manager:
        manager.start({failpoint.ENVIRONMENT_VARIABLE: f"{point}=1*kill"})
        migration_id = ask(tokyo)
        manager.wait_killed(20)
        manager.start()
        tokyo.wait_state(migration_id, "FAILED")
        assert_returned(tokyo, osaka)


@pytest.mark.parametrize("point", DESTINATION_RETURNING)
def test_a_destination_manager_that_is_killed_on_the_way_back_gives_the_machine_back_once(
    clouds: Clouds, point: str
) -> None:
    tokyo, osaka = clouds
    osaka.agent.refuse("prepare", *[UNFIT] * 50)
    tokyo.start()
    with process(osaka) as manager:
        manager.start({failpoint.ENVIRONMENT_VARIABLE: f"{point}=1*kill"})
        migration_id = ask(tokyo)
        manager.wait_killed(20)
        manager.start()
        tokyo.wait_state(migration_id, "FAILED")
        assert_returned(tokyo, osaka)


def test_a_start_that_is_owed_is_made_though_the_source_never_asks_again(clouds: Clouds) -> None:
    tokyo, osaka = clouds
    tokyo.start()
    osaka.start()
    with failpoint.armed("manager.handover.after_owned", ALWAYS):
        migration_id = ask(tokyo)
        eventually(lambda: VM in osaka.vms(), "osaka owns it")
        tokyo.stop()
        osaka.stop()
    osaka.start()
    eventually(lambda: osaka.agent.is_running(VM), "the janitor starts it")
    tokyo.start()
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert_moved_once(tokyo, osaka)


def test_a_machine_that_came_back_moves_again_without_any_clean_up(clouds: Clouds) -> None:
    tokyo, osaka = clouds
    osaka.agent.refuse("prepare", UNFIT)
    tokyo.start()
    osaka.start()
    tokyo.wait_state(ask(tokyo), "FAILED")
    tokyo.wait_state(ask(tokyo), "SUCCEEDED")
    assert_one_owner(VM, osaka, tokyo)
    assert osaka.vms()[VM].epoch == 4
    assert osaka.agent.is_running(VM)


def test_a_destination_finishes_a_recorded_hand_over_though_the_source_never_asks_again(
    clouds: Clouds,
) -> None:
    tokyo, osaka = clouds
    tokyo.start()
    osaka.start()
    with failpoint.armed("manager.handover.after_record", ALWAYS):
        migration_id = ask(tokyo)
        tokyo.wait_state(migration_id, "HANDED_OVER")
        tokyo.stop()
    eventually(lambda: VM in osaka.vms(), "the janitor finishes it")
    assert osaka.agent.can_start(VM)
    assert not tokyo.agent.can_start(VM)
    tokyo.start()
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert_moved_once(tokyo, osaka)


def test_a_committed_migration_waits_for_ever_for_its_destination(clouds: Clouds) -> None:
    tokyo, osaka = clouds
    tokyo.start()
    osaka.start()
    with failpoint.armed("manager.handover.before_record", ALWAYS):
        migration_id = ask(tokyo)
        tokyo.wait_state(migration_id, "HANDED_OVER")
        osaka.stop()
    eventually(
        lambda: tokyo.migration(migration_id).waiting_for.reason == "PEER_UNAVAILABLE",
        "what it waits for is shown",
    )
    assert VM not in tokyo.vms()
    assert not tokyo.agent.can_start(VM)
    osaka.start()
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert_moved_once(tokyo, osaka)


def ask(cloud: Cloud, migration_id: str | None = None) -> str:
    """Ask for the migration until it is recorded, as a client does that lost its answer."""
    migration_id = migration_id or str(uuid.uuid4())
    for _ in range(2):
        with suppress(errors.Unavailable):
            cloud.migrate("web-1", "osaka", migration_id)
            break
    return migration_id


def settle(cloud: Cloud, migration_id: str) -> None:
    """Until the migration makes no progress: it hangs at the armed point."""
    last, same = "", 0
    while same < 5:
        try:
            now = cloud.migrate("web-1", "osaka", migration_id)
        except errors.Unavailable:
            return  # It cannot even be asked for.
        shown = manager_pb2.MigrationState.Name(now.state)
        same = same + 1 if shown == last else 0
        last = shown
        time.sleep(0.03)


ARRIVAL = [
    "reservation.made",
    "grant.issued",
    "reservation.confirmed",
    "hand_over.accepted",
    "reservation.used",
]


def assert_moved_once(source: Cloud, destination: Cloud) -> None:
    """One owner, at the next epoch; each side metered it exactly once, at the same instant, and the
    audit logs have every step exactly once.
    """
    assert_audited(source, FORWARD)
    assert [each.action for each in destination.audit()] == ARRIVAL
    assert_one_owner(VM, destination, source)
    assert destination.vms()[VM].epoch == 2
    assert_runs_only_at(destination, source)
    (left,), (arrived,) = source.usage(), destination.usage()
    assert left.kind == manager_pb2.USAGE_KIND_LEFT
    assert arrived.kind == manager_pb2.USAGE_KIND_ARRIVED
    assert left.occurred_at == arrived.occurred_at
    assert left.receipt_root == arrived.receipt_root
    assert destination.inventory().allocated.vcpus == 2
    assert destination.inventory().held.vcpus == 0
    assert source.inventory().allocated.vcpus == 0


def assert_stayed(source: Cloud, destination: Cloud) -> None:
    """The machine is where it was, and the destination is as if nothing had been."""
    assert_audited(source, ["REQUESTED", "RESERVING", "COPYING", "ROLLING_BACK", "CANCELLED"])
    given_back = [*ARRIVAL[:2], "reservation.released"]
    eventually(
        lambda: [each.action for each in destination.audit()] == given_back,
        "the destination tells once that it gave the room back",
    )
    assert_one_owner(VM, source, destination)
    assert_runs_only_at(source, destination)
    assert source.vms()[VM].epoch == 1
    eventually(lambda: not destination.agent.arrivals, "what had arrived is discarded")
    assert destination.inventory().held.vcpus == 0
    assert not source.usage() + destination.usage()


def assert_returned(source: Cloud, destination: Cloud) -> None:
    """The machine runs where it was, two epochs later, and never ran at the destination."""
    returned = [*FORWARD[: FORWARD.index("RETIRING")], "TAKING_BACK", "FAILED"]
    assert_audited(source, returned)
    assert [each.action for each in destination.audit()] == [
        *ARRIVAL[:-1],
        "reservation.relinquished",
    ]
    eventually(lambda: VM not in destination.agent.guests, "what was prepared is discarded")
    assert_one_owner(VM, source, destination)
    assert source.vms()[VM].epoch == source.agent.guests[VM].epoch == 3
    assert not source.vms()[VM].migration_id
    assert_runs_only_at(source, destination)
    assert not destination.agent.ran
    assert source.inventory().allocated.vcpus == 2
    assert destination.inventory().held.vcpus == destination.inventory().allocated.vcpus == 0
    assert not source.usage() + destination.usage()
    with source.database() as database:
        ((migration_id,),) = database.execute("SELECT migration_id FROM migrations")
    problem = source.migration(migration_id).problem
    assert problem.reason == "VM_RELINQUISHED"
    assert UNFIT.message in problem.message


def assert_runs_only_at(here: Cloud, there: Cloud) -> None:
    """It runs in exactly one place, sooner or later, and nobody owes anything."""
    eventually(lambda: here.agent.is_running(VM), f"it runs in {here.cloud_id}")
    assert not there.agent.is_running(VM)
    for cloud in (here, there):
        eventually(lambda cloud=cloud: owed(cloud) == 0, f"{cloud.cloud_id} owes nothing")


def owed(cloud: Cloud) -> int:
    """Calls that it still owes."""
    with cloud.database() as database:
        return int(database.execute("SELECT count(*) FROM owed_calls").fetchone()[0])


def assert_audited(source: Cloud, states: list[str]) -> None:
    """The source's audit log has each state of its one migration once; the row has the last."""
    with source.database() as database:
        ((migration_id, last),) = database.execute("SELECT migration_id, state FROM migrations")
    assert source.audited_states(migration_id) == states
    assert states[-1] == last


@contextmanager
def process(cloud: Cloud) -> Iterator[processes.Process]:
    """The cloud's manager as a process of its own."""
    config = cloud.folder / "manager.toml"
    config.write_text(cloud.toml())
    caller = cloud.federation.party(f"spiffe://{cloud.domain}/operator/main")
    target = processes.target(cloud.port, cloud.manager_id)
    running = processes.Process("manager", config, target, caller)
    try:
        yield running
    finally:
        running.stop()
