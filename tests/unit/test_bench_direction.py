"""One direction of a link, with time as a value."""

import math
import random

import pytest

from bench.link.direction import Direction
from bench.link.shape import QUEUE_BYTES_MIN, Shape
from tests.unit.test_bench_packets import HEADER, frame

MBIT = 1e6


def direction(shape: Shape) -> Direction:
    return Direction(shape, random.Random(1))


def test_a_packet_arrives_after_its_time_on_the_wire_and_half_the_round_trip() -> None:
    way = direction(Shape(rate_bits=8 * MBIT, round_trip_seconds=0.1))
    way.offer(1.0, frame(bytes(1000 - HEADER), 1448))
    assert way.next_due == pytest.approx(1.0 + 0.001 + 0.05)
    assert list(way.due(1.05)) == []
    assert len(list(way.due(1.0511))) == 1


def test_packets_wait_for_those_before_them() -> None:
    way = direction(Shape(rate_bits=8 * MBIT))
    for _ in range(3):
        way.offer(0.0, frame(bytes(1000 - HEADER), 1448))
    assert len(list(way.due(0.0021))) == 2


def test_headers_that_offload_hides_take_their_time() -> None:
    way = direction(Shape(rate_bits=8 * MBIT))
    way.offer(0.0, frame(bytes(14480), 1448))
    assert way.next_due == pytest.approx((14480 + 10 * HEADER) / MBIT)


def test_a_full_queue_takes_the_segments_that_fit_and_drops_the_others() -> None:
    size = 1448 + HEADER
    way = direction(Shape(rate_bits=8 * MBIT, queue_bytes=4 * size))
    way.offer(0.0, frame(bytes(14480), 1448))
    assert way.counters.queue_dropped_segments == 6
    assert way.counters.sent_bytes == 4 * size
    way.offer((size + 1) / MBIT, frame(bytes(1448), 1448))
    assert way.counters.queue_dropped_segments == 6
    way.offer((size + 1) / MBIT, frame(bytes(1448), 1448))
    assert way.counters.queue_dropped_segments == 7


def test_the_queue_holds_one_bandwidth_delay_product() -> None:
    assert Shape(800 * MBIT, 0.1).queue_bytes_max == 10_000_000
    assert Shape(8 * MBIT, 0.001).queue_bytes_max == QUEUE_BYTES_MIN


def test_a_lost_segment_takes_nothing_else_with_it() -> None:
    way = direction(Shape(loss=0.02))
    rounds, segments = 400, 45
    for _ in range(rounds):
        way.offer(0.0, frame(bytes(1448 * segments), 1448))
    arrived = sum(len(each) - HEADER - 10 for each in way.due(0.0))
    counters = way.counters
    assert counters.lost_segments + counters.delivered_segments == rounds * segments
    assert arrived == counters.delivered_segments * 1448
    assert counters.lost_segments / (rounds * segments) == pytest.approx(0.02, rel=0.2)


def test_in_an_outage_nothing_enters_and_nothing_arrives() -> None:
    way = direction(Shape(round_trip_seconds=0.2))
    way.add_outage(1.0, 2.0)
    way.offer(0.95, frame(b"arrives in the outage", 1448))
    way.offer(1.5, frame(b"enters in it", 1448))
    assert list(way.due(1.6)) == []
    way.offer(2.0, frame(b"after it", 1448))
    assert [each[-8:] for each in way.due(2.2)] == [b"after it"]
    assert way.counters.outage_dropped_segments == 2


@pytest.mark.parametrize("wrong", [{"rate_bits": -1}, {"loss": 1.0}, {"round_trip_seconds": -1}])
def test_an_impossible_link_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="no link"):
        Shape(**wrong)  # type: ignore[arg-type]


def test_a_cut_lasts_until_it_is_healed() -> None:
    way = direction(Shape(round_trip_seconds=0.1))
    way.offer(0.0, frame(bytes(1000), 1448))
    way.add_outage(0.01, math.inf)
    assert list(way.due(0.06)) == []
    way.end_outages()
    way.offer(1000.0, frame(bytes(1000), 1448))
    assert len(list(way.due(1000.06))) == 1


def test_a_link_that_becomes_shorter_keeps_the_order() -> None:
    way = direction(Shape(round_trip_seconds=0.2))
    first, second = frame(bytes(1000), 1448), frame(bytes(1001), 1448)
    way.offer(0.0, first)
    way.reshape(Shape(round_trip_seconds=0.02))
    way.offer(0.0, second)
    assert list(way.due(0.05)) == []
    assert list(way.due(0.11)) == [first, second]
    way.offer(1.0, first)
    assert way.next_due == pytest.approx(1.01)
