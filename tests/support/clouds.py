"""Clouds for tests: a manager (in this process, or one of its own) over scripted agents."""

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import grpc

from manager.assembly import assemble
from manager.settings import Settings
from manager.settings.hosts import AgentSettings, HostSettings
from manager.settings.migrations import EvacuationSettings, MigrationSettings
from manager.settings.publishing import PublishSettings
from tests.conftest import OSAKA, TOKYO, Federation
from tests.support import databases, processes
from tests.support.scripted_agent import ScriptedAgent
from watari import audit, errors, service
from watari.rpc import Server, client
from watari.settings import EndpointSettings, IdentitySettings
from watari.v1 import audit_pb2, audit_pb2_grpc, common_pb2, manager_pb2, manager_pb2_grpc

WAIT_SECONDS_MAX = 60.0

_Answer = TypeVar("_Answer")

FAST = MigrationSettings(
    retry_initial_seconds=0.02,
    retry_max_seconds=0.1,
    watch_seconds_max=1.0,
    agent_wait_seconds_max=30.0,
    peer_wait_seconds_max=30.0,
    rollback_wait_seconds_max=0.5,
    peer_call_seconds_max=3.0,
    hand_over_seconds_max=3.0,
    concurrent_max=2,
    finishers_max=2,
)


IMPATIENT = replace(FAST, agent_wait_seconds_max=1.0, peer_wait_seconds_max=1.0)
"""Gives up soon on who does not answer."""

FORWARD = [
    "REQUESTED",
    "RESERVING",
    "COPYING",
    "CONFIRMING",
    "HANDED_OVER",
    "RETIRING",
    "SUCCEEDED",
]
"""The states of a migration that succeeds, in order."""

VM = "6f1f2d2e-0000-4000-8000-000000000001"
"""The machine web-1 of most tests."""


