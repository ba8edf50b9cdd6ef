"""On whose word the broker has room held, and what it looks at before it asks: functions of values.

The managers that are to hold room decide. This gives the caller of a wrong one an early and clear
answer.
"""

from dataclasses import dataclass
from datetime import datetime

from broker import amounts
from watari import mandate
from watari.identity import Identity, SpiffeId
from watari.mandate import invalid
from watari.v1 import broker_pb2, common_pb2, manager_pb2


def require(
    request: broker_pb2.MigrateRequest,
    delegation: common_pb2.Delegation,
    caller: SpiffeId,
    own: Identity,
    now: datetime,
) -> common_pb2.ReservationMandate | None:
    """What `caller` lets this broker hold; None when the request has no mandate. Raises Denied
    MANDATE_INVALID unless the caller has signed it, for this broker and for what is delegated.
    """
    if not request.HasField("mandate"):
        return None
    read, signer = mandate.read(request.mandate, own.trust, now, delegate=own.spiffe_id)
    if signer != caller:
        raise invalid(f"{signer} signed it, not {caller}", "who asks signs it")
    for field in ("migration_id", "vm_id", "from_cloud"):
        mandated, delegated = getattr(read, field), getattr(delegation, field)
        if mandated != delegated:
            raise invalid(
                f"its {field} is {mandated}, that of the delegation is {delegated}",
                "sign both for the same migration",
            )
    return read


def require_enough(read: common_pb2.ReservationMandate, vm: manager_pb2.Vm) -> None:
    """Raises Denied MANDATE_INVALID unless it lets as much be held as the machine has."""
    most = amounts.of(read.resources)
    for kind, amount in sorted(amounts.of(vm.resources).items()):
        if amount > most.get(kind, 0):
            raise invalid(
                f"it lets {amounts.words_down(kind, most.get(kind, 0))} be held, machine {vm.name} "
                f"has {amounts.words_up(kind, amount)}",
                "have it signed for what the machine has",
            )


@dataclass(frozen=True)
class Permit:
    """On whose word room is held for one migration."""

    reservation_id: str
    tenant: tuple[str, str]
    """Provider and name."""
    shown: manager_pb2.HoldForMigrationRequest
    """What candidates are shown, still without amounts."""
    read: common_pb2.ReservationMandate | None = None
    """The mandate; None for a standing delegation, which says nothing of amounts."""

    @property
    def required(self) -> bool:
        """Whether the migration is to go nowhere that holds no room on this word: who signed a
        mandate wants that. A standing delegation is the source's to judge.
        """
        return self.read is not None


def by_mandate(read: common_pb2.ReservationMandate, document: common_pb2.SignedDocument) -> Permit:
    """By a mandate that was signed for this migration."""
    return Permit(
        read.reservation_id,
        (read.tenant_domain, read.tenant),
        manager_pb2.HoldForMigrationRequest(mandate=document),
        read,
    )


def by_standing(said: common_pb2.StandingDelegation, request: broker_pb2.MigrateRequest) -> Permit:
    """By the standing delegation under which the request is to begin the machine's migration."""
    shown = manager_pb2.HoldForMigrationRequest(
        delegation=request.delegation,
        migration_id=request.migration_id,
        vm_id=request.vm,
        from_cloud=request.from_cloud,
    )
    reservation_id = mandate.reservation_id(request.migration_id)
    return Permit(reservation_id, (said.tenant_domain, said.tenant), shown)


def hold_request(permit: Permit, vm: manager_pb2.Vm) -> manager_pb2.HoldForMigrationRequest:
    """What each candidate is asked to hold: what the machine has, and what is written of it.

    Raises Denied MANDATE_INVALID for more than a mandate lets be held.
    """
    if permit.read is not None:
        require_enough(permit.read, vm)
    asked = manager_pb2.HoldForMigrationRequest()
    asked.CopyFrom(permit.shown)
    asked.resources.CopyFrom(vm.resources)
    asked.written_bytes = sum(min(disk.allocated_bytes, disk.size_bytes) for disk in vm.disks)
    return asked


def destinations(
    delegation: common_pb2.Delegation, read: common_pb2.ReservationMandate | None
) -> tuple[str, ...]:
    """The clouds that both let the machine go to; empty is any. Raises Denied MANDATE_INVALID when
    they have none in common.
    """
    delegated = tuple(delegation.to_clouds)
    if read is None:
        return delegated
    both = tuple(one for one in read.to_clouds if not delegated or one in delegated)
    if not both:
        raise invalid(
            "none of its clouds is one that the delegation lets the machine go to",
            "sign both for the same clouds",
        )
    return both
