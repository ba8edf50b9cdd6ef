"""Which machines can begin to move, where to, and who may ask: functions of values."""

from collections.abc import Collection

from manager.vms import VmRow
from watari import errors
from watari.identity import Role, SpiffeId
from watari.v1 import common_pb2


def require_admitted(caller: SpiffeId, brokers: Collection[str], cloud_id: str) -> None:
    """Raises Denied NOT_ALLOWED for a broker that the operator has not admitted."""
    if caller.role is Role.BROKER and str(caller) not in brokers:
        raise errors.Denied(
            "NOT_ALLOWED",
            f"broker {caller} is not admitted in cloud {cloud_id}",
            hint="the operator admits brokers with the setting manager.brokers",
        )


def require_elsewhere(vm: str, to_cloud: str, own_cloud: str) -> None:
    """Raises FailedPrecondition VM_ALREADY_THERE when the destination is this cloud."""
    if to_cloud == own_cloud:
        raise errors.FailedPrecondition(
            "VM_ALREADY_THERE",
            f"machine {vm} is in cloud {to_cloud} already",
            hint="name another cloud",
        )


def require_free(vm: VmRow) -> None:
    """Raises FailedPrecondition VM_BUSY when a migration moves the machine."""
    if vm.migration_id is not None:
        raise busy(vm)


def require_sound(name: str, problem: common_pb2.Problem) -> None:
    """Raises FailedPrecondition with the reason of a machine's own problem, if there is one."""
    if problem.ByteSize():
        raise errors.FailedPrecondition(
            problem.reason, f"machine {name}: {problem.message}", hint=problem.hint
        )


def busy(vm: VmRow) -> errors.FailedPrecondition:
    """The error for a machine that another migration moves."""
    return errors.FailedPrecondition(
        "VM_BUSY",
        f"machine {vm.name} is in migration {vm.migration_id}",
        hint="watch or cancel that one",
        migration_id=vm.migration_id,
    )
