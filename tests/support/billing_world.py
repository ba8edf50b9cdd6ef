"""Two clouds whose managers' clock goes through months: machines, migrations, bills, settlements.

Everything is real but the hosts, and the time that managers read: managers over their databases,
gRPC over mutual TLS, the accounts as they are kept. Certificates hold for all of the months.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from manager.accounting import ledger, rows
from manager.accounting.ledger import Entry
from manager.settings.accounts import AccountSettings, BillingSettings, PartySettings, PriceSettings
from manager.settings.store import StoreSettings
from tests.conftest import Federation
from tests.support.clouds import VM, Cloud, eventually, two_clouds
from watari import errors
from watari.clock import FakeClock, SystemClock
from watari.identity import Authority, Identity, SpiffeId
from watari.rpc import client
from watari.v1 import agent_pb2, common_pb2, manager_pb2, manager_pb2_grpc

GIB = 1024**3
SIZE = common_pb2.Resources(vcpus=2, memory_bytes=GIB, disk_bytes=4 * GIB)
"""As the scripted host has it."""
CERTIFICATE_SECONDS = 89 * 86_400

OPERATOR = "operator/main"

ON, OFF = agent_pb2.GUEST_STATE_RUNNING, agent_pb2.GUEST_STATE_SHUT_OFF


class Calendar(SystemClock):
    """The machine's time, some days off."""

    def __init__(self) -> None:
        self.off = timedelta()

    def now(self) -> datetime:
        return super().now() + self.off

    def go_to(self, moment: datetime) -> None:
        """Let it be that moment."""
        self.off = moment - super().now()


@dataclass
class LongFederation(Federation):
    """Parties whose certificates outlast the months."""

    clock: Calendar = field(default_factory=Calendar)

    def issue(
        self,
        spiffe_id: SpiffeId,
        authority: Authority,
        valid_seconds: float = CERTIFICATE_SECONDS,
    ) -> Identity:
        # TLS knows the machine's own time, in which a month may begin that has begun here.
        begins = FakeClock(min(self.clock.now(), SystemClock().now()))
        valid = max(valid_seconds, CERTIFICATE_SECONDS)
        return super().issue(spiffe_id, replace(authority, clock=begins), valid)


@dataclass
class Months:
    """tokyo with acme's machine web-1, and osaka, from the first of last month on."""

    clock: Calendar
    first: datetime
    """Midnight of the first of last month."""
    tokyo: Cloud
    osaka: Cloud

    @property
    def label(self) -> str:
        """Last month."""
        return f"{self.first:%Y-%m}"

    @property
    def after(self) -> datetime:
        """The first moment of this month."""
        return (self.first + timedelta(days=32)).replace(day=1)

    def day(self, number: float) -> None:
        """Let it be a day of last month, 1 being its first moment."""
        self.clock.go_to(self.first + timedelta(days=number - 1))

    def end(self) -> None:
        """Let last month be over, and wait until both clouds have closed it: they have begun to
        keep it before, whatever is told of it.
        """
        for cloud in (self.tokyo, self.osaka):
            eventually(partial(begun, cloud, self.label), f"{cloud.cloud_id} keeps accounts")
        self.clock.go_to(self.after + timedelta(hours=1))
        for cloud in (self.tokyo, self.osaka):
            eventually(lambda cloud=cloud: closed(cloud, self.label), f"{cloud.cloud_id} closes")

    def tell(
        self,
        cloud: Cloud,
        kind: str,
        *,
        running: bool,
        migration_id: str = "",
        late_of: float | None = None,
    ) -> None:
        """What the cloud's host says of web-1, once it is recorded: of now or an earlier day."""
        with cloud.agent.lock:
            cloud.agent.tell(
                kind,
                VM,
                vm_name="web-1",
                tenant="acme",
                resources=SIZE,
                state=ON if running else OFF,
                migration_id=migration_id,
            )
            if late_of is not None:
                moment = self.first + timedelta(days=late_of - 1)
                cloud.agent.events[-1].occurred_at.FromDatetime(moment)
        count = len(cloud.agent.events)
        eventually(lambda: len(cloud.usage_events()) >= count, "it is recorded")

    def move(
        self, here: Cloud, there: Cloud, quote: common_pb2.SignedDocument | None = None
    ) -> str:
        """Migrate web-1, at the price of a quote; it runs there."""
        migration_id = here.migrate(VM, there.cloud_id, quote=quote).migration_id
        here.wait_state(migration_id, "SUCCEEDED")
        self.tell(there, "ARRIVED", running=False, migration_id=migration_id)
        self.tell(there, "STARTED", running=True, migration_id=migration_id)
        return migration_id

    def there_and_back(self) -> None:
        """web-1 runs at tokyo, moves to osaka, where it is stopped after a while, and comes back;
        the month is over then.
        """
        self.day(3)
        self.tell(self.tokyo, "APPEARED", running=False)
        self.tell(self.tokyo, "STARTED", running=True)
        self.day(10)
        self.move(self.tokyo, self.osaka)
        self.day(20)
        self.tell(self.osaka, "STOPPED", running=False)
        self.day(24)
        self.move(self.osaka, self.tokyo)
        self.end()


def closed(cloud: Cloud, label: str) -> bool:
    """Whether the charges of a month are posted."""
    return state(cloud, label) == "closed"


def begun(cloud: Cloud, label: str) -> bool:
    """Whether the accounts have got to a month."""
    return state(cloud, label) is not None


