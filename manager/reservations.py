"""Admission in two phases: pending until confirmed, released or expired.

Each method is one transaction. Expiry and confirmation look at the same row under the same
transaction, so one of them wins and the other sees it. Room is counted before it is promised, in
the transaction that promises it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from sqlalchemy.engine import Connection

from manager import (
    admission,
    adopting,
    audit,
    capacity,
    claiming,
    grants,
    outbox,
    ownership,
    quotes,
    reservation_rows,
)
from manager import store as stores
from manager.accounting.price_sheet import PriceSheet
from manager.admitting import (
    Admissions,
    Answer,
    Asked,
    Cloud,
    Confirm,
    Hold,
    Reserve,
    Terms,
    awaits,
    span_of,
)
from manager.groups import Group
from manager.ownership import Tenant
from manager.quotas.book import Quotas
from manager.reservation import OPEN, Reservation, State
from manager.settings import Settings
from manager.settings.hosts import AgentSettings
from manager.statements import Ask, Told
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
        self._sheet = sheet
        self._agents: Mapping[str, AgentSettings] = settings.agents
        self._cloud = Cloud(
            settings.cloud_id,
            settings.agents,
            settings.pool,
            self._limits,
            quotas,
            self._new,
        )
        self._terms = Terms(
            self._expiry, self._grant, lambda call: self._price(call.request, call.tenant)
        )
        self._group = Group(
            store.write_asking, self.asking, self.together, settings.store.writes_at_once_max
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
            expires_at = max(row.expires_at, self._expiry(ttl_seconds))
            admission.require_swapped(reservation_rows.extend(connection, row, expires_at))
            told = {"expires_at": stores.moment(expires_at).isoformat()}
            self._note(connection, "reservation.extended", row, caller, **told)
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
                admission.require_swapped(self._end(connection, row, State.RELEASED))
                self._note(connection, "reservation.released", row, caller)
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
            return self._expire(connection)

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """A transaction in which nothing holds room beyond its time."""
        try:
            with self._store.write() as connection:
                self._expire(connection)
                yield connection
        except errors.WatariError:
            # What had expired is taken back with all of it. It has, whatever is refused.
            with suppress(errors.WatariError):
                self.expire_due()
            raise

    def _expire(self, connection: Connection) -> int:
        rows = reservation_rows.due(connection, self._now())
        ended = [row for row in rows if self._end(connection, row, State.EXPIRED)]
        for row in ended:
            self._note(connection, "reservation.expired", row, self._identity.spiffe_id)
        return len(ended)

    def asking(self, calls: Sequence[Asked]) -> list[Ask]:
        """What has to be read for calls that share a write, for `together`."""
        return Admissions.asking(self._cloud, calls, self._now())

    def together(
        self, connection: Connection, calls: Sequence[Asked], told: Sequence[Told]
    ) -> list[Answer | errors.WatariError]:
        """What comes of calls that share a write, in their order. `told` is what `asking` read in
        it. Raises Conflict, to be repeated when all of it was taken back.
        """
        admissions = Admissions(connection, self._cloud, calls, self._now(), told)
        if admissions.due:
            self._expire(connection)
            admissions = Admissions(connection, self._cloud, calls, self._now())
        refused: dict[str, errors.WatariError] = {}
        if booked := admissions.claimable():
            refused = self._claim(connection, calls, booked)
            admissions = Admissions(connection, self._cloud, calls, self._now())
        first: set[str] = set()
        if held := admissions.adoptable(calls):
            declined, first = adopting.adopt_all(
                connection, self._cloud, held, self._now(), self._terms
            )
            refused |= declined
            admissions = Admissions(connection, self._cloud, calls, self._now())
        outcomes: dict[int, Answer | errors.WatariError] = {}
        # Whose hold has just ended comes before who would take its room.
        for position, call in sorted(enumerate(calls), key=lambda each: _key(each[1]) not in first):
            try:
                if _key(call) in refused:
                    outcomes[position] = refused[_key(call)]
                elif isinstance(call, Hold):
                    outcomes[position] = admissions.hold(call)
                elif isinstance(call, Reserve):
                    outcomes[position] = admissions.reserve(call)
                else:
                    outcomes[position] = admissions.confirm(call)
            except errors.Conflict:
                raise  # Nothing of the transaction is to be relied on.
            except errors.WatariError as error:
                outcomes[position] = error
        admissions.write()
        return [outcomes[position] for position in range(len(calls))]

    def _claim(
        self, connection: Connection, calls: Sequence[Asked], booked: Sequence[Reservation]
    ) -> dict[str, errors.WatariError]:
        """Claim what is booked and asked for: by who booked it, word for word, or by the manager
        of the cloud that an operator booked it for. Why it could not be.
        """
        rows = {row.reservation_id: row for row in booked}
        refused: dict[str, errors.WatariError] = {}
        for call in calls:
            # An operator who repeats the booking wants to know how it stands, and gets no grant.
            if not isinstance(call, Reserve) or call.caller.role is Role.OPERATOR:
                continue
            row = rows.pop(call.request.reservation_id, None)
            if row is None or not (
                (row.request == call.request and self._made(row, call.caller)) or awaits(row, call)
            ):
                continue
            try:
                claiming.claim(connection, self._cloud, call, row, self._now(), self._terms)
            except errors.Conflict:
                raise
            except errors.WatariError as error:
                refused[row.reservation_id] = error
        return refused

    def _new(self, call: Reserve, host_id: str, tenant: Tenant) -> Reservation:
        request, span = call.request, span_of(call.request)
        price_version = self._price(request, tenant)
        expires_at = self._expiry(request.ttl_seconds)
        state = State.PENDING if span is None else State.BOOKED
        if isinstance(call, Hold):
            state, expires_at = State.HELD, call.expires_at
        grant = self._grant(call, host_id) if state is State.PENDING else None
        if span is not None and span.end is not None:
            expires_at = span.end
        return Reservation(
            reservation_id=request.reservation_id,
            migration_id=request.migration_id,
            vm_id=request.vm_id,
            from_cloud=request.from_cloud,
            requested_by=str(call.caller),
            host_id=host_id,
            state=state,
            expires_at=expires_at,
            created_at=self._now(),
            price_version=price_version,
            request=request,
            grant=grant or common_pb2.SignedDocument(),
            starts_at=None if span is None else span.start,
            ends_at=None if span is None else span.end,
        )

    def _grant(self, call: Reserve, host_id: str) -> common_pb2.SignedDocument:
        return grants.issue(
            self._identity,
            self._clock,
            self._limits,
            call.request,
            source_manager=str(call.caller),
            destination_agent=self._agents[host_id].spiffe_id,
        )

    def _price(self, request: manager_pb2.ReserveRequest, tenant: Tenant) -> int:
        """The version of the price sheet that holds: the quote's, if there is one."""
        if not request.HasField("quote"):
            return self._sheet().version
        offer = quotes.Offer(self._cloud_id, tenant, request.resources)
        quote = quotes.accept(self._identity, self._clock.now(), request.quote, offer)
        return quote.price_version

    def _of_caller(
        self, connection: Connection, reservation_id: str, caller: SpiffeId
    ) -> Reservation:
        row = reservation_rows.get(connection, reservation_id)
        if row is None or not self._made(row, caller):
            raise admission.not_found(reservation_id)
        return row

    def _end(self, connection: Connection, row: Reservation, state: State) -> bool:
        if row.state is State.HELD:
            return adopting.end(connection, row)
        if not reservation_rows.move(connection, row, state):
            return False
        if row.state is State.BOOKED:
            capacity.give_back(connection, capacity.BOOKING, row.reservation_id)
            return True  # It was never granted: nothing can have arrived.
        capacity.give_back(connection, capacity.RESERVATION, row.reservation_id)
        owed = outbox.OwedCall(outbox.Kind.DISCARD, row.migration_id, row.host_id, row.vm_id)
        outbox.owe(connection, owed, self._now())
        return True

    def _note(
        self, connection: Connection, action: str, row: Reservation, actor: SpiffeId, **more: str
    ) -> None:
        audit.append(
            connection,
            self._now(),
            actor=actor,
            action=action,
            subject=row.reservation_id,
            details=row.told() | more,
        )

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

    def _expiry(self, ttl_seconds: int) -> int:
        return self._now() + min(ttl_seconds, self._limits.ttl_seconds_max) * 1_000_000

    def _now(self) -> int:
        return stores.micros(self._clock.now())

    def _reread(self, connection: Connection, row: Reservation) -> Reservation:
        found = reservation_rows.get(connection, row.reservation_id)
        assert found is not None  # noqa: S101 - only held ones are ever deleted
        return found


def _key(call: Asked) -> str:
    """The reservation that a call is about."""
    return call.reservation_id if isinstance(call, Confirm) else call.request.reservation_id
