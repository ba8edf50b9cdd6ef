"""One placed migration on its way down the list of candidates, until a source's manager takes it.

With a mandate, room is held at a candidate before the source is asked to go there, so that what
the source will ask for is there. Clouds that refused such a machine a moment ago are passed over.
"""

from dataclasses import dataclass, field
from typing import Protocol

from broker import explain, holding, metrics
from broker.amounts import Amounts
from broker.deciding import Decider
from broker.feasible import Rejection
from broker.holding import Attempt, Held, Holder
from broker.place import Placement
from broker.refusals import Wish
from watari import errors, logs
from watari.clock import Clock
from watari.v1 import broker_pb2, common_pb2, manager_pb2

REFUSALS_OF_A_DESTINATION = frozenset({"CLOUD_NOT_FOUND", "VM_ALREADY_THERE"})
"""Reasons of MigrateVm that speak of the destination: another candidate may do better."""

REFUSALS_OF_THE_WORD = frozenset({"NOT_ALLOWED", "DELEGATION_INVALID", "MANDATE_INVALID"})
"""Reasons of HoldForMigration that say nothing of room: the broker is not admitted there, or the
cloud cannot prove what it is shown, such as a document that it sees after its certificate ended."""

UNDECIDED = (errors.Unavailable, errors.DeadlineExceeded, errors.AlreadyExists)
"""Errors of MigrateVm after which the migration may have begun: its room stays counted and held."""

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
class Holding:
    """What is held for a request, and how long candidates may be asked."""

    request: manager_pb2.HoldForMigrationRequest
    reservation_id: str
    wish: Wish
    until: float
    """By the monotonic clock."""
    required: bool = True
    """Without, a candidate that does not take the broker's word is gone to all the same."""

    def goes_without(self, error: errors.WatariError) -> bool:
        """Whether a candidate that said so is gone to although it holds nothing."""
        return not self.required and error.reason in REFUSALS_OF_THE_WORD


@dataclass
class Submission:
    """One request. `run` it once."""

    decider: Decider
    holder: Holder
    clock: Clock
    candidates_max: int
    """Candidates that are asked."""
    manager: Manager
    request: broker_pb2.MigrateRequest
    vm_id: str
    needed: Amounts
    holding: Holding | None
    placement: Placement = field(init=False)
    """Refused candidates are among its rejections."""
    attempts: list[Attempt] = field(default_factory=list)
    held: Held | None = None

    def passing_over(self, placement: Placement) -> Placement:
        """Without the clouds that refused such a machine; what is told of them begins anew."""
        self.attempts.clear()
        if self.holding is None:
            return placement
        clouds = {each.fit.cloud.cloud_id: each.fit.cloud for each in placement.candidates}
        for cloud_id, cloud in clouds.items():
            refusal = self.holder.refused_before(cloud, self.holding.wish)
            if refusal is not None and not self.holding.goes_without(refusal.error):
                attempt, told = holding.passed_over(cloud_id, refusal, self.clock.now())
                self.attempts.append(attempt)
                placement = holding.without(placement, told)
        return placement

    def run(self, placement: Placement) -> manager_pb2.Migration:
        """The migration, once the source's manager has taken it.

        Raises FailedPrecondition NO_CANDIDATE, Unavailable PEER_UNAVAILABLE when not all could be
        asked, DeadlineExceeded DEADLINE_EXCEEDED, and what the source's manager raises; nothing is
        held then, unless the migration may have begun.
        """
        self.placement = placement
        metrics.PASSED_OVER.inc(len(self.attempts))
        asked = 0
        while self.placement.candidates and asked < self.candidates_max:
            cloud_id = self.placement.candidates[0].fit.cloud.cloud_id
            if self.holding is not None and self._refused_meanwhile(self.holding):
                continue
            asked += 1
            if self.holding is not None and not self._hold(self.holding):
                continue
            try:
                return self.manager.migrate_vm(self._order(cloud_id))
            except errors.WatariError as error:
                if error.reason not in REFUSALS_OF_A_DESTINATION:
                    if not isinstance(error, UNDECIDED):
                        self.give_up()
                    raise
                _log.info("migration.destination_refused", cloud=cloud_id, problem=str(error))
                self._next(
                    Rejection(
                        cloud_id,
                        "",
                        "refused",
                        f"the source's manager refused it: {error.message}",
                        "",
                    )
                )
        self.give_up()
        if any(isinstance(each.error, holding.UNANSWERED) for each in self.attempts):
            raise explain.nobody_answered(self.request.vm, self.placement)
        raise explain.no_candidate(self.request.vm, self.placement)

    def give_up(self) -> None:
        """Nothing comes of it: no room is counted or held for it any more."""
        self.decider.forget(self.request.migration_id)
        self._release()

    def _refused_meanwhile(self, wanted: Holding) -> bool:
        """Whether the best candidate has refused another request by now: then it is no more."""
        cloud = self.placement.candidates[0].fit.cloud
        refusal = self.holder.refused_before(cloud, wanted.wish)
        if refusal is None or wanted.goes_without(refusal.error):
            return False
        metrics.PASSED_OVER.inc()
        attempt, told = holding.passed_over(cloud.cloud_id, refusal, self.clock.now())
        self.attempts.append(attempt)
        self._next(told)
        return True

    def _hold(self, wanted: Holding) -> bool:
        """Hold room at the best candidate, or find that it may be gone to without; False when it
        refused: then another is the best.
        """
        cloud = self.placement.candidates[0].fit.cloud
        refusal = None if wanted.required else self.holder.refused_before(cloud, wanted.wish)
        if refusal is not None and wanted.goes_without(refusal.error):
            return True
        began = self.clock.monotonic()
        if began >= wanted.until:
            self.give_up()
            raise explain.out_of_time(self.request.vm, self.placement)
        error: errors.WatariError | None = None
        try:
            self.held = self.holder.hold(
                cloud, wanted.request, wanted.reservation_id, wanted.wish, wanted.until
            )
        except errors.WatariError as raised:
            error = raised
        took = self.clock.monotonic() - began
        self.attempts.append(Attempt(cloud.cloud_id, error, took_seconds=took))
        if error is not None and wanted.goes_without(error):
            return True
        if error is not None:
            self._next(holding.refused(cloud.cloud_id, error))
        return error is None

    def _next(self, rejection: Rejection) -> None:
        self._release()
        self.placement = holding.without(self.placement, rejection)
        for best in self.placement.candidates[:1]:
            self.decider.note(self.request.migration_id, best, self.needed, self.clock.now())

    def _release(self) -> None:
        if self.held is not None:
            self.holder.release(self.held)
            self.held = None

    def _order(self, to_cloud: str) -> manager_pb2.MigrateVmRequest:
        request = self.request
        return manager_pb2.MigrateVmRequest(
            migration_id=request.migration_id,
            vm=self.vm_id,
            to_cloud=to_cloud,
            mode=request.mode,
            options=request.options if request.HasField("options") else None,
            delegation=request.delegation,
            reservation_id="" if self.held is None else self.held.reservation.reservation_id,
        )
