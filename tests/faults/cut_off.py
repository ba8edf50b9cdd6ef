"""Cutting managers off while one migration runs, and what has to be true in the end."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.support import processes
from tests.support.clouds import FORWARD, Cloud, assert_one_owner, eventually
from watari import errors
from watari.v1 import manager_pb2

VM = "6f1f2d2e-0000-4000-8000-000000000001"
ONCE = "1*error(SERVER_UNAVAILABLE)"
ALWAYS = "error(SERVER_UNAVAILABLE)"

UNFIT = errors.FailedPrecondition("VM_LIFECYCLE_FAILED", "no such machine type here")

Clouds = tuple[Cloud, Cloud]

ARRIVAL = [
    "reservation.made",
    "grant.issued",
    "reservation.confirmed",
    "hand_over.accepted",
    "reservation.used",
]


def ask(cloud: Cloud, migration_id: str | None = None) -> str:
    """Ask for the migration until it is recorded, as a client does that lost its answer."""
    migration_id = migration_id or str(uuid.uuid4())
    for _ in range(2):
        with suppress(errors.Unavailable):
            cloud.migrate("web-1", "osaka", migration_id)
            break
    return migration_id


def settle(cloud: Cloud, migration_id: str) -> None:
    """Until the migration makes no progress: it hangs at the armed point."""
    last, same = "", 0
    while same < 5:
        try:
            now = cloud.migrate("web-1", "osaka", migration_id)
        except errors.Unavailable:
            return  # It cannot even be asked for.
        shown = manager_pb2.MigrationState.Name(now.state)
        same = same + 1 if shown == last else 0
        last = shown
        time.sleep(0.03)


def assert_moved_once(source: Cloud, destination: Cloud) -> None:
    """One owner, at the next epoch; each side metered it exactly once, at the same instant, and the
    audit logs have every step exactly once.
    """
    assert_audited(source, FORWARD)
    assert [each.action for each in destination.audit()] == ARRIVAL
    assert_one_owner(VM, destination, source)
    assert destination.vms()[VM].epoch == 2
    assert_runs_only_at(destination, source)
    (left,), (arrived,) = source.usage(), destination.usage()
    assert left.kind == manager_pb2.USAGE_KIND_LEFT
    assert arrived.kind == manager_pb2.USAGE_KIND_ARRIVED
    assert left.occurred_at == arrived.occurred_at
    assert left.receipt_root == arrived.receipt_root
    assert destination.inventory().allocated.vcpus == 2
    assert destination.inventory().held.vcpus == 0
    assert source.inventory().allocated.vcpus == 0


def assert_stayed(source: Cloud, destination: Cloud) -> None:
    """The machine is where it was, and the destination is as if nothing had been."""
    assert_audited(source, ["REQUESTED", "RESERVING", "COPYING", "ROLLING_BACK", "CANCELLED"])
    given_back = [*ARRIVAL[:2], "reservation.released"]
    eventually(
        lambda: [each.action for each in destination.audit()] == given_back,
        "the destination tells once that it gave the room back",
    )
    assert_one_owner(VM, source, destination)
    assert_runs_only_at(source, destination)
    assert source.vms()[VM].epoch == 1
    eventually(lambda: not destination.agent.arrivals, "what had arrived is discarded")
    assert destination.inventory().held.vcpus == 0
    assert not source.usage() + destination.usage()


def assert_returned(source: Cloud, destination: Cloud) -> None:
    """The machine runs where it was, two epochs later, and never ran at the destination."""
    returned = [*FORWARD[: FORWARD.index("RETIRING")], "TAKING_BACK", "FAILED"]
    assert_audited(source, returned)
    assert [each.action for each in destination.audit()] == [
        *ARRIVAL[:-1],
        "reservation.relinquished",
    ]
    eventually(lambda: VM not in destination.agent.guests, "what was prepared is discarded")
    assert_one_owner(VM, source, destination)
    assert source.vms()[VM].epoch == source.agent.guests[VM].epoch == 3
    assert not source.vms()[VM].migration_id
    assert_runs_only_at(source, destination)
    assert not destination.agent.ran
    assert source.inventory().allocated.vcpus == 2
    assert destination.inventory().held.vcpus == destination.inventory().allocated.vcpus == 0
    assert not source.usage() + destination.usage()
    with source.database() as database:
        ((migration_id,),) = database.execute("SELECT migration_id FROM migrations")
    problem = source.migration(migration_id).problem
    assert problem.reason == "VM_RELINQUISHED"
    assert UNFIT.message in problem.message


def assert_runs_only_at(here: Cloud, there: Cloud) -> None:
    """It runs in exactly one place, sooner or later, and nobody owes anything."""
    eventually(lambda: here.agent.is_running(VM), f"it runs in {here.cloud_id}")
    assert not there.agent.is_running(VM)
    for cloud in (here, there):
        eventually(lambda cloud=cloud: owed(cloud) == 0, f"{cloud.cloud_id} owes nothing")


def owed(cloud: Cloud) -> int:
    """Calls that it still owes."""
    with cloud.database() as database:
        return int(database.execute("SELECT count(*) FROM owed_calls").fetchone()[0])


def assert_audited(source: Cloud, states: list[str]) -> None:
    """The source's audit log has each state of its one migration once; the row has the last."""
    with source.database() as database:
        ((migration_id, last),) = database.execute("SELECT migration_id, state FROM migrations")
    assert source.audited_states(migration_id) == states
    assert states[-1] == last


@contextmanager
def process(cloud: Cloud) -> Iterator[processes.Process]:
    """The cloud's manager as a process of its own."""
    config = cloud.folder / "manager.toml"
    config.write_text(cloud.toml())
    caller = cloud.federation.party(f"spiffe://{cloud.domain}/operator/main")
    target = processes.target(cloud.port, cloud.manager_id)
    running = processes.Process("manager", config, target, caller)
    try:
        yield running
    finally:
        running.stop()
