"""A burst of requests against scarce room, through two brokers that share nothing."""

from collections.abc import Sequence
from pathlib import Path

from tests.conftest import Federation
from tests.support.burst import VCPUS, Burst, Outcome, burst
from tests.support.clouds import eventually
from watari.v1 import manager_pb2

MACHINES = 500
ROOMS = {"kobe": 3, "nagoya": 12, "osaka": 8, "sendai": 6}
"""Machines that each cloud has room for: 29 of 500."""


def explained(outcomes: Sequence[Outcome], clouds: set[str]) -> None:
    """Every request that got nothing is told of each cloud why."""
    for one in outcomes:
        if one.error is None:
            continue
        assert one.error.reason == "NO_CANDIDATE", one.error
        for name in clouds:
            why = one.error.metadata[f"cloud.{name}"]
            # What the directory shows already, what the manager said, or what it said just before.
            assert "free" in why, why


def settled(world: Burst) -> bool:
    """Whether every migration has ended."""
    request = manager_pb2.ListMigrationsRequest(active_only=True)
    return not world.tokyo.operator.ListMigrations(request).migrations


def test_every_grant_is_real_and_no_manager_reserves_more_than_it_has(
    own_federation: Federation, tmp_path: Path
) -> None:
    with burst(own_federation, tmp_path, ROOMS, MACHINES) as world:
        with world.watching() as watched:
            outcomes = world.run()
        granted = world.account(outcomes)
        # Nothing is lost either: whoever was refused came when the clouds were full.
        assert granted == ROOMS
        assert sum(one.answer is not None for one in outcomes) == sum(ROOMS.values())
        explained(outcomes, set(ROOMS))
        assert watched.looks > 5
        for name, room in ROOMS.items():
            assert watched.most[name] <= room * VCPUS
        eventually(lambda: settled(world), "every migration has ended")
        for name, room in ROOMS.items():
            states = {each.state for each in world.reservations(name).values()}
            assert states == {manager_pb2.RESERVATION_STATE_USED}
            assert world.clouds[name].inventory().allocated.vcpus == room * VCPUS
        assert world.account(outcomes) == ROOMS
