"""The driver: joins the parts, and is what the agent sees of them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agent.disks import require_tools
from agent.disks.view import DiskView
from agent.hypervisors import COLD, Arrived, Change, Disk, Guest, Mode, Retained, StoredDisk
from agent.hypervisors.virt import notes, obstacles, stopping, telling
from agent.hypervisors.virt.arrival import Arrival
from agent.hypervisors.virt.connection import Connection
from agent.hypervisors.virt.host import Capabilities, Host, Options
from agent.hypervisors.virt.machines import Machines
from agent.hypervisors.virt.records import Folder
from agent.hypervisors.virt.retiring import Retiring
from agent.hypervisors.virt.views import Views
from watari import clock
from watari.v1 import agent_pb2, common_pb2


class Libvirt:
    """`agent.hypervisors.Hypervisor`, whose docstrings are those of the methods here. One agent per
    folder. Any call may raise Unavailable HYPERVISOR_UNAVAILABLE, and may be repeated then.
    """

    name = "libvirt"

    def __init__(self, uri: str, folder: Path, time: clock.Clock, options: Options) -> None:
        """Raises FailedPrecondition CONFIG_INVALID when another agent has the folder, or the host
        lacks the tools for disks that arrive. libvirtd need not run yet.
        """
        require_tools(options.disk_format)
        self._clock = time
        self._folder = Folder(folder)
        self._connection = Connection(uri)
        self._machines = Machines(self._connection, self._folder, options.nvram_folder)
        self._host = Host(self._connection, options)
        self._views = Views(self._host, self._machines)
        self._stopping = stopping.Stopping(self._host, self._machines, self._views, time)
        self._arrival = Arrival(self._host, self._machines)
        self._retiring = Retiring(self._host, self._machines, time)

    def version(self) -> str:
        """As libvirt tells it."""
        return self._host.version()

    def close(self) -> None:
        """Lets libvirtd and the folder go; machines run on."""
        self._connection.close()
        self._folder.close()

    def capabilities(self) -> Capabilities:
        """What the host's libvirt can do."""
        return self._host.capabilities()

    def follow(self, changed: Callable[[Change], None]) -> None:
        """By libvirt's lifecycle events."""
        self._connection.on_lifecycle = telling.teller(changed, self._clock)

    def guests(self) -> Sequence[Guest]:
        """Those of libvirt, and those that a hold keeps from it."""
        return self._machines.guests()

    def guest(self, vm_id: str) -> Guest:
        """One machine."""
        return self._machines.guest(vm_id)

    def hold(self, vm_id: str, migration_id: str, mode: Mode = COLD) -> Guest:
        """Notes the hold, after looking for obstacles."""
        return self._stopping.hold(vm_id, migration_id, mode)

    def glimpse(self, vm_id: str) -> DiskView | None:
        """By a backup without a checkpoint; None while another one runs."""
        return self._views.glimpse(vm_id)

    def running_view(self, vm_id: str, migration_id: str, number: int) -> DiskView | None:
        """By a pull-mode backup; without those (Xen) the raw files in use."""
        return self._views.running(vm_id, migration_id, number)

    def quiesce(self, vm_id: str, migration_id: str, stop_seconds_max: float) -> Guest:
        """Stops or saves it, and takes it out of libvirt."""
        return self._stopping.quiesce(vm_id, migration_id, stop_seconds_max)

    def still_view(self, vm_id: str, migration_id: str) -> DiskView:
        """Its files; what has changed is told by the bitmap in a qcow2 image."""
        self._stopping.require_still(vm_id, migration_id)
        return self._views.still(vm_id, migration_id)

    def unhold(self, vm_id: str, migration_id: str, epoch: int = 0) -> None:
        """Defines and starts it again."""
        self._stopping.unhold(vm_id, migration_id, epoch)

    def start(self, vm_id: str, migration_id: str = "", epoch: int = 0) -> Guest:
        """Lets it run."""
        return self._arrival.start(vm_id, migration_id, epoch)

    def stop(
        self, vm_id: str, stop_seconds_max: float, migration_id: str = "", epoch: int = 0
    ) -> Guest:
        """Shuts it down."""
        return self._arrival.stop(vm_id, stop_seconds_max, migration_id, epoch)

    def prepare(self, vm_id: str) -> Guest:
        """Paused, with its memory."""
        return self._arrival.prepare(vm_id)

    def forget(self, migration_id: str) -> bool:
        """Deletes what is provisional."""
        return self._arrival.forget(migration_id)

    def obstacles(self, vm_id: str, mode: Mode) -> Sequence[agent_pb2.Finding]:
        """What keeps it here."""
        guest = self._machines.guest(vm_id)
        return [each.message() for each in obstacles.obstacles(self._machines, guest, mode)]

    def findings(
        self, definition_xml: str, disks: Sequence[common_pb2.DiskSpec], mode: Mode
    ) -> Sequence[agent_pb2.Finding]:
        """What the host lacks, and what does not come along."""
        found: list[notes.Note] = self._arrival.findings(definition_xml, disks, mode)
        return [each.message() for each in found]

    def retire(self, vm_id: str, migration_id: str) -> Retained:
        """Out of libvirt; disks stay where they are."""
        return self._retiring.retire(vm_id, migration_id)

    def retained(self) -> Sequence[Retained]:
        """By migration id."""
        return self._retiring.retained()

    def stored(self) -> Sequence[StoredDisk]:
        """Of machines that are off, and what is retained."""
        return self._retiring.stored()

    def earlier(self, vm_id: str) -> Mapping[str, Disk]:
        """Of the copy that was retained last."""
        return self._retiring.earlier(vm_id)

    def purge(self, migration_id: str) -> None:
        """Plain files only."""
        self._retiring.purge(migration_id)

    def purge_expired(self) -> None:
        """By the clock."""
        self._retiring.purge_expired()

    def arrived_by(self, migration_id: str) -> Guest | None:
        """By its origin."""
        return self._arrival.arrived_by(migration_id)

    def adapted(self, vm_id: str, definition_xml: str) -> str:
        """By `policy`."""
        return self._arrival.adapted(vm_id, definition_xml)

    def activate(self, arrived: Arrived, *, provisional: bool) -> Guest:
        """One rename, then libvirt."""
        return self._arrival.activate(arrived, provisional=provisional)
