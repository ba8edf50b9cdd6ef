"""`watari place`: asks the broker where a machine fits, and why not elsewhere. Moves nothing."""

import uuid
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from watari import errors, units
from watari.cli import exits, lookup, views
from watari.cli.constraints import NO_CONSTRAINTS, Constraints
from watari.cli.exits import Exit
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.output import table
from watari.cli.plain import plain
from watari.v1 import broker_pb2, common_pb2


def add(app: typer.Typer) -> None:
    """Adds the command."""
    epilog = exits.epilog(Exit.NOT_FOUND, Exit.REFUSED, Exit.NO_ROOM, Exit.UNAVAILABLE)
    command(app, "place", epilog=epilog, panel=FEDERATION_PANEL)(show_placement)


def show_placement(
    invocation: Invocation,
    vm: Annotated[
        str,
        typer.Option(metavar="VM", help="A machine that exists: its needs, and not where it is."),
    ] = "",
    vcpus: Annotated[int, typer.Option(min=1, max=65_535, metavar="N", help="Virtual CPUs.")] = 1,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory, such as 2GiB.")] = "1GiB",
    disk: Annotated[str, typer.Option(metavar="SIZE", help="Disk, such as 20GiB.")] = "10GiB",
    constraints: Constraints = NO_CONSTRAINTS,
    candidates: Annotated[
        int, typer.Option(min=1, max=100, metavar="N", help="Show at most so many.")
    ] = 10,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what each score saw, and what how many miss.")
    ] = False,
    explained: Annotated[
        list[str] | None,
        typer.Option(
            "--explain-cloud", metavar="CLOUD", help="Show all that this cloud misses; repeatable."
        ),
    ] = None,
    nearest: Annotated[
        int,
        typer.Option(
            min=1, max=100, metavar="N", help="Of too many misses show so many nearest clouds."
        ),
    ] = 10,
) -> None:
    """Show which clouds fit a machine, and why the others do not."""
    resources = common_pb2.Resources(
        vcpus=vcpus, memory_bytes=units.parse_bytes(memory), disk_bytes=units.parse_bytes(disk)
    )
    source = ""
    if vm:
        manager, found = lookup.vm(invocation.clients, vm, None)
        resources, source = found.resources, manager.cloud_id
    request = broker_pb2.PlaceRequest(
        request_id=str(uuid.uuid4()),
        requirements=constraints.requirements(resources),
        weights=constraints.ranking(),
        preferred_regions=constraints.preferred or (),
        preferred_providers=constraints.preferred_providers or (),
        candidates_max=candidates,
        source_cloud=source,
        explained_clouds=explained or (),
        explained_clouds_max=nearest,
    )
    placement = placed(invocation.clients.broker().place(request))
    views_of_it = shown(placement)
    if explain or explained:
        views_of_it = [*views_of_it, *explanation(placement)]
    invocation.output.record(placement, *views_of_it)
    require_candidate(placement)


def require_candidate(placement: dict[str, Any]) -> None:
    """Raises FailedPrecondition NO_CANDIDATE unless some cloud fits."""
    if not placement["candidates"]:
        raise errors.FailedPrecondition(
            "NO_CANDIDATE",
            "no cloud fits",
            hint="the rejections say what would have fitted",
            rejections=len(placement["rejections"]),
        )


def placed(response: broker_pb2.PlaceResponse) -> dict[str, Any]:
    """A placement as plain values, the candidates with their rank."""
    placement = plain(response)
    for rank, candidate in enumerate(placement["candidates"], 1):
        candidate["rank"] = rank
    return placement


def shown(placement: dict[str, Any]) -> list[RenderableType]:
    """A placement for people."""
    candidates, rejections = placement["candidates"], placement["rejections"]
    tables: list[RenderableType] = []
    if candidates:
        tables.append(table(candidates, views.candidate_columns(candidates)))
    if candidates and rejections:
        tables.append("")
    if rejections:
        tables.append(table(rejections, views.REJECTION_COLUMNS))
    if placement["snapshot_stale"]:
        age = units.format_duration(float(placement["snapshot_age"] or 0))
        tables.append(f"no directory answers: this is what was known {age} ago")
    return tables


def explanation(placement: dict[str, Any]) -> list[RenderableType]:
    """What each score saw in each candidate, and how many miss which constraint, for people."""
    scores = [
        score | {"cloud_id": one["cloud_id"], "offer": one["offer"]}
        for one in placement["candidates"]
        for score in one["scores"]
    ]
    tables: list[RenderableType] = []
    if scores:
        tables += ["", table(scores, views.SCORE_COLUMNS)]
    if placement["counts"]:
        tables += ["", table(placement["counts"], views.COUNT_COLUMNS)]
    complete = "" if placement["rejections_complete"] else "; only the nearest clouds are told"
    summary = (
        f"{placement['candidates_found']:,} of {placement['offers_judged']:,} offers of "
        f"{placement['clouds_judged']:,} clouds fit, at revision "
        f"{placement['directory_revision']}{complete}"
    )
    return [*tables, "", summary]
