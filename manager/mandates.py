"""What a tenant's word lets a broker hold in this cloud: functions of values.

A hold costs its tenant nothing, so it has to be the tenant's word, or its provider's: a tenant
signs for itself, an operator for the machines in its own provider's clouds. Whether the machine is
there nobody asks: the source's manager says so when it reserves, and until then the hold is bounded
by the tenant's quota, by its number and by its time.
"""

from datetime import datetime, timedelta

from manager import inventory
from watari.identity import Role, SpiffeId
from watari.mandate import LIFE_SECONDS_DEFAULT, invalid, reservation_id
from watari.settings import EndpointSettings
from watari.standing import Standing
from watari.v1 import common_pb2, manager_pb2

WRITTEN = "written"
"""Stands for all disks of the machine: which ones there are, only the source says."""


def of_standing(
    found: Standing, request: manager_pb2.HoldForMigrationRequest, now: datetime
) -> common_pb2.ReservationMandate:
    """The mandate that goes with a standing delegation, for one move under it: for as much as the
    broker asks for, since the tenant did not know what the machine would have by then, and for as
    long as one that a person signs.
    """
    said = found.message
    made = common_pb2.ReservationMandate(
        reservation_id=reservation_id(request.migration_id),
        migration_id=request.migration_id,
        delegate=said.delegate,
        tenant_domain=said.tenant_domain,
        tenant=said.tenant,
        vm_id=request.vm_id,
        from_cloud=request.from_cloud,
        resources=request.resources,
        to_clouds=said.to_clouds,
    )
    life = timedelta(seconds=LIFE_SECONDS_DEFAULT)
    made.expires_at.FromDatetime(min(found.expires_at, now + life))
    return made


def require_speaks_for(
    mandate: common_pb2.ReservationMandate, signer: SpiffeId, known: EndpointSettings | None
) -> None:
    """Raises Denied MANDATE_INVALID unless the signer may have room held for the tenant. `known` is
    the manager that the machine's cloud is known to have, if any.
    """
    if signer.role is Role.USER:
        if (signer.domain, signer.name) != (mandate.tenant_domain, mandate.tenant):
            raise invalid(
                f"{signer} signed it for tenant {mandate.tenant} of {mandate.tenant_domain}",
                "a tenant signs for itself",
            )
    elif known is None or SpiffeId.parse(known.spiffe_id).domain != signer.domain:
        raise invalid(
            f"{signer} signed it, who does not run cloud {mandate.from_cloud}",
            "the machine's tenant or an operator of its cloud's provider signs it",
        )


def require_here(mandate: common_pb2.ReservationMandate, own_cloud: str) -> None:
    """Raises Denied MANDATE_INVALID unless this cloud may be asked, from another one."""
    if own_cloud not in mandate.to_clouds:
        raise invalid(
            f"it lets {', '.join(mandate.to_clouds)} hold room, not {own_cloud}",
            "have it signed for that cloud too",
        )
    if mandate.from_cloud == own_cloud:
        raise invalid(f"the machine is in cloud {own_cloud} already", "name another cloud")


def require_no_more(mandate: common_pb2.ReservationMandate, asked: common_pb2.Resources) -> None:
    """Raises Denied MANDATE_INVALID for more of any class than may be held."""
    most = inventory.amounts(mandate.resources)
    for name, amount in sorted(inventory.amounts(asked).items()):
        if amount > most.get(name, 0):
            raise invalid(
                f"it lets {most.get(name, 0)} of {name} be held, not {amount}",
                "have it signed for what the machine needs",
            )


def reserve_request(
    mandate: common_pb2.ReservationMandate, request: manager_pb2.HoldForMigrationRequest
) -> manager_pb2.ReserveRequest:
    """What is held, in the shape in which the source will ask for it."""
    told = request.HasField("written_bytes")
    written = request.written_bytes if told else request.resources.disk_bytes
    return manager_pb2.ReserveRequest(
        reservation_id=mandate.reservation_id,
        migration_id=mandate.migration_id,
        from_cloud=mandate.from_cloud,
        vm_id=mandate.vm_id,
        tenant_domain=mandate.tenant_domain,
        tenant=mandate.tenant,
        resources=request.resources,
        disks=[common_pb2.DiskSpec(disk_id=WRITTEN, size_bytes=written, allocated_bytes=written)],
        quote=request.quote if request.HasField("quote") else None,
        required_traits=request.required_traits,
        forbidden_traits=request.forbidden_traits,
    )
