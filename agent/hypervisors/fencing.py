"""Whether an order means the machine as it is here now. Pure.

A machine may leave, come back and leave again, and an order may come late. One that is provisional
belongs to nobody here yet: it may be given back any moment, and then runs where it came from.
"""

from agent.hypervisors import Guest
from watari import errors

FIRST_EPOCH = 1
"""That of a machine which never migrated; a host has none for it."""


def require_meant(guest: Guest, brought_by: str, migration_id: str, epoch: int) -> None:
    """Raises FailedPrecondition EPOCH_MISMATCH when the order names another epoch than the
    machine's, VM_BUSY when migration `brought_by` has it provisionally here (empty: none has) and
    the order names neither that migration nor the epoch, which nobody knows but who owns it.
    """
    here = max(guest.epoch, FIRST_EPOCH)
    if epoch not in {0, here}:
        raise errors.FailedPrecondition(
            "EPOCH_MISMATCH",
            f"the order is for machine {guest.name} at epoch {epoch}, and it is at {here} here",
            hint="look where it is with `watari vm show`; this host may have an older copy",
            vm=guest.name,
            epoch=str(here),
        )
    if brought_by and not (migration_id == brought_by or (epoch and not migration_id)):
        raise errors.FailedPrecondition(
            "VM_BUSY",
            f"machine {guest.name} is taken: migration {brought_by} brings it",
            hint="wait until that migration has ended; see `watari migration list`",
            vm=guest.name,
            holder=brought_by,
        )
