"""The servers as the commands see them: one method a call, whole lists, errors that name them.

How a call is made, and what of it is repeated, is `watari.cli.calls`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from watari import errors, rpc
from watari.cli.broker_client import Broker
from watari.cli.calls import PAGE_SIZE, Peer, pages
from watari.cli.membership import Membership
from watari.cli.settings import ClientSettings
from watari.clock import SystemClock
from watari.identity import Identity, SpiffeId
from watari.keeper import Keeper, ManagerIssuer
from watari.settings import EndpointSettings, IdentitySettings
from watari.v1 import (
    common_pb2,
    directory_pb2,
    directory_pb2_grpc,
    manager_pb2,
    manager_pb2_grpc,
)

RECORDS_MAX = 1_000_000
"""Records of one listing: some 500 MB."""

_PAGE_SIZE_MAX = 1000


class Manager:
    """A cloud's manager."""

    def __init__(self, cloud_id: str, peer: Peer, settings: ClientSettings) -> None:
        self.cloud_id = cloud_id
        self.peer = peer
        self.watch_seconds_max = settings.watch_seconds_max
        self._estimate_seconds_max = settings.estimate_seconds_max
        self._stub = manager_pb2_grpc.ManagerServiceStub(peer.channel)
        self._accounting = manager_pb2_grpc.AccountingServiceStub(peer.channel)

    def status(self) -> manager_pb2.GetCloudStatusResponse:
        """Which cloud it is and how it is."""
        return self.peer.read(self._stub.GetCloudStatus, manager_pb2.GetCloudStatusRequest())

    def vms(self) -> list[manager_pb2.Vm]:
        """Every machine of the cloud, by name."""
        return pages(
            lambda token: self.peer.read(
                self._stub.ListVms,
                manager_pb2.ListVmsRequest(page_size=PAGE_SIZE, page_token=token),
            ),
            lambda page: page.vms,
        )

    def vm(self, name: str) -> manager_pb2.Vm:
        """A machine by UUID or name. Raises NotFound VM_NOT_FOUND."""
        return self.peer.read(self._stub.GetVm, manager_pb2.GetVmRequest(vm=name)).vm

    def inventories(self) -> list[manager_pb2.Inventory]:
        """What its hosts provide."""
        return pages(
            lambda token: self.peer.read(
                self._stub.ListInventories,
                manager_pb2.ListInventoriesRequest(page_size=PAGE_SIZE, page_token=token),
            ),
            lambda page: page.inventories,
        )

    def audit_allocations(self, *, repair: bool) -> list[manager_pb2.Drift]:
        """Where what is written down and what is there have parted."""
        request = manager_pb2.AuditAllocationsRequest(repair=repair)
        patient = self.peer.patient(self._estimate_seconds_max)
        return list(patient.change(self._stub.AuditAllocations, request).drifts)

    def migrate(self, request: manager_pb2.MigrateVmRequest) -> manager_pb2.Migration:
        """Starts a migration; repeating it with the same id is safe."""
        return self.peer.change(self._stub.MigrateVm, request).migration

    def migration(self, migration_id: str) -> manager_pb2.Migration:
        """A migration that leaves this cloud. Raises NotFound MIGRATION_NOT_FOUND."""
        request = manager_pb2.GetMigrationRequest(migration_id=migration_id)
        return self.peer.read(self._stub.GetMigration, request).migration

    def migrations(self, *, active_only: bool, vm_id: str) -> list[manager_pb2.Migration]:
        """Migrations that leave this cloud, newest first."""
        return pages(
            lambda token: self.peer.read(
                self._stub.ListMigrations,
                manager_pb2.ListMigrationsRequest(
                    page_size=PAGE_SIZE, page_token=token, active_only=active_only, vm_id=vm_id
                ),
            ),
            lambda page: page.migrations,
        )

    def watch(self, migration_id: str) -> Iterator[manager_pb2.Migration]:
        """A migration at every change until it ends or the stream does. Raises WatariError."""
        request = manager_pb2.WatchMigrationRequest(migration_id=migration_id)
        try:
            with rpc.stream(
                self._stub.WatchMigration, request, timeout_seconds=self.watch_seconds_max
            ) as responses:
                for response in responses:
                    yield response.migration
        except errors.WatariError as error:
            raise self.peer.named(error) from error

    def cancel(self, migration_id: str) -> manager_pb2.Migration:
        """Asks a migration to end before its commit point."""
        request = manager_pb2.CancelMigrationRequest(migration_id=migration_id)
        return self.peer.change(self._stub.CancelMigration, request).migration

    def estimate(
        self, request: manager_pb2.EstimateMigrationRequest
    ) -> manager_pb2.EstimateMigrationResponse:
        """What a migration would take. Not repeated: every try reads the disks."""
        return self.peer.patient(self._estimate_seconds_max).change(
            self._stub.EstimateMigration, request
        )

    def set_limit(
        self,
        migration_id: str,
        bytes_per_second: int,
        schedule: Sequence[common_pb2.LimitWindow] = (),
    ) -> manager_pb2.Migration:
        """Changes the bandwidth cap of a running migration, 0 for none, and those at certain times
        of the day.
        """
        request = manager_pb2.SetMigrationLimitRequest(
            migration_id=migration_id,
            limit_bytes_per_second=bytes_per_second,
            limit_schedule=schedule,
        )
        return self.peer.change(self._stub.SetMigrationLimit, request).migration

    def quote(self, request: manager_pb2.IssueQuoteRequest) -> common_pb2.SignedDocument:
        """A signed offer, which changes nothing there."""
        return self.peer.read(self._accounting.IssueQuote, request).quote

    def quotas(self, tenant_domain: str = "", tenant: str = "") -> list[manager_pb2.Quota]:
        """Limits of tenants and what they use, by provider, then tenant; or one tenant's."""
        return pages(
            lambda token: self.peer.read(
                self._accounting.ListQuotas,
                manager_pb2.ListQuotasRequest(
                    page_size=PAGE_SIZE,
                    page_token=token,
                    tenant_domain=tenant_domain,
                    tenant=tenant,
                ),
            ),
            lambda page: page.quotas,
        )

    def put_quota(self, request: manager_pb2.PutQuotaRequest) -> manager_pb2.Quota:
        """Sets a quota; repeating it with the same id is safe."""
        return self.peer.change(self._accounting.PutQuota, request).quota

    def delete_quota(self, tenant_domain: str, tenant: str) -> None:
        """Deletes a quota, if there is one."""
        request = manager_pb2.DeleteQuotaRequest(tenant_domain=tenant_domain, tenant=tenant)
        self.peer.change(self._accounting.DeleteQuota, request)

    def usage(self, *, vm_id: str = "", tenant: str = "") -> list[manager_pb2.UsageRecord]:
        """What the cloud metered, oldest first."""
        return pages(
            lambda token: self.peer.read(
                self._accounting.ListUsageRecords,
                manager_pb2.ListUsageRecordsRequest(
                    page_size=PAGE_SIZE, page_token=token, vm_id=vm_id, tenant=tenant
                ),
            ),
            lambda page: page.records,
        )

    def usage_events(self, *, vm_id: str = "", tenant: str = "") -> list[manager_pb2.UsageEvent]:
        """What the cloud's hosts told, as it was recorded."""
        return pages(
            lambda token: self.peer.read(
                self._accounting.ListUsageEvents,
                manager_pb2.ListUsageEventsRequest(
                    page_size=PAGE_SIZE, page_token=token, vm_id=vm_id, tenant=tenant
                ),
            ),
            lambda page: page.events,
        )


