"""A reservation that was made in advance becomes one of now: in the transaction of a write.

From then on it has no end, as a machine that arrives under it stays, and so it is admitted like any
other: on what is free now and on what is promised to others for later, its own booking left out.
"""

from collections.abc import Callable

from sqlalchemy.engine import Connection

from manager import (
    admission,
    audit,
    bookings,
    capacity,
    grants,
    inventory,
    reservation_rows,
    vms,
)
from manager.admitting import Cloud, Reserve, place
from manager.bookings import Span
from manager.quotas.limits import MACHINES
from manager.reservation import Reservation
from manager.statements import run
from watari.v1 import common_pb2


def claim(
    connection: Connection,
    cloud: Cloud,
    call: Reserve,
    row: Reservation,
    now: int,
    expires_at: int,
    granted: Callable[[Reserve, str], common_pb2.SignedDocument],
) -> None:
    """Make a booked reservation pending, on the host that suits it now; `granted` makes its grant
    for a host.

    Raises what an admission raises, and has changed nothing then.
    """
    request, tenant, ever = call.request, row.owner, Span(now)
    known = vms.get(connection, request.vm_id)
    admission.require_foreign(request, known, cloud.cloud_id)
    live = reservation_rows.live_count(connection)
    admission.require_below(cloud.limits.pending_max, live)
    others = bookings.without(capacity.booked(connection), row.reservation_id)
    asked = inventory.of_machine(request.resources, request.disks)
    (quotas,) = run(connection, [cloud.quotas.reading([tenant])])
    booked = bookings.of_tenant(others, tenant, ever, MACHINES)
    cloud.quotas.admitting(connection, quotas).require(tenant, asked, booked)
    room = capacity.room(run(connection, capacity.reading()), cloud.agents, cloud.pool)
    views = capacity.with_bookings([*room.hosts, room.pool], others, ever)
    host, _ = place(views, request, asked)
    grant = granted(call, host.host_id)
    # Nothing is refused from here on.
    swapped = reservation_rows.claim(
        connection, row, host_id=host.host_id, expires_at=expires_at, grant=grant
    )
    admission.require_swapped(swapped)
    capacity.give_back(connection, capacity.BOOKING, row.reservation_id)
    capacity.record(connection, host.host_id, capacity.RESERVATION, row.reservation_id, asked)
    claimed = audit.Note(
        now,
        str(call.caller),
        "reservation.claimed",
        row.reservation_id,
        details=row.told() | {"host_id": host.host_id},
    )
    audit.append_all(connection, [claimed, grants.issued(now, grant)])