@dataclass
class Cloud:
    """One cloud under test. Its database outlives its manager."""

    federation: Federation
    domain: str
    cloud_id: str
    folder: Path
    migrations: MigrationSettings = FAST
    settings: Settings = field(init=False)
    agent: ScriptedAgent = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.port = processes.free_port()
        self.manager_id = f"spiffe://{self.domain}/manager/main"
        self.agent = ScriptedAgent(
            self.federation, self.domain, self.cloud_id, processes.free_port()
        )
        keys = self.federation.folder_of(self.manager_id)
        self.settings = Settings(
            cloud_id=self.cloud_id,
            identity=IdentitySettings(keys / "cert.pem", keys / "key.pem", keys / "trust"),
            address=f"127.0.0.1:{self.port}",
            agents={"host1": AgentSettings(f"127.0.0.1:{self.agent.port}", self.agent.spiffe_id)},
            store=databases.sqlite(self.folder / "manager.sqlite"),
            hosts=HostSettings(poll_seconds=0.1, events_seconds=0.1, call_seconds_max=3.0),
            migrations=self.migrations,
            evacuations=EvacuationSettings(
                check_seconds=0.05, retry_initial_seconds=0.05, retry_max_seconds=0.1
            ),
            publish=PublishSettings(check_seconds=0.1, lease_ttl_seconds=5),
            janitor_seconds=0.05,
            orphans_seconds=0.2,
        )
        self._stack: ExitStack | None = None
        self._server: Server | None = None
        self._channels = ExitStack()

    @property
    def endpoint(self) -> EndpointSettings:
        """Where its manager answers."""
        return EndpointSettings(self.settings.address, self.manager_id)

    def change(self, **values: object) -> None:
        """Other settings for the next start."""
        self.settings = replace(self.settings, **values)  # type: ignore[arg-type]

    def start(self) -> None:
        """A manager over the database, whatever an earlier one left in it."""
        self._stack = ExitStack()
        own = self.federation.party(self.manager_id)
        context = service.Context(clock=self.federation.clock, identity=own, stack=self._stack)
        self._server = assemble(self.settings, context)
        self._server.start()

    def stop(self) -> None:
        """Drop the manager and keep its database."""
        if self._server is not None and self._stack is not None:
            assert self._server.stop(0.2).wait(10), "a call did not end"
            self._stack.close()
        self._server = self._stack = None

    def close(self) -> None:
        """Stop everything."""
        self.stop()
        self.agent.stop()
        self._channels.close()

    def channel(self, caller: str) -> grpc.Channel:
        """A connection to its manager, made by any party."""
        target = processes.target(self.port, self.manager_id)
        return self._channels.enter_context(client.connect(self.federation.party(caller), target))

    @property
    def operator(self) -> manager_pb2_grpc.ManagerServiceStub:
        """The manager as the provider's own operator sees it."""
        return self.seen_by(f"spiffe://{self.domain}/operator/main")

    def seen_by(self, caller: str) -> manager_pb2_grpc.ManagerServiceStub:
        """The manager as any party sees it."""
        return manager_pb2_grpc.ManagerServiceStub(self.channel(caller))

    def reservations(self, caller: str) -> manager_pb2_grpc.ReservationServiceStub:
        """The reservations as another party sees them."""
        return manager_pb2_grpc.ReservationServiceStub(self.channel(caller))

    def usage(self) -> list[manager_pb2.UsageRecord]:
        """Everything that was metered."""
        stub = manager_pb2_grpc.AccountingServiceStub(
            self.channel(f"spiffe://{self.domain}/operator/main")
        )
        request = manager_pb2.ListUsageRecordsRequest()
        return list(_insist(lambda: client.call(stub.ListUsageRecords, request)).records)

    def usage_events(self, caller: str = "", **asked: str) -> list[manager_pb2.UsageEvent]:
        """What hosts told, by default as the operator sees it, two a page."""
        stub = manager_pb2_grpc.AccountingServiceStub(
            self.channel(caller or f"spiffe://{self.domain}/operator/main")
        )
        request, found = manager_pb2.ListUsageEventsRequest(page_size=2, **asked), []
        while True:
            page = _insist(lambda: client.call(stub.ListUsageEvents, request))
            found += page.events
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    def audit(self) -> list[audit_pb2.AuditEntry]:
        """The audit log, page by page as an operator reads it; its chain is sound."""
        stub = audit_pb2_grpc.AuditServiceStub(
            self.channel(f"spiffe://{self.domain}/operator/admin")
        )
        found: list[audit_pb2.AuditEntry] = []
        request = audit_pb2.ListAuditEntriesRequest(page_size=7)
        while page := _insist(lambda: client.call(stub.ListAuditEntries, request)).entries:
            found.extend(page)
            request.after_sequence = found[-1].sequence
        audit.verify(found)
        return found

    def audited_states(self, migration_id: str) -> list[str]:
        """The states that a migration came to, as the audit log has them."""
        actions = ("migration.requested", "migration.state")
        entries = [each for each in self.audit() if each.subject == migration_id]
        return [each.details["state"] for each in entries if each.action in actions]

    def vms(self) -> dict[str, manager_pb2.Vm]:
        """The machines that it owns."""
        request = manager_pb2.ListVmsRequest()
        stub = self.operator
        return {vm.vm_id: vm for vm in _insist(lambda: client.call(stub.ListVms, request)).vms}

    def inventory(self) -> manager_pb2.Inventory:
        """Of its one host."""
        request, stub = manager_pb2.ListInventoriesRequest(), self.operator
        (only,) = _insist(lambda: client.call(stub.ListInventories, request)).inventories
        return only

    def list_reservations(self) -> list[manager_pb2.Reservation]:
        """All of them, newest first."""
        stub = self.reservations(f"spiffe://{self.domain}/operator/main")
        request = manager_pb2.ListReservationsRequest()
        return list(_insist(lambda: client.call(stub.ListReservations, request)).reservations)

    def reservation_state(self, reservation: manager_pb2.Reservation) -> str:
        """Its state's name now."""
        now = {each.reservation_id: each.state for each in self.list_reservations()}
        state = now[reservation.reservation_id]
        return manager_pb2.ReservationState.Name(state).removeprefix("RESERVATION_STATE_")

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """The database, to do what no call can."""
        connection = sqlite3.connect(self.settings.store.path, timeout=10)
        try:
            with connection:
                yield connection
        finally:
            connection.close()

    def migrate(
        self,
        vm: str,
        to_cloud: str,
        migration_id: str | None = None,
        *,
        quote: common_pb2.SignedDocument | None = None,
    ) -> manager_pb2.Migration:
        """Ask for a migration."""
        request = manager_pb2.MigrateVmRequest(
            migration_id=migration_id or str(uuid.uuid4()), vm=vm, to_cloud=to_cloud, quote=quote
        )
        return client.call(self.operator.MigrateVm, request).migration

    def migration(self, migration_id: str) -> manager_pb2.Migration:
        """How it stands; insists while the manager is away."""
        request, stub = manager_pb2.GetMigrationRequest(migration_id=migration_id), self.operator
        return _insist(lambda: client.call(stub.GetMigration, request)).migration

    def cancel(self, migration_id: str) -> manager_pb2.Migration:
        """Cancel it."""
        request = manager_pb2.CancelMigrationRequest(migration_id=migration_id)
        return client.call(self.operator.CancelMigration, request).migration

    def evacuate(self, evacuation_id: str | None = None, **asked: object) -> manager_pb2.Evacuation:
        """Ask for an evacuation of the whole cloud to osaka, unless something else is asked."""
        asked = {"to_clouds": ["osaka"], "concurrency": 2} | asked
        request = manager_pb2.StartEvacuationRequest(
            evacuation_id=evacuation_id or str(uuid.uuid4()),
            **asked,  # type: ignore[arg-type]
        )
        return client.call(self.operator.StartEvacuation, request).evacuation

    def evacuation(self, evacuation_id: str) -> manager_pb2.Evacuation:
        """How it stands; insists while the manager is away."""
        request, stub = manager_pb2.GetEvacuationRequest(evacuation_id=evacuation_id), self.operator
        return _insist(lambda: client.call(stub.GetEvacuation, request)).evacuation

    def wait_evacuated(self, evacuation_id: str) -> manager_pb2.Evacuation:
        """Until the evacuation has ended."""
        eventually(lambda: self.evacuation(evacuation_id).done, "the evacuation ends")
        return self.evacuation(evacuation_id)

    def wait_state(self, migration_id: str, *states: str) -> manager_pb2.Migration:
        """Until the migration is in one of these states."""
        wanted = {manager_pb2.MigrationState.Value(f"MIGRATION_STATE_{each}") for each in states}
        found = self.migration(migration_id)
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while found.state not in wanted:
            assert time.monotonic() < deadline, f"not in {states}: {found}"
            assert not found.HasField("ended_at"), f"ended otherwise than {states}: {found}"
            time.sleep(0.02)
            found = self.migration(migration_id)
        return found

    def wait_ended(self, migration_id: str) -> manager_pb2.Migration:
        """Until it has ended, however."""
        return self.wait_state(migration_id, "SUCCEEDED", "FAILED", "CANCELLED")

    def toml(self) -> str:
        """The settings as a process of its own reads them."""
        s, m, e = self.settings, self.settings.migrations, self.settings.evacuations
        peers = "\n".join(
            f'[manager.peers.{cloud}]\naddress = "{peer.address}"\nspiffe_id = "{peer.spiffe_id}"'
            for cloud, peer in s.peers.items()
        )
        directories = "\n".join(
            f'[[manager.directories]]\naddress = "{each.address}"\nspiffe_id = "{each.spiffe_id}"'
            for each in s.directories
        )
        brokers = ", ".join(f'"{broker}"' for broker in s.brokers)
        return f"""[manager]
cloud_id = "{s.cloud_id}"
address = "{s.address}"
janitor_seconds = {s.janitor_seconds}
orphans_seconds = {s.orphans_seconds}
processors = {list(s.processors)}
brokers = [{brokers}]
[manager.identity]
certificate = "{s.identity.certificate}"
key = "{s.identity.key}"
trust = "{s.identity.trust}"
[manager.store]
path = "{s.store.path}"
url = "{s.store.url}"
lease_seconds = {s.store.lease_seconds}
idle_seconds_max = {s.store.idle_seconds_max}
[manager.accounts]
book_seconds = {s.accounts.book_seconds}
close_seconds = {s.accounts.close_seconds}
[manager.prices]
currency = "{s.prices.currency}"
version = {s.prices.version}
vcpu_hour = "{s.prices.vcpu_hour}"
[manager.reservations]
pending_max = {s.reservations.pending_max}
[manager.hosts]
poll_seconds = {s.hosts.poll_seconds}
call_seconds_max = {s.hosts.call_seconds_max}
events_seconds = {s.hosts.events_seconds}
[manager.migrations]
retry_initial_seconds = {m.retry_initial_seconds}
retry_max_seconds = {m.retry_max_seconds}
watch_seconds_max = {m.watch_seconds_max}
agent_wait_seconds_max = {m.agent_wait_seconds_max}
peer_wait_seconds_max = {m.peer_wait_seconds_max}
rollback_wait_seconds_max = {m.rollback_wait_seconds_max}
hand_over_seconds_max = {m.hand_over_seconds_max}
[manager.evacuations]
check_seconds = {e.check_seconds}
retry_initial_seconds = {e.retry_initial_seconds}
retry_max_seconds = {e.retry_max_seconds}
[manager.agents.host1]
address = "127.0.0.1:{self.agent.port}"
spiffe_id = "{self.agent.spiffe_id}"
[manager.publish]
check_seconds = {s.publish.check_seconds}
lease_ttl_seconds = {s.publish.lease_ttl_seconds}
{peers}
{directories}
"""


