"""What one transaction admits and confirms: read once, decided in memory, written in bulk.

Several calls share the transaction (`manager.groups`). Each is decided on what was read and on what
the calls before it got, and one that is refused leaves no trace. `write` then writes everything, in
as many statements as it were for one call.

Nothing that was read outlives the transaction: it runs under the lock of writes, and whoever else
takes or gives back room does so in a transaction before it or after it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy.engine import Connection

from manager import (
    admission,
    audit,
    capacity,
    grants,
    inventory,
    ownership,
    reservation_statements,
    store,
    traits,
    vms,
)
from manager.bookings import Booking, Span, of_tenant
from manager.inventory import POOL, Amounts, HostView
from manager.ownership import Tenant
from manager.quotas.book import Quotas
from manager.quotas.limits import MACHINES
from manager.reservation import Reservation, State
from manager.settings.hosts import AgentSettings, ClassSettings
from manager.settings.reservations import ReservationSettings
from manager.statements import Ask, AskRows, Told, run
from watari.identity import Role, SpiffeId
from watari.v1 import common_pb2, manager_pb2


@dataclass(frozen=True)
class Reserve:
    """A call that wants room."""

    request: manager_pb2.ReserveRequest
    caller: SpiffeId

    @property
    def tenant(self) -> Tenant:
        """Whose machine it is for."""
        return ownership.tenant_of_arrival(self.request, self.caller)


@dataclass(frozen=True)
class Hold(Reserve):
    """A broker's call for the room that a source is to reserve."""

    expires_at: int


@dataclass(frozen=True)
class Confirm:
    """A call that makes a reservation firm."""

    reservation_id: str
    caller: SpiffeId


Asked = Reserve | Hold | Confirm


@dataclass(frozen=True)
class Answer:
    """The reservation as it is then; the rest is for who reserves."""

    row: Reservation
    data: common_pb2.Endpoint | None = None
    """Where its host takes sealed frames, as it last told."""

    warnings: Collection[common_pb2.Problem] = ()
    """The soft limits that its tenant is beyond."""


@dataclass(frozen=True)
class Cloud:
    """What an admission needs to know of its cloud."""

    cloud_id: str
    agents: Mapping[str, AgentSettings]
    pool: Mapping[str, ClassSettings]
    limits: ReservationSettings

    quotas: Quotas
    made: Callable[[Reserve, str, Tenant], Reservation]
    """A new reservation on a host, with its grant and its price."""


@dataclass(frozen=True)
class Terms:
    """What the cloud makes of who takes over what was held or booked."""

    expires_at: Callable[[int], int]
    """For so many seconds."""
    granted: Callable[[Reserve, str], common_pb2.SignedDocument]
    """Its grant, for a host."""
    priced: Callable[[Reserve], int]
    """The price sheet's version that its quote pins."""


