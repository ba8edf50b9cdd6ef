"""The rows of reservations: read, and moved from state to state. Runs in the caller's transaction;
decides nothing. What every admission asks is in `manager.reservation_statements`.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from manager import tables
from manager.reservation import ARRIVING, LIVE, OPEN, TRANSITIONS, Reservation, State
from watari.v1 import common_pb2, manager_pb2

_ROWS = tables.reservations.c
WAITS = sa.or_(*(_ROWS.state == each.value for each in (State.PENDING, State.BOOKED, State.HELD)))
"""Of those that end by themselves once their time has run out."""

Position = tuple[int, str]
"""Creation and id of the last reservation of a page."""


def from_row(row: RowMapping | dict[str, Any]) -> Reservation:
    """What stands in a row of all columns."""
    values = {name: value for name, value in row.items() if not name.startswith("tenant")}
    values["state"] = State(values["state"])
    values["request"] = manager_pb2.ReserveRequest.FromString(values["request"])
    values["grant"] = common_pb2.SignedDocument.FromString(values["grant"])
    for name in ("hand_over", "relinquishment"):
        if values[name] is not None:
            values[name] = common_pb2.SignedDocument.FromString(values[name])
    if values["resources"] is not None:
        values["resources"] = common_pb2.Resources.FromString(values["resources"])
    return Reservation(**values)


def resources_blob(resources: common_pb2.Resources | None) -> bytes | None:
    """As a row has them."""
    return None if resources is None else resources.SerializeToString(deterministic=True)


def reshape(connection: Connection, row: Reservation, resources: common_pb2.Resources) -> None:
    """Its machine needs the same by other names: in a transaction in which nothing else changes."""
    connection.execute(
        tables.reservations.update()
        .where(_ROWS.reservation_id == row.reservation_id)
        .values(resources=resources_blob(resources))
    )


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
    return None if row is None else from_row(row)


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
    return [from_row(row) for row in rows]


def due(connection: Connection, now: int) -> list[Reservation]:
    """Pending, booked and held reservations whose time has run out."""
    query = sa.select(tables.reservations).where(WAITS, _ROWS.expires_at <= now)
    return [from_row(row) for row in connection.execute(query).mappings()]


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
    return [from_row(row) for row in rows.mappings()]


def booked(connection: Connection) -> list[Reservation]:
    """Every one that was made in advance and is not claimed."""
    query = sa.select(tables.reservations).where(_ROWS.state == State.BOOKED.value)
    return [from_row(row) for row in connection.execute(query).mappings()]


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


def adopt(
    connection: Connection,
    row: Reservation,
    *,
    host_id: str,
    requested_by: str,
    request: manager_pb2.ReserveRequest,
    expires_at: int,
    grant: common_pb2.SignedDocument,
    price_version: int,
    resources: common_pb2.Resources | None,
) -> bool:
    """Make a held or booked one pending, in the name of who reserves, unless it changed."""
    return move(
        connection,
        row,
        State.PENDING,
        host_id=host_id,
        requested_by=requested_by,
        migration_id=request.migration_id,
        request=request.SerializeToString(deterministic=True),
        expires_at=expires_at,
        grant=_bytes(grant),
        price_version=price_version,
        resources=resources_blob(resources),
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
    return None if row is None else from_row(row)


def _bytes(document: common_pb2.SignedDocument) -> bytes:
    return document.SerializeToString(deterministic=True)
