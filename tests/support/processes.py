"""Real server processes of the project: started, watched, killed, and always cleaned up."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from watari import rpc
from watari.identity import Identity, SpiffeId
from watari.rpc import client

_PORTS = range(15_000, 20_000)
"""Below those that the system hands out by itself."""
_BLOCK_PORTS = 20

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 40.0


def _own_blocks() -> Iterator[int]:
    """Ports in blocks that no other test process of this machine is given. Whoever has an abstract
    socket of the block's name has the block, until it ends however it ends; like ports, the names
    are of one network namespace.
    """
    firsts = list(_PORTS[::_BLOCK_PORTS])
    start = os.getpid() % len(firsts)
    for first in firsts[start:] + firsts[:start]:
        held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            held.bind(f"\0watari-test-ports-{first}")
        except OSError:
            held.close()
            continue
        _held.append(held)
        yield from range(first, first + _BLOCK_PORTS)


_held: list[socket.socket] = []
_ports = _own_blocks()
_taking = threading.Lock()


def free_port() -> int:
    """A port that this process has not been given before, and that no other listens on."""
    with _taking:
        for port in _ports:
            with socket.socket() as probe, contextlib.suppress(OSError):
                # A process that another thread begins has this socket until it runs its program.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
                return port
    raise AssertionError("no port is free")


class Process:
    """`python -m <module> --config FILE`, restartable on the same files."""

    def __init__(
        self,
        module: str,
        config: Path,
        target: rpc.Target,
        caller: Identity,
        prefix: tuple[str, ...] = (),
    ) -> None:
        self._command = [*prefix, sys.executable, "-m", module, "--config", str(config)]
        self.target = target
        self._caller = caller
        self._log = config.with_suffix(".log")
        self._begun = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self, environ: Mapping[str, str] | None = None) -> None:
        """Starts and waits until it serves; `environ` is added to the environment."""
        self.launch(environ)
        self.await_serving()

    def launch(self, environ: Mapping[str, str] | None = None) -> None:
        """Starts and does not wait."""
        with self._log.open("ab") as log:
            self._begun = log.tell()
            self._process = subprocess.Popen(
                self._command, stderr=log, stdout=log, env={**os.environ, **(environ or {})}
            )

    def await_serving(self) -> None:
        """Waits until it serves."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self.serving():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"it does not serve:\n{self.log()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9, and waits for the end."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_SECONDS_MAX)

    def pause(self, seconds: float) -> None:
        """Stands still for so long, as if its machine did, and goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._process.send_signal(signal.SIGCONT)

    def stopped(self) -> bool:
        """Whether it stands still (a fail point)."""
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] in "Tt"

    def go_on(self) -> None:
        """Lets it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wait_killed(self, seconds: float) -> None:
        """Waits for a kill -9 that comes from within (a fail point)."""
        assert self._process is not None
        assert self._process.wait(seconds) == -signal.SIGKILL, self.log()

    def wait(self, seconds: float) -> int:
        """Waits for an end that comes by itself; returns the exit status."""
        assert self._process is not None
        return self._process.wait(seconds)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_SECONDS_MAX)
                raise AssertionError(f"it did not stop on SIGTERM:\n{self.log()}") from None
        return self._process.returncode

    def log(self) -> str:
        """What it wrote, the end of it."""
        return self._log.read_text()[-6000:]

    def said(self, words: str) -> bool:
        """Whether it wrote them since it was started."""
        return words.encode() in self._log.read_bytes()[self._begun :]

    def peak_rss_bytes(self) -> int:
        """Largest resident set so far, VmHWM of proc(5)."""
        return peak_rss_bytes(self.pid)

    def end(self) -> None:
        """Ends it, however it stands."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def serving(self) -> bool:
        """Whether it answers that it does."""
        with client.connect(self._caller, self.target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
            except grpc.RpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def peak_rss_bytes(pid: int) -> int:
    """Largest resident set of a process so far, VmHWM of proc(5)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def target(port: int, spiffe_id: str) -> rpc.Target:
    """A server on this machine."""
    return rpc.Target(f"127.0.0.1:{port}", SpiffeId.parse(spiffe_id))
