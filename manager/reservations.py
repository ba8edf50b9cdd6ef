"""Admission in two phases: pending until confirmed, released or expired.

Each method is one transaction. Expiry and confirmation look at the same row under the same
transaction, so one of them wins and the other sees it. Room is counted before it is promised, in
the transaction that promises it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from sqlalchemy.engine import Connection

from manager import admission, ending, ownership, reservation_rows
from manager import store as stores
from manager.accounting.price_sheet import PriceSheet
from manager.admitting import Cloud, Confirm, Hold, Reserve
from manager.groups import Group
from manager.offering import Offering
from manager.quotas.book import Quotas
from manager.reservation import OPEN, Reservation, State
from manager.reserving import Reserving
from manager.settings import Settings
from watari import errors, failpoint
from watari.clock import Clock
from watari.identity import Identity, Role, SpiffeId
from watari.settings import EndpointSettings
from watari.v1 import common_pb2, manager_pb2

BEFORE_RESERVE = failpoint.declare("manager.reservation.before_reserve")
AFTER_RESERVE = failpoint.declare("manager.reservation.after_reserve")
BEFORE_CONFIRM = failpoint.declare("manager.reservation.before_confirm")
AFTER_CONFIRM = failpoint.declare("manager.reservation.after_confirm")
BEFORE_RELEASE = failpoint.declare("manager.reservation.before_release")
AFTER_RELEASE = failpoint.declare("manager.reservation.after_release")
BEFORE_HOLD = failpoint.declare("manager.reservation.before_hold")
AFTER_HOLD = failpoint.declare("manager.reservation.after_hold")


class Reservations:
    """The reservations of one cloud."""

    def __init__(
        self,
        store: stores.Store,
        clock: Clock,
        identity: Identity,
        settings: Settings,
        manager_of: Callable[[str], EndpointSettings | None],
        quotas: Quotas,
        sheet: Callable[[], PriceSheet],
    ) -> None:
        """`sheet` is the price sheet in effect."""
        self._manager_of = manager_of
        self._store = store
        self._clock = clock
        self._identity = identity
        self._cloud_id = settings.cloud_id
        self._limits = settings.reservations
        self._agents = settings.agents
        self._offering = Offering(clock, identity, settings, sheet)
        cloud = Cloud(
            settings.cloud_id,
            settings.agents,
            settings.pool,
            self._limits,
            quotas,
            self._offering.new,
        )
        self.calls = Reserving(clock, identity.spiffe_id, cloud, self._offering.terms)
        """Those that share a write."""

        self._group = Group(
            store.write_asking,
            self.calls.asking,
            self.calls.together,
            settings.store.writes_at_once_max,
        )

    def reserve(
        self, request: manager_pb2.ReserveRequest, caller: SpiffeId
    ) -> manager_pb2.ReserveResponse:
        """Hold room for a machine and grant its migration; idempotent by reservation id. In
        advance: promise room for a time, and claim and grant it when that has come.

        Raises Exhausted INSUFFICIENT_CAPACITY and QUOTA_EXCEEDED, FailedPrecondition
        VM_ALREADY_THERE, EPOCH_MISMATCH, HOST_INCOMPATIBLE and QUOTE_INVALID, Unauthenticated
        SIGNATURE_INVALID, AlreadyExists ID_REUSED, Denied NOT_ALLOWED for who asks in another
        cloud's name.
        """
        known = self._manager_of(request.from_cloud)
        if caller.role is Role.OPERATOR:
            own = self._cloud_id, self._identity.spiffe_id.domain
            admission.require_may_book(request, caller, own=own, known=known)
        else:
            admission.require_speaks_for(request, caller, own_cloud=self._cloud_id, known=known)
        failpoint.hit(BEFORE_RESERVE)
        answer = self._group.do(Reserve(request, caller))
        failpoint.hit(AFTER_RESERVE)
        if answer.row.state is State.BOOKED or not answer.row.grant.payload:
            # Not before its time: its host may be another one then.
            shown = answer.row.message()
            return manager_pb2.ReserveResponse(reservation=shown, warnings=answer.warnings)
        return manager_pb2.ReserveResponse(
            reservation=answer.row.message(),
            grant=answer.row.grant,
            agent_control=self._control(answer.row.host_id),
            agent_data=answer.data,
            warnings=answer.warnings,
        )

    def hold(
        self, request: manager_pb2.ReserveRequest, broker: SpiffeId, expires_at: int
    ) -> manager_pb2.HoldForMigrationResponse:
        """Hold room for a source that is to reserve it, until `expires_at` in microseconds since
        1970 at the latest; idempotent by reservation id.

        Raises Exhausted INSUFFICIENT_CAPACITY and QUOTA_EXCEEDED, FailedPrecondition
        VM_ALREADY_THERE, HOST_INCOMPATIBLE and QUOTE_INVALID, Unauthenticated SIGNATURE_INVALID,
        AlreadyExists ID_REUSED.
        """
        failpoint.hit(BEFORE_HOLD)
        expires_at = min(expires_at, self._now() + self._limits.hold_seconds_max * 1_000_000)
        answer = self._group.do(Hold(request, broker, expires_at))
        failpoint.hit(AFTER_HOLD)
        return manager_pb2.HoldForMigrationResponse(
            reservation=answer.row.message(), warnings=answer.warnings
        )

    def get(self, reservation_id: str, caller: SpiffeId) -> Reservation:
        """A reservation, for who made it and for an operator here. Raises NotFound."""
        with self._store.read() as connection:
            row = reservation_rows.get(connection, reservation_id)
        if row is None or not (self._made(row, caller) or self._own(caller)):
            raise admission.not_found(reservation_id)
        return row

    def page(
        self, *, active_only: bool, after: reservation_rows.Position | None, limit: int
    ) -> list[Reservation]:
        """Reservations, newest first."""
        with self._store.read() as connection:
            return reservation_rows.page(
                connection, active_only=active_only, after=after, limit=limit
            )

    def extend(self, reservation_id: str, ttl_seconds: int, caller: SpiffeId) -> Reservation:
        """Move the expiry of a pending reservation to `ttl_seconds` from now; never earlier.

        Raises NotFound, FailedPrecondition RESERVATION_EXPIRED and RESERVATION_STATE.
        """
        with self._write() as connection:
            row = self._of_caller(connection, reservation_id, caller)
            admission.require_not_expired(row)
            if row.state is not State.PENDING:
                raise admission.wrong_state(row, State.PENDING)
            expires_at = max(row.expires_at, self._offering.expiry(ttl_seconds))
            admission.require_swapped(reservation_rows.extend(connection, row, expires_at))
            told = {"expires_at": stores.moment(expires_at).isoformat()}
            ending.note(connection, self._now(), "reservation.extended", row, caller, **told)
            return self._reread(connection, row)

    def confirm(self, reservation_id: str, caller: SpiffeId) -> Reservation:
        """Make a pending reservation firm; idempotent.

        Raises NotFound, FailedPrecondition RESERVATION_EXPIRED and RESERVATION_STATE.
        """
        failpoint.hit(BEFORE_CONFIRM)
        answer = self._group.do(Confirm(reservation_id, caller))
        failpoint.hit(AFTER_CONFIRM)
        return answer.row

    def release(self, reservation_id: str, caller: SpiffeId) -> Reservation | None:
        """Give a reservation back; None when it is unknown. What has arrived is owed to be deleted.
        A held one may be given back by the manager of the cloud that it was held for, too.

        Raises FailedPrecondition MIGRATION_COMMITTED once the machine was handed over.
        """
        failpoint.hit(BEFORE_RELEASE)
        with self._store.write() as connection:
            row = reservation_rows.get(connection, reservation_id)
            if row is None or not self._may_release(row, caller):
                return None
            if row.committed:
                raise admission.committed(row)
            if row.state in OPEN:
                admission.require_swapped(ending.end(connection, row, State.RELEASED, self._now()))
                ending.note(connection, self._now(), "reservation.released", row, caller)
            released = reservation_rows.get(connection, row.reservation_id)
            if released is None:  # It was held, and leaves nothing.
                released = replace(row, state=State.RELEASED)
        failpoint.hit(AFTER_RELEASE)
        return released

    def expire_due(self) -> int:
        """Expire what has run out of time; how many were."""
        now = self._now()
        with self._store.read() as connection:
            if not reservation_rows.due(connection, now):
                return 0
        with self._store.write() as connection:
            return ending.expire_due(connection, self._now(), self._identity.spiffe_id)

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """A transaction in which nothing holds room beyond its time."""
        try:
            with self._store.write() as connection:
                ending.expire_due(connection, self._now(), self._identity.spiffe_id)
                yield connection
        except errors.WatariError:
            # What had expired is taken back with all of it. It has, whatever is refused.
            with suppress(errors.WatariError):
                self.expire_due()
            raise

    def _of_caller(
        self, connection: Connection, reservation_id: str, caller: SpiffeId
    ) -> Reservation:
        row = reservation_rows.get(connection, reservation_id)
        if row is None or not self._made(row, caller):
            raise admission.not_found(reservation_id)
        return row

    def _control(self, host_id: str) -> common_pb2.Endpoint | None:
        agent = self._agents.get(host_id)
        if agent is None:
            return None  # Taken out of the settings since: the caller refuses the answer.
        return common_pb2.Endpoint(address=agent.address, spiffe_id=agent.spiffe_id)

    def _may_release(self, row: Reservation, caller: SpiffeId) -> bool:
        # A confirmed one may stand for a machine that its source has given up already: only the
        # source knows, so an operator here may not end it.
        if self._made(row, caller) or (self._own(caller) and row.state is not State.CONFIRMED):
            return True
        source = self._manager_of(row.from_cloud) if row.state is State.HELD else None
        return source is not None and source.spiffe_id == str(caller)

    def _made(self, row: Reservation, caller: SpiffeId) -> bool:
        return row.requested_by == str(caller)

    def _own(self, caller: SpiffeId) -> bool:
        return ownership.is_operator(caller, self._identity.spiffe_id.domain)

    def _now(self) -> int:
        return stores.micros(self._clock.now())

    def _reread(self, connection: Connection, row: Reservation) -> Reservation:
        found = reservation_rows.get(connection, row.reservation_id)
        assert found is not None  # noqa: S101 - only held ones are ever deleted
        return found
