"""The rows of reservations and their states. Runs in the caller's transaction; decides nothing.

BOOKED --(claimed)--> PENDING; BOOKED ---> RELEASED, EXPIRED

HELD --(adopted)--> PENDING; what is released or expires while it is HELD is deleted

PENDING ---> CONFIRMED ---> USED
   |             |
   |             +--------> RELINQUISHED (handed over, and given back without having run)
   |             |            ^     ^
   |             +--------> RELEASED|    (never once a hand-over is recorded)
   +----------------------> RELEASED|
   +----------------------> EXPIRED-+    (a hand-over that comes too late)
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from manager import ownership, store, tables
from manager.ownership import Tenant
from manager.statements import Ask, AskRows, Rows, Statement, Told, of_row, padded, run
from watari.identity import SpiffeId
from watari.v1 import common_pb2, manager_pb2

_ROWS = tables.reservations.c
Position = tuple[int, str]
"""Creation and id of the last reservation of a page."""


class State(StrEnum):
    """Where a reservation stands."""

    BOOKED = "BOOKED"
    HELD = "HELD"
    PENDING = "PENDING"
    CONFIRMED = "CONFIRMED"
    USED = "USED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"
    RELINQUISHED = "RELINQUISHED"


ARRIVING = frozenset({State.PENDING, State.CONFIRMED})
"""States in which a machine may come."""

LIVE = ARRIVING | {State.HELD}
"""States that hold room now, and without an end."""

OPEN = LIVE | {State.BOOKED}
"""States that have not ended: booked ones hold room for a time to come."""

TRANSITIONS: dict[State, frozenset[State]] = {
    State.BOOKED: frozenset({State.PENDING, State.RELEASED, State.EXPIRED}),
    State.HELD: frozenset({State.PENDING}),
    State.PENDING: frozenset({State.CONFIRMED, State.RELEASED, State.EXPIRED}),
    State.CONFIRMED: frozenset({State.USED, State.RELEASED, State.RELINQUISHED}),
    State.USED: frozenset(),
    State.RELEASED: frozenset({State.RELINQUISHED}),
    State.EXPIRED: frozenset({State.RELINQUISHED}),
    State.RELINQUISHED: frozenset(),
}


_NAMES = [column.name for column in _ROWS]
_LIVE = _ROWS.state.in_([state.value for state in LIVE])
_WAITS = sa.or_(*(_ROWS.state == each.value for each in (State.PENDING, State.BOOKED, State.HELD)))
_COUNT_LIVE = Statement(sa.select(sa.func.count()).select_from(tables.reservations).where(_LIVE))
_COUNT_HELD = Statement(
    sa.select(_ROWS.tenant_domain, _ROWS.tenant, sa.func.count())
    .where(_ROWS.state == State.HELD.value)
    .group_by(_ROWS.tenant_domain, _ROWS.tenant)
)
_INSERT = Rows.inserting(
    tables.reservations,
    [
        *("reservation_id", "migration_id", "vm_id", "from_cloud", "requested_by"),
        *("tenant_domain", "tenant", "host_id", "state", "expires_at", "created_at"),
        *("price_version", "request", "grant", "starts_at", "ends_at"),
    ],
)
_DUE_ANY = Statement(
    sa.select(_ROWS.reservation_id).where(_WAITS, _ROWS.expires_at <= sa.bindparam("now")).limit(1)
)


def _confirming(count: int) -> sa.Update:
    rows = [
        sa.and_(
            _ROWS.reservation_id == of_row("key", row),
            _ROWS.expires_at == of_row("known_expiry", row),
            _ROWS.resolution.is_not_distinct_from(of_row("known_resolution", row, sa.Integer())),
            _ROWS.hand_over.is_(None) == of_row("not_handed_over", row, sa.Boolean()),
        )
        for row in range(count)
    ]
    return (
        tables.reservations.update()
        .where(_ROWS.state == State.PENDING.value, sa.or_(*rows))
        .values(state=State.CONFIRMED.value)
    )


_CONFIRM = Rows(_confirming)


@cache
def _find(keys: int, moved: int) -> Statement:
    by_key = _ROWS.reservation_id.in_([sa.bindparam(f"key{each}") for each in range(keys)])
    by_migration = _ROWS.migration_id.in_([sa.bindparam(f"moved{each}") for each in range(moved)])
    return Statement(sa.select(tables.reservations).where(by_key | by_migration))


@dataclass(frozen=True)
class Reservation:
    """Room held for one machine."""

    reservation_id: str
    migration_id: str
    vm_id: str
    from_cloud: str
    requested_by: str
    host_id: str
    state: State
    expires_at: int
    created_at: int
    price_version: int
    request: manager_pb2.ReserveRequest
    grant: common_pb2.SignedDocument
    hand_over: common_pb2.SignedDocument | None = None
    hand_over_at: int | None = None
    relinquishment: common_pb2.SignedDocument | None = None
    resolution: int | None = None
    """What an operator decided: a Resolution of the contract."""

    starts_at: int | None = None
    """Of one that was made in advance, and until when it holds room unless it is claimed."""

    ends_at: int | None = None

    @property
    def kept(self) -> bool:
        """Whether an operator decided that the machine lives here."""
        return self.resolution == manager_pb2.RESOLUTION_KEEP_HERE

    @property
    def committed(self) -> bool:
        """Whether it can be released no more: the machine is this cloud's, or becomes it."""
        arriving = self.state in LIVE and (self.hand_over is not None or self.kept)
        return self.state is State.USED or arriving

    @cached_property
    def owner(self) -> Tenant:
        """The tenant whose machine it is for."""
        return ownership.tenant_of_arrival(self.request, SpiffeId.parse(self.requested_by))

    @property
    def tenant_domain(self) -> str:
        """The provider whose tenant the machine is."""
        return self.owner.domain

    def message(self) -> manager_pb2.Reservation:
        """The reservation as the contract shows it."""
        shown = manager_pb2.Reservation(
            reservation_id=self.reservation_id,
            migration_id=self.migration_id,
            vm_id=self.vm_id,
            vm_name=self.request.vm_name,
            tenant=self.request.tenant,
            from_cloud=self.from_cloud,
            requested_by=self.requested_by,
            resources=self.request.resources,
            host_id=self.host_id,
            state=manager_pb2.ReservationState.Value(f"RESERVATION_STATE_{self.state}"),
            price_version=self.price_version,
        )
        shown.expires_at.FromDatetime(store.moment(self.expires_at))
        shown.created_at.FromDatetime(store.moment(self.created_at))
        if self.starts_at is not None and self.ends_at is not None:
            shown.starts_at.FromDatetime(store.moment(self.starts_at))
            shown.ends_at.FromDatetime(store.moment(self.ends_at))
        return shown


