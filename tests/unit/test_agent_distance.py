"""Round trips are those of real handshakes, and what cannot be reached is told."""

import socket
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from agent import distance
from tests.support.processes import free_port
from watari import errors
from watari.v1 import agent_pb2


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def measured(port: int, samples: int = 0, **more: object) -> agent_pb2.MeasureRoundTripResponse:
    request = agent_pb2.MeasureRoundTripRequest(address=f"127.0.0.1:{port}", samples=samples)
    return distance.measure(request, **more)  # type: ignore[arg-type]


def test_a_round_trip_is_a_handshake(listening: int) -> None:
    found = measured(listening)
    assert found.samples == distance.SAMPLES_DEFAULT
    assert 0 < found.round_trip_seconds < distance.CONNECT_SECONDS_MAX


def test_the_least_of_several_counts(listening: int) -> None:
    """Three handshakes of 5, 2 and 3 ticks of a clock that only this test moves."""
    ticks = iter([0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.7, 0.7, 0.7, 1.0])
    assert measured(listening, 3, now=lambda: next(ticks)).round_trip_seconds == pytest.approx(0.2)


def test_a_measurement_ends_in_time_with_what_it_has(listening: int) -> None:
    """Each look at the clock is three seconds later: no second handshake fits."""
    seconds = count(0, 3)
    found = measured(listening, 10, now=lambda: float(next(seconds)))
    assert (found.samples, found.round_trip_seconds) == (1, 3)


def test_a_port_where_nobody_listens_is_unavailable() -> None:
    with pytest.raises(errors.Unavailable) as caught:
        measured(free_port())
    assert caught.value.reason == "PEER_UNAVAILABLE"


def test_a_handshake_that_fails_leaves_those_before_it(listening: int) -> None:
    """With the clock at the end of a connection's time, the second one has next to none."""
    ticks = iter([0.0, 0.0, 0.0, 0.5, distance.MEASURE_SECONDS_MAX - 1e-6])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "settimeout", _refuses_from_the_second_on())
        found = measured(listening, 2, now=lambda: next(ticks, 0.0))
    assert (found.samples, found.round_trip_seconds) == (1, 0.5)


def _refuses_from_the_second_on() -> Callable[[socket.socket, float], None]:
    calls = count(1)

    def refuse(_socket: socket.socket, _seconds: float) -> None:
        if next(calls) > 1:
            raise TimeoutError("timed out")

    return refuse


@pytest.mark.parametrize("address", ["", "host", "host:0", "host:99999", "a b:1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        distance.measure(agent_pb2.MeasureRoundTripRequest(address=address))


def test_more_samples_than_there_may_be_are_refused(listening: int) -> None:
    with pytest.raises(errors.InvalidArgument):
        measured(listening, distance.SAMPLES_MAX + 1)
