"""Sees a migration through: every update, over its manager's restarts, to a verdict."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from watari import errors, units
from watari.cli import progress
from watari.cli.clients import Manager
from watari.cli.exits import CommandFailed, Exit, exit_of
from watari.cli.invocation import Invocation
from watari.cli.output import Output
from watari.cli.plain import plain
from watari.clock import Clock
from watari.v1 import manager_pb2

FINAL_STATES = frozenset(
    {
        manager_pb2.MIGRATION_STATE_SUCCEEDED,
        manager_pb2.MIGRATION_STATE_FAILED,
        manager_pb2.MIGRATION_STATE_CANCELLED,
    }
)

Update = TypeVar("Update")

REOPEN_SECONDS = 0.5
"""Between two tries to watch: a manager takes about a second to start again."""


@dataclass(frozen=True)
class Watching:
    """How to watch."""

    clock: Clock
    lost_seconds_max: float
    """How long the manager may not answer."""


def updates(
    manager: Manager, migration_id: str, watching: Watching
) -> Iterator[manager_pb2.Migration]:
    """A migration at every change, the final state last.

    A stream that breaks or runs out is opened again, for as long as the manager is not away for
    more than the given time. Raises WatariError.
    """
    return reopening(
        lambda: manager.watch(migration_id),
        lambda migration: migration.state in FINAL_STATES,
        watching,
        manager.peer.title,
    )


def reopening(
    open_stream: Callable[[], Iterator[Update]],
    is_last: Callable[[Update], bool],
    watching: Watching,
    server: str,
) -> Iterator[Update]:
    """What a stream brings up to the last of it, over its ends and its server's restarts. Raises
    WatariError when the server, by its title, is away for longer than `watching` has it.
    """
    heard_at = watching.clock.monotonic()
    while True:
        problem = None
        try:
            for update in open_stream():
                heard_at = watching.clock.monotonic()
                yield update
                if is_last(update):
                    return
        except errors.WatariError as error:
            if not error.retryable:
                raise
            problem = error
        away_seconds = watching.clock.monotonic() - heard_at
        if away_seconds > watching.lost_seconds_max:
            raise problem or errors.Unavailable(
                "PEER_UNAVAILABLE", f"{server} ends every watch at once"
            )
        watching.clock.sleep(REOPEN_SECONDS)


def to_the_end(
    invocation: Invocation, manager: Manager, migration_id: str, *, events: bool = False
) -> manager_pb2.Migration:
    """The migration in its final state, its progress shown on the way.

    With `events` every update is printed as a JSON line too, where JSON is asked for.
    """
    output = invocation.output
    watching = Watching(invocation.clock, invocation.clients.settings.lost_seconds_max)
    last = manager_pb2.Migration()
    with progress.display(output, invocation.clock) as display:
        for last in updates(manager, migration_id, watching):
            display.show(last)
            if events:
                output.event(plain(last))
    return last


@contextmanager
def detaching_on_interrupt(work_id: str, kind: str = "migration") -> Iterator[None]:
    """Turns Ctrl-C into the end of the command, saying that the migration or evacuation goes on."""
    try:
        yield
    except KeyboardInterrupt:
        error = errors.Cancelled(
            "CANCELLED",
            f"this command, not the {kind}, which goes on",
            hint=f"watari {kind} watch {work_id}, or: watari {kind} cancel {work_id}",
        )
        error.metadata[f"{kind}_id"] = work_id
        raise CommandFailed(
            error,
            Exit.INTERRUPTED,
            title="Stopped",
        ) from None


def conclude(output: Output, migration: manager_pb2.Migration) -> None:
    """Says how it ended. Raises Cancelled, or CommandFailed with what went wrong."""
    name, source = migration.vm_name, migration.from_cloud
    if migration.state == manager_pb2.MIGRATION_STATE_SUCCEEDED:
        output.say(f"{name} is in {migration.to_cloud} now: {summary(migration)}.")
        return
    if migration.state == manager_pb2.MIGRATION_STATE_CANCELLED:
        raise errors.Cancelled(
            "CANCELLED",
            f"the migration was cancelled; {name} is still in {source}",
            migration_id=migration.migration_id,
        )
    problem = errors.from_problem(migration.problem)
    problem.message = f"{name} is still in {source}: {problem.message}"
    # That it ran and failed says more than whether its problem was a refusal or an absence.
    code = Exit.NO_ROOM if exit_of(problem) is Exit.NO_ROOM else Exit.FAILED
    raise CommandFailed(problem, code, title="The migration failed")


def summary(migration: manager_pb2.Migration) -> str:
    """Such as "3.1 GiB of disks, 98.0 MiB on the wire, 12.3 s", and how long it stood still."""
    done, downtime = migration.progress, ""
    if migration.downtime_seconds:
        without = units.format_duration(migration.downtime_seconds)
        downtime = f", of these {without} without the machine"
    return (
        f"{units.format_bytes(done.total_bytes)} of disks, "
        f"{units.format_bytes(done.wire_bytes)} on the wire, "
        f"{units.format_duration(elapsed_seconds(migration))}{downtime}"
    )


def elapsed_seconds(migration: manager_pb2.Migration) -> float:
    """From the request to the final state."""
    began, ended = migration.created_at.ToDatetime(), migration.ended_at.ToDatetime()
    return (ended - began).total_seconds()
