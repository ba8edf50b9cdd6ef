"""Manager processes of one cloud over one database, and what another cloud asks of them."""

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import sqlalchemy as sa

from manager import audit, inventory, tables
from manager.settings import Settings
from manager.settings.reservations import ReservationSettings
from manager.settings.store import StoreSettings
from tests.conftest import OSAKA, Federation
from tests.support import processes, reservations
from tests.support.clouds import Cloud
from tests.support.processes import Process
from watari import errors
from watari.rpc import client
from watari.settings import EndpointSettings
from watari.v1 import audit_pb2, common_pb2, manager_pb2_grpc

LEASE_SECONDS = 2.0
IDLE_SECONDS_MAX = 3.0
CALL_SECONDS_MAX = 10.0
ANSWER_SECONDS_MAX = 60.0
"""Managers that are killed and started again answer within this time."""


class Managers:
    """`count` processes of osaka's manager; one agent with `vcpus`. On SQLite there is one."""

    def __init__(
        self,
        folder: Path,
        store: StoreSettings,
        count: int,
        vcpus: int,
        stack: ExitStack,
        *,
        hurried: bool,
        processors: tuple[int, ...] = (),
    ) -> None:
        federation = Federation(folder / "federation")
        self.cloud = cloud = Cloud(federation, OSAKA, "osaka", folder / "osaka")
        cloud.agent.total = common_pb2.Resources(vcpus=vcpus, memory_bytes=2**46, disk_bytes=2**48)
        cloud.change(
            store=replace(store, lease_seconds=LEASE_SECONDS, idle_seconds_max=IDLE_SECONDS_MAX)
            if hurried
            else store,
            peers={"tokyo": EndpointSettings("127.0.0.1:1", str(reservations.TOKYO))},
            reservations=ReservationSettings(pending_max=1_000_000),
            processors=processors,
            janitor_seconds=0.5,
            orphans_seconds=60.0,
        )
        if not hurried:
            shipped = Settings("osaka", cloud.settings.identity)
            cloud.change(
                hosts=shipped.hosts,
                evacuations=shipped.evacuations,
                janitor_seconds=shipped.janitor_seconds,
            )
        stack.callback(cloud.close)
        cloud.agent.start()
        self.processes: list[Process] = []
        self.caller = federation.party(str(reservations.TOKYO))
        self.caller_folder = federation.folder_of(str(reservations.TOKYO))
        self._channels: list[grpc.Channel] = []
        for number in range(count):
            target = processes.target(processes.free_port(), cloud.manager_id)
            cloud.change(address=target.address)
            config = cloud.folder / f"manager{number}.toml"
            config.write_text(cloud.toml())
            process = Process("manager", config, target, self.caller)
            stack.callback(process.end)
            process.launch()
            self.processes.append(process)
            channel = client.connect(self.caller, target)
            stack.callback(channel.close)
            self._channels.append(channel)
        self.await_answer()

    def stubs(self) -> "itertools.cycle[manager_pb2_grpc.ReservationServiceStub]":
        """One of each process, for ever."""
        return itertools.cycle(
            [manager_pb2_grpc.ReservationServiceStub(channel) for channel in self._channels]
        )

    def await_answer(self) -> None:
        """Waits until one of them works."""
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        while not any(process.serving() for process in self.processes):
            assert time.monotonic() < deadline, self.processes[0].log()
            time.sleep(0.05)


@contextmanager
def managers(
    folder: Path,
    store: StoreSettings,
    *,
    count: int = 1,
    vcpus: int = 8,
    hurried: bool = True,
    processors: tuple[int, ...] = (),
) -> Iterator[Managers]:
    """They run within the block; `hurried` do their chores many times a second, as tests want it,
    and others as often as they are shipped. They keep to `processors`, if there are any.
    """
    with ExitStack() as stack:
        yield Managers(folder, store, count, vcpus, stack, hurried=hurried, processors=processors)


class Rows:
    """The database as it is, past every manager."""

    def __init__(self, store: StoreSettings) -> None:
        url = store.url.replace("postgresql://", "postgresql+psycopg://")
        self._engine = sa.create_engine(url or f"sqlite:///{store.path}")

    def states(self) -> dict[str, str]:
        """State by reservation."""
        rows = tables.reservations.c
        with self._engine.connect() as connection:
            return dict(
                tuple(row) for row in connection.execute(sa.select(rows.reservation_id, rows.state))
            )

    def vcpus(self) -> int:
        """What is taken, by whomever."""
        rows = tables.allocations.c
        query = sa.select(sa.func.coalesce(sa.func.sum(rows.amount), 0)).where(
            rows.resource_class == inventory.VCPUS
        )
        with self._engine.connect() as connection:
            return int(connection.scalar(query) or 0)

    def vcpus_of(self, reservation_ids: set[str]) -> int:
        """What these take."""
        rows = tables.allocations.c
        query = sa.select(rows.consumer_id, rows.amount).where(
            rows.resource_class == inventory.VCPUS
        )
        with self._engine.connect() as connection:
            found = connection.execute(query).all()
        return sum(amount for consumer, amount in found if consumer in reservation_ids)

    def audit(self) -> list[audit_pb2.AuditEntry]:
        """The whole log."""
        found: list[audit_pb2.AuditEntry] = []
        with self._engine.connect() as connection:
            while page := audit.page(connection, after=len(found), limit=1000):
                found += page
        return found

    def close(self) -> None:
        """Drop the connections."""
        self._engine.dispose()


def again(error: errors.WatariError) -> bool:
    """Whether a caller repeats what was answered like this."""
    return error.retryable or isinstance(error, errors.Unavailable)
