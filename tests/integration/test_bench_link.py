"""The emulated link is what was asked for, measured with real sockets in its namespaces."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.link import Link, Shape
from bench.methods import goodput
from bench.methods.result import timed

pytestmark = pytest.mark.alone

MBIT = 1e6
PORT = 7666

ECHO = f"""
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", {PORT}))
print("ready", flush=True)
while True:
    datagram, peer = server.recvfrom(2000)
    server.sendto(datagram, peer)
"""

ASK = f"""
import json, socket, sys, time
address, count, gap = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
link.connect((address, {PORT}))
link.settimeout(1.0)
sent, delays = {{}}, []
def take():
    number = int(link.recv(2000))
    delays.append((number, sent[number], time.monotonic() - sent[number]))
for number in range(count):
    sent[number] = time.monotonic()
    link.send(str(number).encode())
    link.setblocking(False)
    try:
        while True:
            take()
    except BlockingIOError:
        pass
    time.sleep(gap)
link.settimeout(1.0)
try:
    while len(delays) < count:
        take()
except TimeoutError:
    pass
print(json.dumps(delays))
"""


@contextmanager
def echo(link: Link) -> Iterator[None]:
    """An echo server at the destination."""
    command = link.destination.command(sys.executable, "-c", ECHO)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield
        finally:
            server.kill()


def asked(link: Link, count: int, gap_seconds: float) -> list[tuple[int, float, float]]:
    """(number, sent at, round trip in seconds) of the datagrams that came back."""
    arguments = (link.destination.address, count, gap_seconds)
    answer = link.source.run(sys.executable, "-c", ASK, *arguments)
    return [(number, at, delay) for number, at, delay in json.loads(answer)]


def test_a_round_trip_takes_as_long_as_asked() -> None:
    with Link(Shape(100 * MBIT, 0.06)) as link, echo(link):
        delays = sorted(delay for *_, delay in asked(link, 50, 0.01))
    assert len(delays) == 50
    assert delays[0] >= 0.06
    assert delays[25] == pytest.approx(0.06, abs=0.006)


def test_one_connection_fills_the_link_and_not_more() -> None:
    with Link(Shape(100 * MBIT, 0.02)) as link:
        rate = goodput.bytes_per_second(link, 2.0) * 8
    # 1,448 of the 1,500 bytes of a segment are payload.
    assert 85 * MBIT < rate <= 100 * MBIT * 1448 / 1500 * 1.02


def test_without_a_rate_the_link_is_no_bottleneck() -> None:
    with Link(Shape()) as link:
        rate = goodput.bytes_per_second(link, 1.0) * 8
    assert rate > 1000 * MBIT


def test_a_tenth_of_the_datagrams_is_lost_when_asked() -> None:
    with Link(Shape(loss=0.1)) as link, echo(link):
        answered = asked(link, 2000, 0.0003)
        counters = link.counters()
    lost = counters["there"]["lost_segments"] + counters["back"]["lost_segments"]
    assert lost == 2000 - len(answered)
    assert len(answered) / 2000 == pytest.approx(0.81, abs=0.04)


def test_losses_slow_a_connection_and_corrupt_nothing(tmp_path: Path) -> None:
    content = bytes(range(256)) * 40_000
    (tmp_path / "sent").write_bytes(content)
    receive = (
        "import socket, sys, pathlib\n"
        f"server = socket.create_server(('', {PORT}))\n"
        "print('ready', flush=True)\n"
        "file = server.accept()[0].makefile('rb')\n"
        "pathlib.Path(sys.argv[1]).write_bytes(file.read())\n"
    )
    send = (
        "import socket, sys, pathlib\n"
        f"link = socket.create_connection((sys.argv[1], {PORT}))\n"
        "link.sendall(pathlib.Path(sys.argv[2]).read_bytes())\n"
    )
    with Link(Shape(200 * MBIT, 0.01, loss=0.01)) as link:
        command = link.destination.command(sys.executable, "-c", receive, tmp_path / "got")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
            assert receiver.stdout is not None
            receiver.stdout.readline()
            address = link.destination.address
            link.source.run(sys.executable, "-c", send, address, tmp_path / "sent")
        lost = link.counters()["there"]["lost_segments"]
    assert lost > 0
    assert (tmp_path / "got").read_bytes() == content


def test_nothing_passes_in_an_outage_and_everything_after_it() -> None:
    with Link(Shape(round_trip_seconds=0.01)) as link, echo(link):
        link.outage(0.5, 0.6)
        start = time.monotonic()
        answered = asked(link, 200, 0.01)
        counters = link.counters()
    missing = set(range(200)) - {number for number, *_ in answered}
    assert missing
    assert sorted(missing) == list(range(min(missing), max(missing) + 1))
    assert counters["there"]["outage_dropped_segments"] > 20
    resumed = min(at for number, at, _ in answered if number > max(missing))
    assert resumed - start == pytest.approx(1.1, abs=0.2)


def test_what_a_connection_carries_is_counted() -> None:
    with Link(Shape(50 * MBIT, 0.01)) as link:
        with timed(link) as measured:
            rate = goodput.bytes_per_second(link, 1.0)
        counters = link.counters()
    assert measured.wire_bytes >= rate * 1.0
    there = counters["there"]
    assert there["delivered_bytes"] <= there["sent_bytes"] <= there["offered_bytes"]


def test_another_congestion_control_is_used_when_asked() -> None:
    with Link(Shape(congestion="reno")) as link, echo(link):
        told = link.source.run("ip", "route", "get", link.destination.address)
        assert link.settings["tcp_congestion_control"] == "reno"
    assert "congctl reno" in told


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_nothing_is_left_of_a_link_when_its_bench_is_killed(how: str) -> None:
    """A command that still runs in it would keep it until it ends."""
    program = (
        "import time\n"
        "from bench.link import Link, Shape\n"
        "link = Link(Shape())\n"
        "print(link.pid, *link.source.prefix, flush=True)\n"
        "time.sleep(60)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    box = int(owner.stdout.readline().split()[0])
    assert Path(f"/proc/{box}").exists()
    owner.terminate() if how == "SIGTERM" else owner.kill()
    owner.wait(10)
    owner.stdout.close()
    _wait_gone(lambda: Path(f"/proc/{box}").exists(), "the link's process is still there")
    # Namespaces are taken apart in the background.
    _wait_gone(
        lambda: f"wb{owner.pid}x" in subprocess.check_output(["ip", "link"], text=True),
        "the link is still there",
    )


def _wait_gone(there: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while there():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
