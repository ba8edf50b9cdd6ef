"""Two clouds in the lab: on each host a manager and an agent over that host's libvirt.

    tokyo host                              osaka host
    manager :7440 -- agent :7443, :7444 === manager :7440 -- agent :7443, :7444
         \\                                       /
          +---------- control addresses ----------+--- the test: operator's calls, `watari`

Providers are the two of `tests.conftest.Federation`; managers know each other by their settings, so
neither directory nor broker is needed to move a machine by hand.
"""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import OSAKA, TOKYO, Federation
from tests.lab.hosts import Host
from tests.lab.image import Image
from tests.lab.link import Lab
from watari import errors, rpc
from watari.identity import Identity, SpiffeId
from watari.rpc import client
from watari.v1 import agent_pb2_grpc, manager_pb2, manager_pb2_grpc

MANAGER_PORT, AGENT_PORT, DATA_PORT = 7440, 7443, 7444
DOMAINS = {"tokyo": TOKYO, "osaka": OSAKA}

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 40.0
MIGRATION_SECONDS_MAX = 120.0
POLL_SECONDS = 0.05

_numbers = itertools.count(1)

FINAL = (
    manager_pb2.MIGRATION_STATE_SUCCEEDED,
    manager_pb2.MIGRATION_STATE_FAILED,
    manager_pb2.MIGRATION_STATE_CANCELLED,
)


