"""Asking for migrations, looking at them, cancelling them. What drives them is `manager.saga`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from sqlalchemy.engine import Connection

from manager import audit, movable, vms
from manager.agents import Agents
from manager.callers import Caller
from manager.events import Board
from manager.ownership import View
from manager.peers import Peers
from manager.saga import records, states
from manager.saga.driver import Driver
from manager.saga.record import Record
from manager.saga.states import State
from manager.settings import Settings
from manager.store import Store, micros
from watari import errors, failpoint, identity, windows
from watari.clock import Clock
from watari.settings import EndpointSettings
from watari.v1 import common_pb2, manager_pb2

AFTER_REQUEST = failpoint.declare("manager.saga.after_request")
AFTER_CANCEL = failpoint.declare("manager.saga.after_cancel")


class Migrations:
    """The migrations that leave this cloud."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock,
        agents: Agents,
        peers: Peers,
        driver: Driver,
        board: Board,
    ) -> None:
        self._cloud_id = settings.cloud_id
        self._active_max = settings.migrations.active_max
        self._store = store
        self._clock = clock
        self._agents = agents
        self._peers = peers
        self._driver = driver
        self._board = board

    def start(self, request: manager_pb2.MigrateVmRequest, caller: Caller) -> manager_pb2.Migration:
        """Record a migration and let it be driven; idempotent by its id.

        Raises NotFound VM_NOT_FOUND and CLOUD_NOT_FOUND, FailedPrecondition VM_BUSY,
        VM_ALREADY_THERE and what the machine's own problem is, AlreadyExists ID_REUSED, Denied
        DELEGATION_INVALID for a new one that it is too late for, and DELEGATION_REVOKED.
        """
        with self._store.read() as connection:
            known = records.get(connection, request.migration_id)
        if known is not None:
            return self._repeated(known, request, caller)
        caller.require_alive(self._clock.now())
        movable.require_elsewhere(request.vm, request.to_cloud, self._cloud_id)
        with self._store.read() as connection:
            vms.find(connection, self._cloud_id, request.vm, caller.view)
        manager = self._peers.find(request.to_cloud)
        with self._store.write() as connection:
            # Again under the lock: the same call may have come twice at once.
            known = records.get(connection, request.migration_id)
            if known is None:
                created = self._record(connection, request, caller, manager)
        if known is not None:
            return self._repeated(known, request, caller)
        failpoint.hit(AFTER_REQUEST)
        self._driver.submit(created.migration_id)
        return self.shown(created)

    def drive(self, migration_id: str) -> None:
        """A recorded migration goes on; nothing when it already does."""
        self._driver.submit(migration_id)

    def get(self, migration_id: str, caller: Caller) -> manager_pb2.Migration:
        """A migration that concerns the caller. Raises NotFound MIGRATION_NOT_FOUND."""
        with self._store.read() as connection:
            record = records.require_seen(connection, migration_id, caller.view)
        if not caller.concerns(record):
            raise records.not_found(migration_id)
        return self.shown(record)

    def page(
        self,
        view: View,
        *,
        active_only: bool,
        vm_id: str,
        after: records.Position | None,
        limit: int,
    ) -> list[tuple[records.Position, manager_pb2.Migration]]:
        """Migrations of the view with their positions, newest first."""
        with self._store.read() as connection:
            found = records.page(
                connection, view, active_only=active_only, vm_id=vm_id, after=after, limit=limit
            )
        return [((record.created_at, record.migration_id), self.shown(record)) for record in found]

    def active_count(self, view: View) -> int:
        """How many of the view have not ended."""
        with self._store.read() as connection:
            return records.active_count(connection, view)

    def watch(
        self, migration_id: str, view: View, gone: Callable[[], bool]
    ) -> AbstractContextManager[Iterator[manager_pb2.Migration]]:
        """The migration at once and at every change, until it has ended or `gone` says so."""
        return self._board.watching(migration_id, lambda: self._get(migration_id, view), gone)

    def cancel(
        self, migration_id: str, view: View, caller: identity.SpiffeId
    ) -> manager_pb2.Migration:
        """Ask for the end of a migration that has not committed; idempotent.

        Raises NotFound MIGRATION_NOT_FOUND, FailedPrecondition MIGRATION_COMMITTED and
        MIGRATION_STATE.
        """
        with self._store.write() as connection:
            record = records.require_seen(connection, migration_id, view)
            if not record.cancel_requested:
                _require_cancellable(record)
                record = records.note(connection, record, cancel_requested=True)
                self._note(connection, "migration.cancel_requested", record, caller)
            elif record.state in (State.SUCCEEDED, State.FAILED):
                _require_cancellable(record)
        failpoint.hit(AFTER_CANCEL)
        self._driver.interrupt(migration_id)
        return self.shown(record)

    def set_limit(
        self,
        migration_id: str,
        view: View,
        limit: int,
        schedule: Sequence[common_pb2.LimitWindow],
        caller: identity.SpiffeId,
    ) -> manager_pb2.Migration:
        """Change the bandwidth cap in bytes per second, 0 for none, and with it the caps at certain
        times of the day; both hold for every attempt.

        Raises NotFound MIGRATION_NOT_FOUND, FailedPrecondition MIGRATION_STATE, Unavailable when
        the agent cannot be told now (its next attempt is).
        """
        with self._store.write() as connection:
            record = records.require_seen(connection, migration_id, view)
            if record.state not in states.LIMITABLE:
                raise errors.FailedPrecondition(
                    "MIGRATION_STATE",
                    f"the migration is {record.state}: no content crosses any more",
                    state=record.state,
                )
            record = records.note(
                connection,
                record,
                limit_bytes_per_second=limit,
                limit_schedule=common_pb2.TransferOptions(limit_schedule=schedule),
            )
            told = {"bytes_per_second": limit, "schedule": "; ".join(map(windows.show, schedule))}
            self._note(connection, "migration.limit_changed", record, caller, **told)
        if record.state is State.COPYING:
            self._agents.set_transfer_limit(record.host_id, migration_id, limit, schedule)
        return self.shown(record)

    def _record(
        self,
        connection: Connection,
        request: manager_pb2.MigrateVmRequest,
        caller: Caller,
        manager: EndpointSettings,
    ) -> Record:
        vm = vms.find(connection, self._cloud_id, request.vm, caller.view)
        movable.require_free(vm)
        movable.require_sound(vm.name, vm.body.problem)
        if records.active_count(connection) >= self._active_max:
            raise _too_many(self._active_max)
        if not vms.claim(connection, vm.vm_id, request.migration_id):
            raise movable.busy(vm)
        # Once the machine's row is locked: two moves cannot both count the moves before them, and
        # whoever was told that the delegation is revoked was told before this began.
        caller.require_move(connection, vm.vm_id, self._clock.now())
        now = micros(self._clock.now())
        new = Record(
            migration_id=request.migration_id,
            vm_id=vm.vm_id,
            vm_name=vm.name,
            tenant_domain=vm.tenant_domain,
            tenant=vm.tenant,
            host_id=vm.host_id,
            to_cloud=request.to_cloud,
            to_manager=manager.spiffe_id,
            state=State.REQUESTED,
            generation=1,
            source_epoch=vm.epoch,
            requested_by=str(caller.principal),
            request=request,
            created_at=now,
            state_changed_at=now,
        )
        records.insert(connection, new)
        if caller.mandate is not None:
            told = {"tenant": caller.principal, "to_cloud": new.to_cloud} | caller.mandate.told
            self._note(connection, "delegation.used", new, caller.mandate.delegate, **told)
        return new

    def _note(
        self,
        connection: Connection,
        action: str,
        record: Record,
        caller: identity.SpiffeId,
        **more: object,
    ) -> None:
        audit.append(
            connection,
            micros(self._clock.now()),
            actor=caller,
            action=action,
            subject=record.migration_id,
            details={"vm_id": record.vm_id, "state": record.state} | more,
        )

    def _repeated(
        self, known: Record, request: manager_pb2.MigrateVmRequest, caller: Caller
    ) -> manager_pb2.Migration:
        same = _without_delegation(known.request) == _without_delegation(request)
        if not same or known.requested_by != str(caller.principal):
            raise errors.AlreadyExists(
                "ID_REUSED",
                f"migration_id {request.migration_id} was used before with other content",
                hint="make a new UUID",
                field="migration_id",
            )
        # The first call may have been cut off between its record and this.
        self._driver.submit(known.migration_id)
        return self.shown(known)

    def _get(self, migration_id: str, view: View) -> manager_pb2.Migration:
        with self._store.read() as connection:
            return self.shown(records.require_seen(connection, migration_id, view))

    def shown(self, record: Record) -> manager_pb2.Migration:
        """The migration as the contract shows it, with what memory and receipt know."""
        shown = self._board.fill(record.message(self._cloud_id))
        if record.receipt is not None and not shown.HasField("progress"):
            # Measured by a process that is gone: the receipt still says what crossed.
            receipt = common_pb2.Receipt.FromString(record.receipt.payload)
            shown.progress.total_bytes = shown.progress.done_bytes = receipt.raw_bytes
            shown.progress.wire_bytes = receipt.wire_bytes
        return shown


def _without_delegation(request: manager_pb2.MigrateVmRequest) -> manager_pb2.MigrateVmRequest:
    """What is asked for, whoever was let ask: the person may repeat what its broker asked."""
    asked = manager_pb2.MigrateVmRequest()
    asked.CopyFrom(request)
    asked.ClearField("delegation")
    return asked


def _require_cancellable(record: Record) -> None:
    if record.state in states.COMMITTED and not record.final:
        raise errors.FailedPrecondition(
            "MIGRATION_COMMITTED",
            f"the machine belongs to cloud {record.to_cloud} already",
            hint="let it finish, then migrate it back",
            state=record.state,
        )
    if record.state not in states.CANCELLABLE:
        raise errors.FailedPrecondition(
            "MIGRATION_STATE",
            f"the migration is {record.state}: there is nothing to cancel",
            state=record.state,
        )


def _too_many(limit: int) -> errors.Unavailable:
    return errors.Unavailable(
        "SERVER_UNAVAILABLE",
        f"{limit} migrations have not ended yet",
        hint="repeat when some have; or raise migrations.active_max",
    )
