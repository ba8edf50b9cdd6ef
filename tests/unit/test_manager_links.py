"""What transfers and handshakes tell of the ways to other clouds, and what is published of it."""

import pytest

from manager.links import records, rows
from manager.links.observing import Observation, Observed
from manager.links.rows import LinkRow
from manager.settings.publishing import LinkSettings
from manager.settings.store import StoreSettings
from manager.store import Store
from watari.v1 import common_pb2

SECOND = 1_000_000
NETWORK, CPU = common_pb2.BOTTLENECK_NETWORK, common_pb2.BOTTLENECK_CPU


def observed(*reports: tuple[float, int, int], round_trip: float = 0.0) -> Observed | None:
    """What is made of reports of (seconds, wire bytes, bottleneck)."""
    observation = Observation()
    for seconds, wire_bytes, bottleneck in reports:
        progress = common_pb2.Progress(
            wire_bytes=wire_bytes,
            bottleneck=common_pb2.Bottleneck.Name(bottleneck),  # type: ignore[arg-type]
            round_trip_seconds=round_trip,
        )
        progress.measured_at.FromMicroseconds(round((1000 + seconds) * SECOND))
        observation.add(progress)
    return observation.result()


def test_the_way_carries_what_it_carried_while_nothing_else_was_slower() -> None:
    found = observed((0, 0, CPU), (1, 100, CPU), (2, 300, NETWORK), (4, 1300, NETWORK))
    assert found == Observed(throughput=500, at_least=False, round_trip_seconds=0.0)


def test_a_transfer_that_something_else_held_back_tells_the_least_that_the_way_carries() -> None:
    assert observed((0, 0, CPU), (2, 300, CPU), round_trip=0.1) == Observed(150, True, 0.1)


def test_a_transfer_that_is_over_at_once_tells_nothing() -> None:
    assert observed((0, 0, NETWORK), (0.9, 900, NETWORK)) is None
    assert observed() is None


def test_counts_that_begin_anew_are_another_stretch() -> None:
    found = observed((0, 5000, NETWORK), (1, 0, NETWORK), (2, 70, NETWORK), (3, 140, NETWORK))
    assert found == Observed(70, False, 0.0)


@pytest.fixture
def store(database: StoreSettings) -> Store:
    return Store(database)


def test_a_bound_from_below_replaces_no_better_one_until_that_is_too_old(store: Store) -> None:
    with store.write() as connection:
        rows.put_round_trip(connection, "osaka", 8_000, now=1)
        rows.put_observed(connection, "osaka", Observed(900, False, 0), now=10, valid_micros=100)
        rows.put_observed(connection, "osaka", Observed(500, True, 0), now=109, valid_micros=100)
        assert rows.every(connection) == {"osaka": LinkRow("osaka", 8_000, 1, 900, False, 10)}
        rows.put_observed(connection, "osaka", Observed(950, True, 0), now=109, valid_micros=100)
        assert rows.every(connection)["osaka"].throughput == 950
        rows.put_observed(connection, "osaka", Observed(500, True, 0), now=300, valid_micros=100)
        assert rows.every(connection)["osaka"] == LinkRow("osaka", 8_000, 1, 500, True, 300)
    store.close()


def test_published_is_what_is_still_valid_and_the_ways_of_migrations_first() -> None:
    settings = LinkSettings(valid_seconds=10, throughput_valid_seconds=20, links_max=2)
    known = [
        LinkRow("a", 5_000, 1 * SECOND),
        LinkRow("b", 6_500, 1 * SECOND, 100, True, 2 * SECOND),
        LinkRow("c", 7_000, 1 * SECOND),
    ]
    first, second = records.records("tokyo", known, 10 * SECOND, settings)
    assert (first.key.cloud_id, first.key.name, first.link.to_cloud_id) == ("tokyo", "b", "b")
    assert first.link.rtt_ms == 6.5
    assert first.link.throughput_at_least
    assert first.link.throughput_valid_until.seconds == 22
    assert second.key.name == "a"
    assert second.link.valid_until.seconds == 11
    (later,) = records.records("tokyo", known, 11 * SECOND, settings)
    assert (later.link.rtt_ms, later.link.throughput_bytes_per_second) == (0.0, 100)
    assert records.records("tokyo", known, 22 * SECOND, settings) == []