class Server:
    """One of a cloud's processes, inside its host."""

    def __init__(
        self, host: Host, module: str, config: Path, target: rpc.Target, caller: Identity
    ) -> None:
        self.module = module
        self._host, self._config = host, config
        self._target, self._caller = target, caller
        self._process: subprocess.Popen[Any] | None = None

    @property
    def log(self) -> Path:
        """What it wrote."""
        return self._config.with_suffix(".log")

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self, **environ: str) -> None:
        """Starts it, unless it runs, and waits until it serves."""
        if not self.running:
            command = [sys.executable, "-m", self.module, "--config", self._config]
            with self.log.open("ab") as log:
                self._process = self._host.popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **environ},
                )
        wait_until(self._serves, START_SECONDS_MAX, lambda: self.log.read_text()[-4000:])

    @property
    def stopped(self) -> bool:
        """Whether it stopped itself at a fail point."""
        assert self._process is not None
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except FileNotFoundError:
            return False
        return stat.rpartition(")")[2].split()[0] in "Tt"

    def go_on(self) -> None:
        """Lets it go on, if it is still there."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9, and waits for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS_MAX)

    def _serves(self) -> bool:
        assert self.running, self.log.read_text()[-4000:]
        with client.connect(self._caller, self._target) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=2
                )
            except grpc.RpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@dataclass
class Cloud:
    """One provider's cloud of one host."""

    host: Host
    control: str
    """Address at which the test reaches the host."""
    federation: Federation
    folder: Path
    image: Image
    peer: tuple[str, str] = ("", "")
    """Id of the other cloud, and its address on the link."""
    more: Mapping[str, str] = field(default_factory=dict)
    """Further lines of the settings, by "agent" and "manager"."""

    def __post_init__(self) -> None:
        self.cloud_id = self.host.name
        self.domain = DOMAINS[self.cloud_id]
        self.manager_id = f"spiffe://{self.domain}/manager/main"
        self.agent_id = f"spiffe://{self.domain}/agent/host1"
        self.operator = self.federation.party(f"spiffe://{self.domain}/operator/main")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state = self.host.work / f"agent{next(_numbers)}"
        """The agent's folder; its path is short, for there are sockets in it."""
        self.manager = self._server("manager", MANAGER_PORT, self.manager_id)
        self.agent = self._server("agent", AGENT_PORT, self.agent_id)
        self.channels = client.ChannelPool(self.operator)

    @property
    def servers(self) -> dict[str, Server]:
        """By what a test calls them."""
        return {
            f"{self.cloud_id}-manager": self.manager,
            f"{self.cloud_id}-agent": self.agent,
        }

    @property
    def calls(self) -> manager_pb2_grpc.ManagerServiceStub:
        """The operator's calls to the manager."""
        target = rpc.Target(f"{self.control}:{MANAGER_PORT}", SpiffeId.parse(self.manager_id))
        return manager_pb2_grpc.ManagerServiceStub(self.channels.get(target))

    @property
    def agent_calls(self) -> agent_pb2_grpc.AgentServiceStub:
        """The operator's calls to the agent."""
        target = rpc.Target(f"{self.control}:{AGENT_PORT}", SpiffeId.parse(self.agent_id))
        return agent_pb2_grpc.AgentServiceStub(self.channels.get(target))

    def write_settings(self) -> None:
        """The settings of both servers, and what guests may boot from."""
        boot = self.folder / "boot"
        boot.mkdir(exist_ok=True)
        for each in (self.image.kernel, self.image.initrd):
            shutil.copyfile(each, boot / each.name)
        (self.folder / "manager.toml").write_text(self._manager_settings())
        (self.folder / "agent.toml").write_text(self._agent_settings())

    def start(self, **environ: str) -> None:
        """Starts what does not run."""
        self.host.start()
        for server in (self.agent, self.manager):
            server.start(**environ)

    def vms(self) -> dict[str, manager_pb2.Vm]:
        """The machines that the cloud owns, by UUID."""
        answer = client.call(self.calls.ListVms, manager_pb2.ListVmsRequest())
        return {vm.vm_id: vm for vm in answer.vms}

    def migration(self, migration_id: str) -> manager_pb2.Migration:
        """A migration that leaves this cloud."""
        request = manager_pb2.GetMigrationRequest(migration_id=migration_id)
        return client.call(self.calls.GetMigration, request).migration

    @staticmethod
    def new_id() -> str:
        """Of a migration to come."""
        return str(uuid.uuid4())

    def resolve(self, migration_id: str, resolution: int) -> None:
        """An operator's word on a migration whose peer is gone."""
        request = manager_pb2.ResolveMigrationRequest(
            migration_id=migration_id,
            resolution=manager_pb2.ResolveMigrationRequest(resolution=resolution).resolution,  # type: ignore[arg-type]
            justification="the link between the hosts is gone",
        )
        client.call(self.calls.ResolveMigration, request, timeout_seconds=60)

    def inventories(self) -> list[manager_pb2.Inventory]:
        """Of its hosts."""
        request = manager_pb2.ListInventoriesRequest()
        return list(client.call(self.calls.ListInventories, request).inventories)

    def usage(self, vm_id: str, migration_id: str) -> list[manager_pb2.UsageRecord]:
        """What was metered of a machine because of a migration."""
        target = rpc.Target(f"{self.control}:{MANAGER_PORT}", SpiffeId.parse(self.manager_id))
        stub = manager_pb2_grpc.AccountingServiceStub(self.channels.get(target))
        request = manager_pb2.ListUsageRecordsRequest(vm_id=vm_id, page_size=1000)
        records = client.call(stub.ListUsageRecords, request).records
        return [each for each in records if each.migration_id == migration_id]

    def migrate(self, vm_id: str, mode: int, migration_id: str = "", **options: int) -> str:
        """Begins to move a machine to the other cloud; the migration's id."""
        request = manager_pb2.MigrateVmRequest(
            migration_id=migration_id or str(uuid.uuid4()),
            vm=vm_id,
            to_cloud=self.peer[0],
            mode=manager_pb2.MigrateVmRequest(mode=mode).mode,  # type: ignore[arg-type]
        )
        for name, value in options.items():
            setattr(request.options, name, value)
        client.call(self.calls.MigrateVm, request)
        return request.migration_id

    def wait_ended(
        self, migration_id: str, seconds: float = MIGRATION_SECONDS_MAX
    ) -> manager_pb2.Migration:
        """Waits for a final state."""
        wait_until(
            lambda: self.migration(migration_id).state in FINAL,
            seconds,
            lambda: str(self.migration(migration_id)),
        )
        return self.migration(migration_id)

    def wait_owns(self, vm_id: str, state: str = "", seconds: float = 20.0) -> None:
        """Waits until the manager lists a machine as its own, in that state if one is given."""

        def listed() -> bool:
            vm = self.vms().get(vm_id)
            return vm is not None and state in {"", vm.state} and not vm.migration_id

        wait_until(listed, seconds, lambda: f"{self.cloud_id}: {self.vms()}")

    def _server(self, module: str, port: int, spiffe_id: str) -> Server:
        target = rpc.Target(f"{self.control}:{port}", SpiffeId.parse(spiffe_id))
        return Server(self.host, module, self.folder / f"{module}.toml", target, self.operator)

    def _identity(self, module: str, spiffe_id: str) -> str:
        keys = self.federation.folder_of(spiffe_id)
        return f"""[{module}.identity]
certificate = "{keys / "cert.pem"}"
key = "{keys / "key.pem"}"
trust = "{keys / "trust"}"
"""

    def _agent_settings(self) -> str:
        return f"""[agent]
cloud_id = "{self.cloud_id}"
host_id = "host1"
manager = "{self.manager_id}"
driver = "libvirt"
libvirt_uri = "qemu:///system"
shelf = "{self.state}"
boot_files = "{self.folder / "boot"}"
address = "0.0.0.0:{AGENT_PORT}"
data_address = "0.0.0.0:{DATA_PORT}"
advertised_address = "{self.host.address}:{AGENT_PORT}"
advertised_data_address = "{self.host.address}:{DATA_PORT}"
sweep_seconds = 0.5
retention_seconds = 3600
{self.more.get("agent", "")}
{self._identity("agent", self.agent_id)}
"""

    def _manager_settings(self) -> str:
        other, address = self.peer
        return f"""[manager]
cloud_id = "{self.cloud_id}"
address = "0.0.0.0:{MANAGER_PORT}"
advertise_address = "{self.host.address}:{MANAGER_PORT}"
janitor_seconds = 0.3
orphans_seconds = 3.0
[manager.agents.host1]
address = "{self.host.address}:{AGENT_PORT}"
spiffe_id = "{self.agent_id}"
[manager.peers.{other}]
address = "{address}:{MANAGER_PORT}"
spiffe_id = "spiffe://{DOMAINS[other]}/manager/main"
[manager.store]
path = "{self.folder / "manager.sqlite"}"
[manager.hosts]
poll_seconds = 0.3
[manager.migrations]
retry_initial_seconds = 0.1
retry_max_seconds = 1.0
watch_seconds_max = 2.0
peer_call_seconds_max = 5.0
rollback_wait_seconds_max = 2.0
{self.more.get("manager", "")}
{self._identity("manager", self.manager_id)}
"""


