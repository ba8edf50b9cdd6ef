"""`watari migrate`: moves a machine to a cloud, or to the one that the broker chooses."""

import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from watari import delegation, errors, validate
from watari.cli import estimate, follow, held, lookup
from watari.cli.clients import Clients, Manager
from watari.cli.conditions import NO_CONDITIONS, Conditions
from watari.cli.constraints import NO_CONSTRAINTS, Constraints
from watari.cli.exits import MIGRATE_EPILOG
from watari.cli.invocation import MACHINES_PANEL, Invocation, command
from watari.cli.moving import DEFAULT_MOVING, Moving
from watari.cli.place import placed, shown
from watari.cli.plain import plain
from watari.cli.transfer import DEFAULT_TRANSFER, Transfer
from watari.clock import Clock
from watari.v1 import broker_pb2, common_pb2, manager_pb2


def add(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "migrate", epilog=MIGRATE_EPILOG, panel=MACHINES_PANEL)(migrate)


def migrate(
    invocation: Invocation,
    vm: Annotated[str, typer.Argument(metavar="VM", help="The machine's name or UUID.")],
    to: Annotated[str, typer.Option(metavar="CLOUD", help="The destination.")] = "",
    place: Annotated[
        bool, typer.Option("--place", help="Let the broker choose the destination.")
    ] = False,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="CLOUD", help="Where it is; found out otherwise."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once it has started.")
    ] = False,
    migration_id: Annotated[
        str,
        typer.Option("--id", metavar="UUID", help="Its id; repeating the command joins it."),
    ] = "",
    reservation: Annotated[
        str,
        typer.Option(
            metavar="UUID",
            help="Claim the room that `watari reservation create` reserved there in advance.",
        ),
    ] = "",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only tell what it would take and what stands against it; reads the disks once.",
        ),
    ] = False,
    moving: Moving = DEFAULT_MOVING,
    transfer: Transfer = DEFAULT_TRANSFER,
    conditions: Conditions = NO_CONDITIONS,
    constraints: Constraints = NO_CONSTRAINTS,
) -> None:
    """Move a machine to another cloud.

    It is watched to its end. Ctrl-C stops the watching; the migration goes on.
    """
    _check(to, place, constraints)
    _check_conditions(conditions, place, dry_run)
    _check_reservation(reservation, place or dry_run)
    options = moving.into(transfer.options())
    if dry_run:
        _check_dry(place, detach, migration_id)
        manager, found = lookup.vm(invocation.clients, vm, source)
        estimate.dry_run(invocation, manager, found, to, options, moving.value)
        return
    new_id = validate.require_uuid(migration_id or str(uuid.uuid4()), "id")
    with follow.detaching_on_interrupt(new_id):
        started = _joined(invocation, migration_id, source)
        if started is None:
            manager, found = lookup.vm(invocation.clients, vm, source)
            order = Order(new_id, manager, found, options, moving.value)
            started = (
                start(order, to, conditions, reservation)
                if to
                else _start_placed(invocation, order, constraints)
            )
        migration = started.migration
        invocation.output.note(
            f"Migration {new_id}: {migration.vm_name} from {migration.from_cloud} "
            f"to {migration.to_cloud}"
        )
        if not detach:
            migration = follow.to_the_end(invocation, started.manager, new_id)
    placed_by = {"placement": started.placement, "attempts": started.attempts}
    extra = placed_by if started.placement else {}
    invocation.output.record(plain(migration) | extra)
    if detach:
        invocation.output.say(f"It runs. Watch it: watari migration watch {new_id}")
    else:
        follow.conclude(invocation.output, migration)


@dataclass(frozen=True)
class Order:
    """A migration that is to be started."""

    migration_id: str
    manager: Manager
    """The source's."""
    vm: manager_pb2.Vm
    options: common_pb2.TransferOptions
    mode: common_pb2.MigrationMode.ValueType = common_pb2.MIGRATION_MODE_COLD


@dataclass(frozen=True)
class Started:
    """A migration that was started."""

    manager: Manager
    migration: manager_pb2.Migration
    placement: dict[str, Any] | None = None
    """How the broker chose, if it did."""
    attempts: list[dict[str, Any]] = field(default_factory=list)
    """The clouds that the broker asked to hold room, if it did."""


