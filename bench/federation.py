"""Two providers and their agents as real processes; the bench speaks for both managers.

The agents run at the two sides of a link, or both at one. Only agents are measured.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.link import Side
from watari import identity, rpc
from watari.clock import SystemClock
from watari.identity import Identity, SpiffeId, TrustStore
from watari.rpc import client
from watari.v1 import agent_pb2_grpc, common_pb2

DOMAINS = ("tokyo.example", "osaka.example")
CONTROL_PORT, DATA_PORT = 7443, 7444
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 20.0

AGENTS_VARIABLE = "WATARI_BENCH_AGENTS"
"""Environment variable: a checkout whose agents are measured instead of this one's."""


class Federation:
    """Two providers that have accepted each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = SystemClock()
        self._trust = folder / "trust"
        self._authorities = {each: identity.create_ca(each, self.clock) for each in DOMAINS}
        for domain, authority in self._authorities.items():
            identity.save_certificate(self._trust / f"{domain}.pem", authority.cert_pem)

    def party(self, spiffe_id: str) -> Identity:
        """A fresh identity, by its own provider."""
        parsed = SpiffeId.parse(spiffe_id)
        cert_pem, key_pem = self._authorities[parsed.domain].issue(parsed)
        return Identity(parsed, cert_pem, key_pem, TrustStore(self._trust))

    @property
    def trust(self) -> Path:
        """Folder of the accepted authorities."""
        return self._trust


@dataclass(frozen=True)
class Usage:
    """What an agent's process has used."""

    peak_rss_bytes: int
    cpu_seconds: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"peak_rss_bytes": self.peak_rss_bytes, "cpu_seconds": self.cpu_seconds}


@dataclass
class Host:
    """One agent: its folder, process and stub."""

    federation: Federation
    domain: str
    side: Side
    folder: Path
    ports: tuple[int, int] = (CONTROL_PORT, DATA_PORT)
    options: str = ""
    """Further lines of the `[agent]` table and those after it."""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.agent_id = f"spiffe://{self.domain}/agent/host1"
        self.manager_id = f"spiffe://{self.domain}/manager/main"
        self.shelf = self.folder / "shelf"
        self.shelf.mkdir(parents=True)
        self.manager = self.federation.party(self.manager_id)
        self.federation.party(self.agent_id).save(self.folder)
        self._config = self.folder / "agent.toml"
        self._config.write_text(self._configuration())
        target = rpc.Target(f"{self.side.control}:{self.ports[0]}", SpiffeId.parse(self.agent_id))
        self._channel = client.connect(self.manager, target)
        self.stub = agent_pb2_grpc.AgentServiceStub(self._channel)

    @property
    def control(self) -> common_pb2.Endpoint:
        """Where the other agent takes control calls to."""
        return common_pb2.Endpoint(
            address=f"{self.side.address}:{self.ports[0]}", spiffe_id=self.agent_id
        )

    @property
    def data(self) -> common_pb2.Endpoint:
        """Where the other agent takes sealed frames to; with an identity only if it wants TLS."""
        return common_pb2.Endpoint(address=f"{self.side.address}:{self.ports[1]}")

    def start(self) -> None:
        """Starts the process and waits until it serves. Raises RuntimeError."""
        command = self.side.command(sys.executable, "-m", "agent", "--config", self._config)
        root = os.environ.get(AGENTS_VARIABLE) or str(Path(__file__).resolve().parents[1])
        environ = {**os.environ, "PYTHONPATH": root}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=environ, stdout=log, stderr=log
            )
        health = health_pb2_grpc.HealthStub(self._channel)
        deadline = time.monotonic() + START_SECONDS_MAX
        while not _serves(health):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the agent does not serve:\n{self._log.read_text()[-4000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9, and waits for the end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS_MAX)

    @contextlib.contextmanager
    def stopped(self, after_seconds: float, for_seconds: float) -> Iterator[None]:
        """Stops the process (SIGSTOP) for a while as the block runs; it runs again afterwards."""
        process, over = self._process, threading.Event()
        assert process is not None  # noqa: S101 - for the type checker

        def stop() -> None:
            if not over.wait(after_seconds):
                process.send_signal(signal.SIGSTOP)
                over.wait(for_seconds)
                process.send_signal(signal.SIGCONT)

        thread = threading.Thread(target=stop)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def usage(self) -> Usage:
        """Of the running process: VmHWM and the times of proc(5)."""
        assert self._process is not None  # noqa: S101 - for the type checker
        folder = Path("/proc") / str(self._process.pid)
        peak = next(
            int(line.split()[1]) * 1024
            for line in (folder / "status").read_text().splitlines()
            if line.startswith("VmHWM:")
        )
        after_name = (folder / "stat").read_text().rpartition(")")[2].split()
        ticks = int(after_name[11]) + int(after_name[12])
        return Usage(peak, ticks / os.sysconf("SC_CLK_TCK"))

    def stop(self) -> None:
        """Ends the process, and the channel to it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.kill()
        self._channel.close()

    def disk(self, vm_id: str, name: str = "vda") -> Path:
        """A disk of a machine that arrived here."""
        return self.shelf / "vms" / vm_id / f"{name}.raw"

    @property
    def _log(self) -> Path:
        return self.folder / "agent.log"

    def _configuration(self) -> str:
        control, data = self.ports
        return f"""[agent]
cloud_id = "{self.domain.split(".")[0]}"
host_id = "host1"
manager = "{self.manager_id}"
shelf = "{self.shelf}"
address = "0.0.0.0:{control}"
data_address = "{self.side.address}:{data}"
advertised_address = "{self.side.address}:{control}"
{self.options}
[agent.identity]
certificate = "{self.folder / "cert.pem"}"
key = "{self.folder / "key.pem"}"
trust = "{self.federation.trust}"
"""


@contextlib.contextmanager
def agents(
    sides: tuple[Side, Side],
    folder: Path,
    *,
    second_ports: tuple[int, int] = (CONTROL_PORT, DATA_PORT),
    options: str = "",
) -> Iterator[tuple[Host, Host]]:
    """Two fresh agents with empty shelves. Where they share a side, the second has other ports."""
    federation = Federation(folder)
    hosts: list[Host] = []
    try:
        for number, side in enumerate(sides):
            own = second_ports if number else (CONTROL_PORT, DATA_PORT)
            place = folder / DOMAINS[number].split(".")[0]
            hosts.append(Host(federation, DOMAINS[number], side, place, own, options))
            hosts[-1].start()
        yield hosts[0], hosts[1]
    finally:
        for host in hosts:
            host.stop()


def _serves(health: health_pb2_grpc.HealthStub) -> bool:
    try:
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=2)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