class Clouds:
    """Both clouds of a lab; use it as a context manager."""

    def __init__(
        self,
        lab: Lab,
        federation: Federation,
        folder: Path,
        image: Image,
        more: Mapping[str, str] | None = None,
    ) -> None:
        self.lab, self.image = lab, image
        sides = ((lab.tokyo, lab.tokyo_control), (lab.osaka, lab.osaka_control))
        self.tokyo, self.osaka = (
            Cloud(
                host,
                control,
                federation,
                folder / host.name,
                image,
                peer=(other.name, other.address),
                more=more or {},
            )
            for (host, control), (other, _) in zip(sides, sides[::-1], strict=True)
        )

    def __enter__(self) -> "Clouds":
        for cloud in self.both:
            cloud.write_settings()
            cloud.start()
        return self

    def __exit__(self, *_: object) -> None:
        for cloud in self.both:
            cloud.channels.close()
            for server in (cloud.manager, cloud.agent):
                server.kill()

    @property
    def both(self) -> tuple[Cloud, Cloud]:
        """Tokyo and osaka."""
        return self.tokyo, self.osaka

    @property
    def servers(self) -> dict[str, Server]:
        """All four processes by name."""
        return {**self.tokyo.servers, **self.osaka.servers}

    def cloud(self, name: str) -> Cloud:
        """One of them."""
        return self.tokyo if name == "tokyo" else self.osaka

    def other(self, cloud: Cloud) -> Cloud:
        """The one that is not this."""
        return self.osaka if cloud is self.tokyo else self.tokyo

    def recover(self) -> None:
        """Everything runs again, and the link is whole."""
        self.lab.recover()
        self.recover_servers()

    def recover_servers(self) -> None:
        """Everything runs again, whatever the link is."""
        for cloud in self.both:
            cloud.start()


def wait_until(
    condition: Callable[[], bool],
    seconds: float,
    describe: Callable[[], str] = lambda: "it did not happen",
) -> None:
    """Waits for a condition; a service that is away counts as "not yet"."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except errors.WatariError as error:
            if not error.retryable:
                raise
        if time.monotonic() > deadline:
            raise AssertionError(describe())
        time.sleep(POLL_SECONDS)