@dataclass
class Listing:
    """The whole catalogue."""

    records: list[directory_pb2.Record] = field(default_factory=list)
    revision: int = 0
    age_seconds: float | None = None
    """How old it may be, while the directory's store is away."""


class Directory:
    """The directory, at whichever of its servers answers."""

    def __init__(self, peers: Sequence[Peer]) -> None:
        self._peers = peers

    def records(
        self, kind: directory_pb2.RecordKind.ValueType, *, cloud_id: str = "", filter_text: str = ""
    ) -> list[directory_pb2.Record]:
        """Records of a kind that match, by key."""
        return pages(
            lambda token: self._query(
                directory_pb2.QueryRecordsRequest(
                    kind=kind,
                    cloud_id=cloud_id,
                    filter=filter_text,
                    page_size=PAGE_SIZE,
                    page_token=token,
                )
            ),
            lambda page: page.records,
        )

    def listing(self) -> Listing:
        """Every record, at one revision. Raises OutOfRange REVISION_COMPACTED when reading takes
        longer than the directory keeps that.
        """
        found = Listing()
        request = directory_pb2.QueryRecordsRequest(page_size=_PAGE_SIZE_MAX)
        while len(found.records) < RECORDS_MAX:
            page = self._query(request)
            found.revision = page.revision
            if page.HasField("snapshot_age"):
                found.age_seconds = page.snapshot_age.ToTimedelta().total_seconds()
            found.records.extend(page.records)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token
        raise errors.Exhausted(
            "PEER_ERROR", f"the directory has more than {RECORDS_MAX} records", limit=RECORDS_MAX
        )

    def _query(
        self, request: directory_pb2.QueryRecordsRequest
    ) -> directory_pb2.QueryRecordsResponse:
        """A page from the first server that answers; a token of one is good at the others."""
        for peer in self._peers[:-1]:
            with contextlib.suppress(errors.Unavailable, errors.DeadlineExceeded):
                return self._ask(peer, request)
        return self._ask(self._peers[-1], request)

    @staticmethod
    def _ask(
        peer: Peer, request: directory_pb2.QueryRecordsRequest
    ) -> directory_pb2.QueryRecordsResponse:
        stub = directory_pb2_grpc.DirectoryServiceStub(peer.channel)
        return peer.read(stub.QueryRecords, request)


