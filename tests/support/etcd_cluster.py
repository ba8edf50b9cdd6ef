"""A real etcd of three nodes on this machine, with mutual TLS to clients and among peers.

Nodes are processes of Debian's `etcd-server`: killed, stopped, cut off and started again at will.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compose.store_pki import StoreAuthority
from directory.etcd_settings import EtcdSettings
from tests.support.processes import free_port
from watari import identity
from watari.clock import SystemClock

NODES = 3
START_SECONDS_MAX = 60.0
COMMAND_SECONDS_MAX = 60.0


@dataclass(frozen=True)
class Place:
    """Where a node runs."""

    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()
    """Command that runs another one there."""


class Certificates:
    """The files of an authority of etcd's, of its nodes and of one client."""

    def __init__(self, folder: Path, addresses: Sequence[str]) -> None:
        self.folder = folder
        authority = StoreAuthority("etcd", SystemClock())
        identity.save_certificate(self.path("ca.pem"), authority.cert_pem)
        for name, issued in (
            ("node", authority.node("localhost", addresses)),
            ("client", authority.client("client")),
        ):
            certificate, key = issued
            identity.save_certificate(self.path(f"{name}.pem"), certificate)
            identity.save_key(self.path(f"{name}-key.pem"), key)

    def path(self, name: str) -> Path:
        """Such as `ca.pem`, `node-key.pem`."""
        return self.folder / name


class Node:
    """One member."""

    def __init__(self, number: int, folder: Path, certificates: Certificates, place: Place) -> None:
        self.name = f"n{number}"
        self.client = f"{place.address}:{free_port()}"
        self.peer = f"{place.address}:{free_port()}"
        self._prefix = place.prefix
        self._folder = folder
        self._certificates = certificates
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, members: str) -> None:
        """Starts it on its data, without waiting."""
        path = self._certificates.path
        tls = {
            "cert-file": path("node.pem"),
            "key-file": path("node-key.pem"),
            "trusted-ca-file": path("ca.pem"),
        }
        options: dict[str, object] = {
            "name": self.name,
            "data-dir": self._folder / self.name,
            "listen-client-urls": f"https://{self.client}",
            "advertise-client-urls": f"https://{self.client}",
            "listen-peer-urls": f"https://{self.peer}",
            "initial-advertise-peer-urls": f"https://{self.peer}",
            "initial-cluster": members,
            "heartbeat-interval": 100,
            "election-timeout": 1000,
            "logger": "zap",
            "log-level": "warn",
            **tls,
            **{f"peer-{name}": value for name, value in tls.items()},
        }
        switches = ["--client-cert-auth", "--peer-client-cert-auth"]
        command = [
            *self._prefix,
            program(),
            *(f"--{name}={value}" for name, value in options.items()),
            *switches,
        ]
        with (self._folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """kill -9, and waits for the end."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(COMMAND_SECONDS_MAX)

    def pause(self) -> None:
        """Stands still, as if its network were cut: connections stay open and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Goes on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


class Cluster:
    """Three nodes, all running at first."""

    def __init__(self, folder: Path, places: Sequence[Place]) -> None:
        addresses = [place.address for place in places]
        self.certificates = Certificates(folder / "certificates", addresses)
        self._folder = folder
        self.nodes = [
            Node(number, folder, self.certificates, place) for number, place in enumerate(places)
        ]
        self.members = ",".join(f"{node.name}=https://{node.peer}" for node in self.nodes)

    def start(self) -> None:
        """Starts every node, and waits until the cluster has a leader."""
        for node in self.nodes:
            node.start(self.members)
        self.await_leader()

    def restart(self, node: Node) -> None:
        """A node that was killed comes back."""
        node.start(self.members)

    def stop(self) -> None:
        """Ends every node."""
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.kill()

    def restore(self, snapshot: Path) -> None:
        """Puts the whole cluster back to a snapshot."""
        self.stop()
        for node in self.nodes:
            data = self._folder / node.name
            shutil.rmtree(data)
            self.etcdctl(
                *("snapshot", "restore", str(snapshot), f"--name={node.name}"),
                *(f"--data-dir={data}", f"--initial-cluster={self.members}"),
                f"--initial-advertise-peer-urls=https://{node.peer}",
            )
            node.start(self.members)
        self.await_leader()

    def settings(self, prefix: str = "/watari/") -> EtcdSettings:
        """For a directory."""
        path = self.certificates.path
        return EtcdSettings(
            endpoints=tuple(node.client for node in self.nodes),
            ca=path("ca.pem"),
            certificate=path("client.pem"),
            key=path("client-key.pem"),
            prefix=prefix,
        )

    def etcdctl(self, *arguments: str, endpoints: str = "") -> str:
        """What `etcdctl` prints. Raises CalledProcessError, TimeoutExpired."""
        path = self.certificates.path
        command = [
            shutil.which("etcdctl") or "etcdctl",
            f"--endpoints={endpoints or ','.join(node.client for node in self.nodes)}",
            f"--cacert={path('ca.pem')}",
            f"--cert={path('client.pem')}",
            f"--key={path('client-key.pem')}",
            *arguments,
        ]
        environ = {**os.environ, "ETCDCTL_API": "3"}
        done = subprocess.run(
            command, env=environ, check=True, capture_output=True, timeout=COMMAND_SECONDS_MAX
        )
        return done.stdout.decode(errors="replace")

    def await_leader(self) -> Node:
        """The leader, as soon as a majority has one."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            for node in self.nodes:
                with contextlib.suppress(subprocess.SubprocessError, ValueError, KeyError):
                    text = self.etcdctl("endpoint", "status", "-w", "json", endpoints=node.client)
                    (found,) = json.loads(text)
                    status = found["Status"]
                    if status["leader"] and status["leader"] == status["header"]["member_id"]:
                        return node
            time.sleep(0.1)
        logs = "\n".join(path.read_text()[-2000:] for path in self._folder.glob("*.log"))
        raise AssertionError(f"etcd has no leader:\n{logs}")


@contextlib.contextmanager
def cluster(folder: Path, places: Sequence[Place] = (Place(),) * NODES) -> Iterator[Cluster]:
    """Runs for the length of the block."""
    found = Cluster(folder, places)
    try:
        found.start()
        yield found
    finally:
        found.stop()


def program() -> str:
    """Debian's etcd."""
    found = shutil.which("etcd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/bin")
    assert found is not None, "etcd is missing; run tools/setup.sh test"
    return found
