"""`watari place-batch`: asks the broker where many machines go. Moves nothing."""

import uuid
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from watari import errors, units
from watari.cli import batch_file, exits, views
from watari.cli.exits import Exit
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.output import Column, facts, table
from watari.cli.plain import plain

ANSWER_SECONDS = 10.0
"""Waited beyond the time limit: for reading the directory, judging and the answer."""

_WHY = {
    "nowhere_allowed": "no cloud takes it",
    "group": "its group's rule leaves no room",
    "room": "every cloud that would take it is full",
    "not_worth_it": "no better plan was found in time",
}

_COLUMNS = (
    Column("MACHINE", lambda one: one["machine"]),
    Column("", lambda one: one["change"]),
    Column("CLOUD", lambda one: one["candidate"]["cloud_id"]),
    Column("REGION", lambda one: one["candidate"]["region"], optional=True),
    Column("AN HOUR", lambda one: views.price(one["candidate"]["hourly_price"]), right=True),
    Column("SCORE", lambda one: f"{one['candidate']['score']:.2f}", right=True, optional=True),
)
_LEFT_OUT = (
    Column("LEFT OUT", lambda one: one["machine"]),
    Column("WHY", lambda one: _WHY.get(one["unplaced"], one["unplaced"])),
    Column("NEAREST", lambda one: _nearest(one["rejections"])),
)


def add(app: typer.Typer) -> None:
    """Adds the command."""
    epilog = exits.epilog(Exit.NOT_FOUND, Exit.REFUSED, Exit.NO_ROOM, Exit.UNAVAILABLE)
    command(app, "place-batch", epilog=epilog, panel=FEDERATION_PANEL)(show_batch)


def show_batch(
    invocation: Invocation,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML: machines and groups.")],
    solver: Annotated[
        str, typer.Option(metavar="NAME", help="greedy, milp or stable, instead of the file's.")
    ] = "",
    limit: Annotated[
        str, typer.Option(metavar="TIME", help="Solve for so long, such as 30s; at most 60s.")
    ] = "",
) -> None:
    """Show where many machines would go together. Nothing is moved or reserved.

    The file has a [[machine]] for each, with name, vcpus, memory, disk, count, group and
    current-cloud, and a [group.NAME] for each rule, with affinity and per-cloud-max.
    """
    request = batch_file.read(file)
    request.request_id = str(uuid.uuid4())
    if solver:
        request.solver = batch_file.solver(solver)
    if limit:
        request.limit_seconds = units.parse_duration(limit)
    seconds = request.limit_seconds + ANSWER_SECONDS
    with invocation.output.working("solving"):
        answer = plain(invocation.clients.broker().place_batch(request, seconds))
    stable = solver == "stable" or answer["rank_sum"] > 0
    invocation.output.record(answer, *shown(answer, stable=stable))
    left_out = sum(1 for one in answer["placements"] if one["unplaced"])
    if left_out:
        raise errors.FailedPrecondition(
            "NO_CANDIDATE",
            f"{left_out} of {len(answer['placements'])} machines are left out",
            hint="the last table says why",
            left_out=left_out,
        )


def shown(answer: dict[str, Any], *, stable: bool) -> list[RenderableType]:
    """A batch for people: who goes where, how much of each cloud, and who is left out."""
    placed = [
        one | {"change": "stays in" if one["stays"] else "goes to"}
        for one in answer["placements"]
        if not one["unplaced"]
    ]
    left_out = [one for one in answer["placements"] if one["unplaced"]]
    views_: list[RenderableType] = []
    if placed:
        views_ += [table(placed, _COLUMNS), ""]
    if left_out:
        views_ += [table(left_out, _LEFT_OUT), ""]
    clouds = Counter(one["candidate"]["cloud_id"] for one in placed)
    pairs = [
        ("placed", f"{len(placed)} of {len(answer['placements'])}, in {len(clouds)} clouds"),
        ("cost", f"{answer['cost']:,.2f} {answer['currency']} over the horizon"),
        ("gap", f"at most {answer['gap']:.2%} above the least possible"),
        ("solved in", f"{answer['wall_seconds']:.1f} s"),
    ]
    if stable:
        pairs.append(
            ("blocking pairs", f"{answer['blocking_pairs']}, ranks add up to {answer['rank_sum']}")
        )
    views_.append(facts(pairs))
    return views_


def _nearest(rejections: list[dict[str, Any]]) -> str:
    return "; ".join(f"{one['cloud_id']}: {one['reason']}" for one in rejections)