class Clients:
    """Every server that the settings name. Channels are made when they are first used."""

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self._pools: dict[IdentitySettings, rpc.ChannelPool] = {}
        self._identities: dict[IdentitySettings, Identity] = {}

    @property
    def cloud_ids(self) -> list[str]:
        """The clouds that the user may ask."""
        return sorted(self.settings.clouds)

    def manager(self, cloud_id: str) -> Manager:
        """A cloud's manager. Raises NotFound CLOUD_NOT_FOUND when the settings do not have it."""
        cloud = self.settings.clouds.get(cloud_id)
        if cloud is None:
            raise cloud_not_found(cloud_id, self.cloud_ids)
        peer = self.peer(f"the manager of {cloud_id}", cloud.manager, cloud.identity)
        return Manager(cloud_id, peer, self.settings)

    def membership(self, cloud_id: str | None = None) -> Membership:
        """A cloud's manager as what stands for its provider; the first cloud's unless one is named.
        Raises NotFound CLOUD_NOT_FOUND.
        """
        name = cloud_id or next(iter(self.settings.clouds), "")
        return Membership(name, self.manager(name).peer)

    def directory(self) -> Directory:
        """The directory. Raises InvalidArgument CONFIG_INVALID when the settings have none."""
        first = self._configured("directory", self.settings.directory)
        endpoints = (first, *self.settings.further_directories)
        identity = self.settings.identity
        return Directory([self.peer("the directory", each, identity) for each in endpoints])

    def broker(self, acting_for: str = "") -> Broker:
        """The broker, asked as the user of a cloud. Raises InvalidArgument CONFIG_INVALID."""
        endpoint = self._configured("broker", self.settings.broker)
        peer = self.peer("the broker", endpoint, self._acting(acting_for))
        return Broker(peer, self.settings.watch_seconds_max)

    def identity(self, acting_for: str) -> Identity:
        """Who asks as the user of a cloud. Raises FailedPrecondition for unusable credentials."""
        return self._identity(self._acting(acting_for))

    def peer(self, title: str, endpoint: EndpointSettings, identity: IdentitySettings) -> Peer:
        """A server by its endpoint. Raises FailedPrecondition when the credentials are unusable."""
        pool = self._pools.get(identity)
        if pool is None:
            own = self._identity(identity)
            pool = self._pools[identity] = rpc.ChannelPool(own)
            _keep(own, identity, pool)
        target = rpc.Target(endpoint.address, SpiffeId.parse(endpoint.spiffe_id))
        return Peer(title, endpoint, pool.get(target), self.settings.call_seconds_max)

    def close(self) -> None:
        """Closes every channel."""
        for pool in self._pools.values():
            pool.close()

    def _acting(self, cloud_id: str) -> IdentitySettings:
        cloud = self.settings.clouds.get(cloud_id)
        return cloud.identity if cloud else self.settings.identity

    def _identity(self, files: IdentitySettings) -> Identity:
        if files not in self._identities:
            self._identities[files] = Identity.load(files.certificate, files.key, files.trust)
        return self._identities[files]

    @staticmethod
    def _configured(what: str, endpoint: EndpointSettings | None) -> EndpointSettings:
        if endpoint is None:
            raise errors.InvalidArgument(
                "CONFIG_INVALID",
                f"the settings name no {what}",
                hint=f"add a table [client.{what}] with address and spiffe_id",
            )
        return endpoint


def _keep(own: Identity, settings: IdentitySettings, pool: rpc.ChannelPool) -> None:
    """A person's certificate is renewed when it is used, and whom to trust is asked of the own
    provider's manager; one that is away is asked next time.

    Raises Unauthenticated PEER_UNAUTHENTICATED for one that has run out.
    """
    clock = SystemClock()
    until = own.current().validity[1]
    if until <= clock.now():
        raise errors.Unauthenticated(
            "PEER_UNAUTHENTICATED",
            f"the certificate of {own.spiffe_id} ran out at {until:%Y-%m-%d %H:%M} UTC",
            hint="have its provider issue another: watari ca issue",
        )
    if settings.issuer is not None:
        target = rpc.Target(settings.issuer.address, SpiffeId.parse(settings.issuer.spiffe_id))
        keeper = Keeper(own, ManagerIssuer(pool, target), clock)
        keeper.check()
        own.trust.ask = keeper.ask


def cloud_not_found(cloud_id: str, known: Sequence[str]) -> errors.NotFound:
    """The error for a cloud that is not there, with those that are."""
    return errors.NotFound(
        "CLOUD_NOT_FOUND",
        f"there is no cloud {cloud_id!r}",
        hint=f"known clouds: {', '.join(known) or 'none'}",
        cloud=cloud_id,
    )
