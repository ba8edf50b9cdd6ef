"""Reservations that end without a machine: released, or expired. In the caller's transaction."""

from sqlalchemy.engine import Connection

from manager import adopting, audit, capacity, outbox, reservation_rows
from manager.reservation import Reservation, State
from watari.identity import SpiffeId


def expire_due(connection: Connection, now: int, own: SpiffeId) -> int:
    """Expire what has run out of time, as the manager `own`; how many were."""
    rows = reservation_rows.due(connection, now)
    ended = [row for row in rows if end(connection, row, State.EXPIRED, now)]
    for row in ended:
        note(connection, now, "reservation.expired", row, own)
    return len(ended)


def end(connection: Connection, row: Reservation, state: State, now: int) -> bool:
    """Release or expire one that has not ended, and owe what may have arrived to be deleted; False,
    and nothing has changed, when another did something with it meanwhile.
    """
    if row.state is State.HELD:
        return adopting.end(connection, row)
    if not reservation_rows.move(connection, row, state):
        return False
    if row.state is State.BOOKED:
        capacity.give_back(connection, capacity.BOOKING, row.reservation_id)
        return True  # It was never granted: nothing can have arrived.
    capacity.give_back(connection, capacity.RESERVATION, row.reservation_id)
    owed = outbox.OwedCall(outbox.Kind.DISCARD, row.migration_id, row.host_id, row.vm_id)
    outbox.owe(connection, owed, now)
    return True


def note(
    connection: Connection,
    now: int,
    action: str,
    row: Reservation,
    actor: SpiffeId,
    **more: str,
) -> None:
    """Tell the audit log what became of a reservation."""
    audit.append(
        connection,
        now,
        actor=actor,
        action=action,
        subject=row.reservation_id,
        details=row.told() | more,
    )
