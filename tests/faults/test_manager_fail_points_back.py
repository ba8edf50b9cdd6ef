"""A manager is cut off at every fail point of the ways back: a migration that is cancelled, and a
machine that its destination gives back. It ends where it was, and the destination has room again.
"""

from contextlib import nullcontext

import pytest

from tests.faults.cut_off import (
    ALWAYS,
    ONCE,
    UNFIT,
    VM,
    Clouds,
    ask,
    assert_returned,
    assert_stayed,
    process,
    settle,
)
from tests.faults.manager_points import (
    DESTINATION_BACK,
    DESTINATION_RETURNING,
    SOURCE_BACK,
    SOURCE_RETURNING,
)
from tests.support.clouds import assert_one_owner, eventually
from tests.support.scripted_agent import HANGS
from watari import errors, failpoint


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