def told(row: Reservation) -> dict[str, str]:
    """What the audit log says of a reservation, besides its id."""
    return {"migration_id": row.migration_id, "vm_id": row.vm_id, "from_cloud": row.from_cloud}


def insert(connection: Connection, new: Reservation) -> None:
    """Write a new reservation."""
    run(connection, [inserting([new])])


def inserting(new: Sequence[Reservation]) -> AskRows:
    """Writes new reservations."""
    return AskRows(
        _INSERT,
        [
            {
                "reservation_id": each.reservation_id,
                "migration_id": each.migration_id,
                "vm_id": each.vm_id,
                "from_cloud": each.from_cloud,
                "requested_by": each.requested_by,
                "tenant_domain": each.owner.domain,
                "tenant": each.owner.name,
                "host_id": each.host_id,
                "state": each.state.value,
                "expires_at": each.expires_at,
                "created_at": each.created_at,
                "price_version": each.price_version,
                "request": each.request.SerializeToString(deterministic=True),
                "grant": each.grant.SerializeToString(deterministic=True),
                "starts_at": each.starts_at,
                "ends_at": each.ends_at,
            }
            for each in new
        ],
    )


def finding(reservation_ids: Collection[str], migration_ids: Collection[str]) -> Ask:
    """Reads those with one of these ids, or of one of these migrations; `found` tells them."""
    keys, moved = padded(reservation_ids), padded(migration_ids or reservation_ids)
    values = {f"key{number}": key for number, key in enumerate(keys)}
    values |= {f"moved{number}": key for number, key in enumerate(moved)}
    return Ask(_find(len(keys), len(moved)), values)


def found(told: Told) -> list[Reservation]:
    """What `finding` read."""
    return [_row(dict(zip(_NAMES, row, strict=True))) for row in told.rows]


def due_any(now: int) -> Ask:
    """Reads whether `due` finds any: a row if so."""
    return Ask(_DUE_ANY, {"now": now})