@contextmanager
def two_clouds(
    federation: Federation, folder: Path, migrations: MigrationSettings = FAST
) -> Iterator[tuple[Cloud, Cloud]]:
    """tokyo and osaka, which know each other; agents are up, managers are not."""
    tokyo = Cloud(federation, TOKYO, "tokyo", folder / "tokyo", migrations)
    osaka = Cloud(federation, OSAKA, "osaka", folder / "osaka", migrations)
    tokyo.change(peers={"osaka": osaka.endpoint})
    osaka.change(peers={"tokyo": tokyo.endpoint})
    try:
        tokyo.agent.start()
        osaka.agent.start()
        yield tokyo, osaka
    finally:
        tokyo.close()
        osaka.close()


def eventually(
    condition: Callable[[], bool], what: str, seconds_max: float = WAIT_SECONDS_MAX
) -> None:
    """Waits until it holds."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def assert_one_owner(vm_id: str, owner: Cloud, other: Cloud) -> None:
    """Exactly one cloud owns the machine, and exactly its host can start it, sooner or later."""
    assert vm_id in owner.vms()
    assert vm_id not in other.vms()
    eventually(lambda: owner.agent.can_start(vm_id), f"{owner.cloud_id} can start it")
    assert not other.agent.can_start(vm_id)


def _insist(ask: Callable[[], _Answer]) -> _Answer:
    """Asks again while nobody answers: managers restart in these tests."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        try:
            return ask()
        except errors.WatariError as error:
            if not error.retryable or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
