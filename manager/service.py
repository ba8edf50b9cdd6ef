"""The gRPC faces of the manager: check a request, call the domain, return."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import grpc

from manager import inventories, requests, usage, vms
from manager.callers import Callers
from manager.estimate_grants import EstimateGrants
from manager.estimates import Estimates
from manager.evacuations.running import Evacuations
from manager.evacuations.service import EvacuationCalls
from manager.handover import HandOvers
from manager.migrations import Migrations
from manager.ownership import View
from manager.publisher import Publisher
from manager.reservations import Reservations
from manager.settings import Settings
from manager.store import Store
from watari import __version__, errors, paging, rpc, validate
from watari.v1 import manager_pb2, manager_pb2_grpc


@dataclass(frozen=True)
class Domain:
    """What the services call."""

    settings: Settings
    provider_domain: str
    callers: Callers
    store: Store
    migrations: Migrations
    evacuations: Evacuations
    estimates: Estimates
    reservations: Reservations
    estimate_grants: EstimateGrants
    hand_overs: HandOvers
    publisher: Publisher
    stopping: threading.Event


class ManagerServicer(EvacuationCalls, manager_pb2_grpc.ManagerServiceServicer):
    """ManagerService. The contract is in the proto."""

    def __init__(self, domain: Domain) -> None:
        EvacuationCalls.__init__(self, domain.evacuations, self._gone)
        self._domain = domain

    def GetCloudStatus(
        self, _request: manager_pb2.GetCloudStatusRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.GetCloudStatusResponse:
        domain = self._domain
        return manager_pb2.GetCloudStatusResponse(
            cloud_id=domain.settings.cloud_id,
            provider_domain=domain.provider_domain,
            directory_problem=domain.publisher.problem,
            migrations_active=domain.migrations.active_count(self._view()),
            version=__version__,
        )

    def ListVms(
        self, request: manager_pb2.ListVmsRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListVmsResponse:
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        after = paging.decode(query, request.page_token, (str, str))
        with self._domain.store.read() as connection:
            rows = vms.owned(
                connection,
                self._domain.settings.cloud_id,
                self._view(),
                after=after,
                limit=size + 1,
            )
        return manager_pb2.ListVmsResponse(
            vms=[row.message() for row in rows[:size]],
            next_page_token=_next(query, [(row.name, row.vm_id) for row in rows], size),
        )

    def GetVm(
        self, request: manager_pb2.GetVmRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.GetVmResponse:
        key = validate.require_text(
            request.vm, "vm", bytes_max=requests.NAME_BYTES_MAX, empty=False
        )
        caller = self._domain.callers.of_get_vm(request, rpc.current_peer())
        with self._domain.store.read() as connection:
            row = vms.find(connection, self._domain.settings.cloud_id, key, caller.view)
        return manager_pb2.GetVmResponse(vm=row.message())

    def ListInventories(
        self, request: manager_pb2.ListInventoriesRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListInventoriesResponse:
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        (after,) = paging.decode(query, request.page_token, (str,)) or ("",)
        with self._domain.store.read() as connection:
            agents = self._domain.settings.agents
            found = inventories.page(connection, agents, after=after, limit=size + 1)
        return manager_pb2.ListInventoriesResponse(
            inventories=found[:size],
            next_page_token=_next(query, [(each.host_id,) for each in found], size),
        )

    def MigrateVm(
        self, request: manager_pb2.MigrateVmRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.MigrateVmResponse:
        caller = self._domain.callers.of_migrate(requests.migrate(request), rpc.current_peer())
        migration = self._domain.migrations.start(request, caller)
        return manager_pb2.MigrateVmResponse(migration=migration)

    def EstimateMigration(
        self, request: manager_pb2.EstimateMigrationRequest, context: grpc.ServicerContext
    ) -> manager_pb2.EstimateMigrationResponse:
        return self._domain.estimates.estimate(
            requests.estimate(request), self._view(), self._gone(context)
        )

    def GetMigration(
        self, request: manager_pb2.GetMigrationRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.GetMigrationResponse:
        migration_id = validate.require_uuid(request.migration_id, "migration_id")
        caller = self._domain.callers.of_get_migration(request, rpc.current_peer())
        migration = self._domain.migrations.get(migration_id, caller)
        return manager_pb2.GetMigrationResponse(migration=migration)

    def ListMigrations(
        self, request: manager_pb2.ListMigrationsRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListMigrationsResponse:
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        if request.vm_id:
            validate.require_uuid(request.vm_id, "vm_id")
        found = self._domain.migrations.page(
            self._view(),
            active_only=request.active_only,
            vm_id=request.vm_id,
            after=paging.decode(query, request.page_token, (int, str)),
            limit=size + 1,
        )
        return manager_pb2.ListMigrationsResponse(
            migrations=[migration for _, migration in found[:size]],
            next_page_token=_next(query, [position for position, _ in found], size),
        )

    def WatchMigration(
        self, request: manager_pb2.WatchMigrationRequest, context: grpc.ServicerContext
    ) -> Iterator[manager_pb2.WatchMigrationResponse]:
        migration_id = validate.require_uuid(request.migration_id, "migration_id")
        view, gone = self._view(), self._gone(context)
        with self._domain.migrations.watch(migration_id, view, gone) as changes:
            for migration in changes:
                yield manager_pb2.WatchMigrationResponse(migration=migration)

    def CancelMigration(
        self, request: manager_pb2.CancelMigrationRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.CancelMigrationResponse:
        migration_id = validate.require_uuid(request.migration_id, "migration_id")
        return manager_pb2.CancelMigrationResponse(
            migration=self._domain.migrations.cancel(migration_id, self._view(), rpc.current_peer())
        )

    def SetMigrationLimit(
        self, request: manager_pb2.SetMigrationLimitRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.SetMigrationLimitResponse:
        requests.limit(request)
        migration = self._domain.migrations.set_limit(
            request.migration_id,
            self._view(),
            request.limit_bytes_per_second,
            request.limit_schedule,
            rpc.current_peer(),
        )
        return manager_pb2.SetMigrationLimitResponse(migration=migration)

    def _view(self) -> View:
        """What the person who calls may see."""
        return self._domain.callers.person(rpc.current_peer())

    def _gone(self, context: grpc.ServicerContext) -> Callable[[], bool]:
        """Tells whether nobody waits for a long call any more; raises when the manager stops."""

        def gone() -> bool:
            if self._domain.stopping.is_set():
                raise errors.Unavailable(
                    "SERVER_UNAVAILABLE", "the manager is stopping", hint="ask again in a moment"
                )
            return not context.is_active()

        return gone


class ReservationServicer(manager_pb2_grpc.ReservationServiceServicer):
    """ReservationService. A manager sees and changes what it reserved itself."""

    def __init__(self, domain: Domain) -> None:
        self._reservations = domain.reservations
        self._estimate_grants = domain.estimate_grants
        self._hand_overs = domain.hand_overs

    def Reserve(
        self, request: manager_pb2.ReserveRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ReserveResponse:
        return self._reservations.reserve(requests.reserve(request), rpc.current_peer())

    def GrantEstimate(
        self, request: manager_pb2.GrantEstimateRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.GrantEstimateResponse:
        return self._estimate_grants.grant(requests.grant_estimate(request), rpc.current_peer())

    def GetReservation(
        self, request: manager_pb2.GetReservationRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.GetReservationResponse:
        reservation_id = validate.require_uuid(request.reservation_id, "reservation_id")
        row = self._reservations.get(reservation_id, rpc.current_peer())
        return manager_pb2.GetReservationResponse(reservation=row.message())

    def ListReservations(
        self, request: manager_pb2.ListReservationsRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListReservationsResponse:
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        after = paging.decode(query, request.page_token, (int, str))
        rows = self._reservations.page(active_only=request.active_only, after=after, limit=size + 1)
        positions = [(row.created_at, row.reservation_id) for row in rows]
        return manager_pb2.ListReservationsResponse(
            reservations=[row.message() for row in rows[:size]],
            next_page_token=_next(query, positions, size),
        )

    def ExtendReservation(
        self, request: manager_pb2.ExtendReservationRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ExtendReservationResponse:
        reservation_id = validate.require_uuid(request.reservation_id, "reservation_id")
        ttl = validate.require_range(request.ttl_seconds, "ttl_seconds", *requests.TTL_SECONDS)
        row = self._reservations.extend(reservation_id, ttl, rpc.current_peer())
        return manager_pb2.ExtendReservationResponse(reservation=row.message())

    def ConfirmReservation(
        self, request: manager_pb2.ConfirmReservationRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ConfirmReservationResponse:
        reservation_id = validate.require_uuid(request.reservation_id, "reservation_id")
        row = self._reservations.confirm(reservation_id, rpc.current_peer())
        return manager_pb2.ConfirmReservationResponse(reservation=row.message())

    def ReleaseReservation(
        self, request: manager_pb2.ReleaseReservationRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ReleaseReservationResponse:
        reservation_id = validate.require_uuid(request.reservation_id, "reservation_id")
        row = self._reservations.release(reservation_id, rpc.current_peer())
        return manager_pb2.ReleaseReservationResponse(
            reservation=None if row is None else row.message()
        )

    def HandOverVm(
        self, request: manager_pb2.HandOverVmRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.HandOverVmResponse:
        ownership = self._hand_overs.accept(request.hand_over, rpc.current_peer())
        return manager_pb2.HandOverVmResponse(accepted=ownership)


class AccountingServicer(manager_pb2_grpc.AccountingServiceServicer):
    """AccountingService."""

    def __init__(self, domain: Domain) -> None:
        self._store = domain.store
        self._callers = domain.callers

    def ListUsageRecords(
        self, request: manager_pb2.ListUsageRecordsRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListUsageRecordsResponse:
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        tenant = validate.require_text(
            request.tenant, "tenant", bytes_max=requests.TENANT_BYTES_MAX
        )
        if request.vm_id:
            validate.require_uuid(request.vm_id, "vm_id")
        (after,) = paging.decode(query, request.page_token, (int,)) or (0,)
        view = self._callers.person(rpc.current_peer())
        with self._store.read() as connection:
            rows = usage.page(
                connection, view, tenant=tenant, vm_id=request.vm_id, after=after, limit=size + 1
            )
        return manager_pb2.ListUsageRecordsResponse(
            records=[record for _, record in rows[:size]],
            next_page_token=_next(query, [(sequence,) for sequence, _ in rows], size),
        )


def _next(query: bytes, positions: Sequence[tuple[str | int, ...]], size: int) -> str:
    """The token of the next page, if one more than a page was found."""
    return paging.encode(query, positions[size - 1]) if len(positions) > size else ""