def counting() -> Ask:
    """Reads the number of reservations that hold room."""
    return Ask(_COUNT_LIVE)


def counting_held() -> Ask:
    """Reads how many each tenant has held; `held_by_tenant` tells it."""
    return Ask(_COUNT_HELD)


def held_by_tenant(told: Told) -> dict[Tenant, int]:
    """What `counting_held` read."""
    return {Tenant(domain, name): int(count) for domain, name, count in told.rows}


def get(connection: Connection, reservation_id: str) -> Reservation | None:
    """The reservation, or None."""
    return _one(connection, _ROWS.reservation_id == reservation_id)


def of_migration(connection: Connection, migration_id: str) -> Reservation | None:
    """The reservation of a migration, or None."""
    return _one(connection, _ROWS.migration_id == migration_id)


def live_for_vm(connection: Connection, vm_id: str) -> bool:
    """Whether a machine is arriving."""
    states = [state.value for state in ARRIVING]
    query = sa.select(_ROWS.reservation_id).where(_ROWS.vm_id == vm_id, _ROWS.state.in_(states))
    return connection.scalar(query.limit(1)) is not None


def newest_for_vm(connection: Connection, vm_id: str) -> Reservation | None:
    """The last one that a source made for a machine, however it ended."""
    query = sa.select(tables.reservations).where(
        _ROWS.vm_id == vm_id, _ROWS.state != State.HELD.value
    )
    ordered = query.order_by(_ROWS.created_at.desc(), _ROWS.reservation_id).limit(1)
    row = connection.execute(ordered).mappings().one_or_none()
    return None if row is None else _row(row)


def page(
    connection: Connection, *, active_only: bool, after: Position | None, limit: int
) -> list[Reservation]:
    """Reservations, newest first, after a position."""
    query = sa.select(tables.reservations)
    if active_only:
        query = query.where(_ROWS.state.in_([state.value for state in OPEN]))
    if after is not None:
        query = query.where(
            (_ROWS.created_at < after[0])
            | ((_ROWS.created_at == after[0]) & (_ROWS.reservation_id > after[1]))
        )
    rows = connection.execute(
        query.order_by(_ROWS.created_at.desc(), _ROWS.reservation_id).limit(limit)
    ).mappings()
    return [_row(row) for row in rows]


def due(connection: Connection, now: int) -> list[Reservation]:
    """Pending, booked and held reservations whose time has run out."""
    query = sa.select(tables.reservations).where(_WAITS, _ROWS.expires_at <= now)
    return [_row(row) for row in connection.execute(query).mappings()]


def handed_over(connection: Connection) -> list[str]:
    """Ids of reservations whose machine is to become this cloud's and has not yet."""
    kept = _ROWS.resolution == manager_pb2.RESOLUTION_KEEP_HERE
    query = sa.select(_ROWS.reservation_id).where(
        _ROWS.state == State.CONFIRMED.value, _ROWS.hand_over.is_not(None) | kept
    )
    return list(connection.scalars(query))


def live(connection: Connection) -> list[Reservation]:
    """Every held, pending and confirmed reservation."""
    states = [state.value for state in LIVE]
    rows = connection.execute(sa.select(tables.reservations).where(_ROWS.state.in_(states)))
    return [_row(row) for row in rows.mappings()]


def booked(connection: Connection) -> list[Reservation]:
    """Every one that was made in advance and is not claimed."""
    query = sa.select(tables.reservations).where(_ROWS.state == State.BOOKED.value)
    return [_row(row) for row in connection.execute(query).mappings()]


def live_count(connection: Connection) -> int:
    """Number of reservations that hold room."""
    query = sa.select(sa.func.count()).where(_ROWS.state.in_([state.value for state in LIVE]))
    return connection.scalar(query) or 0


def move(connection: Connection, row: Reservation, to: State, **values: object) -> bool:
    """Change the state, and further columns with it, unless another did meanwhile: then False and
    nothing is changed.
    """
    if to not in TRANSITIONS[row.state]:
        raise AssertionError(f"reservation: {row.state} never becomes {to}")
    return _update(connection, row, {"state": to.value} | values)


