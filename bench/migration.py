"""What two managers do around a transfer: machines, holds, grants, activation, retirement."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from bench.federation import Host
from watari import identity
from watari.rpc import client
from watari.v1 import agent_pb2, common_pb2

CALL_SECONDS_MAX = 60.0
GRANT_SECONDS = 3600
TENANT = "bench"


def new_machine(host: Host, name: str, disk_format: str = "raw") -> tuple[str, Path]:
    """A powered-off machine with one disk that is yet to be put at the path returned."""
    vm_id = str(uuid.uuid4())
    folder = host.shelf / "vms" / name
    disk = folder / f"vda.{disk_format}"
    folder.mkdir(parents=True)
    (folder / "domain.xml").write_text(
        f"<domain type='qemu'><name>{name}</name><uuid>{vm_id}</uuid>"
        f"<metadata><watari:vm xmlns:watari='https://watari.dev/ns/domain/1' tenant='{TENANT}'/>"
        f"</metadata><memory unit='MiB'>2048</memory><vcpu>2</vcpu>"
        f"<os><type arch='x86_64'>hvm</type></os><devices><disk type='file' device='disk'>"
        f"<driver name='qemu' type='{disk_format}'/><source file='{disk.name}'/>"
        f"<target dev='vda' bus='virtio'/></disk></devices></domain>"
    )
    return vm_id, disk


@dataclass
class Migration:
    """One machine on its way from a host to another."""

    source: Host
    destination: Host
    vm_id: str
    epoch: int = 1
    migration_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def hold(self) -> None:
        """Holds the machine and makes the grant, as the managers do before anything is timed."""
        hold = agent_pb2.HoldGuestRequest(vm_id=self.vm_id, migration_id=self.migration_id)
        guest = client.call(
            self.source.stub.HoldGuest, hold, timeout_seconds=CALL_SECONDS_MAX
        ).guest
        self._grant = self._granted(guest)

    def start(self, options: common_pb2.TransferOptions | None = None) -> None:
        """StartTransfer; the same migration again starts another attempt."""
        request = agent_pb2.StartTransferRequest(
            migration_id=self.migration_id,
            vm_id=self.vm_id,
            grant=self._grant,
            destination_control=self.destination.control,
            destination_data=self.destination.data,
            options=options or common_pb2.TransferOptions(),
        )
        client.call(self.source.stub.StartTransfer, request, timeout_seconds=CALL_SECONDS_MAX)

    def watch(self, seconds_max: float) -> Iterator[agent_pb2.Transfer]:
        """The transfer at every change, until it has ended. Raises WatariError."""
        request = agent_pb2.WatchTransferRequest(migration_id=self.migration_id)
        method = self.source.stub.WatchTransfer
        with client.stream(method, request, timeout_seconds=seconds_max) as updates:
            for update in updates:
                yield update.transfer

    def activate(self) -> Path:
        """Makes what arrived a machine of the destination; returns its disk."""
        request = agent_pb2.ActivateIncomingRequest(
            migration_id=self.migration_id, epoch=self.epoch + 1
        )
        activate = self.destination.stub.ActivateIncoming
        client.call(activate, request, timeout_seconds=CALL_SECONDS_MAX)
        return self.destination.disk(self.vm_id)

    def retire(self) -> None:
        """Moves the machine out of use at the source."""
        request = agent_pb2.RetireGuestRequest(vm_id=self.vm_id, migration_id=self.migration_id)
        client.call(self.source.stub.RetireGuest, request, timeout_seconds=CALL_SECONDS_MAX)

    def _granted(self, guest: agent_pb2.Guest) -> common_pb2.SignedGrant:
        grant = common_pb2.Grant(
            grant_id=str(uuid.uuid4()),
            migration_id=self.migration_id,
            reservation_id=str(uuid.uuid4()),
            vm_id=guest.vm_id,
            source_epoch=self.epoch,
            source_agent=self.source.agent_id,
            destination_agent=self.destination.agent_id,
            source_manager=self.source.manager_id,
            destination_manager=self.destination.manager_id,
            disks=guest.disks,
            bytes_max=2 * sum(disk.size_bytes for disk in guest.disks) + (1 << 20),
        )
        now = self.source.federation.clock.now()
        grant.expires_at.FromDatetime(now + timedelta(seconds=GRANT_SECONDS))
        granted = identity.sign(self.destination.manager, grant.SerializeToString(), "grant")
        return common_pb2.SignedGrant(
            granted=granted,
            countersigned=identity.sign(
                self.source.manager, granted.SerializeToString(), "grant-countersigned"
            ),
        )
