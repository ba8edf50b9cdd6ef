"""`watari quote`: a binding price of a cloud, for a machine or for resources."""

import uuid
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToJson

from watari import errors, units
from watari.cli import conditions, lookup, views
from watari.cli.exits import CALL_EPILOG
from watari.cli.invocation import MACHINES_PANEL, Invocation, command
from watari.cli.output import facts
from watari.cli.plain import plain
from watari.v1 import common_pb2, manager_pb2


def add(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "quote", epilog=CALL_EPILOG, panel=MACHINES_PANEL)(quote)


def quote(
    invocation: Invocation,
    to_cloud: Annotated[str, typer.Option("--to", metavar="CLOUD", help="The cloud that offers.")],
    vm: Annotated[
        str, typer.Argument(metavar="[VM]", help="UUID or name of a machine; or say how much.")
    ] = "",
    vcpus: Annotated[int, typer.Option(min=0, metavar="N", help="Virtual CPUs.")] = 0,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory, as in 4GiB.")] = "",
    disk: Annotated[str, typer.Option(metavar="SIZE", help="Disk, as in 20GiB.")] = "",
    tenant: Annotated[
        str, typer.Option(metavar="TENANT", help="For whom; of an operator, unless a VM is named.")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write it there, for `watari migrate --quote FILE`."),
    ] = None,
) -> None:
    """Ask a cloud for a binding price. It holds no room, and for an hour unless the cloud says
    otherwise.

    -o json has the signed document too, which a reservation may show.
    """
    request = manager_pb2.IssueQuoteRequest(quote_id=str(uuid.uuid4()), tenant=tenant)
    if bool(vm) == bool(vcpus):
        raise errors.InvalidArgument(
            "INVALID_FIELD", "a quote is for a machine or for resources", hint="VM, or --vcpus"
        )
    if vm:
        _, found = lookup.vm(invocation.clients, vm, None)
        request.resources.CopyFrom(found.resources)
        request.tenant_domain, request.tenant = found.tenant_domain, found.tenant
    else:
        request.resources.CopyFrom(
            common_pb2.Resources(
                vcpus=vcpus,
                memory_bytes=units.parse_bytes(memory or "0"),
                disk_bytes=units.parse_bytes(disk or "0"),
            )
        )
    document = invocation.clients.manager(to_cloud).quote(request)
    if out is not None:
        conditions.write_quote(out, document)
    made = manager_pb2.Quote.FromString(document.payload)
    row = plain(made) | {"document": MessageToJson(document, indent=None)}
    pairs = [
        ("cloud", row["cloud_id"]),
        ("for", f"{row['tenant']} of {row['tenant_domain']}"),
        ("vcpus", str(made.resources.vcpus)),
        ("memory", views.size(made.resources.memory_bytes)),
        ("disk", views.size(made.resources.disk_bytes)),
        ("an hour", views.price(row["hourly"])),
        ("for arriving", views.price(row["once"])),
        ("price sheet", f"version {made.price_version}"),
        ("binding until", views.when(row["expires_at"])),
        ("quote", made.quote_id),
    ]
    invocation.output.record(row, facts(pairs))
