"""Clouds measure the ways to each other and publish what they found, for as long as it holds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.settings.publishing import LinkSettings, PublishSettings
from tests.conftest import Federation
from tests.integration.test_manager_directory import Hub
from tests.support.clouds import Cloud, eventually, two_clouds
from tests.support.scripted_agent import HANGS
from watari import errors
from watari.v1 import agent_pb2, common_pb2, directory_pb2

VM = "6f1f2d2e-0000-4000-8000-000000000001"
LINK = directory_pb2.RECORD_KIND_LINK
LINKS = LinkSettings(check_seconds=0.1, measure_seconds=0.5)


@pytest.fixture
def federated(federation: Federation, tmp_path: Path) -> Iterator[tuple[Hub, Cloud, Cloud]]:
    hub = Hub(federation, tmp_path)
    hub.start()
    with two_clouds(federation, tmp_path) as (tokyo, osaka):
        tokyo.agent.add(VM, "web-1")
        for cloud in (tokyo, osaka):
            cloud.change(
                peers={},
                directories=(hub.endpoint,),
                links=LINKS,
                publish=PublishSettings(learn_seconds=0.1, check_seconds=0.1),
            )
            cloud.start()
        try:
            yield hub, tokyo, osaka
        finally:
            hub.stop()


def published(hub: Hub) -> directory_pb2.Link:
    eventually(lambda: LINK in hub.records(), "the link is published")
    return hub.records()[LINK].link


def test_the_round_trip_of_a_real_handshake_is_published(
    federated: tuple[Hub, Cloud, Cloud],
) -> None:
    hub, _, _ = federated
    link = published(hub)
    assert link.to_cloud_id == "osaka"
    assert 0 < link.rtt_ms < 1000
    assert link.valid_until.seconds - link.measured_at.seconds == LINKS.valid_seconds
    assert not link.throughput_bytes_per_second
    eventually(
        lambda: (
            hub.records()[LINK].link.measured_at.ToNanoseconds() > link.measured_at.ToNanoseconds()
        ),
        "it is measured again",
    )


def test_a_cloud_whose_host_reaches_nobody_publishes_no_link(
    federation: Federation, tmp_path: Path
) -> None:
    hub = Hub(federation, tmp_path)
    hub.start()
    with two_clouds(federation, tmp_path) as (tokyo, osaka):
        refusals = [errors.Unavailable("PEER_UNAVAILABLE", "a firewall")] * 1000
        tokyo.agent.refuse("MeasureRoundTrip", *refusals)
        for cloud in (tokyo, osaka):
            cloud.change(
                peers={},
                directories=(hub.endpoint,),
                links=LINKS,
                publish=PublishSettings(learn_seconds=0.1),
            )
            cloud.start()
        left = tokyo.agent.refusing["MeasureRoundTrip"]
        eventually(lambda: len(left) < 998, "it was tried, and again")
        assert LINK not in hub.records()
    hub.stop()


def test_what_a_migration_reached_is_published(federated: tuple[Hub, Cloud, Cloud]) -> None:
    hub, tokyo, _ = federated
    published(hub)
    agent = tokyo.agent
    agent.script.append(HANGS)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    eventually(lambda: migration_id in agent.transfers, "it copies")
    transfer = agent.transfers[migration_id]
    for seconds, wire_bytes in ((0, 10_000_000), (2, 60_000_000)):
        with agent.changed:
            progress = transfer.progress
            progress.wire_bytes, progress.bottleneck = wire_bytes, common_pb2.BOTTLENECK_NETWORK
            progress.measured_at.FromSeconds(1_700_000_000 + seconds)
            agent.changed.notify_all()
        eventually(
            lambda wanted=wire_bytes: tokyo.migration(migration_id).progress.wire_bytes == wanted,  # type: ignore[misc]
            "the manager has seen it",
        )
    with agent.changed:
        transfer.state = agent_pb2.TRANSFER_STATE_FAILED
        transfer.problem.reason, transfer.problem.retryable = "PEER_UNAVAILABLE", True
        agent.changed.notify_all()
    tokyo.wait_state(migration_id, "SUCCEEDED")
    eventually(lambda: published(hub).throughput_bytes_per_second == 25_000_000, "it is published")
    assert not published(hub).throughput_at_least
    assert published(hub).rtt_ms > 0
