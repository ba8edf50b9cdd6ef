"""What the broker looks at in a delegation before it asks anybody: functions of values.

The source's manager decides. This gives the caller of a wrong one an early and clear answer, and
keeps the broker from being used with a delegation that was signed for somebody else's call.
"""

from datetime import datetime

from watari import delegation
from watari.delegation import invalid
from watari.identity import Identity, SpiffeId
from watari.v1 import broker_pb2, common_pb2, manager_pb2


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


def require_vm(vm_id: str, asked: str, vm: manager_pb2.Vm) -> None:
    """Raises Denied DELEGATION_INVALID unless the machine that was delegated, `vm` as its manager
    knows it, is the one that is `asked` for by UUID or name.
    """
    if asked not in (vm.vm_id, vm.name):
        raise invalid(
            f"it is for machine {vm_id}, not for {asked}",
            "have it signed for the machine that is to move",
        )
