"""The manager's gRPC face to people and brokers: check a request, call the domain, return."""

from collections.abc import Callable, Iterator

import grpc

from manager import inventories, requests, reshape_checks, vms
from manager.delegation_service import DelegationCalls
from manager.domain import Domain, next_page
from manager.evacuations.service import EvacuationCalls
from manager.ownership import View
from manager.saga.resolving import Word
from watari import __version__, errors, paging, rpc, validate
from watari.v1 import manager_pb2, manager_pb2_grpc


class ManagerServicer(EvacuationCalls, DelegationCalls, manager_pb2_grpc.ManagerServiceServicer):
    """ManagerService. The contract is in the proto."""

    def __init__(self, domain: Domain) -> None:
        EvacuationCalls.__init__(self, domain.evacuations, self._gone)
        DelegationCalls.__init__(self, domain.revocations, domain.callers)
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
        caller = self._domain.callers.of_list_vms(request, rpc.current_peer())
        with self._domain.store.read() as connection:
            rows = vms.owned(
                connection,
                self._domain.settings.cloud_id,
                caller.view,
                vm_ids=caller.vm_ids,
                after=after,
                limit=size + 1,
            )
        return manager_pb2.ListVmsResponse(
            vms=[row.message() for row in rows[:size]],
            next_page_token=next_page(query, [(row.name, row.vm_id) for row in rows], size),
        )

    def GetVm(
        self, request: manager_pb2.GetVmRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.GetVmResponse:
        key = requests.vm_key(request.vm)
        caller = self._domain.callers.of_get_vm(request, rpc.current_peer())
        with self._domain.store.read() as connection:
            row = vms.find(connection, self._domain.settings.cloud_id, key, caller.view)
        return manager_pb2.GetVmResponse(vm=row.message())

    def StartVm(
        self, request: manager_pb2.StartVmRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.StartVmResponse:
        key, caller = requests.vm_key(request.vm), rpc.current_peer()
        vm = self._domain.lifecycle.start(key, self._view(), caller)
        return manager_pb2.StartVmResponse(vm=vm)

    def StopVm(
        self, request: manager_pb2.StopVmRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.StopVmResponse:
        requests.stop(request)
        vm = self._domain.lifecycle.stop(
            request.vm, request.timeout_seconds, self._view(), rpc.current_peer()
        )
        return manager_pb2.StopVmResponse(vm=vm)

    def ListRetainedVms(
        self, request: manager_pb2.ListRetainedVmsRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListRetainedVmsResponse:
        if request.vm_id:
            validate.require_uuid(request.vm_id, "vm_id")
        retained = self._domain.retained.find(request.vm_id)
        return manager_pb2.ListRetainedVmsResponse(retained=retained)

    def PurgeVm(
        self, request: manager_pb2.PurgeVmRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.PurgeVmResponse:
        requests.purge(request)
        purged = self._domain.retained.purge(
            request.vm_id, request.migration_id, rpc.current_peer()
        )
        return manager_pb2.PurgeVmResponse(purged=purged)

    def ListInventories(
        self, request: manager_pb2.ListInventoriesRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListInventoriesResponse:
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        (after,) = paging.decode(query, request.page_token, (str,)) or ("",)
        with self._domain.store.read() as connection:
            agents = self._domain.settings.agents
            pool = self._domain.settings.pool
            found = inventories.page(connection, agents, pool, after=after, limit=size + 1)
        return manager_pb2.ListInventoriesResponse(
            inventories=found[:size],
            next_page_token=next_page(query, [(each.host_id,) for each in found], size),
        )

    def AuditAllocations(
        self, request: manager_pb2.AuditAllocationsRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.AuditAllocationsResponse:
        drifts = self._domain.drifts.look(rpc.current_peer(), repair=request.repair)
        return manager_pb2.AuditAllocationsResponse(drifts=drifts)

    def ReshapeInventory(
        self, request: manager_pb2.ReshapeInventoryRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ReshapeInventoryResponse:
        reshape_checks.require_request(request)
        return self._domain.reshaping.reshape(request, rpc.current_peer())

    def MigrateVm(
        self, request: manager_pb2.MigrateVmRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.MigrateVmResponse:
        caller = self._domain.callers.of_migrate(requests.migrate(request), rpc.current_peer())
        migration = self._domain.migrations.start(request, caller)
        return manager_pb2.MigrateVmResponse(migration=migration)

    def EstimateMigration(
        self, request: manager_pb2.EstimateMigrationRequest, context: grpc.ServicerContext
    ) -> manager_pb2.EstimateMigrationResponse:
        caller = self._domain.callers.of_estimate(requests.estimate(request), rpc.current_peer())
        return self._domain.estimates.estimate(request, caller.view, self._gone(context))

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
            next_page_token=next_page(query, [position for position, _ in found], size),
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

    def ResolveMigration(
        self, request: manager_pb2.ResolveMigrationRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ResolveMigrationResponse:
        requests.resolve(request)
        word = Word(request.resolution, request.justification, str(rpc.current_peer()))
        found = self._domain.resolutions.resolve(request.migration_id, word)
        if isinstance(found, manager_pb2.Reservation):
            return manager_pb2.ResolveMigrationResponse(reservation=found)
        migration = self._domain.migrations.shown(found)
        return manager_pb2.ResolveMigrationResponse(migration=migration)

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