def start(
    order: Order, to_cloud: str, conditions: Conditions = NO_CONDITIONS, reservation_id: str = ""
) -> Started:
    """Starts it, without directory or broker having to be up."""
    request = manager_pb2.MigrateVmRequest(
        migration_id=order.migration_id,
        vm=order.vm.vm_id,
        to_cloud=to_cloud,
        mode=order.mode,
        options=order.options,
        reservation_id=reservation_id,
    )
    return Started(order.manager, order.manager.migrate(conditions.into(request)))


def start_placed(clients: Clients, order: Order, constraints: Constraints, clock: Clock) -> Started:
    """Lets the broker choose and start it. Asks as the user of the machine's own cloud, who signs
    that the broker may move this one machine once, and hold room for it where it fits.
    """
    from_cloud = order.manager.cloud_id
    broker, signer = clients.broker(from_cloud), clients.identity(from_cloud)
    request = broker_pb2.MigrateRequest(
        migration_id=order.migration_id,
        from_cloud=from_cloud,
        vm=order.vm.vm_id,
        requirements=constraints.requirements(None),
        weights=constraints.ranking(),
        preferred_regions=constraints.preferred or (),
        preferred_providers=constraints.preferred_providers or (),
        mode=order.mode,
        options=order.options,
        delegation=delegation.sign(
            signer,
            clock.now(),
            migration_id=order.migration_id,
            delegate=broker.spiffe_id,
            vm_id=order.vm.vm_id,
            from_cloud=from_cloud,
        ),
    )
    mandated = held.mandate_for(broker, signer, clock, order.vm, request)
    if mandated is not None:
        request.mandate.CopyFrom(mandated)
    response = broker.migrate(request)
    attempts = plain(response)["attempts"]
    return Started(order.manager, response.migration, placed(response.placement), attempts)


def _start_placed(invocation: Invocation, order: Order, constraints: Constraints) -> Started:
    started = start_placed(invocation.clients, order, constraints, invocation.clock)
    if started.placement:
        invocation.output.show(*shown(started.placement), *held.shown(started.attempts))
    return started


def _joined(invocation: Invocation, migration_id: str, source: str | None) -> Started | None:
    """The migration of that id if there is one: repeating a command joins what it began."""
    if not migration_id:
        return None
    try:
        return Started(*lookup.migration(invocation.clients, migration_id, source))
    except errors.NotFound as error:
        if error.reason != "MIGRATION_NOT_FOUND":
            raise
        return None


def _check(to: str, place: bool, constraints: Constraints) -> None:
    if bool(to) == place:
        raise errors.InvalidArgument(
            "INVALID_FIELD", "say where to: either --to CLOUD or --place", hint="watari migrate -h"
        )
    if to and constraints != NO_CONSTRAINTS:
        raise errors.InvalidArgument(
            "INVALID_FIELD",
            "constraints choose a cloud, and --to has chosen it",
            hint="leave the constraints out, or write --place instead of --to",
        )


def _check_reservation(reservation_id: str, elsewhere: bool) -> None:
    if reservation_id:
        validate.require_uuid(reservation_id, "reservation")
    if reservation_id and elsewhere:
        raise errors.InvalidArgument(
            "INVALID_FIELD",
            "--reservation is for a migration to the cloud that holds it",
            hint="write --to CLOUD, and leave --place and --dry-run out",
        )


def _check_conditions(conditions: Conditions, place: bool, dry_run: bool) -> None:
    if conditions != NO_CONDITIONS and (place or dry_run):
        raise errors.InvalidArgument(
            "INVALID_FIELD",
            "--quote, --require-trait and --avoid-trait are for a migration to a named cloud",
            hint="write --to CLOUD; --place has --trait and --forbid-trait",
        )


def _check_dry(place: bool, detach: bool, migration_id: str) -> None:
    if place:
        raise errors.InvalidArgument(
            "INVALID_FIELD",
            "--dry-run needs a destination",
            hint="`watari place --vm` shows where it fits; name one of these with --to",
        )
    if detach or migration_id:
        raise errors.InvalidArgument(
            "INVALID_FIELD",
            "--dry-run starts no migration",
            hint="leave --detach and --id out",
        )
