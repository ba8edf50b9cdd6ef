"""`watari vm start`, `stop`, `retained` and `purge`: machines that run, and what is left of those
that went away.
"""

from typing import Annotated, Any

import typer

from watari import errors, units
from watari.cli import asking, lookup, moving, views
from watari.cli.exits import CALL_EPILOG
from watari.cli.invocation import Invocation, command
from watari.cli.operating import Operating
from watari.cli.output import Column
from watari.cli.plain import plain
from watari.v1 import manager_pb2

RETAINED_COLUMNS = (
    Column("VM", lambda one: one["retained"]["name"] or one["retained"]["vm_id"]),
    Column("CLOUD", lambda one: one["cloud_id"]),
    Column("HOST", lambda one: one["host_id"], optional=True),
    Column("KEPT", lambda one: views.size(one["retained"]["allocated_bytes"]), right=True),
    Column("DELETED AT", lambda one: views.when(one["retained"]["expires_at"])),
    Column("MIGRATION", lambda one: one["retained"]["migration_id"]),
    Column("ID", lambda one: one["retained"]["vm_id"], optional=True),
)

_Vm = Annotated[str, typer.Argument(metavar="VM", help="Its name or UUID.")]
_Cloud = Annotated[
    str | None, typer.Option("--cloud", metavar="CLOUD", help="Only this cloud; otherwise all.")
]

Found = list[tuple[Operating, manager_pb2.RetainedVm]]


def add(app: typer.Typer) -> None:
    """Adds the commands to the group of machines."""
    command(app, "start", epilog=CALL_EPILOG)(start_vm)
    command(app, "stop", epilog=CALL_EPILOG)(stop_vm)
    command(app, "retained", epilog=CALL_EPILOG)(list_retained)
    command(app, "purge", epilog=CALL_EPILOG)(purge_vm)


def start_vm(invocation: Invocation, vm: _Vm, cloud: _Cloud = None) -> None:
    """Start a machine, or let one go on that is paused."""
    manager, found = lookup.vm(invocation.clients, vm, cloud)
    with invocation.output.working(f"starting {found.name}"):
        row = plain(Operating(manager).start(found.vm_id))
    invocation.output.record(row)
    invocation.output.say(f"{row['name']} is {row['state']} in {row['cloud_id']}.")


def stop_vm(
    invocation: Invocation,
    vm: _Vm,
    timeout: Annotated[
        str, typer.Option(metavar="TIME", help="What its guest has; then it is forced. 0: at once.")
    ] = "60s",
    cloud: _Cloud = None,
) -> None:
    """Shut a machine down; by force when its guest takes too long."""
    seconds = moving.whole_seconds(timeout, "timeout", least=0)
    manager, found = lookup.vm(invocation.clients, vm, cloud)
    with invocation.output.working(f"stopping {found.name}"):
        row = plain(Operating(manager).stop(found.vm_id, seconds))
    invocation.output.record(row)
    invocation.output.say(f"{row['name']} is {row['state']} in {row['cloud_id']}.")


def list_retained(invocation: Invocation, cloud: _Cloud = None) -> None:
    """List what hosts keep of machines that went away.

    These disks are the way back if a copy at the destination is lost. They are
    deleted when their time is over, or by `watari vm purge`.
    """
    found, missed = _retained(invocation, cloud)
    invocation.output.rows(_rows(found), RETAINED_COLUMNS, "Nothing is kept.")
    if missed:
        raise missed


def purge_vm(
    invocation: Invocation,
    vm: _Vm,
    migration: Annotated[
        str, typer.Option(metavar="ID", help="Only what this migration left; otherwise all.")
    ] = "",
    yes: asking.YesOption = False,
    cloud: _Cloud = None,
) -> None:
    """Delete what is kept of a machine that went away, before its time."""
    output = invocation.output
    found, missed = _retained(invocation, cloud)
    chosen = select(found, vm, migration)
    if not chosen:
        raise missed or errors.NotFound(
            "VM_NOT_FOUND",
            f"nothing is kept of a machine {vm}",
            hint="`watari vm retained` shows what is kept",
            vm=vm,
        )
    operating, kept = chosen[0]
    asking.require_yes(output, yes=yes)
    if not yes:
        output.show(output.table(_rows(chosen), RETAINED_COLUMNS))
        output.note(consequence(chosen), style="")
        asking.confirm("Delete it?")
    purged = operating.purge(kept.retained.vm_id, migration)
    output.record({"purged": [plain(each) for each in purged]})
    freed = sum(each.retained.allocated_bytes for each in purged)
    output.say(f"Deleted: {units.format_bytes(freed)} of {kept.retained.name or vm}.")


def select(found: Found, vm: str, migration_id: str) -> Found:
    """What is kept of the machine of that UUID or name.

    Raises FailedPrecondition VM_NAME_AMBIGUOUS when that is more than one machine in one cloud.
    """
    chosen = [
        (operating, each)
        for operating, each in found
        if vm in (each.retained.vm_id, each.retained.name)
        and migration_id in ("", each.retained.migration_id)
    ]
    places = {(each.manager.cloud_id, one.retained.vm_id) for each, one in chosen}
    if len(places) > 1:
        shown = ", ".join(f"{vm_id} in {cloud_id}" for cloud_id, vm_id in sorted(places))
        raise errors.FailedPrecondition(
            "VM_NAME_AMBIGUOUS",
            f"something is kept of several machines {vm}: {shown}",
            hint="use the UUID, and name the cloud with --cloud",
            vm=vm,
        )
    return chosen


def consequence(chosen: Found) -> str:
    """What will be gone, in a sentence."""
    freed = sum(each.retained.allocated_bytes for _, each in chosen)
    name = chosen[0][1].retained.name or chosen[0][1].retained.vm_id
    cloud_id = chosen[0][0].manager.cloud_id
    return (
        f"{units.format_bytes(freed)} of disks of {name} will be deleted in {cloud_id}. The "
        "machine itself, where it is now, is not touched. If that copy is lost, there will be none "
        "here."
    )


def _retained(
    invocation: Invocation, cloud_id: str | None
) -> tuple[Found, errors.WatariError | None]:
    return lookup.gather(
        invocation.clients,
        cloud_id,
        lambda manager: [
            (operating, each) for operating in [Operating(manager)] for each in operating.retained()
        ],
    )


def _rows(found: Found) -> list[dict[str, Any]]:
    return [{"cloud_id": operating.manager.cloud_id} | plain(each) for operating, each in found]
