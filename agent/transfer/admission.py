"""Which sessions a receiver opens: the sender's signature, the grant, the machine, what was before.

In the order of what it costs. Nothing is written here.
"""

from dataclasses import dataclass

from agent import grants
from agent.hypervisors import COLD, STATE_DISKS, Hypervisor, domain
from agent.settings import Settings
from agent.transfer import foreseen, geometry, handshake
from agent.transfer.arrivals import Arrivals
from agent.transfer.spent import Spent
from watari import __version__, clock, errors
from watari.identity import Identity, SpiffeId
from watari.v1 import agent_pb2, common_pb2

FINDINGS_MAX = 32
"""What a sender is told about its machine at most."""


@dataclass(frozen=True)
class Admission:
    """What the decision depends on."""

    hypervisor: Hypervisor
    arrivals: Arrivals
    spent: Spent
    own: Identity
    settings: Settings
    clock: clock.Clock

    def checked(self, request: agent_pb2.OpenSessionRequest, peer: SpiffeId) -> common_pb2.Grant:
        """The grant, if it lets `peer` send here what the request says. Raises WatariError."""
        now, settings = self.clock.now(), self.settings
        handshake.check_offer(request, self.own, peer, now)
        grant = grants.check(request.grant, self.own.trust, now)
        grants.check_receiver(
            grant, self.own.spiffe_id, settings.manager, peer, request.migration_id
        )
        grants.check_purpose(grant, dry_run=request.dry_run)
        grants.check_remembered(grant, now, settings.discarded_kept_seconds)
        self._check_machine(grant, request.definition_xml)
        return grant

    def findings(
        self, request: agent_pb2.OpenSessionRequest, grant: common_pb2.Grant
    ) -> list[agent_pb2.Finding]:
        """What this host thinks of the machine, the worst first. Raises the first error of them
        unless it is a dry run: nothing has moved, and the machine has not been stopped.
        """
        mode = request.mode or COLD
        found = [*self.hypervisor.findings(request.definition_xml, list(grant.disks), mode)]
        if request.dry_run:
            found += foreseen.versions(
                agent=(request.agent_version, __version__),
                hypervisor=(request.hypervisor_version, self.hypervisor.version()),
                mode=mode,
            )
        ordered = sorted(found, key=lambda each: -each.severity)[:FINDINGS_MAX]
        if ordered and ordered[0].severity == agent_pb2.SEVERITY_ERROR and not request.dry_run:
            raise errors.from_problem(ordered[0].problem)
        return ordered

    def check_wanted(self, grant: common_pb2.Grant) -> None:
        """Whether the machine may come now, after all that was before. Raises FailedPrecondition,
        Denied, Exhausted; only within the lock of the migration is it true for longer.
        """
        if self.arrivals.refused(grant.migration_id):
            raise errors.FailedPrecondition(
                "MIGRATION_STATE", f"migration {grant.migration_id} was given up here"
            )
        arrived = self.hypervisor.arrived_by(grant.migration_id) is not None
        if arrived or grant.migration_id in self.spent:
            raise errors.FailedPrecondition(
                "MIGRATION_STATE", f"migration {grant.migration_id} was activated here"
            )
        if any(guest.vm_id == grant.vm_id for guest in self.hypervisor.guests()):
            raise errors.FailedPrecondition(
                "VM_ALREADY_THERE", f"machine {grant.vm_id} is on this host already"
            )
        left_at = [
            max(each.epoch, grants.FIRST_EPOCH)
            for each in self.hypervisor.retained()
            if each.vm_id == grant.vm_id
        ]
        grants.check_epoch(grant, max([self.spent.epoch(grant.vm_id), *left_at]))
        self.spent.require_room()

    def _check_machine(self, grant: common_pb2.Grant, definition_xml: str) -> None:
        """The definition must be the granted machine's, with the granted disks, within limits, and
        still be one when the machine is activated: after the hand-over it is too late to find out.
        """
        found = domain.parse(definition_xml)
        granted = sorted(disk.disk_id for disk in grant.disks if not disk.kind)
        for disk in grant.disks:
            if disk.kind and STATE_DISKS.get(disk.kind) != disk.disk_id:
                raise domain.invalid(f"{disk.disk_id} is no saved state that is known here")
        if found.vm_id != grant.vm_id or [disk.disk_id for disk in found.disks] != granted:
            raise domain.invalid("the definition is not that of the granted machine and disks")
        if grant.HasField("resources") and (
            found.vcpus > grant.resources.vcpus or found.memory_bytes > grant.resources.memory_bytes
        ):
            raise domain.invalid(
                f"{found.vcpus} vCPUs and {found.memory_bytes} bytes of memory, granted are "
                f"{grant.resources.vcpus} and {grant.resources.memory_bytes}"
            )
        if grant.tenant and found.tenant != grant.tenant:
            raise domain.invalid(f"it is tenant {found.tenant}'s, granted for {grant.tenant}")
        if len(grant.disks) > geometry.DISKS_MAX:
            raise domain.invalid(f"{len(grant.disks)} disks, at most {geometry.DISKS_MAX}")
        for disk in grant.disks:
            if disk.size_bytes > geometry.DISK_BYTES_MAX:
                raise domain.invalid(f"disk {disk.disk_id} is larger than 16 TiB")
        self.hypervisor.adapted(grant.vm_id, definition_xml)