def confirming(rows: Sequence[Reservation]) -> AskRows:
    """Makes pending reservations firm: fewer are changed when another changed one meanwhile."""
    return AskRows(
        _CONFIRM,
        [
            {
                "key": row.reservation_id,
                "known_expiry": row.expires_at,
                "known_resolution": row.resolution,
                "not_handed_over": row.hand_over is None,
            }
            for row in rows
        ],
    )


def claim(
    connection: Connection,
    row: Reservation,
    *,
    host_id: str,
    expires_at: int,
    grant: common_pb2.SignedDocument,
) -> bool:
    """Make a booked one pending, with its grant, unless it changed meanwhile."""
    values = {"host_id": host_id, "expires_at": expires_at, "grant": _bytes(grant)}
    return move(connection, row, State.PENDING, **values)


def adopt(
    connection: Connection,
    row: Reservation,
    *,
    requested_by: str,
    request: manager_pb2.ReserveRequest,
    expires_at: int,
    grant: common_pb2.SignedDocument,
    price_version: int,
) -> bool:
    """Make a held one pending, in the name of who reserves, unless it changed meanwhile."""
    return move(
        connection,
        row,
        State.PENDING,
        requested_by=requested_by,
        request=request.SerializeToString(deterministic=True),
        expires_at=expires_at,
        grant=_bytes(grant),
        price_version=price_version,
    )


def drop(connection: Connection, row: Reservation) -> bool:
    """Delete a held one that nobody adopted, unless it changed meanwhile."""
    deleted = connection.execute(
        tables.reservations.delete().where(
            _ROWS.reservation_id == row.reservation_id,
            _ROWS.state == State.HELD.value,
            _ROWS.requested_by == row.requested_by,
            _ROWS.expires_at == row.expires_at,
        )
    )
    return deleted.rowcount == 1


def resolve(connection: Connection, row: Reservation, resolution: int | None) -> bool:
    """Note what an operator decided, unless the row changed meanwhile."""
    return _update(connection, row, {"resolution": resolution})


def extend(connection: Connection, row: Reservation, expires_at: int) -> bool:
    """Move the expiry, unless the state changed meanwhile."""
    return _update(connection, row, {"expires_at": expires_at})


def record_hand_over(
    connection: Connection, row: Reservation, document: common_pb2.SignedDocument, now: int
) -> bool:
    """Keep the hand-over, unless the state changed meanwhile."""
    return _update(connection, row, {"hand_over": _bytes(document), "hand_over_at": now})


def relinquish(
    connection: Connection,
    row: Reservation,
    document: common_pb2.SignedDocument,
    hand_over: common_pb2.SignedDocument | None,
    now: int,
) -> bool:
    """Keep the relinquishment with its hand-over, for ever, unless the row changed meanwhile."""
    return move(
        connection,
        row,
        State.RELINQUISHED,
        relinquishment=_bytes(document),
        hand_over=None if hand_over is None else _bytes(hand_over),
        hand_over_at=row.hand_over_at or now,
    )


def _update(connection: Connection, row: Reservation, values: dict[str, object]) -> bool:
    # Compare-and-swap on all that a decision looked at: a hand-over that another transaction
    # recorded must stop a release as surely as a change of state does.
    unchanged = _ROWS.hand_over.is_(None) if row.hand_over is None else _ROWS.hand_over.is_not(None)
    changed = connection.execute(
        tables.reservations.update()
        .where(
            _ROWS.reservation_id == row.reservation_id,
            _ROWS.state == row.state.value,
            _ROWS.expires_at == row.expires_at,
            _ROWS.resolution.is_not_distinct_from(row.resolution),
            unchanged,
        )
        .values(**values)
    )
    return changed.rowcount == 1


def _one(connection: Connection, condition: sa.ColumnElement[bool]) -> Reservation | None:
    query = sa.select(tables.reservations).where(condition)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _row(row)


def _row(row: RowMapping | dict[str, Any]) -> Reservation:
    values = {name: value for name, value in row.items() if not name.startswith("tenant")}
    values["state"] = State(values["state"])
    values["request"] = manager_pb2.ReserveRequest.FromString(values["request"])
    values["grant"] = common_pb2.SignedDocument.FromString(values["grant"])
    for name in ("hand_over", "relinquishment"):
        if values[name] is not None:
            values[name] = common_pb2.SignedDocument.FromString(values[name])
    return Reservation(**values)


def _bytes(document: common_pb2.SignedDocument) -> bytes:
    return document.SerializeToString(deterministic=True)
