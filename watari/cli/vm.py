"""`watari vm`: the machines of each cloud, and new ones from disk images.

Starting, stopping and what is kept of machines that went away are in `watari.cli.lifecycle`.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from watari import errors, units, validate
from watari.cli import exits, lifecycle, lookup, shelf, views
from watari.cli.clients import Manager, cloud_not_found
from watari.cli.exits import CALL_EPILOG, Exit
from watari.cli.invocation import MACHINES_PANEL, Invocation, command
from watari.cli.output import facts, table
from watari.cli.plain import plain
from watari.clock import Clock
from watari.v1 import manager_pb2

SEEN_SECONDS_MAX = 30.0
"""How long an import waits for the cloud's manager to notice the machine: several of its polls."""

MEMORY_BYTES_MIN = 1024 * 1024
"""Least memory of a machine; definitions count in KiB."""

_POLL_SECONDS = 0.2

_app = typer.Typer(no_args_is_help=True, help="Show, import, start and stop virtual machines.")

_Cloud = Annotated[
    str | None, typer.Option("--cloud", metavar="CLOUD", help="Only this cloud; otherwise all.")
]


def add(app: typer.Typer) -> None:
    """Adds the group."""
    lifecycle.add(_app)
    app.add_typer(_app, name="vm", rich_help_panel=MACHINES_PANEL)


@command(_app, "list", epilog=CALL_EPILOG)
def list_vms(invocation: Invocation, cloud: _Cloud = None) -> None:
    """List the machines of the clouds."""
    found, missed = lookup.gather(invocation.clients, cloud, lambda manager: manager.vms())
    rows = [plain(vm) for vm in found]
    invocation.output.rows(
        rows, views.VM_COLUMNS, "There are no machines. `watari vm import` makes one."
    )
    if missed:
        raise missed


@command(_app, "show", epilog=CALL_EPILOG)
def show_vm(
    invocation: Invocation,
    vm: Annotated[str, typer.Argument(metavar="VM", help="Its name or UUID.")],
    cloud: _Cloud = None,
) -> None:
    """Show one machine with its disks."""
    _, found = lookup.vm(invocation.clients, vm, cloud)
    row = plain(found)
    invocation.output.record(row, facts(_facts(row)), "", table(row["disks"], views.DISK_COLUMNS))


@command(_app, "import", epilog=exits.epilog(Exit.NOT_FOUND, Exit.REFUSED, Exit.UNAVAILABLE))
def import_vm(
    invocation: Invocation,
    cloud: Annotated[
        str, typer.Option(metavar="CLOUD", help="The local cloud that gets the machine.")
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="The machine's name.")],
    image: Annotated[
        list[Path],
        typer.Option(metavar="FILE", help="Raw disk image; repeat it for further disks."),
    ],
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory, such as 2GiB.")] = "1GiB",
    vcpus: Annotated[int, typer.Option(min=1, max=65_535, metavar="N", help="Virtual CPUs.")] = 1,
    tenant: Annotated[str, typer.Option(metavar="TENANT", help="Who pays.")] = "default",
    move: Annotated[bool, typer.Option("--move", help="Move the images, do not copy.")] = False,
) -> None:
    """Make a powered-off machine of raw disk images.

    It goes to a cloud of the local federation. The images are copied with their holes.
    """
    machine = shelf.Machine(
        name=validate.require_name(name, "name"),
        vcpus=vcpus,
        memory_bytes=_memory(memory),
        tenant=validate.require_name(tenant, "tenant"),
        images=tuple(image),
    )
    shelf.check_images(machine.images)
    with invocation.output.working(f"importing {name}"):
        found = put(invocation, cloud, machine, move=move)
    row = plain(found)
    invocation.output.record(row, facts(_facts(row)), "", table(row["disks"], views.DISK_COLUMNS))


def put(
    invocation: Invocation, cloud_id: str, machine: shelf.Machine, *, move: bool
) -> manager_pb2.Vm:
    """Puts a machine on a local cloud's shelf; returns it once the cloud's manager has seen it.

    Raises NotFound CLOUD_NOT_FOUND, FailedPrecondition VM_NAME_AMBIGUOUS when the name is taken,
    DeadlineExceeded when the manager does not notice it, and OSError.
    """
    local = [cloud.cloud_id for cloud in invocation.layout.plan.clouds]
    if cloud_id not in local or not invocation.layout.is_configured:
        raise cloud_not_found(cloud_id, local if invocation.layout.is_configured else [])
    manager = invocation.clients.manager(cloud_id)
    if any(vm.name == machine.name for vm in manager.vms()):
        raise errors.FailedPrecondition(
            "VM_NAME_AMBIGUOUS",
            f"{cloud_id} already has a machine {machine.name}",
            hint="choose another --name",
            vm=machine.name,
        )
    vm_id = shelf.put(invocation.layout.shelf(cloud_id), machine, move=move)
    return _await_seen(manager, vm_id, invocation.clock)


def _await_seen(manager: Manager, vm_id: str, clock: Clock) -> manager_pb2.Vm:
    deadline = clock.monotonic() + SEEN_SECONDS_MAX
    while True:
        try:
            return manager.vm(vm_id)
        except errors.NotFound:
            if clock.monotonic() >= deadline:
                raise errors.DeadlineExceeded(
                    "DEADLINE_EXCEEDED",
                    f"the machine {vm_id} is on the shelf of {manager.cloud_id}, but its manager "
                    f"has not seen it in {SEEN_SECONDS_MAX:g} s",
                    hint="`watari status` shows whether the cloud's agent serves",
                    vm=vm_id,
                ) from None
        clock.sleep(_POLL_SECONDS)


def _memory(text: str) -> int:
    memory_bytes = units.parse_bytes(text)
    if memory_bytes < MEMORY_BYTES_MIN:
        raise errors.InvalidArgument(
            "INVALID_FIELD",
            f"--memory: {text} is too little",
            hint=f"at least {units.format_bytes(MEMORY_BYTES_MIN)}",
            field="memory",
        )
    return memory_bytes


def _facts(vm: dict[str, Any]) -> list[tuple[str, str]]:
    resources = vm["resources"]
    return [
        ("machine", f"{vm['name']} ({vm['vm_id']})"),
        ("cloud, host", f"{vm['cloud_id']}, {vm['host_id']}"),
        ("tenant", f"{vm['tenant']} of {vm['tenant_domain']}"),
        ("state", vm["state"]),
        ("vcpus", str(resources["vcpus"])),
        ("memory", views.size(resources["memory_bytes"])),
        ("disks", views.size(views.disks_bytes(vm, "size_bytes"))),
        ("used", views.size(views.disks_bytes(vm, "allocated_bytes"))),
        ("hand-overs", str(max(0, vm["epoch"] - 1))),
        ("migration", vm["migration_id"]),
        ("problem", views.problem(vm["problem"])),
    ]
