"""`watari evacuate`: moves every machine of a host, or of a whole cloud, away."""

import uuid
from typing import Annotated

import typer

from watari import errors, validate, windows
from watari.cli import evacuation
from watari.cli.clients import Clients, Manager
from watari.cli.exits import MIGRATE_EPILOG
from watari.cli.invocation import MACHINES_PANEL, Invocation, command
from watari.cli.moving import DEFAULT_MOVING, Moving
from watari.cli.operating import Operating
from watari.cli.plain import plain
from watari.cli.transfer import DEFAULT_TRANSFER, Transfer
from watari.v1 import manager_pb2

CONCURRENCY_MAX = 32
"""Migrations of one evacuation at a time, as the contract has it."""


def add(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "evacuate", epilog=MIGRATE_EPILOG, panel=MACHINES_PANEL)(evacuate)


def evacuate(
    invocation: Invocation,
    what: Annotated[
        str,
        typer.Argument(metavar="HOST|CLOUD", help="A host's id, or a cloud's for all its hosts."),
    ],
    to: Annotated[
        list[str],
        typer.Option(
            metavar="CLOUD",
            help="The destination; repeat it for those to try where the ones before have no room.",
        ),
    ],
    cloud: Annotated[
        str | None, typer.Option("--cloud", metavar="CLOUD", help="The cloud that has the host.")
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(min=1, max=CONCURRENCY_MAX, metavar="N", help="Migrations at a time at most."),
    ] = 4,
    first: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VM", help="Goes first, by name or UUID; may be repeated. Then the smallest."
        ),
    ] = None,
    window: Annotated[
        str,
        typer.Option(
            metavar="HH:MM-HH:MM",
            help="Migrations are started then only, by the clock of the manager's host.",
        ),
    ] = "",
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once it has started.")
    ] = False,
    evacuation_id: Annotated[
        str, typer.Option("--id", metavar="UUID", help="Its id; repeating the command joins it.")
    ] = "",
    moving: Moving = DEFAULT_MOVING,
    transfer: Transfer = DEFAULT_TRANSFER,
) -> None:
    """Move every machine of a host, or of a whole cloud, away.

    It is watched to its end. Ctrl-C stops the watching; the evacuation goes on.
    Machines that come to the host meanwhile are moved too.
    """
    new_id = validate.require_uuid(evacuation_id or str(uuid.uuid4()), "id")
    request = manager_pb2.StartEvacuationRequest(
        evacuation_id=new_id,
        to_clouds=to,
        concurrency=concurrency,
        mode=moving.value,
        first=first or (),
        window=parse_window(window) if window else None,
        options=moving.into(transfer.options()),
    )
    output = invocation.output
    with evacuation.detaching(new_id):
        manager, request.host_id = target(invocation.clients, what, cloud)
        started = Operating(manager).evacuate(request)
        whole = f"host {request.host_id} of {manager.cloud_id}" if request.host_id else what
        output.note(
            f"Evacuation {new_id}: {started.remaining} machines of {whole} to {', '.join(to)}"
        )
        if detach:
            output.record(plain(started))
            output.say(f"It runs. Watch it: watari evacuation watch {new_id}")
            return
        ended = evacuation.to_the_end(invocation, Operating(manager), new_id)
    output.record(plain(ended))
    evacuation.conclude(output, ended)


def target(clients: Clients, what: str, cloud_id: str | None) -> tuple[Manager, str]:
    """The manager that evacuates, and the host; no host for the whole cloud.

    A cloud's id means all of it, unless a host is called the same; a host of `cloud_id` goes first.
    Raises NotFound CLOUD_NOT_FOUND, FailedPrecondition VM_NAME_AMBIGUOUS for what may mean several
    things, and the error of a cloud that did not answer.
    """
    hosts: list[Manager] = []
    missed: errors.WatariError | None = None
    for each in [cloud_id] if cloud_id else clients.cloud_ids:
        manager = clients.manager(each)
        try:
            if any(one.host_id == what for one in manager.inventories()):
                hosts.append(manager)
        except errors.WatariError as error:
            # A cloud of another provider shows its hosts to its own operators only.
            missed = missed if isinstance(error, errors.Denied) else missed or error
    if cloud_id and missed is not None:
        raise missed
    is_cloud = what in clients.cloud_ids and cloud_id in (None, what)
    if len(hosts) + (is_cloud and not cloud_id) > 1:
        places = ", ".join(f"a host of {manager.cloud_id}" for manager in hosts)
        also = ", and a cloud" if is_cloud else ""
        raise errors.FailedPrecondition(
            "VM_NAME_AMBIGUOUS",
            f"{what} is {places}{also}",
            hint="name the cloud of the host with --cloud",
        )
    if hosts:
        return hosts[0], what
    if is_cloud:
        return clients.manager(what), ""
    raise missed or errors.NotFound(
        "CLOUD_NOT_FOUND",
        f"there is no host and no cloud {what!r}",
        hint="`watari cloud show CLOUD` lists a cloud's hosts; "
        f"known clouds: {', '.join(clients.cloud_ids)}",
    )


def parse_window(text: str) -> manager_pb2.MaintenanceWindow:
    """The window of "22:00-05:00". Raises InvalidArgument INVALID_QUANTITY."""
    try:
        parsed = windows.parse(f"{text}=0")
    except errors.InvalidArgument:
        raise errors.InvalidArgument(
            "INVALID_QUANTITY",
            f"{text[:32]!r} is not a window",
            hint="write it like 01:00-05:00, or 22:00-06:00 for a night",
            value=text[:32],
        ) from None
    return manager_pb2.MaintenanceWindow(from_minute=parsed.from_minute, to_minute=parsed.to_minute)
