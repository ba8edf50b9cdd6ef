"""Two agents as real processes, and a test that speaks for both managers."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from tests.conftest import OSAKA, TOKYO, Federation
from tests.support import processes
from watari import identity
from watari.rpc import client
from watari.v1 import agent_pb2, agent_pb2_grpc, common_pb2

ENDED = (
    agent_pb2.TRANSFER_STATE_SUCCEEDED,
    agent_pb2.TRANSFER_STATE_FAILED,
    agent_pb2.TRANSFER_STATE_CANCELLED,
)


@dataclass
class AgentHost:
    """One host: its folder, its process, and its own manager's stub."""

    federation: Federation
    domain: str
    folder: Path
    options: str = ""
    """Further lines of the configuration file."""
    prefix: tuple[str, ...] = ()
    """Command before the interpreter, such as unshare."""
    process: processes.Process = field(init=False)
    stub: agent_pb2_grpc.AgentServiceStub = field(init=False)

    def __post_init__(self) -> None:
        self.spiffe_id = f"spiffe://{self.domain}/agent/host1"
        self.manager_id = f"spiffe://{self.domain}/manager/main"
        self.shelf = self.folder / "shelf"
        self.shelf.mkdir(parents=True)
        self.port, self.data_port = processes.free_port(), processes.free_port()
        config = self.folder / "agent.toml"
        config.write_text(self._config())
        self.manager = self.federation.party(self.manager_id)
        target = processes.target(self.port, self.spiffe_id)
        self.process = processes.Process("agent", config, target, self.manager, self.prefix)
        self.channel = client.connect(self.manager, target)
        self.stub = agent_pb2_grpc.AgentServiceStub(self.channel)

    def disk(self, vm_id: str, name: str) -> Path:
        """A disk of a machine that arrived here."""
        return self.shelf / "vms" / vm_id / f"{name}.raw"

    def transfer(self, migration_id: str) -> agent_pb2.Transfer:
        """The transfer as the agent tells it."""
        request = agent_pb2.GetTransferRequest(migration_id=migration_id)
        return client.call(self.stub.GetTransfer, request).transfer

    def wait_ended(self, migration_id: str, seconds: float = 60) -> agent_pb2.Transfer:
        """Waits for a final state."""
        deadline = time.monotonic() + seconds
        while (transfer := self.transfer(migration_id)).state not in ENDED:
            assert time.monotonic() < deadline, transfer
            time.sleep(0.02)
        return transfer

    def wait_done(
        self, migration_id: str, done_bytes: int, seconds: float = 60
    ) -> agent_pb2.Transfer:
        """Waits until so much has been settled of a transfer that is still running."""
        deadline = time.monotonic() + seconds
        while (transfer := self.transfer(migration_id)).progress.done_bytes < done_bytes:
            assert transfer.state not in ENDED, transfer
            assert time.monotonic() < deadline, transfer
            time.sleep(0.02)
        return transfer

    def guest(self, vm_id: str) -> agent_pb2.Guest:
        """A machine of this host."""
        return client.call(self.stub.GetGuest, agent_pb2.GetGuestRequest(vm_id=vm_id)).guest

    def guests(self) -> list[agent_pb2.Guest]:
        """The machines of this host."""
        return list(client.call(self.stub.ListGuests, agent_pb2.ListGuestsRequest()).guests)

    def close(self) -> None:
        """Stops the process."""
        self.channel.close()
        self.process.stop()

    def _config(self) -> str:
        folder = self.federation.folder_of(self.spiffe_id)
        return f"""[agent]
cloud_id = "{self.domain.split(".")[0]}"
host_id = "host1"
manager = "{self.manager_id}"
shelf = "{self.shelf}"
address = "127.0.0.1:{self.port}"
data_address = "127.0.0.1:{self.data_port}"
sweep_seconds = 0.2
{self.options}
[agent.identity]
certificate = "{folder / "cert.pem"}"
key = "{folder / "key.pem"}"
trust = "{folder / "trust"}"
"""


