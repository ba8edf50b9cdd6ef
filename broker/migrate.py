"""A placed migration: room is held at the best candidate that has it, and the source goes there.

The source's manager runs the migration; this asks for it, and keeps nothing. Repeating a request is
safe: a migration of that id is looked up first, and what it is decides over what would be placed
now.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from broker import amounts, delegations, demands, endpoints, mandates, place
from broker.catalogue import Catalogue
from broker.deciding import Decider
from broker.holding import Holder
from broker.mandates import Permit
from broker.place import Placement
from broker.refusals import Wish
from broker.snapshot import Snapshot
from broker.submitting import Holding, Manager, Submission
from watari import errors
from watari.clock import Clock
from watari.identity import Identity, SpiffeId
from watari.settings import EndpointSettings
from watari.v1 import broker_pb2, manager_pb2

WRITTEN = "written"
"""The class of what is written of a machine's disks, among what a refusal may be about."""


@dataclass(frozen=True)
class Migrator:
    """Places and submits. May be used from any thread."""

    catalogue: Catalogue
    decider: Decider
    holder: Holder
    managers: Callable[[EndpointSettings], Manager]
    own: Identity
    clock: Clock
    submissions_max: int
    manager_seconds: float
    """What the source's manager needs at most to take the migration."""

    def migrate(
        self,
        request: broker_pb2.MigrateRequest,
        caller: SpiffeId,
        left_seconds: float | None = None,
    ) -> broker_pb2.MigrateResponse:
        """Carries out BrokerService.Migrate for `caller`, who must have signed the delegation, and
        the mandate if there is one. `left_seconds` is how long it still waits; None is for ever.

        A repeated request is answered with the migration as it stands, without `placement`: that
        was the answer to the first. Raises Denied DELEGATION_INVALID and MANDATE_INVALID, NotFound
        CLOUD_NOT_FOUND, FailedPrecondition NO_CANDIDATE, AlreadyExists ID_REUSED, Unavailable
        PEER_UNAVAILABLE, DeadlineExceeded DEADLINE_EXCEEDED, and what the source's manager raises.
        """
        began, now = self.clock.monotonic(), self.clock.now()
        delegation = delegations.require(request, caller, self.own, now)
        mandate = mandates.require(request, delegation, caller, self.own, now)
        to_clouds = mandates.destinations(delegation, mandate)
        until = None if left_seconds is None else began + left_seconds
        permit = None if mandate is None else mandates.by_mandate(mandate, request.mandate)
        return self.carry_out(request, delegation.vm_id, to_clouds, permit, until)

    def carry_out(
        self,
        request: broker_pb2.MigrateRequest,
        vm_id: str,
        to_clouds: tuple[str, ...],
        permit: Permit | None = None,
        until: float | None = None,
    ) -> broker_pb2.MigrateResponse:
        """The same for one machine, to one of the clouds (any, where there are none), under the
        request's delegation, which the source's manager checks. Room is held first if there is a
        permit for it; `until`, by the monotonic clock, the caller waits.
        """
        snapshot = self.catalogue.current()
        manager = self.managers(_source_manager(snapshot, request.from_cloud))
        present = _present(manager, request)
        if present is not None:
            return broker_pb2.MigrateResponse(migration=present)
        vm = manager.get_vm(vm_id, request.delegation)
        delegations.require_vm(vm_id, request.vm, vm)
        wanted = replace(demands.of_migrate(request, vm.resources), to_clouds=to_clouds)
        left_seconds = None if until is None else until - self.clock.monotonic()
        submission = Submission(
            self.decider,
            self.holder,
            self.clock,
            self.submissions_max if permit is None else self.holder.candidates_max,
            manager,
            request,
            vm.vm_id,
            wanted.needed,
            None if permit is None else self._holding(permit, vm, left_seconds),
        )
        now = self.clock.now()

        def judge(view: Snapshot) -> Placement:
            placed = place.place(view, wanted, now, held_max=demands.CANDIDATES_MAX)
            return submission.passing_over(placed)

        placement = self.decider.decide(request.migration_id, snapshot, wanted.needed, now, judge)
        try:
            migration = submission.run(placement)
        except errors.AlreadyExists:
            # Two requests of one id may race; the migration of the first is the answer to both.
            present = _present(manager, request)
            if present is None:
                raise
            if submission.held is not None and submission.held.cloud.cloud_id != present.to_cloud:
                self.holder.release(submission.held)
            return broker_pb2.MigrateResponse(migration=present)
        held = submission.held
        return broker_pb2.MigrateResponse(
            migration=migration,
            placement=place.response(submission.placement, wanted.candidates_max, self.clock.now()),
            reservation=None if held is None else held.reservation,
            attempts=[each.message() for each in submission.attempts],
        )

    def _holding(self, permit: Permit, vm: manager_pb2.Vm, left_seconds: float | None) -> Holding:
        asked = mandates.hold_request(permit, vm)
        needed = {**amounts.of(asked.resources), WRITTEN: asked.written_bytes}
        return Holding(
            asked,
            permit.reservation_id,
            Wish(permit.tenant, needed),
            self.holder.until(left_seconds, self.manager_seconds),
            required=permit.required,
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
