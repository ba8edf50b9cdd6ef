"""The data channels of a session: connected ahead, timed, warmed over a long way, aimed anew."""

import gc
import queue
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import psutil
import pytest

from agent.transfer import dataplane, dataport
from agent.transfer.dataplane import WARM_BYTES, WARM_SECONDS_MIN, Connections, StreamId
from agent.transfer.keys import PROOF_BYTES
from tests.conftest import OSAKA, TOKYO, Federation
from tests.support.processes import free_port
from watari import errors
from watari.clock import FakeClock, SystemClock
from watari.identity import Identity
from watari.v1 import common_pb2

SENDER = f"spiffe://{TOKYO}/agent/host1"
RECEIVER = f"spiffe://{OSAKA}/agent/host1"
OTHER = f"spiffe://{OSAKA}/agent/host2"
TIMEOUT_SECONDS = 30.0

Listen = Callable[..., common_pb2.Endpoint]


@pytest.fixture
def own(federation: Federation) -> Identity:
    return federation.party(SENDER)


@pytest.fixture
def connections(own: Identity) -> Iterator[Connections]:
    made = Connections(own, SystemClock(), TIMEOUT_SECONDS)
    yield made
    made.close()


@pytest.fixture
def listen(federation: Federation) -> Iterator[Listen]:
    """Starts data ports whose streams answer with a name."""
    with ExitStack() as stack:

        def start(name: bytes = b"here", tls: str = "") -> common_pb2.Endpoint:
            def accept(
                stream: StreamId, messages: Iterator[bytes], cut: Callable[[], object]
            ) -> Iterator[bytes]:
                for message in messages:
                    yield name + message

            server, port = dataport.serve(
                "127.0.0.1:0",
                lambda _: True,
                accept,
                window_bytes=1 << 20,
                streams_max=4,
                tls=federation.party(tls) if tls else None,
            )
            server.start()
            stack.callback(lambda: server.stop(0).wait(10))
            return common_pb2.Endpoint(address=f"127.0.0.1:{port}", spiffe_id=tls)

        yield start


def said(channel: grpc.Channel) -> list[bytes]:
    """What a stream of one message over the channel is answered."""
    stream = StreamId(str(uuid.uuid4()), 1, bytes(PROOF_BYTES))
    call = dataplane.open_stream(channel, stream, iter([b"!"]), TIMEOUT_SECONDS)
    return list(call)


def nobody() -> common_pb2.Endpoint:
    """An address that refuses connections."""
    return common_pb2.Endpoint(address=f"127.0.0.1:{free_port()}")


@pytest.mark.parametrize("tls", ["", RECEIVER], ids=["plain", "mutual TLS"])
def test_a_ping_connects_and_is_timed_and_the_channels_carry_streams(
    connections: Connections, listen: Listen, tls: str
) -> None:
    connections.aim(listen(tls=tls), ahead=2)
    assert 0 < connections.round_trip_seconds() < TIMEOUT_SECONDS
    assert connections.round_trip_seconds() == connections.round_trip_seconds()
    channels = [connections.take() for _ in range(3)]
    assert len(set(map(id, channels))) == 3, "one more than was connected ahead"
    assert [said(channel) for channel in channels] == [[b"here!"]] * 3


def test_nobody_listening_ends_with_unavailable_once_the_time_is_over(own: Identity) -> None:
    connections = Connections(own, SystemClock(), 0.3)
    endpoint = nobody()
    connections.aim(endpoint, ahead=3)
    with pytest.raises(errors.Unavailable) as caught:
        connections.round_trip_seconds()
    assert caught.value.reason == "PEER_UNAVAILABLE"
    assert endpoint.address in caught.value.message
    connections.close()