@dataclass
class Pair:
    """A source and a destination."""

    source: AgentHost
    destination: AgentHost

    @property
    def control(self) -> common_pb2.Endpoint:
        """Where the destination takes control calls."""
        return common_pb2.Endpoint(
            address=f"127.0.0.1:{self.destination.port}", spiffe_id=self.destination.spiffe_id
        )

    def start(self, vm_id: str, **options: int) -> str:
        """Holds a machine and starts its transfer; returns the migration id."""
        migration_id = str(uuid.uuid4())
        hold = agent_pb2.HoldGuestRequest(vm_id=vm_id, migration_id=migration_id)
        guest = client.call(self.source.stub.HoldGuest, hold).guest
        self.start_again(migration_id, self.grant(guest, migration_id), **options)
        return migration_id

    def start_again(
        self, migration_id: str, grant: common_pb2.SignedGrant, **options: int
    ) -> agent_pb2.Transfer:
        """Starts an attempt under a grant."""
        request = agent_pb2.StartTransferRequest(
            migration_id=migration_id,
            vm_id=common_pb2.Grant.FromString(grant.granted.payload).vm_id,
            grant=grant,
            destination_control=common_pb2.Endpoint(
                address=f"127.0.0.1:{self.destination.port}",
                spiffe_id=self.destination.spiffe_id,
            ),
            options=common_pb2.TransferOptions(**options),
        )
        return client.call(self.source.stub.StartTransfer, request).transfer

    def grant(
        self, guest: agent_pb2.Guest, migration_id: str, **changed: object
    ) -> common_pb2.SignedGrant:
        """A grant for a machine, as the two managers would make it; `changed` fields differ."""
        grant = common_pb2.Grant(
            grant_id=str(uuid.uuid4()),
            migration_id=migration_id,
            reservation_id=str(uuid.uuid4()),
            vm_id=guest.vm_id,
            source_epoch=max(1, guest.epoch),
            source_agent=self.source.spiffe_id,
            destination_agent=self.destination.spiffe_id,
            source_manager=self.source.manager_id,
            destination_manager=self.destination.manager_id,
            disks=guest.disks,
            bytes_max=2 * sum(disk.size_bytes for disk in guest.disks) + (1 << 20),
        )
        grant.expires_at.FromDatetime(self.source.federation.clock.now() + timedelta(minutes=5))
        grant.MergeFrom(common_pb2.Grant(**changed))  # type: ignore[arg-type]
        return self.sign(grant)

    def estimate_grant(self, guest: agent_pb2.Guest, **changed: object) -> common_pb2.SignedGrant:
        """A grant that is good for an estimate only."""
        return self.grant(guest, str(uuid.uuid4()), estimate_only=True, **changed)

    def estimate(
        self, vm_id: str, grant: common_pb2.SignedGrant | None = None, **options: int
    ) -> agent_pb2.EstimateTransferResponse:
        """What moving a machine would take, by default under a grant for that."""
        request = agent_pb2.EstimateTransferRequest(
            vm_id=vm_id,
            grant=grant or self.estimate_grant(self.source.guest(vm_id)),
            destination_control=self.control,
            options=common_pb2.TransferOptions(**options),
        )
        return client.call(self.source.stub.EstimateTransfer, request, timeout_seconds=60)

    def back(self) -> "Pair":
        """The same hosts, the other way round."""
        return Pair(self.destination, self.source)

    def sign(self, grant: common_pb2.Grant) -> common_pb2.SignedGrant:
        """Both managers' signatures."""
        granted = identity.sign(self.destination.manager, grant.SerializeToString(), "grant")
        return common_pb2.SignedGrant(
            granted=granted,
            countersigned=identity.sign(
                self.source.manager, granted.SerializeToString(), "grant-countersigned"
            ),
        )

    def migrate(self, vm_id: str, **options: int) -> agent_pb2.Transfer:
        """Moves a machine from beginning to end, retirement included."""
        migration_id = self.start(vm_id, **options)
        transfer = self.source.wait_ended(migration_id)
        assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem
        self.activate(migration_id)
        retire = agent_pb2.RetireGuestRequest(vm_id=vm_id, migration_id=migration_id)
        client.call(self.source.stub.RetireGuest, retire)
        return transfer

    def activate(self, migration_id: str) -> agent_pb2.Guest:
        """Makes what arrived a machine, one epoch later than the source has it."""
        (guest,) = [guest for guest in self.source.guests() if guest.held_by == migration_id]
        epoch = max(1, guest.epoch) + 1
        request = agent_pb2.ActivateIncomingRequest(migration_id=migration_id, epoch=epoch)
        return client.call(self.destination.stub.ActivateIncoming, request).guest


def pair(
    federation: Federation, folder: Path, *, source: str = "", destination: str = ""
) -> Iterator[Pair]:
    """Two running agents; `source` and `destination` are further configuration lines."""
    hosts = Pair(
        AgentHost(federation, TOKYO, folder / "tokyo", source),
        AgentHost(federation, OSAKA, folder / "osaka", destination),
    )
    try:
        hosts.source.process.start()
        hosts.destination.process.start()
        yield hosts
    finally:
        hosts.source.close()
        hosts.destination.close()


running = contextmanager(pair)
"""`pair` for a `with` statement."""
