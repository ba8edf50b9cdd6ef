"""A burst of requests while a manager that holds room for them is killed and started again."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Federation
from tests.support import processes
from tests.support.burst import VCPUS, Burst, Outcome, burst
from tests.support.clouds import eventually
from tests.support.processes import Process
from watari import failpoint

MACHINES = 120
ROOMS = {"nagoya": 10, "osaka": 30}
GIVEN_BACK_SECONDS_MAX = 40.0
"""What a manager did not answer, brokers ask it to give back for half a minute."""

FORGOTTEN_SECONDS = 11.0
"""By then brokers ask again who did not answer."""


@pytest.fixture
def world(own_federation: Federation, tmp_path: Path) -> Iterator[Burst]:
    """osaka has most of the room."""
    with burst(own_federation, tmp_path, ROOMS, MACHINES) as made:
        yield made


@pytest.fixture
def osaka(world: Burst, tmp_path: Path) -> Iterator[Process]:
    """Its manager as a process of its own, not yet started."""
    cloud = world.clouds["osaka"]
    cloud.stop()
    config = tmp_path / "osaka.toml"
    config.write_text(cloud.toml())
    caller = world.federation.party(f"spiffe://{cloud.domain}/operator/main")
    process = Process("manager", config, processes.target(cloud.port, cloud.manager_id), caller)
    yield process
    process.end()


def refused(outcomes: list[Outcome]) -> list[str]:
    """The machines that got nothing, each with a reason for each cloud."""
    for one in outcomes:
        if one.error is not None:
            assert one.error.reason in {"NO_CANDIDATE", "PEER_UNAVAILABLE"}, one.error
            assert {f"cloud.{name}" for name in ROOMS} <= one.error.metadata.keys()
    return [one.vm_id for one in outcomes if one.error is not None]


@pytest.mark.parametrize(
    "point", ["manager.reservation.before_hold", "manager.reservation.after_hold"]
)
def test_no_hold_is_lost_or_made_twice_when_its_manager_dies_at_it(
    world: Burst, osaka: Process, point: str
) -> None:
    osaka.start({failpoint.ENVIRONMENT_VARIABLE: f"{point}=7*off->kill"})

    def start_again() -> None:
        osaka.wait_killed(90)
        osaka.start()

    with world.watching() as watched:
        outcomes = world.run(meanwhile=start_again)
        left = refused(outcomes)
        assert left

        def agreed() -> bool:
            try:
                world.account(outcomes)
            except AssertionError:
                return False
            return True

        eventually(agreed, "what nobody got is given back", GIVEN_BACK_SECONDS_MAX)
        time.sleep(FORGOTTEN_SECONDS)
        outcomes += world.run(left)
        eventually(agreed, "all is accounted for", GIVEN_BACK_SECONDS_MAX)
    assert world.account(outcomes) == ROOMS
    for name, room in ROOMS.items():
        assert watched.most[name] <= room * VCPUS
