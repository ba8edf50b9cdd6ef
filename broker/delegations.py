"""What the broker looks at in a delegation before it asks anybody: functions of values.

The source's manager decides. This gives the caller of a wrong one an early and clear answer, and
keeps the broker from being used with a delegation that was signed for somebody else's call.
"""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from broker.feasible import Rejection
from broker.place import Placement
from watari import delegation
from watari.delegation import invalid
from watari.identity import Identity, SpiffeId
from watari.v1 import broker_pb2, common_pb2, manager_pb2

CONSTRAINT = "delegation"


def require(
    request: broker_pb2.MigrateRequest, caller: SpiffeId, own: Identity, now: datetime
) -> common_pb2.Delegation:
    """What `caller` delegates to this broker. Raises Denied DELEGATION_INVALID unless the caller
    has signed it, for this broker, migration and cloud.
    """
    if not request.HasField("delegation"):
        raise invalid("there is none", "sign one for this broker, machine and migration")
    read, signer = delegation.read(request.delegation, own.trust, now, delegate=own.spiffe_id)
    if signer != caller:
        raise invalid(f"{signer} signed it, not {caller}", "who asks signs it")
    delegation.require_migration(read, request.migration_id)
    delegation.require_from(read, request.from_cloud)
    return read


def require_vm(read: common_pb2.Delegation, asked: str, vm: manager_pb2.Vm) -> None:
    """Raises Denied DELEGATION_INVALID unless the machine that was delegated, `vm` as its manager
    knows it, is the one that is `asked` for by UUID or name.
    """
    if asked not in (vm.vm_id, vm.name):
        raise invalid(
            f"it is for machine {read.vm_id}, not for {asked}",
            "have it signed for the machine that is to move",
        )


def within(placement: Placement, to_clouds: Collection[str]) -> Placement:
    """The placement without candidates that the machine may not go to; none named is all."""
    if not to_clouds:
        return placement
    outside = [one for one in placement.candidates if one.fit.cloud.cloud_id not in to_clouds]
    refusals = (
        Rejection(
            one.fit.cloud.cloud_id,
            one.fit.offer.name,
            CONSTRAINT,
            f"the delegation lets the machine go to {', '.join(to_clouds)}",
            "fits with a delegation that names it",
        )
        for one in outside
    )
    return replace(
        placement,
        candidates=tuple(one for one in placement.candidates if one not in outside),
        rejections=tuple(
            sorted((*placement.rejections, *refusals), key=lambda one: (one.cloud_id, one.offer))
        ),
    )
