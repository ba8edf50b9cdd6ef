"""`watari reservation`: room that a cloud holds for machines of others, now or in advance."""

from typing import Annotated, Any

import typer

from watari import errors
from watari.cli import lookup, reserving, views
from watari.cli.conditions import NO_CONDITIONS, Conditions
from watari.cli.exits import CALL_EPILOG
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.operating import Operating
from watari.cli.output import Column, facts
from watari.cli.plain import plain
from watari.cli.reserving import NOT_DESCRIBED, Described, Times
from watari.v1 import common_pb2, manager_pb2

_app = typer.Typer(no_args_is_help=True, help="Make, show and give back reservations of a cloud.")

_Id = Annotated[str, typer.Argument(metavar="ID", help="The reservation's UUID.")]
_Cloud = Annotated[
    str | None,
    typer.Option("--cloud", metavar="CLOUD", help="The cloud, where there are several."),
]


def _until(one: dict[str, Any]) -> str:
    """Until when it holds room; what is confirmed holds it until a machine comes or it is given
    back.
    """
    return views.when(one["expires_at"]) if one["state"] in ("booked", "pending") else ""


_COLUMNS = (
    Column("ID", lambda one: one["reservation_id"]),
    Column("STATE", lambda one: views.words(one["state"])),
    Column("MACHINE", lambda one: one["vm_name"]),
    Column("TENANT", lambda one: one["tenant"]),
    Column("FROM CLOUD", lambda one: one["from_cloud"]),
    Column("HOST", lambda one: one["host_id"]),
    Column("FROM", lambda one: views.when(one["starts_at"] or one["created_at"])),
    Column("UNTIL", _until),
)


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="reservation", rich_help_panel=FEDERATION_PANEL)


@command(_app, "list", epilog=CALL_EPILOG)
def list_reservations(
    invocation: Invocation,
    cloud: _Cloud = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Those too that have ended or became a machine.")
    ] = False,
) -> None:
    """List what a cloud holds room for, now or in advance, newest first."""
    found = _operating(invocation, cloud).reservations(active_only=not everything)
    invocation.output.rows([plain(each) for each in found], _COLUMNS, "Nothing is reserved.")


@command(_app, "create", epilog=CALL_EPILOG)
def create_reservation(
    invocation: Invocation,
    to_cloud: Annotated[str, typer.Option("--to", metavar="CLOUD", help="Where it is to come.")],
    starts: Annotated[
        str, typer.Option(metavar="TIME", help="From when on: 2027-01-31T09:00Z, or +2h from now.")
    ],
    ends: Annotated[
        str,
        typer.Option(metavar="TIME", help="Until when it must be claimed, or +1h from the start."),
    ],
    vm: Annotated[
        str, typer.Argument(metavar="[VM]", help="UUID or name of a machine; or describe it.")
    ] = "",
    from_cloud: Annotated[
        str | None,
        typer.Option("--from", metavar="CLOUD", help="Where it is; found out otherwise."),
    ] = None,
    given_id: Annotated[
        str,
        typer.Option(
            "--id", metavar="UUID", help="The reservation's id; repeating the command is safe then."
        ),
    ] = "",
    described: Described = NOT_DESCRIBED,
    conditions: Conditions = NO_CONDITIONS,
) -> None:
    """Reserve room in a cloud in advance, for a machine that is elsewhere.

    It holds room from its start until its end, and none outside of that. Within that time `watari
    migrate --reservation` claims it; a machine that has come stays.
    """
    times = Times(starts, ends)
    reservation_id = reserving.id_of(given_id, times)
    clients, now = invocation.clients, invocation.clock.now()
    request = reserving.wanted(clients, vm, from_cloud, described, reservation_id)
    reserving.conditioned(request, conditions, times, now)
    made, warnings = _made(_operating(invocation, to_cloud), request, repeated=bool(given_id))
    row = plain(made) | {"warnings": [plain(each) for each in warnings]}
    invocation.output.record(row, facts([("Id", made.reservation_id), *_facts(row)[1:]]))
    for warning in warnings:
        invocation.output.note(warning.message, "yellow")
    if row["state"] == "booked":
        invocation.output.say(
            f"It starts {views.when(row['starts_at'])} and must be claimed before "
            f"{views.when(row['ends_at'])}: watari migrate {row['vm_name']} --to {to_cloud} "
            f"--reservation {made.reservation_id}"
        )


def _made(
    operating: Operating, request: manager_pb2.ReserveRequest, *, repeated: bool
) -> tuple[manager_pb2.Reservation, list[common_pb2.Problem]]:
    """The reservation, new or as an earlier run made it. Raises AlreadyExists ID_REUSED."""
    if repeated:
        key = request.reservation_id
        found = lookup.unless_missing(lambda: operating.reservation(key), "RESERVATION_NOT_FOUND")
        for known in found:
            if not reserving.same(known, request):
                raise errors.AlreadyExists(
                    "ID_REUSED",
                    f"reservation {key} is another machine's, or for another time",
                    hint="make a new UUID; `watari reservation show` tells what this one is",
                    field="reservation_id",
                )
            return known, []
    answer = operating.reserve(request)
    return answer.reservation, list(answer.warnings)


@command(_app, "show", epilog=CALL_EPILOG)
def show_reservation(invocation: Invocation, reservation_id: _Id, cloud: _Cloud = None) -> None:
    """Show one reservation."""
    row = plain(_operating(invocation, cloud).reservation(reservation_id))
    invocation.output.record(row, facts(_facts(row)))


@command(_app, "release", epilog=CALL_EPILOG)
def release_reservation(invocation: Invocation, reservation_id: _Id, cloud: _Cloud = None) -> None:
    """Give back room that is booked or pending. What is confirmed only its source gives back: it
    may have given the machine up already.
    """
    row = plain(_operating(invocation, cloud).release(reservation_id))
    invocation.output.record(row, facts(_facts(row)))


def _operating(invocation: Invocation, cloud: str | None) -> Operating:
    cloud_id = lookup.only(invocation.clients, cloud)
    return Operating(invocation.clients.manager(cloud_id))


def _facts(one: dict[str, Any]) -> list[tuple[str, str]]:
    return [(column.title.capitalize(), column.cell(one)) for column in _COLUMNS]
