"""A manager is cut off at every fail point; the machine always ends with exactly one owner.

At each point three things happen in turn: an error once (the step is repeated), the manager dropped
and built again over its database while the point holds, and a process killed with SIGKILL.
"""

import pytest

from tests.faults.cut_off import (
    ALWAYS,
    ONCE,
    VM,
    Clouds,
    ask,
    assert_moved_once,
    process,
    settle,
)
from tests.faults.manager_points import (
    DESTINATION_BACK,
    DESTINATION_FORWARD,
    DESTINATION_RETURNING,
    ELSEWHERE,
    SOURCE_BACK,
    SOURCE_FORWARD,
    SOURCE_RETURNING,
)
from tests.support.clouds import eventually
from watari import failpoint


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
