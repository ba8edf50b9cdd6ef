"""Placement by a broker from a real directory: what it ranks, and how it bridges an outage."""

import time
from datetime import UTC

import pytest

import broker.settings
from tests.support import catalogue_records as records
from tests.support.broker_world import OSAKA_MANAGER, World
from watari import errors


def test_place_ranks_what_fits_and_explains_the_rest_at_one_revision(world: World) -> None:
    world.publish_osaka("osaka-1", vcpu="0.02")
    world.publish_osaka("osaka-2", vcpu="0.01")
    revision = world.publish_osaka("osaka-3", vcpu="0.01", largest_vcpus=2)
    answer = world.place()
    assert [one.cloud_id for one in answer.candidates] == ["osaka-2", "osaka-1"]
    assert [(one.cloud_id, one.constraint, one.reason) for one in answer.rejections] == [
        ("osaka-3", "capacity", "needs 4 vCPUs, largest host has 2 vCPUs free")
    ]
    assert answer.directory_revision == revision
    assert answer.snapshot_at.ToDatetime(tzinfo=UTC) == world.clock.now()


def test_an_answer_without_candidates_is_no_error(world: World) -> None:
    world.publish_osaka("osaka-1", vcpu="0.02")
    answer = world.place(regions=["eu-west"])
    assert not answer.candidates
    assert [one.would_fit for one in answer.rejections] == ["fits with jp-east among regions"]


def test_a_catalogue_of_several_pages_is_read_whole(world: World) -> None:
    world.broker_target = world.start_broker(broker.settings.CatalogueSettings(page_size=3))
    for number in range(4):
        world.publish_osaka(f"osaka-{number}", vcpu="0.01")
    assert len(world.place().candidates) == 4


def test_a_directory_outage_is_bridged_by_the_last_snapshot_until_it_is_too_old(
    world: World,
) -> None:
    world.publish_osaka("osaka-1", vcpu="0.02")
    before = world.place()
    assert world.directory_server.stop(0).wait(10)
    world.clock.advance(30)
    after = world.place()
    assert after.candidates == before.candidates
    assert after.snapshot_at == before.snapshot_at
    world.clock.advance(31)
    with pytest.raises(errors.Unavailable, match="61 s old, 60 s are allowed") as caught:
        world.place()
    assert caught.value.reason == "PEER_UNAVAILABLE"


def test_without_a_directory_for_long_place_is_unavailable_and_names_who_was_asked(
    world: World,
) -> None:
    """Whether it was read before it stopped, nobody knows here."""
    assert world.directory_server.stop(0).wait(10)
    world.clock.advance(61)
    with pytest.raises(errors.Unavailable, match="no directory could be read") as caught:
        world.place()
    assert caught.value.metadata["address"] == world.directory_target.address


def test_a_cloud_whose_lease_lapses_is_offered_no_more_without_anybody_asking_the_directory(
    world: World,
) -> None:
    published = [
        records.cloud("osaka", domain="osaka.example"),
        records.offer("osaka"),
        records.capacity("osaka"),
    ]
    world.publish(OSAKA_MANAGER, "osaka", *published, ttl_seconds=5)
    assert [one.cloud_id for one in world.place().candidates] == ["osaka"]
    deadline = time.monotonic() + 60
    while (answer := world.place()).candidates:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "stale" in {one.constraint for one in answer.rejections}
    assert answer.counts[0].constraint == "stale"
    assert not answer.snapshot_stale


def test_an_answer_during_an_outage_says_that_nobody_is_heard(world: World) -> None:
    world.publish_osaka("osaka-1", vcpu="0.02")
    assert not world.place().snapshot_stale
    assert world.directory_server.stop(0).wait(10)
    deadline = time.monotonic() + 60
    while not (answer := world.place()).snapshot_stale:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [one.cloud_id for one in answer.candidates] == ["osaka-1"]
