"""Rate and time left are those of the last few seconds, and holes cost no time."""

import pytest

from agent.transfer.meter import WINDOW_SECONDS, Meter
from watari.clock import FakeClock
from watari.v1 import common_pb2

GIB = 1 << 30


def test_nothing_is_foretold_before_anything_has_moved() -> None:
    meter = Meter(FakeClock(), total_bytes=GIB, data_bytes=GIB)
    assert meter.progress().eta_seconds < 0
    assert meter.progress().rate_bytes_per_second == 0


def test_holes_ahead_do_not_add_to_the_time_left() -> None:
    clock = FakeClock()
    meter = Meter(clock, total_bytes=64 * GIB, data_bytes=1000)
    for _ in range(4):
        clock.advance(1)
        meter.add(read=100, settled=100, sent=100)
        progress = meter.progress()
    assert progress.eta_seconds == 6.0
    assert progress.rate_bytes_per_second == 100


def test_the_rate_forgets_what_is_longer_ago_than_the_window() -> None:
    clock = FakeClock()
    meter = Meter(clock, total_bytes=GIB, data_bytes=GIB)
    meter.add(read=GIB // 2, settled=GIB // 2)
    for _ in range(3 * int(WINDOW_SECONDS)):
        clock.advance(1)
        meter.add(read=10, settled=10)
        progress = meter.progress()
    assert 9 <= progress.rate_bytes_per_second <= 11


def test_what_is_read_but_not_yet_settled_still_takes_time() -> None:
    clock = FakeClock()
    meter = Meter(clock, total_bytes=1000, data_bytes=1000)
    clock.advance(1)
    meter.add(read=1000, settled=500)
    assert meter.progress().eta_seconds == 1.0
    meter.add(settled=500)
    assert meter.progress().eta_seconds == 0.0


def test_the_bottleneck_is_where_most_time_went() -> None:
    meter = Meter(FakeClock(), total_bytes=1)
    assert meter.progress().bottleneck == common_pb2.BOTTLENECK_UNSPECIFIED
    meter.add_busy(read=1.0, cpu=2.0, away=0.5)
    assert meter.progress().bottleneck == common_pb2.BOTTLENECK_CPU
    meter.add_busy(away=2.0)
    assert meter.progress().bottleneck == common_pb2.BOTTLENECK_NETWORK


def test_waiting_is_the_receivers_where_frames_spend_their_time_there() -> None:
    meter = Meter(FakeClock(), total_bytes=1)
    for _ in range(50):
        meter.held(0.9, 1.0)
    meter.add_busy(away=1.0)
    assert meter.progress().bottleneck == common_pb2.BOTTLENECK_WRITE
    for _ in range(50):
        meter.held(0.1, 1.0)
    meter.add_busy(away=2.0)
    assert meter.progress().bottleneck == common_pb2.BOTTLENECK_NETWORK
    assert meter.take_held() == pytest.approx((50 * 0.9 + 50 * 0.1) / 100), "on average"
    assert meter.take_held() == 0.0


def test_the_bottleneck_is_that_of_the_last_few_seconds() -> None:
    clock = FakeClock()
    meter = Meter(clock, total_bytes=1)
    meter.add_busy(read=100.0)
    for _ in range(3 * int(WINDOW_SECONDS)):
        clock.advance(1)
        meter.add_busy(cpu=0.5)
        progress = meter.progress()
    assert progress.bottleneck == common_pb2.BOTTLENECK_CPU


def test_counts_that_are_told_never_go_back() -> None:
    meter = Meter(FakeClock(), total_bytes=1000)
    meter.add(settled=500)
    assert meter.progress().done_bytes == 500
    meter.add(settled=-100)
    assert meter.progress().done_bytes == 500
