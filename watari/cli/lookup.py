"""Finds things by asking every cloud that the user may ask."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from watari import errors
from watari.cli.clients import Clients, Manager
from watari.v1 import manager_pb2

_Found = TypeVar("_Found")


def gather(
    clients: Clients, cloud_id: str | None, fetch: Callable[[Manager], Sequence[_Found]]
) -> tuple[list[_Found], errors.WatariError | None]:
    """What one cloud or all of them have, and the first error of those that do not answer.

    The error of a single, named cloud is raised.
    """
    if cloud_id is not None:
        return list(fetch(clients.manager(cloud_id))), None
    found: list[_Found] = []
    missed: errors.WatariError | None = None
    for each in clients.cloud_ids:
        try:
            found.extend(fetch(clients.manager(each)))
        except errors.WatariError as error:
            missed = missed or error
    return found, missed


def only(clients: Clients, cloud_id: str | None) -> str:
    """The cloud that was named, or the only one there is. Raises InvalidArgument INVALID_FIELD."""
    if cloud_id is not None:
        return cloud_id
    known = clients.cloud_ids
    if len(known) != 1:
        raise errors.InvalidArgument(
            "INVALID_FIELD", "--cloud: there are several clouds", hint=f"one of {', '.join(known)}"
        )
    return known[0]


def vm(clients: Clients, name: str, cloud_id: str | None) -> tuple[Manager, manager_pb2.Vm]:
    """The machine of that UUID or name, and its cloud's manager.

    Raises NotFound VM_NOT_FOUND, FailedPrecondition VM_NAME_AMBIGUOUS when several clouds have one,
    and the error of a cloud that did not answer when no other has it.
    """

    def fetch(manager: Manager) -> list[tuple[Manager, manager_pb2.Vm]]:
        return unless_missing(lambda: (manager, manager.vm(name)), "VM_NOT_FOUND")

    found, missed = gather(clients, cloud_id, fetch)
    if len(found) > 1:
        clouds = ", ".join(manager.cloud_id for manager, _ in found)
        raise errors.FailedPrecondition(
            "VM_NAME_AMBIGUOUS",
            f"several clouds have a machine {name}: {clouds}",
            hint="name the cloud, or use the machine's UUID",
            vm=name,
        )
    if found:
        return found[0]
    raise missed or errors.NotFound(
        "VM_NOT_FOUND",
        f"there is no machine {name} in {cloud_id or ', '.join(clients.cloud_ids)}",
        hint="`watari vm list` shows what there is",
        vm=name,
    )


def migration(
    clients: Clients, migration_id: str, cloud_id: str | None
) -> tuple[Manager, manager_pb2.Migration]:
    """The migration and the manager that runs it.

    Raises NotFound MIGRATION_NOT_FOUND, and the error of a cloud that did not answer when no other
    runs it.
    """

    def fetch(manager: Manager) -> list[tuple[Manager, manager_pb2.Migration]]:
        return unless_missing(
            lambda: (manager, manager.migration(migration_id)), "MIGRATION_NOT_FOUND"
        )

    found, missed = gather(clients, cloud_id, fetch)
    if found:
        return found[0]
    raise missed or errors.NotFound(
        "MIGRATION_NOT_FOUND",
        f"no cloud runs a migration {migration_id}",
        hint="`watari migration list` shows what there is",
        migration_id=migration_id,
    )


def unless_missing(fetch: Callable[[], _Found], reason: str) -> list[_Found]:
    """What is fetched, or nothing where it is NotFound for that reason."""
    try:
        return [fetch()]
    except errors.NotFound as error:
        if error.reason != reason:
            raise
        return []
