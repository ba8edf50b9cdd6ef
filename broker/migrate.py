"""A placed migration: asks the source's manager to migrate to the best candidate it accepts.

The manager runs the migration; this asks for it, and keeps nothing. Repeating a request is safe: a
migration of that id is looked up first, and what it is decides over what would be placed now.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from broker import criteria, delegations, endpoints, explain, place
from broker.amounts import Amounts
from broker.catalogue import Catalogue
from broker.deciding import Decider
from broker.feasible import Rejection
from broker.place import Placement
from broker.snapshot import Snapshot
from watari import errors, logs
from watari.clock import Clock
from watari.identity import Identity, SpiffeId
from watari.settings import EndpointSettings
from watari.v1 import broker_pb2, common_pb2, manager_pb2

REFUSALS_OF_A_DESTINATION = frozenset({"CLOUD_NOT_FOUND", "VM_ALREADY_THERE"})
"""Reasons of MigrateVm that speak of the destination: another candidate may do better."""

UNDECIDED = (errors.Unavailable, errors.DeadlineExceeded, errors.AlreadyExists)
"""Errors of MigrateVm after which the migration may have begun: its room stays counted."""

_log = logs.get(__name__)


class Manager(Protocol):
    """What is asked of a source's manager. Each call raises WatariError."""

    def get_vm(self, vm_id: str, delegation: common_pb2.SignedDocument) -> manager_pb2.Vm:
        """ManagerService.GetVm."""
        ...

    def get_migration(
        self, migration_id: str, delegation: common_pb2.SignedDocument
    ) -> manager_pb2.Migration:
        """ManagerService.GetMigration."""
        ...

    def migrate_vm(self, order: manager_pb2.MigrateVmRequest) -> manager_pb2.Migration:
        """ManagerService.MigrateVm."""
        ...


@dataclass(frozen=True)
class Migrator:
    """Places and submits. May be used from any thread."""

    catalogue: Catalogue
    decider: Decider
    managers: Callable[[EndpointSettings], Manager]
    own: Identity
    clock: Clock
    submissions_max: int

    def migrate(
        self, request: broker_pb2.MigrateRequest, caller: SpiffeId
    ) -> broker_pb2.MigrateResponse:
        """Carries out BrokerService.Migrate for `caller`, who must have signed the delegation.

        A repeated request is answered with the migration as it stands, without `placement`: that
        was the answer to the first. Raises Denied DELEGATION_INVALID, NotFound CLOUD_NOT_FOUND,
        FailedPrecondition NO_CANDIDATE, AlreadyExists ID_REUSED, Unavailable PEER_UNAVAILABLE, and
        what the source's manager raises.
        """
        delegation = delegations.require(request, caller, self.own, self.clock.now())
        return self.carry_out(request, delegation.vm_id, tuple(delegation.to_clouds))

    def carry_out(
        self, request: broker_pb2.MigrateRequest, vm_id: str, to_clouds: tuple[str, ...]
    ) -> broker_pb2.MigrateResponse:
        """The same for one machine, to one of the clouds (any, where there are none), under the
        request's delegation, which the source's manager checks.
        """
        snapshot = self.catalogue.current()
        manager = self.managers(_source_manager(snapshot, request.from_cloud))
        present = _present(manager, request)
        if present is not None:
            return broker_pb2.MigrateResponse(migration=present)
        vm = manager.get_vm(vm_id, request.delegation)
        delegations.require_vm(vm_id, request.vm, vm)
        wanted = replace(criteria.of_migrate(request, vm.resources), to_clouds=to_clouds)
        now = self.clock.now()
        placement = self.decider.decide(
            request.migration_id,
            snapshot,
            wanted.needed,
            now,
            lambda view: place.place(view, wanted, now, held_max=criteria.CANDIDATES_MAX),
        )
        try:
            migration, placement = self._submit(
                manager, request, vm.vm_id, wanted.needed, placement
            )
        except errors.AlreadyExists:
            # Two requests of one id may race; the migration of the first is the answer to both.
            present = _present(manager, request)
            if present is None:
                raise
            return broker_pb2.MigrateResponse(migration=present)
        return broker_pb2.MigrateResponse(
            migration=migration,
            placement=place.response(placement, wanted.candidates_max, self.clock.now()),
        )

    def _submit(
        self,
        manager: Manager,
        request: broker_pb2.MigrateRequest,
        vm_id: str,
        needed: Amounts,
        placement: Placement,
    ) -> tuple[manager_pb2.Migration, Placement]:
        """The migration, and the placement with refused candidates among the rejections."""
        for _ in range(self.submissions_max):
            if not placement.candidates:
                break
            to_cloud = placement.candidates[0].fit.cloud.cloud_id
            try:
                return manager.migrate_vm(_order(request, vm_id, to_cloud)), placement
            except errors.WatariError as error:
                if error.reason not in REFUSALS_OF_A_DESTINATION:
                    if not isinstance(error, UNDECIDED):
                        self.decider.forget(request.migration_id)
                    raise
                _log.info("migration.destination_refused", cloud=to_cloud, problem=str(error))
                placement = without(placement, to_cloud, error)
                for best in placement.candidates[:1]:
                    self.decider.note(request.migration_id, best, needed, self.clock.now())
        self.decider.forget(request.migration_id)
        raise explain.no_candidate(request.vm, placement)


def without(placement: Placement, cloud_id: str, error: errors.WatariError) -> Placement:
    """The placement once the source's manager has refused a cloud as destination."""
    refusal = Rejection(
        cloud_id, "", "refused", f"the source's manager refused it: {error.message}", ""
    )
    return replace(
        placement,
        candidates=tuple(c for c in placement.candidates if c.fit.cloud.cloud_id != cloud_id),
        rejections=tuple(
            sorted((*placement.rejections, refusal), key=lambda one: (one.cloud_id, one.offer))
        ),
    )


def _source_manager(snapshot: Snapshot, cloud_id: str) -> EndpointSettings:
    cloud = snapshot.clouds.get(cloud_id)
    if cloud is None:
        raise errors.NotFound(
            "CLOUD_NOT_FOUND",
            f"the directory has no cloud {cloud_id} at revision {snapshot.revision}",
            hint="its manager has to publish it first",
            cloud=cloud_id,
        )
    return endpoints.manager_of(cloud)


def _present(manager: Manager, request: broker_pb2.MigrateRequest) -> manager_pb2.Migration | None:
    """The migration that an earlier request of this id began, or None."""
    try:
        migration = manager.get_migration(request.migration_id, request.delegation)
    except errors.NotFound as error:
        if error.reason != "MIGRATION_NOT_FOUND":
            raise
        return None
    if request.vm not in (migration.vm_id, migration.vm_name):
        raise errors.AlreadyExists(
            "ID_REUSED",
            f"migration {request.migration_id} is one of machine {migration.vm_name}",
            hint="make a new id for every migration",
            migration=request.migration_id,
        )
    return migration


def _order(
    request: broker_pb2.MigrateRequest, vm_id: str, to_cloud: str
) -> manager_pb2.MigrateVmRequest:
    return manager_pb2.MigrateVmRequest(
        migration_id=request.migration_id,
        vm=vm_id,
        to_cloud=to_cloud,
        mode=request.mode,
        options=request.options if request.HasField("options") else None,
        delegation=request.delegation,
    )