def state(cloud: Cloud, label: str) -> str | None:
    """How far a month is; None before the accounts have got there."""
    query = sa.text("SELECT state FROM book_months WHERE period = :label")
    with opened(cloud) as engine, engine.connect() as connection:
        return connection.execute(query, {"label": label}).scalar()


@contextmanager
def opened(cloud: Cloud) -> Iterator[sa.Engine]:
    """The cloud's database, to look at it and to do what no call can."""
    store = cloud.settings.store
    url = store.url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = sa.create_engine(
        url or f"sqlite:///{store.path}", connect_args={} if url else {"timeout": 10}
    )
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def months(folder: Path, databases: tuple[StoreSettings, StoreSettings]) -> Iterator[Months]:
    """The world, with both managers at work, on the second day of last month."""
    clock = Calendar()
    this = clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    first = (this - timedelta(days=1)).replace(day=1)
    clock.go_to(first + timedelta(days=1))
    federation = LongFederation(folder / "federation", clock)
    with two_clouds(federation, folder) as (tokyo, osaka):
        for cloud, store, vcpu in zip((tokyo, osaka), databases, ("7.31", "5.003"), strict=True):
            cloud.change(
                store=store,
                prices=PriceSettings(
                    vcpu_hour=vcpu,
                    memory_gib_hour="1.234567891",
                    disk_gib_month="3.3",
                    egress_gib="11.5",
                    migration_flat="2.5",
                ),
                accounts=AccountSettings(book_seconds=0.1, close_seconds=0.0),
                billing=BillingSettings(
                    issuer=PartySettings(f"{cloud.cloud_id.title()} Cloud", ("1 Main Street",)),
                    customers={"tenant:acme": PartySettings("Acme <b>Analytics</b>")},
                ),
            )
        tokyo.agent.add(VM, "web-1", tenant="acme")
        tokyo.start()
        osaka.start()
        yield Months(clock, first, tokyo, osaka)


def accounts(cloud: Cloud, party: str) -> manager_pb2_grpc.AccountingServiceStub:
    """The money of a cloud, as a party sees it: "operator/main", or a SPIFFE id."""
    caller = party if "://" in party else f"spiffe://{cloud.domain}/{party}"
    return manager_pb2_grpc.AccountingServiceStub(cloud.channel(caller))


def issue(cloud: Cloud, period: str) -> manager_pb2.IssueInvoicesResponse:
    """Issue a month."""
    request = manager_pb2.IssueInvoicesRequest(period=period)
    return client.call(accounts(cloud, OPERATOR).IssueInvoices, request, timeout_seconds=60)


def settle(
    cloud: Cloud, peer: str, period: str, party: str = OPERATOR, **more: str
) -> manager_pb2.GetSettlementResponse:
    """The statement of a month with another cloud, as a party reads it."""
    request = manager_pb2.GetSettlementRequest(cloud_id=peer, period=period, **more)
    return client.call(accounts(cloud, party).GetSettlement, request, timeout_seconds=60)


def net(cloud: Cloud, peer: str, period: str) -> manager_pb2.Settlement:
    """Book it."""
    request = manager_pb2.NetSettlementRequest(cloud_id=peer, period=period)
    return client.call(
        accounts(cloud, OPERATOR).NetSettlement, request, timeout_seconds=60
    ).settlement


def refused(call: Callable[..., object], *arguments: object, **named: object) -> errors.WatariError:
    """What a call ends with."""
    with pytest.raises(errors.WatariError) as caught:
        call(*arguments, **named)
    return caught.value


def invoices(cloud: Cloud, party: str = OPERATOR) -> list[manager_pb2.Invoice]:
    """What a party sees of invoices, with all lines, two a page, which sum to their totals."""
    stub, found = accounts(cloud, party), []
    request = manager_pb2.ListInvoicesRequest(page_size=1)
    while True:
        page = client.call(stub.ListInvoices, request)
        found += [each.invoice_id for each in page.invoices]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return [_whole(stub, each) for each in found]


def _whole(stub: manager_pb2_grpc.AccountingServiceStub, invoice_id: str) -> manager_pb2.Invoice:
    request = manager_pb2.GetInvoiceRequest(invoice_id=invoice_id, page_size=2)
    page = client.call(stub.GetInvoice, request)
    found = page.invoice
    while page.next_page_token:
        request.page_token = page.next_page_token
        page = client.call(stub.GetInvoice, request)
        found.lines.extend(page.invoice.lines)
    assert sum(nanos(line.amount) for line in found.lines) == nanos(found.total)
    assert len(found.lines) == found.lines_count
    return found


def nanos(amount: common_pb2.Money) -> int:
    """An amount as a whole number."""
    return amount.units * 10**9 + amount.nanos


def booked(cloud: Cloud) -> list[Entry]:
    """Every entry of a cloud's ledger, once its chain and balances are checked: here, and by the
    manager.
    """
    with opened(cloud) as engine, engine.connect() as connection:
        chained = list(rows.everything(connection))
        summed = rows.balances(connection)
    entries = [each.entry for each in chained]
    assert ledger.balances(entries) == summed
    assert sum(summed.values()) == 0
    stub = accounts(cloud, OPERATOR)
    told = client.call(stub.VerifyLedger, manager_pb2.VerifyLedgerRequest())
    assert (told.sequence, told.hash) == ledger.verify(chained)
    return entries


def balance(cloud: Cloud, account: str) -> int:
    """What an account holds, in nanos."""
    return ledger.balances(booked(cloud)).get(("JPY", account), 0)


def new_id() -> str:
    """An id of a caller's."""
    return str(uuid.uuid4())
