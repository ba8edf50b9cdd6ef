"""Who may reserve for which machine, and what a reservation's refusals say: functions of values."""

from datetime import datetime

from manager.bookings import Span
from manager.ownership import Tenant
from manager.reservation import Reservation, State
from manager.settings.reservations import ReservationSettings
from manager.store import moment
from manager.vms import VmRow
from watari import errors, validate
from watari.identity import SpiffeId
from watari.settings import EndpointSettings
from watari.v1 import common_pb2, manager_pb2


def require_speaks_for(
    request: manager_pb2.ReserveRequest,
    caller: SpiffeId,
    *,
    own_cloud: str,
    known: EndpointSettings | None,
) -> None:
    """Raises Denied NOT_ALLOWED for who asks in the name of another cloud or another's agent.

    `known` is the manager that the asking cloud is known to have, if any. An operator is no manager
    (`require_may_book`).
    """
    other = known is not None and known.spiffe_id != str(caller)
    stranger = SpiffeId.parse(request.source_agent).domain != caller.domain
    if other or stranger or request.from_cloud == own_cloud:
        raise errors.Denied(
            "NOT_ALLOWED",
            f"{caller} does not speak for cloud {request.from_cloud} "
            f"and agent {request.source_agent}",
            hint="a manager reserves for its own cloud and its own agents",
        )


def require_may_book(
    request: manager_pb2.ReserveRequest,
    operator: SpiffeId,
    *,
    own: tuple[str, str],
    known: EndpointSettings | None,
) -> None:
    """Raises Denied NOT_ALLOWED for an operator who asks for more than room in advance, or for a
    machine of a cloud that neither is its provider's nor comes to a cloud of it.

    `own` is this cloud and its provider; `known` as above: who is to claim what is booked.
    """
    own_cloud, own_domain = own
    if not request.HasField("starts_at"):
        raise errors.Denied(
            "NOT_ALLOWED",
            f"{operator} reserves from now on, which managers do in a migration",
            hint="reserve in advance, with a start and an end; or migrate the machine",
        )
    if known is None or request.from_cloud == own_cloud:
        raise errors.Denied(
            "NOT_ALLOWED",
            f"no manager is known here that could claim room for machines of {request.from_cloud}",
            hint="name the cloud that the machine is in now",
        )
    sender = SpiffeId.parse(known.spiffe_id).domain
    agent = SpiffeId.parse(request.source_agent)
    if operator.domain not in (sender, own_domain) or agent.domain != sender:
        raise errors.Denied(
            "NOT_ALLOWED",
            f"{operator} does not speak for cloud {request.from_cloud} "
            f"and agent {request.source_agent}",
            hint=f"an operator of {sender}, or of {own_domain}, books for machines of that cloud",
        )


def require_foreign(
    request: manager_pb2.ReserveRequest, known: VmRow | None, own_cloud: str
) -> None:
    """Raises FailedPrecondition when what is known of the machine contradicts the request.

    VM_ALREADY_THERE when this cloud owns it. EPOCH_MISMATCH when another one is known to own it at
    this epoch, or a later one is known: what we know may be old, never wrong.
    """
    require_not_here(known, own_cloud)
    if known is None:
        return
    older = request.source_epoch < known.epoch
    contradicts = request.source_epoch == known.epoch and request.from_cloud != known.cloud_id
    if older or contradicts:
        raise errors.FailedPrecondition(
            "EPOCH_MISMATCH",
            f"cloud {known.cloud_id} owns machine {request.vm_id} at epoch {known.epoch}, "
            f"not {request.from_cloud} at epoch {request.source_epoch}",
            hint="the asking cloud holds an old copy: ask the owner",
            vm_id=request.vm_id,
            epoch=known.epoch,
        )


def require_not_here(known: VmRow | None, own_cloud: str) -> None:
    """Raises FailedPrecondition VM_ALREADY_THERE when this cloud owns the machine."""
    if known is not None and known.cloud_id == own_cloud:
        raise errors.FailedPrecondition(
            "VM_ALREADY_THERE",
            f"cloud {own_cloud} owns machine {known.vm_id} already",
            hint="nothing needs to be moved",
            vm_id=known.vm_id,
        )


def require_latest(arriving: common_pb2.Ownership, known: VmRow | None) -> None:
    """Raises FailedPrecondition EPOCH_MISMATCH when a machine is known at the epoch at which it
    would arrive, or at a later one: what arrives is a copy that time has passed by.
    """
    if known is not None and known.epoch >= arriving.epoch:
        raise errors.FailedPrecondition(
            "EPOCH_MISMATCH",
            f"cloud {known.cloud_id} owns machine {known.vm_id} at epoch {known.epoch}: what "
            f"arrived would be it at epoch {arriving.epoch}",
            hint="the machine lives on there; give up what arrived here (GIVE_UP_HERE)",
            vm_id=known.vm_id,
            epoch=known.epoch,
        )