class Admissions:
    """The admissions and confirmations of one write transaction, at the moment `now`."""

    @staticmethod
    def asking(cloud: Cloud, calls: Collection[Asked], now: int) -> list[Ask]:
        """All that has to be read for them."""
        wanted = [call for call in calls if isinstance(call, Reserve)]
        migrations = [call.request.migration_id for call in wanted]
        keys = [call.request.reservation_id for call in wanted]
        keys += [call.reservation_id for call in calls if isinstance(call, Confirm)]
        asked = [
            reservation_statements.due_any(now),
            audit.asking_head(),
            reservation_statements.finding(keys, migrations),
        ]
        if wanted:
            tenants = {call.tenant for call in wanted}
            asked += [
                reservation_statements.counting(),
                vms.finding([call.request.vm_id for call in wanted]),
                cloud.quotas.reading(tenants),
                *capacity.reading(),
            ]
            # Few calls hold, and nobody else looks at how many there are.
            if _any_holds(wanted):
                asked.append(reservation_statements.counting_held())
        return asked

    def __init__(
        self,
        connection: Connection,
        cloud: Cloud,
        calls: Collection[Asked],
        now: int,
        told: Sequence[Told] = (),
    ) -> None:
        """`told` is what came of `asking` in this transaction; without it, that is asked now."""
        self._connection = connection
        self._cloud = cloud
        self._now = now
        self._new: list[Reservation] = []
        self._confirmed: list[Reservation] = []
        self._taken: dict[str, dict[str, dict[str, Amounts]]] = {}
        self._bookings: list[Booking] = []
        self._notes: list[audit.Note] = []
        wanted = [call for call in calls if isinstance(call, Reserve)]
        due, head, known, *told = told or run(connection, self.asking(cloud, calls, now))
        self.due = bool(due.rows)
        """Whether something has to expire first: then nothing may be decided on this."""

        self._head = audit.end(connection, head)
        self._rows = {row.reservation_id: row for row in reservation_statements.found(known)}
        self._of_migration = {row.migration_id: row for row in self._rows.values()}
        if wanted:
            live, machines, quotas, *room = told
            self._live = int(live.rows[0][0])
            self._held = (
                reservation_statements.held_by_tenant(room.pop()) if _any_holds(wanted) else {}
            )
            self._machines = vms.found(machines)
            self._quotas = cloud.quotas.admitting(connection, quotas)
            self._room = capacity.room(room, cloud.agents, cloud.pool)
            self._views = {view.host_id: view for view in (*self._room.hosts, self._room.pool)}
            if self._room.any_booked:
                self._bookings = capacity.booked(connection)

    def reserve(self, call: Reserve) -> Answer:
        """Hold room; idempotent by reservation id. What is raised has changed nothing."""
        request = call.request
        row = self._rows.get(request.reservation_id)
        if row is None:
            row = self._admit(call)
        elif row.state is State.BOOKED and awaits(row, call):
            raise admission.not_yet(row)
        elif row.request != request or row.requested_by != str(call.caller):
            raise admission.reused("reservation_id", request.reservation_id)
        return self._answer(row)

    def hold(self, call: Hold) -> Answer:
        """Hold room for a source; idempotent by reservation id, also once it was adopted. What is
        raised has changed nothing.
        """
        row = self._rows.get(call.request.reservation_id)
        if row is None:
            return self._answer(self._admit(call))
        if row.state is State.HELD:
            same = row.request == call.request and row.requested_by == str(call.caller)
        else:
            same = _agree(row, call)
        if not same:
            raise admission.reused("reservation_id", row.reservation_id)
        return self._answer(row)

    def adoptable(self, calls: Collection[Asked]) -> list[tuple[Reserve, Reservation]]:
        """Calls for what is held for them: the same migration of the same machine and tenant."""
        found: dict[str, tuple[Reserve, Reservation]] = {}
        for call in calls:
            if isinstance(call, Confirm | Hold) or span_of(call.request) is not None:
                continue
            row = self._rows.get(call.request.reservation_id)
            if row is not None and row.state is State.HELD and _agree(row, call):
                found.setdefault(row.reservation_id, (call, row))
        return list(found.values())

    def claimable(self) -> list[Reservation]:
        """Booked ones that are asked for, and whose time has come."""
        return [
            row
            for row in self._rows.values()
            if row.state is State.BOOKED and (row.starts_at or 0) <= self._now
        ]

    def confirm(self, call: Confirm) -> Answer:
        """Make a pending reservation firm; idempotent. What is raised has changed nothing."""
        row = self._rows.get(call.reservation_id)
        if row is None or row.requested_by != str(call.caller):
            raise admission.not_found(call.reservation_id)
        admission.require_not_expired(row)
        if row.state in (State.BOOKED, State.HELD, State.RELEASED, State.RELINQUISHED):
            raise admission.wrong_state(row, State.PENDING)
        if row.state is State.PENDING:
            self._confirmed.append(row)
            self._note("reservation.confirmed", row, call.caller)
            row = self._rows[row.reservation_id] = replace(row, state=State.CONFIRMED)
        return Answer(row)

    def write(self) -> None:
        """Write all that was decided. Raises Conflict GENERATION_CONFLICT, to be repeated."""
        asked: list[Ask | AskRows] = []
        if self._new:
            asked.append(reservation_statements.inserting(self._new))
        swaps: dict[str, int] = {}
        before = {view.host_id: view for view in self._read()} if self._taken else {}
        for host_id, taken in self._taken.items():
            asked += capacity.taking(before[host_id], taken)
            swaps[host_id] = len(asked) - 1
        if self._confirmed:
            asked.append(reservation_statements.confirming(self._confirmed))
            confirmation = len(asked) - 1
        if self._notes:
            entries = audit.chained(self._head, self._notes)
            asked.append(audit.appending(self._connection, entries))
        told = run(self._connection, asked)
        for host_id, position in swaps.items():
            capacity.require_unchanged(before[host_id], told[position])
        if self._confirmed:
            admission.require_swapped(told[confirmation].changed == len(self._confirmed))

    def _read(self) -> list[HostView]:
        """Everything that gives room, as it was read."""
        return [*self._room.hosts, self._room.pool]

    def _answer(self, row: Reservation) -> Answer:
        warnings = self._quotas.warnings(row.owner, self._booked_by(row.owner, self._ever()))
        return Answer(row, self._room.data.get(row.host_id), warnings)

    def _admit(self, call: Reserve) -> Reservation:
        request, tenant = call.request, call.tenant
        if request.migration_id in self._of_migration:
            raise admission.reused("migration_id", request.migration_id)
        known = self._machines.get(request.vm_id)
        if isinstance(call, Hold):
            # A broker knows no epoch: the source's is looked at when it reserves.
            admission.require_not_here(known, self._cloud.cloud_id)
            most = self._cloud.limits.held_per_tenant_max
            admission.require_few_held(most, self._held.get(tenant, 0), tenant)
        else:
            admission.require_foreign(request, known, self._cloud.cloud_id)
        span = span_of(request) or self._ever()
        if span.end is None:
            admission.require_below(self._cloud.limits.pending_max, self._live)
        else:
            booked = len(self._bookings)
            admission.require_bookable(span, self._now, self._cloud.limits, booked)
        needed = inventory.of_machine(request.resources, request.disks)
        asked = self._room.shape.named(needed)
        beyond_soft = self._quotas.require(tenant, asked, self._booked_by(tenant, span))
        views = capacity.with_bookings([*self._views.values()], self._bookings, span)
        host, taken = place(views, request, asked)
        row = self._cloud.made(call, host.host_id, tenant)
        row = replace(row, resources=in_present_names(asked, needed))
        # Nothing fails from here on.
        kind = capacity.RESERVATION if span.end is None else capacity.BOOKING
        for host_id, amounts in taken.items():
            of_kind = self._taken.setdefault(host_id, {}).setdefault(kind, {})
            of_kind[row.reservation_id] = amounts
        if span.end is None:
            for host_id, amounts in taken.items():
                self._views[host_id] = self._views[host_id].holding(amounts)
            self._quotas.count(tenant, asked)
            self._live += 1
        else:
            self._bookings.append(Booking(row.reservation_id, tenant, span, taken))
        self._rows[row.reservation_id] = self._of_migration[row.migration_id] = row
        self._new.append(row)
        told = {"vm_name": request.vm_name, "tenant": request.tenant, "host_id": row.host_id}
        if beyond_soft:
            told["beyond_soft"] = ", ".join(beyond_soft)
        if isinstance(call, Hold):
            self._held[tenant] = self._held.get(tenant, 0) + 1
            self._note("reservation.held", row, call.caller, **told)
        elif span.end is None:
            self._note("reservation.made", row, call.caller, **told)
            self._notes.append(grants.issued(row.created_at, row.grant))
        else:
            told |= {"starts_at": _shown(span.start), "ends_at": _shown(span.end)}
            self._note("reservation.booked", row, call.caller, **told)
        return row

    def _ever(self) -> Span:
        """From now on, without an end."""
        return Span(self._now)

    def _booked_by(self, tenant: Tenant, span: Span) -> Amounts:
        """What a tenant has booked for a time."""
        return of_tenant(self._bookings, tenant, span, MACHINES) if self._bookings else {}

    def _note(self, action: str, row: Reservation, actor: SpiffeId, **more: str) -> None:
        details = row.told() | more
        self._notes.append(
            audit.Note(self._now, str(actor), action, row.reservation_id, details=details)
        )


