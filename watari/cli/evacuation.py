"""`watari evacuation`: evacuations that are running or have run, and how one is seen to its end."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Annotated, Any

import typer

from watari import errors
from watari.cli import evacuating, follow, lookup, views
from watari.cli.clients import Manager
from watari.cli.evacuating import Seen
from watari.cli.exits import CALL_EPILOG, MIGRATE_EPILOG, CommandFailed, Exit
from watari.cli.invocation import MACHINES_PANEL, Invocation, command
from watari.cli.operating import Operating
from watari.cli.output import Column, Output, facts
from watari.cli.plain import plain
from watari.clock import Clock
from watari.v1 import manager_pb2

LOOK_SECONDS = 1.0
"""Between two looks at an evacuation and what it runs, for people: bars need both."""

FAILURE_COLUMNS = (
    Column("NOT MOVED", lambda one: one["vm_name"]),
    Column("WHY", lambda one: views.problem(one["problem"])),
    Column("NEXT", lambda one: one["problem"]["hint"] if one["problem"] else ""),
    Column("MIGRATION", lambda one: one["migration_id"], optional=True),
)

_app = typer.Typer(no_args_is_help=True, help="Show, watch and cancel evacuations.")

_Id = Annotated[str, typer.Argument(metavar="ID", help="The evacuation's UUID.")]
_Cloud = Annotated[
    str | None,
    typer.Option("--cloud", metavar="CLOUD", help="The cloud; all are asked otherwise."),
]


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="evacuation", rich_help_panel=MACHINES_PANEL)


@command(_app, "show", epilog=CALL_EPILOG)
def show_evacuation(invocation: Invocation, evacuation_id: _Id, cloud: _Cloud = None) -> None:
    """Show one evacuation, with the machines that could not be moved."""
    operating, found = find(invocation, evacuation_id, cloud)
    row = plain(found)
    parts = [facts(_facts(row, operating.manager.cloud_id))]
    failures = [invocation.output.table(row["failures"], FAILURE_COLUMNS)] * bool(row["failures"])
    invocation.output.record(row, *parts, *failures)


@command(_app, "watch", epilog=MIGRATE_EPILOG)
def watch_evacuation(invocation: Invocation, evacuation_id: _Id, cloud: _Cloud = None) -> None:
    """Watch an evacuation to its end.

    With -o json one object a line for every change. Ctrl-C stops the watching only.
    """
    operating, _ = find(invocation, evacuation_id, cloud)
    with detaching(evacuation_id):
        ended = to_the_end(invocation, operating, evacuation_id, events=True)
    conclude(invocation.output, ended)


@command(_app, "cancel", epilog=CALL_EPILOG)
def cancel_evacuation(invocation: Invocation, evacuation_id: _Id, cloud: _Cloud = None) -> None:
    """Start no further migration of an evacuation; those that run go on."""
    operating, _ = find(invocation, evacuation_id, cloud)
    row = plain(operating.cancel_evacuation(evacuation_id))
    invocation.output.record(row)
    if row["done"]:
        invocation.output.say("It had ended already.")
        return
    left = row["remaining"] - row["running"]
    invocation.output.say(
        f"Cancelled: {left} machines stay; {row['running']} migrations go on. "
        "`watari migration cancel` ends one of these."
    )


def find(
    invocation: Invocation, evacuation_id: str, cloud_id: str | None
) -> tuple[Operating, manager_pb2.Evacuation]:
    """An evacuation and the cloud that it empties.

    Raises NotFound EVACUATION_NOT_FOUND, and the error of a cloud that did not answer when no other
    has it.
    """

    def fetch(manager: Manager) -> list[tuple[Operating, manager_pb2.Evacuation]]:
        operating = Operating(manager)
        return lookup.unless_missing(
            lambda: (operating, operating.evacuation(evacuation_id)), "EVACUATION_NOT_FOUND"
        )

    found, missed = lookup.gather(invocation.clients, cloud_id, fetch)
    if found:
        return found[0]
    raise missed or errors.NotFound(
        "EVACUATION_NOT_FOUND",
        f"no cloud has an evacuation {evacuation_id}",
        hint="`watari audit list` shows when which were started",
        evacuation_id=evacuation_id,
    )


def detaching(evacuation_id: str) -> AbstractContextManager[None]:
    """Turns Ctrl-C into the end of the command, saying that the evacuation goes on."""
    return follow.detaching_on_interrupt(evacuation_id, "evacuation")


def to_the_end(
    invocation: Invocation, operating: Operating, evacuation_id: str, *, events: bool = False
) -> manager_pb2.Evacuation:
    """The evacuation when it has ended, its progress shown on the way.

    With `events` every change is printed as a JSON line too, where JSON is asked for.
    """
    output, clock = invocation.output, invocation.clock
    watching = follow.Watching(clock, invocation.clients.settings.lost_seconds_max)

    def looks() -> Iterator[Seen]:
        if output.is_json:
            return map(Seen, operating.watch_evacuation(evacuation_id))
        return _looks(operating, evacuation_id, clock)

    last = Seen(manager_pb2.Evacuation())
    with evacuating.display(output, clock) as display:
        for last in follow.reopening(
            looks, lambda seen: seen.evacuation.done, watching, operating.manager.peer.title
        ):
            display.show(last)
            if events:
                output.event(plain(last.evacuation))
    return last.evacuation


def conclude(output: Output, ended: manager_pb2.Evacuation) -> None:
    """Says how it ended. Raises Cancelled, or CommandFailed when machines could not be moved."""
    if ended.failures:
        output.show(output.table([plain(each) for each in ended.failures], FAILURE_COLUMNS))
    left = f"{ended.succeeded} machines moved, {ended.failed} could not be"
    if ended.failed:
        raise CommandFailed(
            errors.FailedPrecondition(
                ended.failures[-1].problem.reason or "MIGRATION_STATE",
                left,
                hint="clear what stands against them, then evacuate again",
                evacuation_id=ended.evacuation_id,
            ),
            Exit.FAILED,
            title="The evacuation is incomplete",
        )
    if ended.cancelled:
        raise errors.Cancelled(
            "CANCELLED",
            f"it was cancelled: {ended.succeeded} machines moved, {ended.remaining} stay",
            evacuation_id=ended.evacuation_id,
        )
    output.say(f"Nothing is left: {ended.succeeded} machines moved.")


def _looks(operating: Operating, evacuation_id: str, clock: Clock) -> Iterator[Seen]:
    """The evacuation and its migrations, now and then; ends never by itself."""
    while True:
        found = operating.evacuation(evacuation_id)
        ours = frozenset(found.migration_ids)
        active = operating.manager.migrations(active_only=True, vm_id="") if found.running else []
        yield Seen(found, tuple(each for each in active if each.migration_id in ours))
        clock.sleep(LOOK_SECONDS)


def _facts(row: dict[str, Any], cloud_id: str) -> list[tuple[str, str]]:
    window = row["window"]
    return [
        ("evacuation", row["evacuation_id"]),
        ("of", f"host {row['host_id']} of {cloud_id}" if row["host_id"] else f"all of {cloud_id}"),
        ("to", ", ".join(row["to_clouds"])),
        ("mode", row["mode"]),
        ("at a time", str(row["concurrency"])),
        ("window", evacuating.window(window) if window else ""),
        ("state", evacuating.state(row)),
        ("moved", str(row["succeeded"])),
        ("running", str(row["running"] or "")),
        ("remaining", str(row["remaining"] or "")),
        ("could not move", str(row["failed"] or "")),
        ("waiting for", views.problem(row["waiting_for"])),
        ("limit", views.limits(row["options"])),
        ("requested", views.when(row["created_at"])),
        ("ended", views.when(row["ended_at"])),
    ]
