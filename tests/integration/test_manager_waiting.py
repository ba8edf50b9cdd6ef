"""Migrations that wait, try again or give up, between two real managers with scripted agents."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Federation
from tests.integration.test_manager_running import owed
from tests.support.clouds import (
    FAST,
    IMPATIENT,
    VM,
    Cloud,
    assert_one_owner,
    eventually,
    two_clouds,
)
from tests.support.scripted_agent import BREAKS, FAILS, HANGS
from watari.v1 import agent_pb2, manager_pb2


def test_a_transfer_that_fails_retryably_is_repeated(clouds):
    tokyo, osaka = clouds
    tokyo.agent.script.extend([FAILS, FAILS])
    tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "SUCCEEDED")
    assert tokyo.agent.attempts == 3
    assert_one_owner(VM, osaka, tokyo)


def test_a_transfer_that_keeps_failing_is_given_up_after_the_limit_of_attempts(clouds):
    tokyo, osaka = clouds
    limit = tokyo.settings.migrations.transfer_attempts_max
    tokyo.agent.script.extend([FAILS] * (limit + 5))
    ended = tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "FAILED")
    assert ended.problem.reason == "PEER_UNAVAILABLE"
    assert tokyo.agent.attempts == limit
    assert_one_owner(VM, tokyo, osaka)


def test_a_transfer_that_gets_further_each_time_is_not_given_up(clouds):
    tokyo, osaka = clouds
    attempts = tokyo.settings.migrations.transfer_attempts_max * 2
    tokyo.agent.script.extend([FAILS] * attempts)
    tokyo.agent.settled.extend(range(1, attempts + 1))
    tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "SUCCEEDED")
    assert tokyo.agent.attempts == attempts + 1
    assert_one_owner(VM, osaka, tokyo)


def test_a_transfer_that_settles_the_same_again_and_again_is_given_up(clouds):
    tokyo, osaka = clouds
    limit = tokyo.settings.migrations.transfer_attempts_max
    tokyo.agent.script.extend([FAILS] * (limit * 2))
    tokyo.agent.settled.extend([5] * (limit * 2))
    tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "FAILED")
    assert tokyo.agent.attempts == limit + 1
    assert_one_owner(VM, tokyo, osaka)


def test_a_transfer_that_breaks_for_good_is_not_repeated(clouds):
    tokyo, osaka = clouds
    tokyo.agent.script.append(BREAKS)
    ended = tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "FAILED")
    assert ended.problem.reason == "DISK_IO"
    assert tokyo.agent.attempts == 1
    assert_one_owner(VM, tokyo, osaka)


def test_the_destination_agent_may_be_away_for_a_while(federation: Federation, tmp_path: Path):
    patient = replace(FAST, transfer_attempts_max=1000)
    with two_clouds(federation, tmp_path, patient) as (tokyo, osaka):
        tokyo.agent.add(VM, "web-1")
        tokyo.start()
        osaka.start()
        osaka.agent.stop()
        migration_id = tokyo.migrate("web-1", "osaka").migration_id

        def tries() -> bool:
            """Attempts fail, or the destination has noticed already and is asked again."""
            waiting_for = tokyo.migration(migration_id).waiting_for.reason
            return tokyo.agent.attempts >= 2 or waiting_for == "PEER_UNAVAILABLE"

        eventually(tries, "it tries and waits")
        osaka.agent.start()
        tokyo.wait_state(migration_id, "SUCCEEDED")
        assert_one_owner(VM, osaka, tokyo)


def test_a_destination_whose_hosts_are_away_is_asked_again_until_one_is_back(clouds):
    tokyo, osaka = clouds
    osaka.agent.stop()
    eventually(lambda: not osaka.inventory().reachable, "osaka has noticed")
    migration_id = tokyo.migrate("web-1", "osaka").migration_id

    def waits() -> bool:
        migration = tokyo.migration(migration_id)
        assert migration.state <= manager_pb2.MIGRATION_STATE_RESERVING
        return "hosts answers" in migration.waiting_for.message

    eventually(waits, "it says what it waits for")
    osaka.agent.start()
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert_one_owner(VM, osaka, tokyo)


@pytest.fixture
def impatient(federation: Federation, tmp_path: Path) -> Iterator[tuple[Cloud, Cloud]]:
    """As `clouds`, with managers that give up soon."""
    with two_clouds(federation, tmp_path, IMPATIENT) as (tokyo, osaka):
        tokyo.agent.add(VM, "web-1")
        tokyo.start()
        osaka.start()
        yield tokyo, osaka


def test_a_source_agent_that_stays_away_fails_the_migration_after_the_wait(impatient):
    tokyo, osaka = impatient
    tokyo.agent.stop()
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    eventually(
        lambda: tokyo.migration(migration_id).waiting_for.reason == "PEER_UNAVAILABLE",
        "what it waits for is shown",
    )
    ended = tokyo.wait_state(migration_id, "FAILED")
    assert ended.problem.reason == "PEER_UNAVAILABLE"
    tokyo.agent.start()
    assert_one_owner(VM, tokyo, osaka)


def test_a_source_agent_that_comes_back_in_time_goes_on(clouds):
    tokyo, osaka = clouds
    tokyo.agent.script.append(HANGS)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    tokyo.agent.stop()
    tokyo.agent.start()
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert_one_owner(VM, osaka, tokyo)


def test_a_hold_that_could_not_be_ended_is_ended_when_the_agent_is_back(clouds):
    tokyo, osaka = clouds
    tokyo.agent.script.append(HANGS)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    tokyo.agent.stop()
    tokyo.cancel(migration_id)
    tokyo.wait_state(migration_id, "CANCELLED")
    assert tokyo.agent.guests[VM].held_by == migration_id
    tokyo.agent.start()
    assert_one_owner(VM, tokyo, osaka)


def test_a_release_that_could_not_be_told_is_told_when_the_destination_is_back(clouds):
    tokyo, osaka = clouds
    tokyo.agent.script.append(HANGS)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    osaka.stop()
    tokyo.cancel(migration_id)
    tokyo.wait_state(migration_id, "CANCELLED")
    osaka.start()
    (reservation,) = osaka.list_reservations()
    eventually(lambda: osaka.reservation_state(reservation) == "RELEASED", "it is told")
    eventually(lambda: not osaka.agent.arrivals, "what had arrived is discarded")
    assert_one_owner(VM, tokyo, osaka)


def test_a_destination_manager_that_is_away_is_waited_for_then_given_up(impatient):
    tokyo, osaka = impatient
    osaka.stop()
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    ended = tokyo.wait_state(migration_id, "FAILED")
    assert ended.problem.reason == "PEER_UNAVAILABLE"
    osaka.start()
    assert_one_owner(VM, tokyo, osaka)


def test_an_expired_reservation_ends_the_migration_before_the_commit_point(clouds):
    tokyo, osaka = clouds
    tokyo.agent.script.append(HANGS)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    eventually(lambda: migration_id in tokyo.agent.transfers, "it copies")
    (reservation,) = osaka.list_reservations()
    with osaka.database() as connection:
        connection.execute("UPDATE reservations SET expires_at = 1")
    eventually(lambda: osaka.reservation_state(reservation) == "EXPIRED", "it expires")
    assert osaka.inventory().held.vcpus == 0
    eventually(lambda: migration_id in osaka.agent.refused, "what had arrived is discarded")
    eventually(lambda: owed(osaka) == 0, "and is not discarded again")
    with tokyo.agent.changed:  # The copy ends well, too late.
        transfer = tokyo.agent.transfers[migration_id]
        transfer.state = agent_pb2.TRANSFER_STATE_FAILED
        transfer.problem.reason, transfer.problem.retryable = "PEER_UNAVAILABLE", True
        osaka.agent.refused.clear()
        tokyo.agent.changed.notify_all()
    ended = tokyo.wait_state(migration_id, "FAILED")
    assert ended.problem.reason == "RESERVATION_EXPIRED"
    assert_one_owner(VM, tokyo, osaka)


def test_a_long_copy_keeps_its_reservation(federation: Federation, tmp_path: Path):
    migrations = replace(FAST, reservation_ttl_seconds=10, watch_seconds_max=0.2)
    with two_clouds(federation, tmp_path, migrations) as (tokyo, osaka):
        tokyo.agent.add(VM, "web-1")
        tokyo.start()
        osaka.start()
        tokyo.agent.script.append(HANGS)
        migration_id = tokyo.migrate("web-1", "osaka").migration_id
        tokyo.wait_state(migration_id, "COPYING")
        (first,) = osaka.list_reservations()
        eventually(
            lambda: osaka.list_reservations()[0].expires_at.seconds > first.expires_at.seconds,
            "it is extended after a third of its time",
        )
        tokyo.cancel(migration_id)
        tokyo.wait_state(migration_id, "CANCELLED")


def test_a_copy_that_takes_too_long_is_rolled_back(federation: Federation, tmp_path: Path):
    migrations = replace(FAST, copying_seconds_max=1.0, watch_seconds_max=0.2)
    with two_clouds(federation, tmp_path, migrations) as (tokyo, osaka):
        tokyo.agent.add(VM, "web-1")
        tokyo.start()
        osaka.start()
        tokyo.agent.script.append(HANGS)
        ended = tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "FAILED")
        assert ended.problem.reason == "DEADLINE_EXCEEDED"
        assert_one_owner(VM, tokyo, osaka)


def test_copies_beyond_the_places_wait_and_say_for_what(clouds):
    tokyo, osaka = clouds
    others = [str(uuid.uuid4()) for _ in range(3)]
    for number, vm_id in enumerate(others):
        tokyo.agent.add(vm_id, f"db-{number}", vcpus=1)
    eventually(lambda: set(others) <= set(tokyo.vms()), "they are adopted")
    tokyo.agent.script.extend([HANGS, HANGS])
    ids = [tokyo.migrate(vm_id, "osaka").migration_id for vm_id in others]
    eventually(
        lambda: tokyo.migration(ids[2]).waiting_for.reason == "TOO_MANY_TRANSFERS",
        "the third waits for a place",
    )
    eventually(lambda: tokyo.agent.attempts == 2, "the others copy")
    tokyo.cancel(ids[0])
    tokyo.wait_state(ids[0], "CANCELLED")
    tokyo.wait_state(ids[2], "SUCCEEDED")
    tokyo.cancel(ids[1])
    tokyo.wait_state(ids[1], "CANCELLED")
    assert set(osaka.vms()) == {others[2]}