def require_below(limit: int, live: int) -> None:
    """Raises Exhausted INSUFFICIENT_CAPACITY when as many reservations are open as may."""
    if live >= limit:
        raise errors.Exhausted(
            "INSUFFICIENT_CAPACITY",
            f"{limit} reservations are open already",
            hint="try again when some have ended",
            retryable=True,
            resource="reservations",
            asked=1,
            free=0,
        )


def require_few_held(limit: int, held: int, tenant: Tenant) -> None:
    """Raises Exhausted QUOTA_EXCEEDED when brokers hold as much for a tenant as they may: it costs
    the tenant nothing, and keeps others out.
    """
    if held >= limit:
        raise errors.Exhausted(
            "QUOTA_EXCEEDED",
            f"brokers hold room for {held} machines of tenant {tenant.name} of {tenant.domain}, "
            f"{limit} are allowed",
            hint="try again when some have been reserved or have expired",
            retryable=True,
            resource="holds",
            limit=limit,
            used=held,
            asked=1,
        )


def require_bookable(span: Span, now: int, limits: ReservationSettings, booked: int) -> None:
    """Raises InvalidArgument INVALID_FIELD for a time that no reservation in advance may be for,
    Exhausted INSUFFICIENT_CAPACITY when there are as many of them as may be.
    """
    ahead = (span.start - now) / 1_000_000
    seconds = ((span.end or span.start) - span.start) / 1_000_000
    if ahead <= 0:
        raise validate.invalid_field("starts_at", "is over", "leave both unset to reserve now")
    if ahead > limits.ahead_seconds_max:
        hint = f"at most {limits.ahead_seconds_max} s ahead"
        raise validate.invalid_field("starts_at", "is too far ahead", hint)
    if not 0 < seconds <= limits.booked_seconds_max:
        hint = f"after starts_at, by at most {limits.booked_seconds_max} s"
        raise validate.invalid_field("ends_at", f"is {seconds:.0f} s after starts_at", hint)
    if booked >= limits.booked_max:
        raise errors.Exhausted(
            "INSUFFICIENT_CAPACITY",
            f"{limits.booked_max} reservations in advance are open already",
            hint="try again when some have ended",
            retryable=True,
            resource="reservations",
            asked=1,
            free=0,
        )


def require_not_expired(row: Reservation) -> None:
    """Raises FailedPrecondition RESERVATION_EXPIRED."""
    if row.state is State.EXPIRED:
        ended: datetime = moment(row.expires_at)
        raise errors.FailedPrecondition(
            "RESERVATION_EXPIRED",
            f"reservation {row.reservation_id} expired at {ended.isoformat(timespec='seconds')}",
            hint="reserve again with a new id",
            reservation_id=row.reservation_id,
        )


def require_swapped(swapped: bool) -> None:
    """Raises Conflict GENERATION_CONFLICT when a compare-and-swap lost."""
    if not swapped:
        raise errors.Conflict(
            "GENERATION_CONFLICT",
            "the reservation changed meanwhile",
            hint="repeat the call",
            retryable=True,
        )


def wrong_state(row: Reservation, needed: State) -> errors.FailedPrecondition:
    """The error for a step that the reservation's state does not allow."""
    return errors.FailedPrecondition(
        "RESERVATION_STATE",
        f"reservation {row.reservation_id} is {row.state}, not {needed}",
        hint="a reservation is confirmed before the machine is handed over, and used once",
        state=row.state,
    )


def not_yet(row: Reservation) -> errors.FailedPrecondition:
    """The error for claiming what is booked before its time."""
    starts = moment(row.starts_at or 0).isoformat(timespec="seconds")
    return errors.FailedPrecondition(
        "RESERVATION_STATE",
        f"reservation {row.reservation_id} starts at {starts}",
        hint="repeat it from then on, or migrate without it",
        state=row.state,
    )


def committed(row: Reservation) -> errors.FailedPrecondition:
    """The error for releasing what was handed over."""
    return errors.FailedPrecondition(
        "MIGRATION_COMMITTED",
        f"machine {row.vm_id} was handed over under reservation {row.reservation_id}",
        hint="move it back with a migration of its own",
        state=row.state,
    )


def not_found(reservation_id: str) -> errors.NotFound:
    """The error for a reservation that the caller did not make."""
    return errors.NotFound(
        "RESERVATION_NOT_FOUND",
        f"no reservation {reservation_id} that you made",
        hint="reserve first",
        reservation_id=reservation_id,
    )


def reused(field: str, value: str) -> errors.AlreadyExists:
    """The error for an id that was used before with other content."""
    return errors.AlreadyExists(
        "ID_REUSED",
        f"{field} {value} was used before with other content",
        hint="make a new UUID",
        field=field,
    )