def test_a_port_that_never_answers_is_unavailable_too(own: Identity) -> None:
    connections = Connections(own, SystemClock(), 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        connections.aim(common_pb2.Endpoint(address=f"127.0.0.1:{port}"))
        with pytest.raises(errors.Unavailable) as caught:
            connections.round_trip_seconds()
    assert caught.value.reason == "PEER_UNAVAILABLE"


def test_a_port_that_opens_late_is_waited_for(
    connections: Connections, federation: Federation
) -> None:
    """A destination may tell its address before it listens."""
    endpoint = nobody()
    connections.aim(endpoint)
    server, _ = dataport.serve(
        endpoint.address, lambda _: True, lambda *_: iter(()), window_bytes=1 << 20, streams_max=1
    )
    server.start()
    assert connections.round_trip_seconds() > 0
    server.stop(0).wait(10)


@pytest.mark.parametrize(
    ("tls", "expected"),
    [(RECEIVER, OTHER), (RECEIVER, f"spiffe://{OSAKA}/manager/host1"), (RECEIVER, ""), ("", OTHER)],
    ids=["another agent", "another role", "plain to TLS", "TLS to plain"],
)
def test_only_the_agent_that_was_named_is_talked_to_and_as_was_agreed(
    own: Identity, listen: Listen, tls: str, expected: str
) -> None:
    endpoint = listen(tls=tls)
    endpoint.spiffe_id = expected
    connections = Connections(own, SystemClock(), 0.5)
    connections.aim(endpoint)
    with pytest.raises(errors.Unavailable):
        connections.round_trip_seconds()


def connected(endpoint: common_pb2.Endpoint) -> int:
    """Connections of this process to a port."""
    port = int(endpoint.address.rpartition(":")[2])
    return sum(
        bool(link.raddr) and link.raddr.port == port
        for link in psutil.Process().net_connections("tcp")
        if link.status == psutil.CONN_ESTABLISHED
    )


def await_connections(endpoint: common_pb2.Endpoint, left: int) -> None:
    until = time.monotonic() + 30
    while connected(endpoint) > left and time.monotonic() < until:
        gc.collect()
    assert connected(endpoint) == left


def test_an_aim_at_another_port_drops_the_channels_to_the_earlier_one(
    connections: Connections, listen: Listen
) -> None:
    first, second, ahead = listen(b"first"), listen(b"second"), 3
    connections.aim(first, ahead)
    connections.round_trip_seconds()
    assert connected(first) > 0
    connections.aim(second, ahead)
    assert connections.round_trip_seconds() > 0
    channels = [connections.take() for _ in range(ahead + 1)]
    assert [said(channel) for channel in channels] == [[b"second!"]] * (ahead + 1)
    assert connected(second) == ahead + 2, "and the one that is only measured with"
    await_connections(first, 0)


def test_an_aim_at_the_same_port_keeps_what_is_connected(
    connections: Connections, listen: Listen
) -> None:
    endpoint = listen()
    connections.aim(endpoint, ahead=2)
    measured = connections.round_trip_seconds()
    ready = list(connections._ready)
    connections.aim(endpoint, ahead=5)
    assert connections._ready == ready
    assert connections.round_trip_seconds() == measured


def test_an_aim_elsewhere_does_not_wait_for_the_one_before(own: Identity, listen: Listen) -> None:
    connections = Connections(own, SystemClock(), 60)
    connections.aim(nobody(), ahead=2)
    pings = list(connections._pings)
    connections.aim(listen())
    assert connections.round_trip_seconds() < 60
    assert [ping.cancelled() for ping in pings] == [True, True]
    assert said(connections.take()) == [b"here!"]


@pytest.mark.parametrize("address", ["", "nowhere", "127.0.0.1:0", "127.0.0.1:70000"])
def test_what_is_no_address_is_refused_and_changes_nothing(
    connections: Connections, listen: Listen, address: str
) -> None:
    connections.aim(listen())
    with pytest.raises(errors.InvalidArgument) as caught:
        connections.aim(common_pb2.Endpoint(address=address))
    assert caught.value.reason == "INVALID_FIELD"
    assert said(connections.take()) == [b"here!"]


def test_the_round_trip_is_not_known_before_there_is_an_aim(connections: Connections) -> None:
    with pytest.raises(errors.Internal):
        connections.round_trip_seconds()
    with pytest.raises(errors.Internal):
        connections.ping()


class Pings(grpc.GenericRpcHandler):
    """A port that takes so much of a clock's time for each call, and writes down what came."""

    def __init__(self, clock: FakeClock, *seconds: float) -> None:
        self.came: queue.Queue[tuple[str, int]] = queue.Queue()
        self._clock = clock
        self._seconds = iter(seconds)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._clock.advance(next(self._seconds, 0.0))
        self.came.put((context.peer(), len(request)))
        return b""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def pinged(own: Identity, clock: FakeClock) -> Iterator[Callable[..., tuple[Connections, Pings]]]:
    """Connections whose pings take so many seconds each."""
    with ExitStack() as stack:

        def start(*seconds: float, ahead: int = 1) -> tuple[Connections, Pings]:
            pings = Pings(clock, *seconds)
            server = grpc.server(ThreadPoolExecutor(1), handlers=[pings])
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            stack.callback(lambda: server.stop(0).wait(10))
            connections = Connections(own, clock, TIMEOUT_SECONDS)
            stack.callback(connections.close)
            connections.aim(common_pb2.Endpoint(address=f"127.0.0.1:{port}"), ahead=ahead)
            return connections, pings

        yield start


@pytest.mark.parametrize("connecting", [0.0, 3.0])
def test_the_round_trip_is_that_of_a_ping_without_the_time_to_connect(
    pinged: Callable[..., tuple[Connections, Pings]], connecting: float
) -> None:
    connections, pings = pinged(connecting, 0.25, ahead=0)
    assert connections.round_trip_seconds() == pytest.approx(0.25)
    peers, sizes = zip(*(pings.came.get(timeout=30) for _ in range(2)), strict=True)
    assert len(set(peers)) == 1
    assert sizes == (0, 0)


@pytest.mark.parametrize("far", [False, True])
def test_over_a_long_way_connections_are_given_padding_meanwhile(
    pinged: Callable[..., tuple[Connections, Pings]],
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    *,
    far: bool,
) -> None:
    connect, ahead = socket.create_connection, 4

    def connect_slowly(address: tuple[str, int], timeout: float) -> socket.socket:
        clock.advance(WARM_SECONDS_MIN * (1.1 if far else 0.9))
        return connect(address, timeout)

    monkeypatch.setattr(dataplane.socket, "create_connection", connect_slowly)
    connections, pings = pinged(ahead=ahead)
    connections.round_trip_seconds()
    came = [pings.came.get(timeout=30) for _ in range(2 + ahead + ahead * far)]
    assert len({peer for peer, _ in came}) == 1 + ahead, "each has a connection of its own"
    padded = [peer for peer, size in came if size]
    assert {size for _, size in came} <= {0, WARM_BYTES}
    assert len(padded) == len(set(padded)) == ahead * far
    assert pings.came.empty()


def test_a_ping_beside_the_streams_goes_over_the_connection_that_was_measured(
    pinged: Callable[..., tuple[Connections, Pings]],
) -> None:
    connections, pings = pinged(ahead=1)
    connections.round_trip_seconds()
    assert connections.ping().result(30) == b""
    came = [pings.came.get(timeout=30) for _ in range(4)]
    peers = [peer for peer, _ in came]
    assert peers.count(came[-1][0]) == 3


def test_closing_disconnects_what_nobody_took_and_leaves_the_rest(
    connections: Connections, listen: Listen
) -> None:
    endpoint = listen()
    connections.aim(endpoint, ahead=3)
    connections.round_trip_seconds()
    taken = connections.take()
    assert said(taken) == [b"here!"]
    connections.close()
    await_connections(endpoint, 1)
    assert said(taken) == [b"here!"]