def awaits(row: Reservation, call: Reserve) -> bool:
    """Whether an operator booked the room for what the machine's own manager asks now."""
    if isinstance(call, Hold) or span_of(call.request) is not None:
        return False
    booked = SpiffeId.parse(row.requested_by).role is Role.OPERATOR
    asked = call.request
    whose = (asked.vm_id, asked.from_cloud, call.tenant)
    return booked and (row.vm_id, row.from_cloud, row.owner) == whose


def _any_holds(wanted: Collection[Reserve]) -> bool:
    return any(isinstance(call, Hold) for call in wanted)


def place(
    views: Collection[HostView], request: manager_pb2.ReserveRequest, asked: Amounts
) -> tuple[HostView, dict[str, Amounts]]:
    """The host for a machine, and what it takes of it and of the pool, of hosts and the pool."""
    pool = next(view for view in views if view.host_id == POOL)
    own, pooled = inventory.split(asked, pool.total)
    hosts = traits.suitable(
        [view for view in views if view is not pool],
        request.required_traits,
        request.forbidden_traits,
    )
    host = inventory.choose(hosts, own)
    if pooled:
        inventory.choose([pool], pooled)
    parts = {host.host_id: own, POOL: pooled}
    return host, {host_id: amounts for host_id, amounts in parts.items() if amounts}


def _agree(row: Reservation, call: Reserve) -> bool:
    asked = call.request
    return (row.migration_id, row.vm_id, row.from_cloud, row.owner) == (
        asked.migration_id,
        asked.vm_id,
        asked.from_cloud,
        call.tenant,
    )


def in_present_names(asked: Amounts, told: Amounts) -> common_pb2.Resources | None:
    """What a machine needs, where classes are called otherwise now than its request told."""
    return None if asked == told else inventory.to_resources(asked)


def span_of(request: manager_pb2.ReserveRequest) -> Span | None:
    """The time that a reservation in advance is for; None is from now on."""
    if not request.HasField("starts_at"):
        return None
    return Span(request.starts_at.ToMicroseconds(), request.ends_at.ToMicroseconds())


def _shown(moment: int) -> str:
    return store.moment(moment).isoformat()
