"""The reservations of one cloud on a real database, and requests for them."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest

from manager import audit, capacity, outbox, tables, vms
from manager.accounting.price_sheet import PriceSheet
from manager.accounting.sheet_documents import from_settings
from manager.admitting import Answer, Asked
from manager.ownership import Tenant
from manager.quotas.book import Quotas
from manager.reservations import Reservations
from manager.settings import Settings
from manager.settings.hosts import AgentSettings, ClassSettings
from manager.settings.reservations import ReservationSettings
from manager.settings.store import StoreSettings
from manager.store import Store, micros
from tests.support import databases
from watari import errors
from watari.clock import FakeClock
from watari.identity import Identity, SpiffeId
from watari.settings import EndpointSettings, IdentitySettings
from watari.v1 import agent_pb2, audit_pb2, common_pb2, manager_pb2

GIB = 1024**3
VCPUS = 8
"""What the one host has."""
OSAKA = "spiffe://osaka.example/manager/main"
TOKYO = SpiffeId.parse("spiffe://tokyo.example/manager/main")


class Spent:
    """Accounts: what tenants have spent, by month and name."""

    currency: str | None = "JPY"

    def __init__(self) -> None:
        self.amounts: dict[tuple[int, str], Decimal] = {}

    def in_month(self, _connection: object, tenant: Tenant, now: datetime) -> Decimal:
        """As it was booked."""
        return self.amounts.get((now.month, tenant.name), Decimal(0))


class Rig:
    """The reservations of osaka, whose one host has 8 CPUs."""

    def __init__(
        self,
        folder: Path,
        own: Identity,
        store: StoreSettings | None = None,
        pool: dict[str, ClassSettings] | None = None,
        start: datetime | None = None,
        booked_max: int = 1000,
        held_per_tenant_max: int = 200,
        **of_host: object,
    ) -> None:
        self.clock = FakeClock(start)
        self.settings = Settings(
            cloud_id="osaka",
            identity=IdentitySettings(folder, folder, folder),
            agents={
                "h1": AgentSettings(
                    "127.0.0.1:1",
                    "spiffe://osaka.example/agent/h1",
                    **of_host,  # type: ignore[arg-type]
                )
            },
            pool=pool or {},
            store=store or databases.sqlite(folder / "db.sqlite"),
            reservations=ReservationSettings(
                booked_max=booked_max, held_per_tenant_max=held_per_tenant_max
            ),
        )
        self.store = Store(self.settings.store)
        self.spending = Spent()
        self.quotas = Quotas(self.store, self.clock, "osaka", own.spiffe_id.domain, self.spending)
        self.reservations = Reservations(
            self.store, self.clock, own, self.settings, self.manager_of, self.quotas, self.sheet
        )
        host = agent_pb2.Host(
            host_id="h1",
            total=common_pb2.Resources(vcpus=VCPUS, memory_bytes=64 * GIB, disk_bytes=1000 * GIB),
            storage_free_bytes=1000 * GIB,
        )
        with self.store.write() as connection:
            capacity.open_pool(connection, self.settings.pool)
            connection.execute(
                tables.hosts.insert().values(
                    host_id="h1",
                    host=host.SerializeToString(),
                    reachable=True,
                    seen_at=0,
                    generation=1,
                )
            )

    def sheet(self) -> PriceSheet:
        """The price sheet in effect: that of the settings."""
        return from_settings(self.settings.prices)

    def manager_of(self, cloud_id: str) -> EndpointSettings | None:
        """What is known of other clouds."""
        return {"tokyo": EndpointSettings("127.0.0.1:1", str(TOKYO))}.get(cloud_id)

    def together(self, calls: Sequence[Asked]) -> list[Answer | errors.WatariError]:
        """The outcomes of calls that share a write, in their order."""
        asking = partial(self.reservations.calls.asking, calls)
        with self.store.write_asking(asking) as (connection, told):
            return self.reservations.calls.together(connection, calls, told)

    def held(self) -> int:
        """CPUs held by reservations."""
        with self.store.read() as connection:
            (host,) = capacity.views(connection, self.settings.agents)
        return host.held.get("vcpus", 0)

    def audit(self) -> list[audit_pb2.AuditEntry]:
        """The whole log."""
        with self.store.read() as connection:
            return audit.page(connection, after=0, limit=1000)

    def owed(self) -> int:
        """Arrivals that are still to be discarded."""
        with self.store.read() as connection:
            return len(outbox.due(connection, micros(self.clock.now()), 10_000))

    def own(self, vm_id: str, cloud_id: str, epoch: int, vcpus: int = 0) -> None:
        """Record who owns a machine."""
        row = vms.VmRow(
            vm_id=vm_id,
            name="web-1",
            cloud_id=cloud_id,
            epoch=epoch,
            host_id="h1",
            tenant_domain="tokyo.example",
            tenant="acme",
            migration_id=None,
            body=manager_pb2.Vm(resources=common_pb2.Resources(vcpus=vcpus)),
            seen_at=0,
        )
        with self.store.write() as connection:
            vms.put(connection, row, counted=cloud_id == "osaka")


def request(vcpus: int = 1, ttl_seconds: int = 60, **changes: object) -> manager_pb2.ReserveRequest:
    """A new reservation."""
    made = manager_pb2.ReserveRequest(
        reservation_id=str(uuid.uuid4()),
        migration_id=str(uuid.uuid4()),
        from_cloud="tokyo",
        vm_id=str(uuid.uuid4()),
        vm_name="web-1",
        tenant="acme",
        source_epoch=1,
        resources=common_pb2.Resources(vcpus=vcpus, memory_bytes=GIB, disk_bytes=4 * GIB),
        disks=[common_pb2.DiskSpec(disk_id="vda", size_bytes=4 * GIB, allocated_bytes=GIB)],
        source_agent="spiffe://tokyo.example/agent/h1",
        ttl_seconds=ttl_seconds,
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def reason_of(call, *arguments) -> str:
    """The reason of the error that a call raises."""
    with pytest.raises(errors.WatariError) as caught:
        call(*arguments)
    return caught.value.reason
