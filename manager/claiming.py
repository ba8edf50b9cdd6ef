"""A reservation that was made in advance becomes one of now: in the transaction of a write.

From then on it has no end, as a machine that arrives under it stays, and so it is admitted like any
other: on what is free now and on what is promised to others for later, its own booking left out.
"""

from sqlalchemy.engine import Connection

from manager import (
    admission,
    audit,
    bookings,
    capacity,
    grants,
    inventory,
    reservation_rows,
    shape_rows,
    vms,
)
from manager.admitting import Cloud, Reserve, Terms, in_present_names, place
from manager.bookings import Span
from manager.quotas.limits import MACHINES
from manager.reservation import Reservation
from manager.statements import run


def claim(
    connection: Connection,
    cloud: Cloud,
    call: Reserve,
    row: Reservation,
    now: int,
    terms: Terms,
) -> None:
    """Make a booked reservation pending, on the host that suits it now, in the name of who calls.

    Raises what an admission raises, and has changed nothing then.
    """
    request, tenant, ever = call.request, row.owner, Span(now)
    known = vms.get(connection, request.vm_id)
    admission.require_foreign(request, known, cloud.cloud_id)
    other = reservation_rows.of_migration(connection, request.migration_id)
    if other is not None and other.reservation_id != row.reservation_id:
        raise admission.reused("migration_id", request.migration_id)
    live = reservation_rows.live_count(connection)
    admission.require_below(cloud.limits.pending_max, live)
    others = bookings.without(capacity.booked(connection), row.reservation_id)
    told = inventory.of_machine(request.resources, request.disks)
    asked = shape_rows.of(connection, row.host_id).divided(told, row.takes)
    (quotas,) = run(connection, [cloud.quotas.reading([tenant])])
    booked = bookings.of_tenant(others, tenant, ever, MACHINES)
    cloud.quotas.admitting(connection, quotas).require(tenant, asked, booked)
    room = capacity.room(run(connection, capacity.reading()), cloud.agents, cloud.pool)
    views = capacity.with_bookings([*room.hosts, room.pool], others, ever)
    host, _ = place(views, request, asked)
    version = terms.priced(call) if request.HasField("quote") else row.price_version
    if request == row.request:
        version = row.price_version  # Its quote was accepted when it was booked.
    grant = terms.granted(call, host.host_id)
    # Nothing is refused from here on.
    swapped = reservation_rows.adopt(
        connection,
        row,
        host_id=host.host_id,
        requested_by=str(call.caller),
        request=request,
        expires_at=terms.expires_at(request.ttl_seconds),
        grant=grant,
        price_version=version,
        resources=in_present_names(asked, told),
    )
    admission.require_swapped(swapped)
    capacity.give_back(connection, capacity.BOOKING, row.reservation_id)
    capacity.record(connection, host.host_id, capacity.RESERVATION, row.reservation_id, asked)
    booked_by = {} if row.requested_by == str(call.caller) else {"booked_by": row.requested_by}
    claimed = audit.Note(
        now,
        str(call.caller),
        "reservation.claimed",
        row.reservation_id,
        details=row.told() | booked_by | {"host_id": host.host_id},
    )
    audit.append_all(connection, [claimed, grants.issued(now, grant)])
