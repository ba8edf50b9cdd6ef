"""`watari migration resolve`: an operator decides in the place of a cloud that is gone for good."""

from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from watari import errors
from watari.cli import asking, views
from watari.cli.exits import CALL_EPILOG
from watari.cli.invocation import Invocation, command
from watari.cli.operating import Operating
from watari.cli.output import facts
from watari.cli.plain import enum_name, plain
from watari.v1 import manager_pb2

KEEP, GIVE_UP = manager_pb2.RESOLUTION_KEEP_HERE, manager_pb2.RESOLUTION_GIVE_UP_HERE


@dataclass(frozen=True)
class Subject:
    """What is decided about, as the cloud that decides knows it."""

    migration_id: str
    vm_name: str
    vm_id: str
    here: str
    there: str
    """The other cloud."""

    state: str
    """Of the migration at its source, of the reservation at its destination."""

    is_source: bool


def add(app: typer.Typer) -> None:
    """Adds the command to the group of migrations."""
    command(app, "resolve", epilog=CALL_EPILOG)(resolve_migration)


def resolve_migration(
    invocation: Invocation,
    migration_id: Annotated[str, typer.Argument(metavar="ID", help="The migration's UUID.")],
    cloud: Annotated[
        str, typer.Option("--cloud", metavar="CLOUD", help="Here: the cloud that decides.")
    ],
    justification: Annotated[
        str, typer.Option(metavar="TEXT", help="Why; it stays in the audit log.")
    ],
    keep_here: Annotated[
        bool, typer.Option("--keep-here", help="The machine lives in this cloud.")
    ] = False,
    give_up_here: Annotated[
        bool, typer.Option("--give-up-here", help="The machine lives in the other cloud.")
    ] = False,
    yes: asking.YesOption = False,
) -> None:
    """End a migration whose other cloud is gone for good.

    Dangerous: the other cloud is not asked. If it comes back and runs the
    machine too, there are two of it. As long as it may come back, wait.
    """
    output = invocation.output
    if keep_here == give_up_here:
        raise errors.InvalidArgument(
            "INVALID_FIELD",
            "say which: either --keep-here or --give-up-here",
            hint="watari migration resolve -h",
        )
    resolution = KEEP if keep_here else GIVE_UP
    operating = Operating(invocation.clients.manager(cloud))
    subject = find(operating, migration_id)
    asking.require_yes(output, yes=yes)
    output.show(facts(_facts(subject)), "")
    for line in consequences(subject, resolution):
        output.note(line, style="")
    if not yes:
        asking.confirm_by_name(f"the machine's name, {subject.vm_name},", subject.vm_name)
    response = operating.resolve(migration_id, resolution, justification)
    output.record(plain(response))
    kept = subject.here if keep_here else subject.there
    output.say(f"Decided: {subject.vm_name} lives in {kept}.")


def find(operating: Operating, migration_id: str) -> Subject:
    """The migration that leaves the cloud, or the reservation of one that comes to it.

    Raises NotFound MIGRATION_NOT_FOUND.
    """
    here = operating.manager.cloud_id
    try:
        found = operating.manager.migration(migration_id)
    except errors.NotFound as error:
        arriving = [each for each in operating.reservations() if each.migration_id == migration_id]
        if not arriving:
            raise error from None
        (coming,) = arriving
        state = enum_name(manager_pb2.ReservationState.DESCRIPTOR, coming.state)
        return Subject(
            migration_id, coming.vm_name, coming.vm_id, here, coming.from_cloud, state, False
        )
    state = enum_name(manager_pb2.MigrationState.DESCRIPTOR, found.state)
    return Subject(migration_id, found.vm_name, found.vm_id, here, found.to_cloud, state, True)


def consequences(subject: Subject, resolution: manager_pb2.Resolution.ValueType) -> list[str]:
    """What follows, in plain words."""
    name, here, there = subject.vm_name, subject.here, subject.there
    twice = (
        f"If {there} runs it after all, there are two of {name}, and what either writes is lost to "
        f"the other. Make sure that {there} is gone, and stays so."
    )
    if resolution == KEEP and subject.is_source:
        return [
            f"{here} takes {name} back from what it kept, as it was. {there} is not asked.",
            twice,
        ]
    if resolution == KEEP:
        return [
            f"{here} takes {name} over from what has arrived; {there} has not handed it over.",
            f"Changes at {there} since the copy was made are not in it.",
            f"It is left off: `watari vm start {name} --cloud {here}` starts it.",
            twice,
        ]
    if subject.is_source:
        left = f"If {there} does not have the machine, that copy is all there is"
        return [
            f"{here} takes its copy of {name} out of use; its disks stay for the retention time.",
            f"{left}: `watari vm retained` shows until when.",
        ]
    return [
        f"{here} deletes what has arrived of {name} and gives its room back.",
        f"This is safe: the machine is still {there}'s, and gets back what it hands over later.",
    ]


def _facts(subject: Subject) -> list[tuple[str, str]]:
    told = asdict(subject)
    side = "the source" if subject.is_source else "the destination"
    other = "to" if subject.is_source else "from"
    return [
        ("migration", told["migration_id"]),
        ("machine", f"{told['vm_name']} ({told['vm_id']})"),
        ("here", f"{told['here']}, {side}"),
        (other, told["there"]),
        ("state", views.words(told["state"])),
    ]
