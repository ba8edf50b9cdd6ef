"""Strangers at the data port cost bounded memory and time, and a transfer beside them succeeds."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.transfer import dataport
from tests.conftest import Federation
from tests.support import agents, intruders
from tests.support.shelves import MIB, Content, identical, put_machine
from watari.v1 import agent_pb2

DISK = Content(24 * MIB, ((0, 24 * MIB),))
SLOW = {"limit_bytes_per_second": 4 * MIB}
CLOSED_SECONDS_MAX = 30.0
MORE_BYTES_MAX = 96 * MIB
"""What strangers may pin at a destination: some 40 MiB were measured for the worst of them."""


@pytest.fixture
def pair(federation: Federation, tmp_path: Path) -> Iterator[agents.Pair]:
    yield from agents.pair(federation, tmp_path)


def test_a_transfer_beside_a_flood_succeeds_identically_and_memory_stays_bounded(
    pair: agents.Pair,
) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    migration_id = pair.start(vm_id, **SLOW)
    pair.source.wait_done(migration_id, 2 * MIB)
    before = pair.destination.process.peak_rss_bytes()
    session_id = intruders.overheard(pair.destination.shelf, migration_id)
    strangers = (
        intruders.silent,
        intruders.dribbling,
        intruders.idle,
        intruders.garbage,
        intruders.unread,
        intruders.calling("", 1),
        intruders.calling(session_id, 1),
        intruders.calling(session_id, 2),
    )
    with intruders.at_work(pair.destination.data_port, *strangers):
        transfer = pair.source.wait_ended(migration_id, 90)
    assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem
    assert pair.destination.process.peak_rss_bytes() < before + MORE_BYTES_MAX
    pair.activate(migration_id)
    original = pair.source.shelf / "vms" / "web" / "vda.raw"
    assert identical(original, pair.destination.disk(vm_id, "vda"))


def closed(link: socket.socket, seconds: float) -> bool:
    """Whether the other end closes within so long."""
    link.settimeout(seconds)
    try:
        while link.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


@pytest.fixture
def handshake_seconds_max() -> float:
    """How long the data port waits for the first words of a connection."""
    return 0.5


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch, handshake_seconds_max: float) -> Iterator[int]:
    """A data port that admits nobody and is impatient."""
    monkeypatch.setattr(dataport, "HANDSHAKE_SECONDS_MAX", handshake_seconds_max)
    monkeypatch.setattr(dataport, "IDLE_SECONDS_MAX", 1.0)
    server, number = dataport.serve(
        "127.0.0.1:0", lambda _: False, lambda *_: iter(()), window_bytes=1 << 20, streams_max=2
    )
    server.start()
    yield number
    server.stop(0).wait(10)


@pytest.mark.parametrize("words", [b"", intruders.PREFACE[:1], intruders.PREFACE])
def test_who_says_nothing_of_use_is_let_go(port: int, words: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.sendall(words)
        assert closed(link, CLOSED_SECONDS_MAX)


@pytest.mark.parametrize("handshake_seconds_max", [5.0])
def test_connections_beyond_the_limit_are_closed_at_once_and_others_stay(
    port: int, handshake_seconds_max: float
) -> None:
    limit = dataport.CONNECTIONS_PER_STREAM * 2
    with ExitStack() as stack:
        links = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(limit)
        ]
        time.sleep(0.1)
        further = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(4)
        ]
        assert all(closed(link, handshake_seconds_max / 2) for link in further)
        assert not closed(links[0], 0.05)
        assert all(closed(link, CLOSED_SECONDS_MAX) for link in links)
    with socket.create_connection(("127.0.0.1", port)) as again:
        assert not closed(again, 0.2)
