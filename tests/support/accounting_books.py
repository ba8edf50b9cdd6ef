"""A cloud's database with recorded usage, and the accounts that are made of it."""

import itertools
import uuid
from datetime import UTC, datetime, timedelta

from manager import usage
from manager.accounting import ledger
from manager.accounting import rows as ledger_rows
from manager.accounting.ledger import Entry
from manager.accounts import rows
from manager.accounts.books import Books
from manager.accounts.facts import Cloud
from manager.accounts.sheets import Sheets
from manager.accounts.spending import Accounts
from manager.metering import rows as metering_rows
from manager.settings.accounts import AccountSettings, PriceSettings
from manager.settings.store import StoreSettings
from manager.store import Store
from watari.clock import FakeClock
from watari.v1 import agent_pb2, common_pb2, manager_pb2

GIB = 1024**3
PRICES = PriceSettings(
    currency="EUR", vcpu_hour="0.5", memory_gib_hour="0.25", disk_gib_month="0.73", egress_gib="2"
)
SMALL = common_pb2.Resources(vcpus=2, memory_bytes=4 * GIB, disk_bytes=10 * GIB)
"""2 EUR an hour while it runs, 0.01 EUR an hour for its disk."""

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


class AccountWorld:
    """The accounts of cloud tokyo, from March 2026 on."""

    def __init__(
        self, database: StoreSettings, settings: AccountSettings, prices: PriceSettings = PRICES
    ) -> None:
        self.store = Store(database)
        self.clock = FakeClock(BEGIN)
        self.settings = settings
        self.sheets = Sheets(prices, self.store, self.clock)
        self.spending = Accounts("tokyo.example", self.sheets)
        self._sequences = itertools.count(1)
        self.restart()

    def restart(self) -> None:
        """As another process would begin."""
        cloud = Cloud("tokyo", "tokyo.example")
        self.books = Books(self.settings, cloud, self.store, self.clock)

    def go_to(self, day: float, month: int = 3) -> None:
        """Let it be a day of a month, 1 being its first moment."""
        moment = datetime(2026, month, 1, tzinfo=UTC) + timedelta(days=day - 1)
        self.clock.advance((moment - self.clock.now()).total_seconds())

    def tell(
        self,
        kind: str,
        vm: str,
        *,
        at: datetime | None = None,
        running: bool = False,
        resources: common_pb2.Resources = SMALL,
        tenant: str = "acme",
    ) -> None:
        """Record what host h1 says of a machine."""
        sequence = next(self._sequences)
        event = agent_pb2.HostEvent(
            sequence=sequence,
            kind=agent_pb2.HostEventKind.Value(f"HOST_EVENT_KIND_{kind}"),
            vm_id=vm,
            vm_name=f"{vm}-name",
            resources=resources,
            state=agent_pb2.GUEST_STATE_RUNNING if running else agent_pb2.GUEST_STATE_SHUT_OFF,
        )
        event.occurred_at.FromDatetime(at or self.clock.now())
        recorded = manager_pb2.UsageEvent(
            event_id=metering_rows.event_id("h1", "log", sequence),
            cloud_id="tokyo",
            host_id="h1",
            log_id="log",
            tenant_domain="tokyo.example",
            tenant=tenant,
            event=event,
        )
        with self.store.write() as connection:
            metering_rows.write(connection, recorded)

    def run(self, vm: str, *, tenant: str = "acme") -> None:
        """A machine appears and is started."""
        self.tell("APPEARED", vm, tenant=tenant)
        self.tell("STARTED", vm, running=True, tenant=tenant)

    def migrated(
        self,
        kind: manager_pb2.UsageKind.ValueType,
        vm: str,
        *,
        at: datetime | None = None,
        tenant: str = "acme",
        domain: str = "tokyo.example",
    ) -> None:
        """Record one side of a migration."""
        migration_id = str(uuid.uuid4())
        record = manager_pb2.UsageRecord(
            usage_id=usage.usage_id(migration_id, kind),
            cloud_id="tokyo",
            kind=kind,
            vm_id=vm,
            tenant=tenant,
            resources=SMALL,
            migration_id=migration_id,
            peer_cloud="osaka",
            wire_bytes=GIB,
        )
        record.occurred_at.FromDatetime(at or self.clock.now())
        with self.store.write() as connection:
            usage.write(connection, record, domain)

    def state(self, period: str) -> str:
        """How far a month is."""
        with self.store.read() as connection:
            return {row.month.label: row.state for row in rows.months(connection)}[period]

    def ledger(self) -> list[Entry]:
        """Every entry, once the chain and all balances have been checked."""
        with self.store.read() as connection:
            chained = list(ledger_rows.everything(connection))
        ledger.verify(chained)
        entries = [each.entry for each in chained]
        assert sum(ledger.balances(entries).values()) == 0
        return entries

    def owed(self, payer: str = "tenant:acme") -> int:
        """What a payer owes by the ledger, in nanos."""
        return ledger.balances(self.ledger()).get(("EUR", f"receivable:{payer}"), 0)
