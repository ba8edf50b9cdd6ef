"""Grants: what the destination's manager admits for one migration, and the source's manager backs.

The destination signs (`issue`), the source checks what it got and countersigns (`accept`). Agents
move nothing without both signatures.
"""

import uuid
from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy.engine import Connection

from manager import audit
from manager.settings.reservations import ReservationSettings
from watari import errors, identity
from watari.clock import Clock
from watari.v1 import common_pb2, manager_pb2

PURPOSE = "grant"
COUNTERSIGNED = "grant-countersigned"

SLACK_BYTES_MIN = 16 * 1024 * 1024
"""Room for headers and digests that even the smallest grant has."""


def bytes_max(disks: Iterable[common_pb2.DiskSpec], slack_percent: int) -> int:
    """Payload bytes that a transfer of these disks may take: their sizes and slack."""
    size = sum(disk.size_bytes for disk in disks)
    return size + max(SLACK_BYTES_MIN, size * slack_percent // 100)


def issue(
    signer: identity.Identity,
    clock: Clock,
    settings: ReservationSettings,
    request: manager_pb2.ReserveRequest,
    *,
    source_manager: str,
    destination_agent: str,
    estimate_only: bool = False,
) -> common_pb2.SignedDocument:
    """A signed grant for a reservation that is being made, or for an estimate of it.

    An estimate's has no reservation, admits no content, and is soon over.
    """
    basis = request.migration_id if estimate_only else request.reservation_id
    seconds = settings.estimate_ttl_seconds if estimate_only else settings.grant_ttl_seconds
    grant = common_pb2.Grant(
        grant_id=str(uuid.uuid5(uuid.UUID(basis), PURPOSE)),
        migration_id=request.migration_id,
        reservation_id=request.reservation_id,
        vm_id=request.vm_id,
        source_epoch=request.source_epoch,
        source_agent=request.source_agent,
        destination_agent=destination_agent,
        source_manager=source_manager,
        destination_manager=str(signer.spiffe_id),
        disks=request.disks,
        bytes_max=bytes_max(request.disks, settings.grant_slack_percent),
        rate_bytes_per_second_max=settings.rate_bytes_per_second_max,
        estimate_only=estimate_only,
        tenant_domain=request.tenant_domain,
        resources=request.resources,
        tenant=request.tenant,
    )
    grant.expires_at.FromDatetime(clock.now() + timedelta(seconds=seconds))
    return identity.sign(signer, grant.SerializeToString(deterministic=True), PURPOSE)


def accept(
    signer: identity.Identity,
    clock: Clock,
    request: manager_pb2.ReserveRequest,
    document: common_pb2.SignedDocument,
    *,
    destination_manager: identity.SpiffeId,
    estimate_only: bool = False,
) -> common_pb2.SignedGrant:
    """The countersigned grant, once it is what was asked for and signed by who was asked.

    A grant for an estimate is never taken for a migration's, nor the other way round.

    Raises Unauthenticated SIGNATURE_INVALID and InvalidArgument GRANT_INVALID.
    """
    payload, _ = identity.verify(
        signer.trust, document, PURPOSE, destination_manager, now=clock.now()
    )
    grant = common_pb2.Grant.FromString(payload)
    _require_same(grant, request, str(signer.spiffe_id), destination_manager)
    if grant.estimate_only is not estimate_only:
        raise _invalid("estimate_only")
    granted = document.SerializeToString(deterministic=True)
    return common_pb2.SignedGrant(
        granted=document, countersigned=identity.sign(signer, granted, COUNTERSIGNED)
    )


def read(document: common_pb2.SignedDocument) -> common_pb2.Grant:
    """The grant in a document whose signature was checked before."""
    return common_pb2.Grant.FromString(document.payload)


def issued(now: int, document: common_pb2.SignedDocument) -> audit.Note:
    """For the audit log: this manager grants this."""
    granted = read(document)
    by, to = granted.destination_manager, granted.source_manager
    return _note(now, granted, "grant.issued", actor=by, granted_to=to)


def note_issued(connection: Connection, now: int, document: common_pb2.SignedDocument) -> None:
    """Tell the audit log that this manager grants this."""
    audit.append_all(connection, [issued(now, document)])


def note_countersigned(connection: Connection, now: int, document: common_pb2.SignedGrant) -> None:
    """Tell the audit log that this manager backs a grant that it was given."""
    granted = read(document.granted)
    by, given = granted.source_manager, granted.destination_manager
    note = _note(now, granted, "grant.countersigned", actor=by, granted_by=given)
    audit.append_all(connection, [note])


def _note(
    now: int, granted: common_pb2.Grant, action: str, *, actor: str, **peer: str
) -> audit.Note:
    told = {
        "migration_id": granted.migration_id,
        "reservation_id": granted.reservation_id,
        "vm_id": granted.vm_id,
        "source_epoch": granted.source_epoch,
        "source_agent": granted.source_agent,
        "destination_agent": granted.destination_agent,
        "bytes_max": granted.bytes_max,
        "expires_at": granted.expires_at.ToJsonString(),
        "estimate_only": granted.estimate_only,
    }
    said = {name: value for name, value in told.items() if value}
    return audit.Note(now, actor, action, granted.grant_id, details=said | peer)


def _require_same(
    grant: common_pb2.Grant,
    request: manager_pb2.ReserveRequest,
    source_manager: str,
    destination_manager: identity.SpiffeId,
) -> None:
    asked_and_granted = {
        "migration_id": (request.migration_id, grant.migration_id),
        "reservation_id": (request.reservation_id, grant.reservation_id),
        "vm_id": (request.vm_id, grant.vm_id),
        "source_epoch": (request.source_epoch, grant.source_epoch),
        "source_agent": (request.source_agent, grant.source_agent),
        "source_manager": (source_manager, grant.source_manager),
        "destination_manager": (str(destination_manager), grant.destination_manager),
        "disks": (list(request.disks), list(grant.disks)),
        "tenant_domain": (request.tenant_domain, grant.tenant_domain),
    }
    for field, (asked, granted) in asked_and_granted.items():
        if asked != granted:
            raise _invalid(field)
    receiver = identity.SpiffeId.parse(grant.destination_agent)
    if (receiver.domain, receiver.role) != (destination_manager.domain, "agent"):
        raise _invalid("destination_agent")


def _invalid(field: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        "GRANT_INVALID",
        f"the destination granted something else than was asked: {field} differs",
        hint="tell the destination's operator; nothing was moved",
        field=field,
    )
