"""A reservation that a broker holds becomes the source's own: in the transaction of a write.

The room is counted once before and once after. What the source asks for is taken from what was
held, on the same host; only where that does not cover it the hold ends, and the source is admitted
like anybody else, in the same transaction.
"""

from collections.abc import Collection

from sqlalchemy.engine import Connection

from manager import (
    admission,
    audit,
    capacity,
    grants,
    inventory,
    reservation_rows,
    shape_rows,
    vms,
)
from manager.admitting import Cloud, Reserve, Terms, in_present_names
from manager.inventory import STORAGE, Amounts
from manager.reservation import Reservation
from watari import errors
from watari.v1 import manager_pb2


def adopt(
    connection: Connection,
    cloud: Cloud,
    call: Reserve,
    row: Reservation,
    now: int,
    terms: Terms,
) -> bool:
    """Make a hold pending, in the name of who reserves. False when it does not cover what is asked:
    then it has ended.

    Raises what an admission raises of the machine and the quote, and has changed nothing then.
    """
    request = call.request
    admission.require_foreign(request, vms.get(connection, request.vm_id), cloud.cloud_id)
    told = inventory.of_machine(request.resources, request.disks)
    asked = shape_rows.of(connection, row.host_id).divided(told, row.takes)
    if not _covers(row, request, asked) or row.host_id not in cloud.agents:
        end(connection, row)
        _tell(connection, now, call, row, "reservation.hold_outgrown")
        return False
    version = terms.priced(call) if request.HasField("quote") else row.price_version
    grant = terms.granted(call, row.host_id)
    # Nothing is refused from here on.
    swapped = reservation_rows.adopt(
        connection,
        row,
        host_id=row.host_id,
        requested_by=str(call.caller),
        request=request,
        expires_at=terms.expires_at(request.ttl_seconds),
        grant=grant,
        price_version=version,
        resources=in_present_names(asked, told),
    )
    admission.require_swapped(swapped)
    capacity.record(connection, row.host_id, capacity.RESERVATION, row.reservation_id, asked)
    _tell(connection, now, call, row, "reservation.adopted", grants.issued(now, grant))
    return True


def adopt_all(
    connection: Connection,
    cloud: Cloud,
    held: Collection[tuple[Reserve, Reservation]],
    now: int,
    terms: Terms,
) -> tuple[dict[str, errors.WatariError], set[str]]:
    """Let sources take over what is held for them: whom that was refused, and whose hold did not
    cover what is asked and has ended. Raises Conflict, to be repeated.
    """
    refused: dict[str, errors.WatariError] = {}
    ended: set[str] = set()
    for call, row in held:
        try:
            if not adopt(connection, cloud, call, row, now, terms):
                ended.add(row.reservation_id)
        except errors.Conflict:
            raise
        except errors.WatariError as error:
            refused[row.reservation_id] = error
    return refused, ended


def end(connection: Connection, row: Reservation) -> bool:
    """Give back what is held; False, and nothing has changed, when another did something with it
    meanwhile. Nothing was granted, so that nothing can have arrived.
    """
    if not reservation_rows.drop(connection, row):
        return False
    capacity.give_back(connection, capacity.RESERVATION, row.reservation_id)
    return True


def _covers(row: Reservation, asked: manager_pb2.ReserveRequest, needed: Amounts) -> bool:
    """Whether the machine is the one that was admitted; less may be written of its disks."""
    held = row.takes
    written = needed.get(STORAGE, 0)
    return (
        written <= held.get(STORAGE, 0)
        and needed | {STORAGE: 0} == held | {STORAGE: 0}
        and set(asked.required_traits) <= set(row.request.required_traits)
        and set(asked.forbidden_traits) <= set(row.request.forbidden_traits)
    )


def _tell(
    connection: Connection,
    now: int,
    call: Reserve,
    row: Reservation,
    action: str,
    *further: audit.Note,
) -> None:
    details = row.told() | {"held_by": row.requested_by, "host_id": row.host_id}
    note = audit.Note(now, str(call.caller), action, row.reservation_id, details=details)
    audit.append_all(connection, [note, *further])
